"""The baselines: what they answer, and that the fast ROUGE agrees with rouge_score."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_pmlm.utils.errors import PMLMError

SCRIPT = Path(__file__).parents[1] / "scripts" / "demo" / "baselines.py"
spec = importlib.util.spec_from_file_location("baselines_script", SCRIPT)
baselines = importlib.util.module_from_spec(spec)
spec.loader.exec_module(baselines)

WORDS = st.lists(st.sampled_from(["return", "a", "the", "of", "mean", "list"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One thing. Another thing.", "One thing."),
        ("Is it? Yes.", "Is it?"),
        ("no end", "no end"),
        ("Takes x.y and so on. Then", "Takes x.y and so on."),
    ],
)
def test_lead(text, first):
    assert baselines.lead(text) == first


def test_first_words():
    assert baselines.first_words("a b c d", 3) == "a b c"
    assert baselines.first_words("a b") == "a b"


@given(st.integers(2, 50), st.integers(0, 5))
def test_shuffled_is_a_derangement(n, seed):
    lines = list(range(n))
    moved = baselines.shuffled(lines, seed)
    assert sorted(moved) == lines
    assert all(a != b for a, b in zip(lines, moved, strict=True))
    assert moved == baselines.shuffled(lines, seed)


def test_one_line_cannot_be_shuffled():
    with pytest.raises(PMLMError, match="at least 2"):
        baselines.shuffled(["x"], 0)


@settings(deadline=None, max_examples=40)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=5))
def test_fast_rouge_is_rouge(text, references):
    fast = 100 * baselines.ConstantScore(references).score(text)
    assert fast == pytest.approx(np.mean(baselines.rouge([text] * len(references), references)))


def test_constant_can_be_no_sentence():
    # no real summary is better than the frame that all of them share
    words = ["mean", "list", "size", "name", "file", "type", "root", "path", "sign", "flag"]
    summaries = [f"Return the {w} of the {v}." for w in words for v in words if w != v]
    assert baselines.best_constant(summaries) == "Return the of the."


def test_constant_can_be_a_summary():
    assert baselines.best_constant(["Forward pass here."] * 9 + ["Other thing."]) == "Forward pass here."


def test_nearest():
    train = [("the cat sat on the mat", "cat"), ("stocks fell on monday", "stocks")]
    assert baselines.nearest(train, ["stocks rise", "a cat on a mat"]) == ["stocks", "cat"]


def write_pairs(path, pairs):
    path.write_text("".join(json.dumps({"src": s, "tgt": t, "id": "x"}) + "\n" for s, t in pairs))
    return str(path)


def test_main(tmp_path, capsys):
    train = write_pairs(tmp_path / "train.jsonl", [("the cat sat here", "Cat sat."), ("it rains today", "Rain falls.")])
    test = write_pairs(
        tmp_path / "test.jsonl", [("The cat ran. It hid.", "Cat ran."), ("Much rains. Ok.", "Rain falls.")]
    )
    assert baselines.main(["--train", train, "--test", test, "--destdir", str(tmp_path / "out")]) == 0
    files = {p.name: p.read_text().splitlines() for p in (tmp_path / "out").iterdir()}
    assert set(files) == {"lead.txt", "first12.txt", "constant.txt", "nearest.txt"}
    assert files["lead.txt"] == ["The cat ran.", "Much rains."]
    assert files["nearest.txt"] == ["Cat sat.", "Rain falls."]
    assert len(set(files["constant.txt"])) == 1
    assert len(files["constant.txt"]) == len(files["first12.txt"]) == 2
    assert ["nearest", "75.00", "75.00"] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.jsonl: has no pairs"),
        ('{"src": 1}\n', "x.jsonl, line 1: no key 'tgt'"),
        ('{"src": 1, "tgt": "a"}\n', "x.jsonl, line 1, key 'src': not text, but a number"),
        ("{", "x.jsonl, line 1: broken JSON"),
    ],
)
def test_bad_pairs(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(PMLMError, match=message):
        baselines.read_pairs(tmp_path / "x.jsonl")


def test_missing_pairs(tmp_path):
    with pytest.raises(PMLMError, match=r"cannot read .*x\.jsonl: No such file"):
        baselines.read_pairs(tmp_path / "x.jsonl")
