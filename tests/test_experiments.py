"""experiments/: variants against slow references, jobs that are stopped and go on, the whole path as one
command."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import ListDataset
from reference import forward, kind, may_see, small_dictionary, small_model

HERE = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(HERE))

import variants  # noqa: E402
from runner import Job, Runner  # noqa: E402

from fairseq_pmlm.data.blocks import TextBlocks  # noqa: E402
from fairseq_pmlm.data.pretraining_dataset import PMLMDataset  # noqa: E402
from fairseq_pmlm.generation.infilling import score  # noqa: E402
from fairseq_pmlm.utils.errors import PMLMError  # noqa: E402

MASK, PSEUDO = 34, 35


@pytest.fixture(autouse=True)
def unchanged():
    yield
    variants.change_visibility("none")


def variant_dataset(variant, objective):
    rng = np.random.default_rng(0)
    lines = [torch.tensor([*rng.integers(4, 34, 11).tolist(), 2]) for _ in range(6)]
    blocks = TextBlocks(ListDataset(lines, np.full(6, 12)), 21, pad=1, eos=2)
    options = {"mask_prob": 0.4, "leave_unmasked_prob": 0.3, "random_token_prob": 0.2}
    dataset = PMLMDataset(blocks, small_dictionary(), objective, **options)
    return dataset, variants.VariantDataset(dataset, variant)


@torch.no_grad()
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    ("variant", "objective"),
    [
        *((name, "ae+par") for name in variants.VARIANTS if name != "no-placeholders"),
        *((name, "par") for name in variants.VARIANTS),
    ],
)
def test_variants_equal_a_slow_reference(variant, objective, relative):
    plain, changed = variant_dataset(variant, objective)
    model = small_model(relative)
    variants.change_visibility(variant)
    samples = [changed[i] for i in range(len(changed))]
    batch = changed.collater(samples)["net_input"]
    select = batch.pop("select")
    x = model.backbone(**batch).flatten(0, 1)[select]
    expected = {"ae": [], "par": []}
    hidden_somewhere = False
    for i in range(len(plain)):
        slots = plain[i]["slots"]
        tokens, positions, segments = (part.tolist() for part in slots[:3])
        kinds = [kind(int(step)) for step in slots.steps]
        masked = {positions[k] for k, (what, _) in enumerate(kinds) if what == "pseudo"}
        placeholder = [kinds[k][0] == "context" and positions[k] in masked for k in range(len(kinds))]
        if variant == "one-symbol":
            tokens = [MASK if token == PSEUDO else token for token in tokens]

        def sees(q, k, kinds=kinds, placeholder=placeholder, tokens=tokens):
            if variant == "hidden-kept" and placeholder[k] and tokens[k] != MASK and kinds[q][0] != "context":
                return False
            if variant == "no-placeholders" and placeholder[k]:
                return False
            if variant == "blind-originals" and kinds[q][0] == "original" and kinds[k] == kinds[q] and q != k:
                return False
            return may_see(kinds[q], kinds[k])

        count = range(len(kinds))
        lists = [[k for k in count if sees(q, k)] or [q] for q in count]
        default = [[k for k in count if may_see(kinds[q], kinds[k])] for q in count]
        hidden_somewhere |= lists != default or variant == "one-symbol"
        out = forward(model, tokens, positions, segments, lists)
        queries = slots.queries.tolist()
        expected["ae"] += [out[q] for q in queries[: slots.context_queries]]
        expected["par"] += [out[q] for q in queries[slots.context_queries :]]
    assert hidden_somewhere == (variant != "none")
    torch.testing.assert_close(x, torch.stack(expected["ae"] + expected["par"]), rtol=0, atol=3e-5)


@torch.no_grad()
def test_blind_originals_are_blind_in_decoding_too():
    from test_infilling import STEPS, gapped

    from fairseq_pmlm.generation.infilling import infill

    model, text = small_model(True), gapped(10, STEPS[4], 30)
    default = score(model, [text])[0]
    variants.change_visibility("blind-originals")
    (filling,) = infill(model, [text], beam=1)[0]
    text.tokens[text.mask.positions] = filling.tokens
    np.testing.assert_allclose(score(model, [text])[0], filling.logprobs, rtol=0, atol=3e-5)
    assert not np.allclose(default, filling.logprobs)


def shell(job, command):
    return ["bash", "-c", command, job]


def make(name, *commands, needs=(), **facts):
    return Job(name, lambda: [shell(name, c) for c in commands], lambda: {"kind": "x", "n": 1}, needs, facts)


def test_jobs_run_once_in_order_and_go_on_after_a_failure(tmp_path):
    log, bad = tmp_path / "log", tmp_path / "bad"
    bad.touch()

    def jobs():
        return [
            make("b", f"echo b >>{log}", needs=["a"]),
            make("a", f"echo a1 >>{log}", f"test ! -e {bad}", f"echo a2 >>{log}"),
            make("c", f"echo c >>{log}"),
        ]

    with pytest.raises(PMLMError, match=r"a failed; see .*logs/a\.log"):
        Runner(tmp_path, jobs(), 1, 60).run()
    assert log.read_text().split() == ["a1"]
    bad.unlink()
    seen = []
    assert Runner(tmp_path, jobs(), 1, 60, lambda results: seen.append(len(results))).run()
    assert log.read_text().split() == ["a1", "a2", "b", "c"]  # what had ended well is not run again
    assert seen == [0, 1, 2, 3]
    assert [json.loads(line)["name"] for line in (tmp_path / "results.jsonl").read_text().splitlines()] == [
        "b",
        "a",
        "c",
    ]
    assert Runner(tmp_path, jobs(), 1, 60).run()
    assert log.read_text().split() == ["a1", "a2", "b", "c"]
    with pytest.raises(PMLMError, match=r"other options \(updates: None and now 5\)"):
        Runner(tmp_path, [make("c", "true", updates=5)], 1, 60).run()


def test_a_disk_that_takes_no_more_is_said_in_a_line(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").symlink_to("/dev/full")
    with pytest.raises(PMLMError, match="No space left on device; run again to go on"):
        Runner(tmp_path, [make("a", "true")], 1, 60).run()
    (tmp_path / "logs" / "a.log").unlink()
    assert Runner(tmp_path, [make("a", "true")], 1, 60).run()


def test_jobs_stop_in_time_and_end_what_they_started(tmp_path):
    begun = time.monotonic()
    job = make("long", f"echo $$ >{tmp_path}/pid; sleep 100")
    assert not Runner(tmp_path, [job], 2, 1.5).run()
    assert time.monotonic() - begun < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "runs/long/result.json").exists()


def test_ctrl_c_ends_what_runs_and_is_no_error(tmp_path):
    job = make("long", f"touch {tmp_path}/begun; sleep 100")
    before = signal.getsignal(signal.SIGINT)

    def interrupt():
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert not Runner(tmp_path, [job], 1, 60).run()
    assert signal.getsignal(signal.SIGINT) is before


def test_results_that_are_torn_are_named(tmp_path):
    runner = Runner(tmp_path, [make("a", "true")], 1, 60)
    assert runner.run()
    result = tmp_path / "runs/a/result.json"
    for content, match in (("{}", "no result of a job"), ("", "broken JSON"), ('{"facts": 1}', "no result of a job")):
        result.write_text(content)
        with pytest.raises(PMLMError, match=rf"a/result.json.*{match}"):
            runner.run()


STAND_IN = """() {
    case "$1 ${2-}" in
        "-c import torch"*) echo 0 ;;
        -[cm]*) command python "$@" ;;
        *) while [ $# -gt 1 ]; do
            case $1 in --destdir | --out | --save-dir) mkdir -p "${2%/*}"; echo made >"$2" ;; esac
            shift
        done ;;
    esac
}"""


@pytest.mark.parametrize(
    ("name", "tables"), [("sst2", ["Accuracy"]), ("fairytaleqa_squad", ["Over the seeds", "Beside"])]
)
def test_other_trainings_make_other_tables(tmp_path, name, tables):
    """Commands that only write what they are to write, as it is what runs again that counts."""
    (tmp_path / "data").mkdir()
    for file in ("train.tsv", "train.jsonl", "valid.jsonl", "model.pt"):
        (tmp_path / "data" / file).write_text("a text\t1\n")
    model = tmp_path / "data" / "model.pt"
    stand_ins = {f"BASH_FUNC_{command}%%": STAND_IN for command in ("python", "pmlm", "fairseq-train")}
    words = ["bash", HERE / f"{name}.sh", tmp_path / "data", model, model, tmp_path / "out", "1", "2", "2"]

    def run(**more):
        done = subprocess.run(words, env={**os.environ, **stand_ins, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"^== (.+?)(: already done| \(\d+ min .*)$", done.stdout, re.MULTILINE)

    first, again, other = run(), run(), run(LR_SCRATCH="1e-3")
    assert not [title for title, what in first if "already" in what]
    assert {title for title, what in again if "already" in what} == {title for title, _ in first}
    made = [title for title, what in other if "already" not in what]
    assert any("scratch" in title for title in made)
    assert not any("pretrained" in title or "imported" in title for title in made)
    assert all(any(title.startswith(table) for title in made) for table in tables)


def objectives(*args, check=True):
    done = subprocess.run(
        [sys.executable, HERE / "objectives.py", *map(str, args)], capture_output=True, text=True, timeout=900
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_whole_path_after_a_kill(tmp_path):
    options = ["--smoke", "--out", tmp_path, "--jobs", 2, "--systems", "ae", "ae+par", "--tasks", "fairytaleqa-qg"]
    process = subprocess.Popen([sys.executable, HERE / "objectives.py", *map(str, options)], start_new_session=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "runs/ae.1/model/checkpoint_last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = objectives(*options)
    assert "all done" in done.stdout
    text = (tmp_path / "RESULTS.md").read_text()
    with np.load(tmp_path / "runs/ae+par.1/measures.npz") as file:
        m = dict(file)
    assert len(m["ae"]) == len(m["par"]) == len(m["step"]) > 50
    row = next(line for line in text.splitlines() if line.startswith("| AE+PAR | 1 |"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[5] == f"{m['ae'][m['shown']].mean():.2f}"
    assert cells[8] == f"{m['par'][m['shown']].mean():.2f}"
    results = {row["name"]: row for row in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())}
    assert results["ae.1"]["curve"][-1]["updates"] >= 8
    items = results["ae+par.1.fairytaleqa-qg"]["items"]
    assert re.search(rf"\| AE\+PAR \| {np.mean(items):.2f} \|", text)
    for name in ("curves", "infilling", "fairytaleqa-qg"):
        assert (tmp_path / "charts" / f"{name}.png").stat().st_size > 5000
    assert not list(tmp_path.glob("runs/*fairytaleqa-qg/model"))  # a fine-tuned model is not needed any more
    # nothing is run again, and the table is the same
    assert "all done" in objectives(*options).stdout
    assert (tmp_path / "RESULTS.md").read_text() == text
    refused = objectives(*options, "--updates", 9, check=False)
    assert refused.returncode == 1
    assert re.search(r"error: .*ae.1/result.json was made with other options .updates: 8 and now 9", refused.stderr)


def test_options_are_refused(tmp_path, capsys):
    from objectives import main

    for args, match in (
        (["--hours", "0"], "--hours 0.0: give more than 0"),
        (["--text", str(tmp_path), "--lr", "nan"], "--lr nan: give a number between 0 and 1"),
        (["--smoke", "--text", "x"], "--smoke makes its own text"),
        ([], "--text DIR is missing"),
        (["--text", str(tmp_path), "--setting", "gpu"], "there is no GPU here|no files"),
    ):
        with pytest.raises(PMLMError, match=match):
            main(["--out", str(tmp_path / "out"), *args])
    for folder, file in (("data/sst2", "train.tsv"), ("text", "text.txt")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).write_text("a line\t1\n")
    words = ["--text", str(tmp_path / "text"), "--systems", "ae", "ae", "--seeds", "1", "--lr", "2e-3", "--plan"]
    with pytest.raises(PMLMError, match=r"sst2: there is no .*sst2/valid\.tsv"):
        main(["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data"), *words])
    with pytest.raises(PMLMError, match=r"--out .*train\.tsv: cannot be made a directory: File exists"):
        main(["--out", str(tmp_path / "data/sst2/train.tsv"), *words])
    capsys.readouterr()
    main(["--out", str(tmp_path / "out"), *words])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[-3:]] == ["text", "ae.1", "ae.1.measure"]
