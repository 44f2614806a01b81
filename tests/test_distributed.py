"""distributed: who is who, by the environment and the options; real processes are started at the end."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import OPTIMIZER, PRETRAIN, USER_DIR, command, logged, pretrain, refused
from fairseq import models, options
from fairseq.data import Dictionary
from fairseq.dataclass.configs import DistributedTrainingConfig, FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

from fairseq_pmlm.checkpoints.safe_load import torch_load
from fairseq_pmlm.fairseq_patches import distributed, training_state
from fairseq_pmlm.fairseq_patches.distributed import free_port
from fairseq_pmlm.model.config import PMLMConfig
from fairseq_pmlm.model.pmlm import Predict
from fairseq_pmlm.tasks.model import FairseqPMLM
from fairseq_pmlm.utils.errors import PMLMError

TORCHRUN = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "6", "RANK": "4", "LOCAL_RANK": "1"}
SLURM = {"SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "alone", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2"}


@pytest.fixture
def environment(monkeypatch):
    for name in [name for name in os.environ if name in TORCHRUN or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(*item) for item in variables.items()]


@pytest.mark.parametrize("optimizer", ["adam", "pmlm_layer_decay"])
def test_bf16_is_no_request_for_a_tpu(optimizer, monkeypatch, environment):
    """fairseq's option parsing sets ``tpu`` in three groups; where there is torch_xla, it stays as it is."""
    given = [*PRETRAIN, *OPTIMIZER, "--optimizer", optimizer, "--bf16"]
    args = options.parse_args_and_arch(options.get_training_parser(), ["data", *map(str, given)])
    seen = []

    def main(cfg, **kwargs):
        seen.append((cfg.common.bf16, cfg.common.tpu, cfg.distributed_training.tpu, cfg.optimizer.tpu))
        training_state.complete()

    utils.call_main(convert_namespace_to_omegaconf(args), main)
    assert seen == [(True, False, False, False)]
    cfg = convert_namespace_to_omegaconf(args)
    distributed.keep_off_tpus(cfg)
    assert cfg == convert_namespace_to_omegaconf(argparse.Namespace(**{**vars(args), "tpu": False}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    utils.call_main(convert_namespace_to_omegaconf(args), main)
    assert seen[1:] == [(True, True, True, True)]


@pytest.mark.slow
def test_bf16_trains_on_a_cpu(work, tmp_path):
    done = pretrain(work, tmp_path, "--bf16", updates=3)
    assert logged(done.stdout, "train")[-1]["train_num_updates"] == "3"
    assert 0 < float(logged(done.stdout, "train")[-1]["train_loss"]) < 20  # bits of two objectives, 40 words


def plan(**changes):
    return OmegaConf.merge(OmegaConf.structured(DistributedTrainingConfig), {"distributed_world_size": 1, **changes})


def facts(found):
    names = ("init_method", "world_size", "rank", "no_spawn", "backend")
    return tuple(found[f"distributed_{name}"] for name in names)


def test_alone(environment):
    for variables in (
        {},
        {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"},
        # the script of sbatch --ntasks 8: one process, before any srun
        {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-8]"},
    ):
        environment(variables)
        found = plan()
        distributed.join_on_cpus(found)
        assert facts(found) == (None, 1, 0, False, "nccl")


def test_torchrun(environment):
    environment({**TORCHRUN, **SLURM})  # one torchrun a machine, each started by srun
    found = plan(device_id=1)
    distributed.join_on_cpus(found)
    assert facts(found) == ("env://", 6, 4, True, "gloo")
    assert found.device_id == 0  # no GPU is to be chosen


def test_slurm(environment, tmp_path, monkeypatch):
    environment(SLURM)
    found = plan()
    distributed.join_on_cpus(found)
    port = distributed.slurm_port()
    assert facts(found) == (f"tcp://alone:{port}", 3, 2, True, "gloo")
    assert 10000 <= port <= 60000
    found = plan(distributed_port=12345, distributed_backend="mpi")
    distributed.join_on_cpus(found)
    assert facts(found) == ("tcp://alone:12345", 3, 2, True, "mpi")
    # several machines: scontrol spells them out
    environment({"SLURM_STEP_NODELIST": "rack[2-3]n[07-09]", "PATH": str(tmp_path)})
    with pytest.raises(PMLMError, match=r"scontrol does not say which machines rack\[2-3\]n\[07-09\] are"):
        distributed.slurm_host()
    (tmp_path / "scontrol").write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames rack[2-3]n[07-09]" ] && echo rack2n07 rack2n08\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    assert distributed.slurm_host() == "rack2n07"
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    with pytest.raises(PMLMError, match="SLURM_STEP_NODELIST does not say where"):
        distributed.slurm_host()


def test_options_alone(environment):
    found = plan(distributed_world_size=2)
    distributed.join_on_cpus(found)
    assert re.fullmatch(r"tcp://localhost:\d+", found.distributed_init_method)
    assert facts(found)[1:] == (2, 0, False, "gloo")
    by_hand = {"distributed_init_method": "tcp://a:1", "distributed_no_spawn": True, "distributed_rank": 1}
    found = plan(distributed_world_size=2, **by_hand)
    distributed.join_on_cpus(found)
    assert facts(found) == ("tcp://a:1", 2, 1, True, "gloo")
    found = plan(distributed_world_size=2, distributed_init_method="tcp://a:1")  # fairseq starts none
    distributed.join_on_cpus(found)
    assert facts(found) == ("tcp://a:1", 2, 0, False, "gloo")
    with pytest.raises(PMLMError, match="--distributed-rank 1 on a CPU needs --distributed-no-spawn"):
        distributed.join_on_cpus(plan(distributed_world_size=2, distributed_rank=1))
    with pytest.raises(PMLMError, match="--distributed-world-size 2 with --distributed-no-spawn needs"):
        distributed.join_on_cpus(plan(distributed_world_size=2, distributed_no_spawn=True))


def test_on_gpus_fairseq_sees_the_others(environment):
    """One GPU a machine: fairseq would take its world of size 1 for all there is."""
    environment(SLURM)
    found = plan()
    distributed.join_on_gpus(found)
    assert (found.distributed_world_size, found.distributed_port) == (3, distributed.slurm_port())
    found = plan(distributed_world_size=8, distributed_port=12345)
    distributed.join_on_gpus(found)
    assert (found.distributed_world_size, found.distributed_port) == (8, 12345)
    environment(TORCHRUN)
    found = plan()
    distributed.join_on_gpus(found)
    assert (found.distributed_world_size, found.distributed_port) == (6, -1)
    assert facts(found)[0] is None


def config(**changes):
    cfg = OmegaConf.structured(FairseqConfig())
    OmegaConf.set_struct(cfg, False)
    return OmegaConf.merge(
        cfg, {"common": {"cpu": True}, "distributed_training": {"distributed_world_size": 1}}, changes
    )


def test_a_training_without_an_update_fails(environment):
    def nothing(cfg):
        training_state.begin()

    def something(cfg):
        training_state.begin()
        training_state.update()

    with pytest.raises(PMLMError, match="nothing was trained: no update was made"):
        utils.call_main(config(), nothing)
    utils.call_main(config(), something)
    utils.call_main(config(), lambda cfg: None)  # fairseq-validate, for example


def test_updates_are_counted_and_fillers_left_out():
    seen = []

    def prepare(sample):
        seen.append(sample)
        raise KeyboardInterrupt

    trainer = SimpleNamespace(
        is_fsdp=False, _set_seed=list, zero_grad=list, _prepare_sample=prepare,
        model=SimpleNamespace(train=list), criterion=SimpleNamespace(train=list),
        cfg=OmegaConf.create({"ema": {"store_ema": False}}),
    )  # fmt: skip
    training_state.begin()
    with pytest.raises(KeyboardInterrupt):
        Trainer.train_step(trainer, [{}, {"id": 1}])
    assert seen == [{"id": 1}]
    assert not training_state.trained_nothing()


@pytest.mark.parametrize(
    ("part", "options", "told"),
    [
        ("checkpoint", {"write_checkpoints_asynchronously": True}, "--write-checkpoints-asynchronously cannot be used"),
        ("distributed_training", {"ddp_backend": "fully_sharded"}, "--ddp-backend fully_sharded needs GPUs"),
        ("distributed_training", {"zero_sharding": "os"}, "--zero-sharding os needs fairscale: pip install fairscale"),
    ],
)
def test_what_cannot_work_is_refused(environment, monkeypatch, part, options, told):
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PMLMError, match=told):
        utils.call_main(config(**{part: options}), lambda cfg: pytest.fail("started"))


def test_an_orphan_does_not_train(monkeypatch):
    """What a script runs with "&" ignores SIGINT, by which torch ends the processes of one that was killed."""
    signals = []
    monkeypatch.setattr(torch.multiprocessing, "_prctl_pr_set_pdeathsig", signals.append)
    with pytest.raises(SystemExit, match="the process that has started this one is gone"):
        distributed._spawned(0, os.getppid() + 1, lambda cfg: pytest.fail("trained"), config(), {})
    assert signals == [signal.SIGTERM]


def test_who_was_not_joined_is_refused(environment):
    """As under fairseq-hydra-train, which knows of the extension only when processes are decided upon."""
    alone, joined = (SimpleNamespace(data_parallel_world_size=size) for size in (1, 3))
    distributed.check_joined(alone)
    for variables, told in ((SLURM, "Slurm has started 3 processes"), (TORCHRUN, "torchrun has started 6 processes")):
        environment(variables)
        distributed.check_joined(joined)
        with pytest.raises(PMLMError, match=f"{told}, and each of them would train by itself"):
            distributed.check_joined(alone)


def test_lost_processes_are_told_from_errors():
    lost = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Read error [127.0.1.1]:2: Connection reset by peer",
    )
    two = plan(distributed_world_size=2, distributed_rank=1)
    for text in lost:
        with pytest.raises(PMLMError, match="process 1 of 2 has lost another one"), distributed.losses_named(two):
            raise RuntimeError(text)
        with pytest.raises(RuntimeError, match="gloo"), distributed.losses_named(plan()):
            raise RuntimeError(text)
    with pytest.raises(PMLMError, match="has lost"), distributed.losses_named(two):
        raise torch.distributed.DistNetworkError("The client socket has timed out")
    with pytest.raises(RuntimeError, match="shape"), distributed.losses_named(two):
        raise RuntimeError("shape '[2]' is invalid")


def test_fillers_are_left_out_where_there_are_samples():
    full, other, filler = {"id": [1]}, {"id": [2]}, {}
    assert distributed.without_fillers([full, other]) == [full, other]
    assert distributed.without_fillers([full, filler]) == [full]
    assert distributed.without_fillers([filler, filler]) == [filler]
    assert distributed.without_fillers([None, []]) == [None]


# ---------------------------------------------------------------------------------------------------------------------
# real processes


def in_two_processes(work, *arguments):
    """Run *work* (rank, *arguments*) in two processes that have met; what each returns."""
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as directory:
        where = f"file://{directory}/meet"
        processes = [context.Process(target=_met, args=(queue, where, rank, work, arguments)) for rank in (0, 1)]
        for process in processes:
            process.start()
        found = dict(queue.get() for _ in processes)
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    return [found[0], found[1]]


def _met(queue, where, rank, work, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=where, world_size=2, rank=rank)
    try:
        queue.put((rank, work(rank, *arguments)))
    except BaseException as error:
        queue.put((rank, repr(error)))
        raise
    torch.distributed.destroy_process_group()


def gather(rank):
    return [found["a"] for found in utils.all_gather_list({"a": rank, "more than max_size": "x" * 20000})]


def test_lists_are_gathered_without_gpus():
    assert in_two_processes(gather) == [[0, 1], [0, 1]]


def broadcast(rank):
    state = {"model": tiny().state_dict(), "cfg": {"model": {"encoder_layers": 1}}}
    found = utils.broadcast_object(state if rank == 0 else None, 0, utils.get_global_group(), torch.device("cpu"))
    return all(torch.equal(value, state["model"][name]) for name, value in found["model"].items())


def test_a_checkpoint_goes_from_the_first_process_to_the_others():
    assert in_two_processes(broadcast) == [True, True]


def tiny(symbols="abcdef"):
    dictionary = Dictionary()
    for symbol in [*symbols, "<mask>", "<pseudo>"]:
        dictionary.add_symbol(symbol)
    torch.manual_seed(0)
    shape = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 2}
    return FairseqPMLM(PMLMConfig(**shape, max_positions=32, dropout=0.0, attention_dropout=0.0), dictionary)


def batch(masked):
    """Two texts of five tokens, of which *masked* texts have a masked one."""
    tokens = torch.arange(10).view(2, 5) % 6 + 4
    slots = {"tokens": tokens, "positions": torch.arange(5).repeat(2, 1), "context_length": 5, "context_queries": 1}
    slots.update(segments=torch.zeros_like(tokens), steps=torch.zeros_like(tokens))
    return {**slots, "queries": torch.zeros(2, 1, dtype=torch.long), "select": torch.arange(masked)}


MASKED = [(2, 2), (2, 1), (0, 2), (1, 0)]  # masked tokens in the first and in the second process


def gradients(rank, backend):
    """Gradients of the mean of both processes; in the first process there may be none of a masked token."""
    model = tiny()
    args = DistributedTrainingConfig(ddp_backend=backend, distributed_world_size=2)
    args.tpu = False
    wrapped = models.DistributedFairseqModel(args, model, utils.get_global_group(), torch.device("cpu"))
    found = []
    for masked in [MASKED[0], *MASKED]:  # torch's DDP changes its plan after the first
        model.zero_grad()
        count = masked[rank]
        wrapped(Predict(target=torch.full((count,), 5)), **batch(count)).loss.backward()
        getattr(wrapped, "all_reduce_grads", lambda: None)()
        found.append({name: p.grad.tolist() for name, p in model.named_parameters() if p.grad is not None})
    return found[1:]


@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_gradients_are_those_of_one_process(backend):
    first, second = in_two_processes(gradients, backend)
    assert first == second
    for masked, found in zip(MASKED, first, strict=True):
        model = tiny()
        for count in masked:
            model(Predict(target=torch.full((count,), 5)), **batch(count)).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(torch.tensor(found[name]), parameter.grad / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_torchrun_and_world_size_train_the_same(work, tmp_path):
    """Both start two processes, which train together and not one over the other, and go on together."""
    options = [
        work / "text",
        *USER_DIR,
        *PRETRAIN,
        *OPTIMIZER,
        "--max-tokens",
        600,
        "--max-update",
        12,
        "--num-workers",
        0,
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port(-1)]
    torchrun += [Path(sys.executable).with_name("fairseq-train"), *options, "--save-dir", tmp_path / "a"]
    done = subprocess.run(list(map(str, torchrun)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    options += ["--distributed-world-size", 2, "--save-dir", tmp_path / "b"]
    command("train", *options, "--max-update", 6)
    other = command("train", *options)  # which goes on
    for output in (done.stdout, other.stdout):
        assert "initialized host" in output
        assert "training on 2 devices" in output
        assert logged(output, "train")[-1]["train_num_updates"] == "12"
    one, two = (torch_load(str(tmp_path / name / "checkpoint_last.pt"))["model"] for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_what_would_start_anew_is_refused(work, tmp_path):
    done = pretrain(work, tmp_path, "--restore-file", tmp_path / "none.pt", updates=2, check=False)
    refused(done, "none.pt (--restore-file) does not exist")
    (tmp_path / "checkpoint_last.pt").write_bytes(b"")
    refused(pretrain(work, tmp_path, updates=2, check=False), "checkpoint_last.pt is empty; to start anew, move")
