"""The recipes: whole runs on examples made on the spot, the arithmetic of their batches, and what they refuse."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from commands import call

from fairseq_pmlm.utils.errors import PMLMError

ROOT = Path(__file__).parents[1]
RECIPES = ["cnndm", "fairytaleqa_qg", "gigaword", "scitldr", "squad_qg", "xsum"]


def run(recipe, *args, check=True, **kwargs):
    command = ["bash", f"scripts/recipes/{recipe}.sh", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, **kwargs)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_there_is_a_recipe_for_each_data_set():
    found = {path.stem for path in (ROOT / "scripts" / "recipes").glob("*.sh")} - {"recipe"}
    assert found == {*RECIPES, "glue", "squad"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_help(recipe):
    text = run(recipe, "--help").stdout
    assert "DATA holds" in text
    assert f"bash scripts/recipes/{recipe}.sh DATA CHECKPOINT OUT" in text
    assert "#" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "references", "metrics"),
    [("scitldr", 2, {"rouge1", "rougeL"}), ("squad_qg", 1, {"bleu", "bleu1", "rougeL"})],
)
def test_smoke(tmp_path, recipe, references, metrics):
    out = tmp_path / "out"
    done = run(recipe, "--smoke", out)
    assert "24 pairs, 2 epochs: 6 updates of 8 sentences, 4 on each of 1 devices, 2 times" in done.stdout
    scores = json.loads((out / "scores.json").read_text())
    assert metrics <= scores["scores"].keys()
    assert scores["segments"] == 7
    assert all(f"|nrefs:{references}|" in signature for signature in scores["signatures"].values())
    assert len((out / "hyp.txt").read_text().split("\n")) == 8
    assert len((out / "hyp.jsonl").read_text().splitlines()) == 7
    if recipe == "squad_qg":
        source = (out / "data" / "test.src.txt").read_text().splitlines()[0]
        assert source.split(" : ")[0] in source.split(" : ")[1]  # the answer first
    again = run(recipe, "--smoke", out)
    assert again.stdout.count("already done") == 8
    assert "\n+ " not in again.stdout


@pytest.mark.slow
def test_smoke_of_a_glue_task(tmp_path):
    done = run("glue", "--smoke", "MRPC", tmp_path / "out")
    assert "24 records, 2 epochs: 6 updates of 8 texts, 4 at a time, 2 times" in done.stdout
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[0] == "| best of each training | mean | standard deviation | seed 1 | seed 2 |"
    assert [row.split(" |")[0] for row in table[2:]] == ["| accuracy", "| f1", "| score", "| at update"]
    for seed in (1, 2):
        assert (tmp_path / "out" / f"seed{seed}" / "checkpoint_best.pt").is_file()
    again = run("glue", "--smoke", "MRPC", tmp_path / "out")
    assert again.stdout.count("already done") == 7


def test_bad_arguments_of_glue(tmp_path):
    assert "bash scripts/recipes/glue.sh TASK DATA CHECKPOINT OUT" in run("glue", "--help").stdout
    for args, message in [
        ([], "TASK is missing: there are CoLA, SST-2"),
        (["AX", tmp_path], "TASK AX: there are CoLA"),
        (["RTE", tmp_path], "expected TASK DATA CHECKPOINT OUT, found 2"),
        (["RTE", tmp_path, tmp_path / "model.pt", "out"], f"there is no checkpoint {tmp_path}/model.pt"),
        (["RTE", "--seeds", "0"], "--seeds 0: expected a whole number of at least 1"),
        (["RTE", "--warmup", "2"], "--warmup 2: expected a share of the updates"),
        (["--smoke", "RTE", "--lr", "1e-5"], "--smoke takes a task and an output directory, and nothing else"),
    ]:
        done = run("glue", *args, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"glue: {message}"), done.stderr


def logged(path, results):
    """A log as fairseq-train writes it: (update, score on valid, accuracy on valid1)."""
    lines = ["begin validation"]
    for update, score, other in results:
        lines.append(json.dumps({"valid_score": str(score), "valid_num_updates": str(update)}))
        lines.append(json.dumps({"valid1_accuracy": str(other), "valid1_num_updates": str(update)}))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_mean_and_deviation_are_those_of_the_checkpoints_kept(tmp_path, capsys):
    logs = [
        logged(tmp_path / "a.log", [(10, 80.0, 1.0), (20, 90.0, 70.0), (30, 85.0, 99.0)]),
        logged(tmp_path / "b.log", [(10, 94.0, 50.0), (20, 94.0, 60.0)]),
    ]
    call("seeds", *logs)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| score | 92.00 | 2.83 | 90.00 | 94.00 |",
        "| accuracy (valid1) | 65.00 | 7.07 | 70.00 | 60.00 |",
        "| at update | | | 20 | 20 |",
    ]
    with logs[1].open("a") as f:  # killed while it wrote
        f.write('{"valid_score": "99", "valid_num_updates": "30"')
    call("seeds", *logs)
    assert "| at update | | | 20 | 20 |" in capsys.readouterr().out
    (tmp_path / "c.log").write_text("begin\n")
    with pytest.raises(PMLMError, match="no validation with a score"):
        call("seeds", tmp_path / "c.log")


def test_smoke_of_squad(tmp_path):
    out = tmp_path / "out"
    done = run("squad", "--smoke", out)
    assert re.search(r"\d+ windows, 2 epochs: \d+ updates of 8 windows, 4 at a time, 2 times", done.stdout)
    table = (out / "table.md").read_text().splitlines()
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in table[2:]}
    for i, seed in enumerate((1, 2)):
        scores = json.loads((out / f"answers{seed}" / "scores.json").read_text())
        assert scores["segments"] == 6
        assert float(rows["f1"][2 + i].rstrip(" |")) == pytest.approx(scores["scores"]["f1"]["score"], abs=0.006)
        assert len(json.loads((out / f"answers{seed}" / "predictions.json").read_text())) == 6
    assert {"HasAns_f1", "NoAns_f1", "best_f1"} <= rows.keys()
    again = run("squad", "--smoke", out)
    assert again.stdout.count("already done") == 9
    assert "\n+ " not in again.stdout


def test_help_of_squad_and_bad_arguments(tmp_path):
    text = run("squad", "--help").stdout
    assert "bash scripts/recipes/squad.sh DATA CHECKPOINT OUT [options]" in text
    assert "#" not in text
    for name in ("model.pt", "dict.txt"):
        (tmp_path / name).touch()
    places = [tmp_path, tmp_path / "model.pt", tmp_path / "out"]
    for args, message in [
        (places[:2], "expected DATA CHECKPOINT OUT, found 2"),
        (["--version", "1.2"], "--version 1.2: expected 1.1 or 2.0"),
        (["--seeds", "0"], "--seeds 0: expected a whole number of at least 1"),
        (["--warmup", "1.5", *places], "--warmup 1.5: expected a share of the updates, less than 1"),
        (["--smoke", "--seeds", "3"], "--smoke takes an output directory and nothing else"),
        (places, f"{tmp_path} holds no train-v1.1.json with dev-v1.1.json, nor the same of v2.0"),
        (["--version", "2.0", *places], f"{tmp_path} holds no train-v2.0.json with dev-v2.0.json"),
    ]:
        done = run("squad", *args, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"squad: {message}"), done.stderr
    for version in ("1.1", "2.0"):
        for part in ("train", "dev"):
            (tmp_path / f"{part}-v{version}.json").touch()
    assert "both versions of SQuAD; give --version" in run("squad", *places, check=False).stderr
    assert not (tmp_path / "out").exists()


def test_bad_arguments(tmp_path):
    data, checkpoint = tmp_path / "data", tmp_path / "model.pt"
    for args, message in [
        ([data], "expected DATA CHECKPOINT OUT, found 1"),
        ([data, checkpoint, tmp_path], f"there is no directory {data}"),
        ([tmp_path, checkpoint, tmp_path / "out"], f"there is no checkpoint {checkpoint}"),
        (["--smoke", "a", "b"], "--smoke takes an output directory and nothing else"),
        (["--epochs", "x", "a"], "--epochs x: expected a whole number of at least 1"),
        (["--beam", "4"], "unknown option --beam"),
        (["--lr"], "--lr needs a value"),
    ]:
        done = run("xsum", *args, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"xsum: {message}"), done.stderr
    checkpoint.touch()
    done = run("xsum", tmp_path, checkpoint, tmp_path / "out", check=False)
    assert f"there is no {tmp_path}/dict.txt; give --vocab-from DIR" in done.stderr
    (tmp_path / "dict.txt").touch()
    (tmp_path / "train.source").touch()
    done = run("xsum", tmp_path, checkpoint, tmp_path / "out", check=False)
    assert (
        "holds none of the forms that this recipe knows (train, valid, test): train.source,train.target" in done.stderr
    )
    assert not (tmp_path / "out").exists()


def shell(function, **variables):
    """Run one function of recipe.sh on its own."""
    text = (ROOT / "scripts" / "recipes" / "recipe.sh").read_text()
    begin = text.index(f"\n{function}() {{")
    script = f'fail() {{ echo "$1" >&2; exit 2; }}\n{text[begin : text.index(chr(10) + "}", begin) + 2]}\n{function}\n'
    script += 'echo "$PER_DEVICE $ACCUMULATE"'
    env = {"PATH": "/usr/bin:/bin"} | {key: str(value) for key, value in variables.items()}
    return subprocess.run(["bash", "-euc", script], capture_output=True, text=True, env=env)


@pytest.mark.parametrize("batch", [48, 64, 128])
def test_updates_hold_the_sentences_published(batch):
    for devices in (1, 2, 4, 8, 16):
        for fits in (1, 3, 8, 30, 500):
            per_device, accumulate = map(
                int, shell("divide_batch", BATCH=batch, DEVICES=devices, SENTENCES=fits).stdout.split()
            )
            assert per_device * accumulate * devices == batch
            assert per_device <= fits
            smaller = [a for a in range(1, accumulate) if batch % (devices * a) == 0]
            assert all(batch // devices // a > fits for a in smaller)
    done = shell("divide_batch", BATCH=batch, DEVICES=7, SENTENCES=8)
    assert done.returncode == 2
    assert f"{batch} sentences an update cannot be shared by 7 devices" in done.stderr


def test_seeds_of_scores(tmp_path, capsys):
    for seed, f1 in ((1, 50.0), (2, 60.0)):
        scores = {"f1": {"score": f1, "low": None, "high": None}, "exact": {"score": 40.0}}
        (tmp_path / f"{seed}.json").write_text(json.dumps({"scores": scores}))
    call("seeds", tmp_path / "1.json", tmp_path / "2.json")
    table = capsys.readouterr().out.splitlines()
    assert table[2:] == ["| f1 | 55.00 | 7.07 | 50.00 | 60.00 |", "| exact | 40.00 | 0.00 | 40.00 | 40.00 |"]
    (tmp_path / "2.json").write_text('{"scores": {"f1": {"score": 1}}}')
    with pytest.raises(PMLMError, match=r"2\.json has other metrics than .*1\.json"):
        call("seeds", tmp_path / "1.json", tmp_path / "2.json")
    (tmp_path / "2.json").write_text('{"scores": 3}')
    with pytest.raises(PMLMError, match=r"2\.json holds no scores"):
        call("seeds", tmp_path / "2.json")
