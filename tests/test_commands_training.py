"""Training by the real commands, against direct calls of the model."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from commands import (
    OPTIMIZER,
    PRETRAIN,
    ROOT,
    USER_DIR,
    command,
    finetune,
    logged,
    pretrain,
)

from fairseq_pmlm.checkpoints import metadata

pytestmark = pytest.mark.slow


def test_pretraining_logs_both_objectives(pretrained):
    train, valid = logged(pretrained[1], "train")[-1], logged(pretrained[1], "valid")[-1]
    for name in ("ae", "par"):
        for key in ("loss", "ppl", "accuracy"):
            assert f"train_{name}_{key}" in train
            assert f"valid_{name}_{key}" in valid
        assert float(valid[f"valid_{name}_ppl"]) == pytest.approx(2 ** float(valid[f"valid_{name}_loss"]), rel=0.02)
    assert float(valid["valid_loss"]) == pytest.approx(
        float(valid["valid_ae_loss"]) + float(valid["valid_par_loss"]), abs=0.01
    )
    assert float(train["train_nmasked"]) > 0
    assert float(valid["valid_ae_loss"]) < math.log2(40)


def test_resuming_equals_not_stopping(work, pretrained):
    pretrain(work, work / "resumed", updates=50)
    done = pretrain(work, work / "resumed", updates=100)
    assert "Loaded checkpoint" in done.stdout
    one = torch.load(pretrained[0], weights_only=False)
    two = torch.load(work / "resumed" / "checkpoint_last.pt", weights_only=False)
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    assert one["extra_state"]["val_loss"] == pytest.approx(two["extra_state"]["val_loss"], abs=1e-5)
    ends = [logged(out, "train_inner") for out in (pretrained[1], done.stdout)]
    for now, then in zip(ends[0][-5:], ends[1][-5:], strict=True):  # updates 60 .. 100
        assert now["num_updates"] == then["num_updates"]
        assert float(now["loss"]) == pytest.approx(float(then["loss"]), abs=1e-3)


def test_workers_change_nothing(work):
    for workers in (0, 3):
        pretrain(work, work / f"workers{workers}", "--num-workers", workers, updates=20)
    one, two = (torch.load(work / f"workers{n}" / "checkpoint_last.pt", weights_only=False)["model"] for n in (0, 3))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_two_processes_started_by_hand(work, tmp_path):
    """Each process trains on its own share, with workers of its own, and both end with the same weights."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        *("--distributed-world-size", 2, "--distributed-no-spawn", "--device-id", 0, "--distributed-backend", "gloo"),
        *("--distributed-init-method", f"tcp://127.0.0.1:{port}", "--ddp-backend", "legacy_ddp"),
        *("--max-tokens", 600, "--max-update", 12, "--num-workers", 1, "--save-dir", tmp_path / "two"),
    ]
    arguments = [work / "text", *USER_DIR, *PRETRAIN, *OPTIMIZER, *options, "--distributed-rank"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "fairseq_cli.train", *map(str, arguments), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    output = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], output[0][-2000:] + output[1][-2000:]
    assert "num_updates: 12 >= max_update: 12" in output[0]
    state = torch.load(tmp_path / "two" / "checkpoint_last.pt", weights_only=False)
    assert state["optimizer_history"][-1]["num_updates"] == 12
    # twice the masked tokens of one process an update, less what an uneven last batch lacks
    alone = logged(pretrain(work, tmp_path / "one", updates=12).stdout, "train")[-1]
    both = logged(output[0], "train")[-1]
    assert float(both["train_nmasked"]) > 1.7 * float(alone["train_nmasked"])


@pytest.mark.parametrize("objective", ["ae", "par", "ar", "ae+ar"])
def test_every_objective_trains(work, objective):
    done = pretrain(work, work / "objective", "--objective", objective, "--no-save", "--relative-positions", updates=3)
    valid = logged(done.stdout, "valid")[-1]
    assert {key for key in ("ae", "par", "ar") if f"valid_{key}_loss" in valid} == set(objective.split("+"))


def test_shards_are_visited_in_turn(work):
    data = f"{work / 'text'}:{work / 'text2'}"
    command(
        "preprocess",
        "--only-source",
        "--srcdict",
        work / "dict.txt",
        "--trainpref",
        work / "valid.txt",
        "--destdir",
        work / "text2",
    )
    done = command("train", data, *USER_DIR, *PRETRAIN, *OPTIMIZER, "--batch-size", 64, "--max-epoch", 3, "--no-save")
    loaded = re.findall(r"loaded [\d,]+ blocks .* from \S*/(text2?)/train", done.stdout)
    assert loaded[:3] == ["text", "text2", "text"]


def test_validate_repeats_the_training_run(work, pretrained):
    done = command(
        "validate",
        work / "text",
        *USER_DIR,
        "--path",
        pretrained[0],
        "--task",
        "pmlm",
        "--max-tokens",
        600,
        "--cpu",
        "--log-format",
        "json",
    )
    line = json.loads(re.findall(r"(\{\"epoch.*|\{\"valid.*|\{.*ae_loss.*\})$", done.stdout, re.MULTILINE)[-1])
    valid = logged(pretrained[1], "valid")[-1]
    assert float(line["valid_ae_loss"]) == pytest.approx(float(valid["valid_ae_loss"]), abs=2e-3)


def test_finetuning_starts_from_the_pretrained_weights(work, pretrained):
    finetune(work, work / "start", "--finetune-from-model", pretrained[0], "--lr", 0, updates=1)
    start = torch.load(work / "start" / "checkpoint_last.pt", weights_only=False)["model"]
    before = torch.load(pretrained[0], weights_only=False)["model"]
    assert start.keys() == before.keys()
    for key in before:
        assert torch.equal(before[key], start[key]), key


def test_the_position_table_grows_by_repetition(work, pretrained):
    finetune(work, work / "grown", "--finetune-from-model", pretrained[0], "--lr", 0, "--max-positions", 100, updates=1)
    table = torch.load(work / "grown" / "checkpoint_last.pt", weights_only=False)["model"][
        "backbone.embed_positions.weight"
    ]
    before = torch.load(pretrained[0], weights_only=False)["model"]["backbone.embed_positions.weight"]
    assert torch.equal(table, torch.cat([before, before[:36]]))


def test_user_dir_by_relative_path_from_the_checkout(work):
    done = command(
        "train",
        work / "text",
        "--user-dir",
        "fairseq_pmlm",
        *PRETRAIN,
        *OPTIMIZER,
        "--batch-size",
        8,
        "--max-update",
        1,
        "--no-save",
        cwd=ROOT,
    )
    assert logged(done.stdout, "valid")[-1]["valid_num_updates"] == "1"


def test_identity_survives_averaging(pretrained):
    stored = torch.load(pretrained[0], weights_only=False)["model"]["identity"]
    averaged = (stored.clone() + stored + stored) // 3
    assert metadata.from_tensor(averaged) == metadata.from_tensor(stored)
    assert metadata.from_tensor(stored)["encoder_attention_heads"] == 2
