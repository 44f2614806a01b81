"""pmlm show-mask, and the scripts of the demo, as a person runs them: pictures, splits, progress."""

import json
import subprocess
import sys

import pytest
from commands import ROOT, call, pmlm

from fairseq_pmlm.utils.errors import PMLMError

TEXT = [
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "A small model learns a little from a little text, and says so.",
    "Every masked token is predicted from what the rule lets it see.",
    "",
] * 30


def script(name, *args, stdin=None, check=True):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, args)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripts")
    (path / "text.txt").write_text("\n".join(TEXT))
    pmlm("prepare text", "--text", path / "text.txt", "--vocab-size", 50, "--destdir", path / "corpus")
    return path


def one_error_line(done, *parts):
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert "error" in done.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in done.stderr.strip().splitlines()[-1], done.stderr


@pytest.mark.slow
def test_show_mask_draws_a_block_a_sentence_and_a_pair(data):
    for options in (["--index", 2], ["--sentence", "the lazy dog </s> <mask>"], ["--objective", "ar"]):
        for name in ("mask.png", "mask.svg"):
            out = data / name
            done = pmlm("show-mask", data / "corpus", "--out", out, *options)
            assert out.stat().st_size > 5000
            assert "slots" in done.stdout
            assert not done.stderr.strip()
            out.unlink()
    (data / "pairs.jsonl").write_text(json.dumps({"src": TEXT[0], "tgt": TEXT[1]}) + "\n")
    pmlm(
        *("prepare pairs", "--train", data / "pairs.jsonl", "--vocab-from", data / "corpus"),
        *("--destdir", data / "pairs"),
    )
    pmlm("show-mask", data / "pairs", "--split", "train", "--out", data / "pair.png")
    assert (data / "pair.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(data.glob("*.tmp*"))


@pytest.mark.slow
def test_show_mask_names_what_is_wrong(data, tmp_path):
    one_error_line(pmlm("show-mask", data / "none", check=False), "none")
    one_error_line(pmlm("show-mask", data / "corpus", "--out", "mask.jpg", check=False), "mask.jpg", ".png")
    one_error_line(pmlm("show-mask", data / "corpus", "--index", 10**6, check=False), "--index 1000000")
    for options, message in (
        (["--seed", -1], "--seed -1: give 0 or more"),
        (["--tokens", 3], "--tokens 3: give 4 or more"),
        (["--out", tmp_path / "no" / "x.png"], "x.png: the directory "),
        (["--sentence", " "], "--sentence ' ': holds no token"),
    ):
        with pytest.raises(PMLMError, match=message):
            call("show-mask", data / "corpus", "--out", tmp_path / "x.png", *options)


def test_split_pairs_keeps_equal_sources_together(tmp_path):
    pairs = [{"src": f"source {i % 150}", "tgt": f"target {i}"} for i in range(300)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    script("demo/split_pairs.py", "--pairs", tmp_path / "pairs.jsonl", "--destdir", tmp_path / "out")
    splits = {
        name: [json.loads(line) for line in (tmp_path / "out" / f"pairs.{name}.jsonl").read_text().splitlines()]
        for name in ("train", "valid", "test")
    }
    assert sum(map(len, splits.values())) == 300
    sources = [{pair["src"] for pair in split} for split in splits.values()]
    assert not sources[0] & sources[1]
    assert not (sources[0] | sources[1]) & sources[2]
    (tmp_path / "few.jsonl").write_text(json.dumps(pairs[0]))
    one_error_line(
        script("demo/split_pairs.py", "--pairs", tmp_path / "few.jsonl", "--destdir", tmp_path / "x", check=False),
        "too few",
    )
    assert not (tmp_path / "x").exists()


def test_training_progress_shows_the_numbers_and_the_failure():
    log = (
        "2026-01-01 00:00:00 | INFO | fairseq_cli.train | {'optimization': {'max_update': 100}}\n"
        '2026-01-01 00:00:00 | INFO | train_inner | {"loss": "9", "ae_loss": "4.5", "num_updates": "50", "wps": "9"}\n'
        "2026-01-01 00:00:00 | WARNING | x | 3 lines are longer\n"
    )
    done = script("demo/training_progress.py", stdin=log, check=False)
    assert done.returncode == 1  # it never said that it was done
    assert "50/100 updates  loss 9  ae_loss 4.5  wps 9" in done.stdout
    assert "warning: 3 lines are longer" in done.stdout
    script("demo/training_progress.py", stdin=log + "x | INFO | fairseq_cli.train | done training in 1.0 seconds\n")
    done = script("demo/training_progress.py", stdin="fairseq_pmlm: error: --x 1 is wrong\n", check=False)
    assert done.returncode == 1
    assert "--x 1 is wrong" in done.stderr
