"""Checkpoints as fairseq reads them: loaded, resumed from, or named in one line."""

import argparse
import ast
import io
import os
import pickle
import shlex
import socket
import subprocess
import warnings
from types import SimpleNamespace

import pytest
import torch
from commands import USER_DIR
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from test_loading import OLD, Call
from translation import MODEL, SENTENCES, fairseq, finish, start

from fairseq_pmlm.checkpoints import context
from fairseq_pmlm.checkpoints.safe_load import torch_load
from fairseq_pmlm.fairseq_patches.replace import ORIGINALS
from fairseq_pmlm.utils.errors import PMLMError


@pytest.fixture(scope="module")
def checkpoint(toy):
    return toy / "ck/checkpoint_last.pt"


def test_real_checkpoint_loads_with_the_patch_only(checkpoint):
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    assert isinstance(state["cfg"].model, argparse.Namespace)
    assert state["optimizer_history"][-1]["num_updates"] > 0
    # the original uses torch.load, which refuses the options
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        ORIGINALS["fairseq.checkpoint_utils.load_checkpoint_to_cpu"](str(checkpoint))


def test_ema_weights_load_with_the_patch_only(tmp_path):
    path = str(tmp_path / "ema.pt")
    torch.save({"args": argparse.Namespace(), "extra_state": {"ema": {"w": torch.ones(2)}}}, path)
    assert checkpoint_utils.load_ema_from_checkpoint(path)["model"]["w"].tolist() == [1, 1]
    assert checkpoint_utils.load_ema_from_checkpoint(fpath=path)["model"]["w"].tolist() == [1, 1]
    with pytest.raises(pickle.UnpicklingError):
        ORIGINALS["fairseq.checkpoint_utils.load_ema_from_checkpoint"](path)


def test_a_torch_load_that_somebody_else_replaced_is_not_used(tmp_path, monkeypatch, checkpoint):
    proof, path, unsafe = tmp_path / "executed", tmp_path / "model.pt", torch.load
    # what people do about torch >= 2.6
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: unsafe(*args, **{**kwargs, "weights_only": False}))
    replaced = torch.load
    torch.save(Call(os.system, f"touch {proof}"), path)
    with pytest.raises(PMLMError, match="could run code"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not proof.exists()
    assert torch.load is replaced
    assert checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))


def test_truncated_checkpoint_is_one_clear_line(checkpoint, tmp_path):
    content, path = checkpoint.read_bytes(), tmp_path / "cut.pt"
    for size in (0, 1, 2, 4, 100, len(content) // 3, len(content) // 2, len(content) - 100, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(PMLMError) as error:
            checkpoint_utils.load_checkpoint_to_cpu(str(path))
        assert f"checkpoint {path} is truncated, or not a checkpoint" in str(error.value), size
        assert "\n" not in str(error.value)


def test_truncated_legacy_checkpoint_and_other_files(tmp_path):
    path, buffer = tmp_path / "cut.pt", io.BytesIO()
    torch.save({"model": {"w": torch.ones(1000)}, "args": None}, buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue()
    other = [b"hello, I am a text\n", b"PK\x03\x04 not really a zip", pickle.dumps({"a": 1}), os.urandom(500)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch guesses at the pickle protocol
        for broken in [content[:size] for size in (1, 10, 50, 200, len(content) // 2, len(content) - 1)] + other:
            path.write_bytes(broken)
            with pytest.raises(PMLMError, match=r"cut\.pt"):
                checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_missing_checkpoint_is_one_clear_line(tmp_path):
    missing = str(tmp_path / "none.pt")
    with pytest.raises(PMLMError, match=r"^checkpoint .*none\.pt does not exist$"):
        checkpoint_utils.load_checkpoint_to_cpu(missing)
    with pytest.raises(PMLMError, match=r"^checkpoint .*none\.pt does not exist$"):
        checkpoint_utils.load_model_ensemble([missing])
    with pytest.raises(PMLMError, match="cannot be read"):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path))
    with pytest.raises(OSError, match="Model file not found"):
        ORIGINALS["fairseq.checkpoint_utils.load_model_ensemble_and_task"]([missing])


def test_a_file_that_fairseq_can_make_nothing_of_is_named(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"no": "history"}, path)
    with pytest.raises(PMLMError, match=rf"checkpoint {path} cannot be used: KeyError: 'best_loss'"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


@pytest.mark.parametrize("options", [{}, {"reset_optimizer": True}])
def test_the_model_is_told_what_a_trainer_reads_and_what_for(options):
    told = []

    def load_state_dict(*args, **kwargs):
        told.append(context.current())
        raise ValueError

    path, before = str(OLD / "pretraining.pt"), context.current().finetuning
    trainer = SimpleNamespace(
        data_parallel_world_size=1, data_parallel_rank=0, tpu=False, is_fsdp=False,
        cfg=OmegaConf.create({"model": {}, "checkpoint": {"load_checkpoint_on_all_dp_ranks": True}}),
        model=SimpleNamespace(set_num_updates=lambda updates: None, load_state_dict=load_state_dict),
    )  # fmt: skip
    with pytest.raises(Exception, match="Cannot load model parameters from checkpoint"):
        Trainer.load_checkpoint(trainer, path, **options)
    assert told == [context.Reading(f"checkpoint {path}", finetuning=bool(options))]
    assert context.current() == context.Reading(f"checkpoint {path}", before)


def test_contradictory_sizes_are_refused_before_a_model_is_made(tmp_path):
    state = torch_load(OLD / "pretraining.pt")
    state["cfg"]["model"]["encoder_embed_dim"] = 32
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(PMLMError, match=rf"checkpoint {tmp_path}/model\.pt is damaged: its options give "):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "model.pt"))


@pytest.mark.slow
def test_error_line_of_a_real_command(toy, tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes((toy / "ck/checkpoint_last.pt").read_bytes()[:-1000])
    options = [toy / "bin", *USER_DIR, "--cpu", "--path"]
    run = fairseq("generate", *options, path, check=False)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"fairseq_pmlm: error: checkpoint {path} is truncated, or not a checkpoint (")


def resume(toy, user_dir, save_dir):
    """Two processes continue the run of one: see which updates each makes, from which sentences."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = shlex.split(
        "--distributed-world-size 2 --distributed-no-spawn --device-id 0 --distributed-backend gloo "
        f"--distributed-init-method tcp://127.0.0.1:{port} --ddp-backend legacy_ddp "
        "--max-epoch 2 --no-save --disable-validation"
    )
    options += ["--user-dir", toy / user_dir, "--save-dir", save_dir, "--restore-file", toy / "ck/checkpoint_last.pt"]
    runs = [start("train", toy / "bin", *MODEL, *options, "--distributed-rank", rank) for rank in (0, 1)]
    return [finish(run, check=False) for run in runs]


def updates(run):
    return [line.split(" ", 3)[1:] for line in run.stdout.splitlines() if line.startswith("SPY ")]


@pytest.mark.slow
def test_two_processes_resume(toy, tmp_path):
    runs = resume(toy, "spy", tmp_path)
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    before = updates(subprocess.CompletedProcess([], 0, (toy / "train.stdout").read_text()))
    first, second = updates(runs[0]), updates(runs[1])
    # both go on where one stopped, in step, with the same weights, each with its own share of the sentences
    assert int(first[0][0]) == int(before[-1][0]) + 1
    assert [u[:2] for u in first] == [u[:2] for u in second]
    assert first[0][1] != first[-1][1] or len(first) == 1
    shares = [[i for u in run for i in ast.literal_eval(u[2])] for run in (first, second)]
    assert sorted(shares[0] + shares[1]) == list(range(SENTENCES))
    assert all(shares)


@pytest.mark.slow
def test_two_processes_cannot_resume_without_the_patch(toy, tmp_path):
    # only loading is mended there, and not the broadcast: torch.load refuses the configuration
    runs = resume(toy, "half", tmp_path)
    assert runs[1].returncode != 0
    assert "_broadcast_object_slow" in runs[1].stderr
    assert "weights_only" in runs[1].stderr
    assert updates(runs[0]) == updates(runs[1]) == []
