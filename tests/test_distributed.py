"""fairseq_pmlm.distributed: who is who, by the environment and the options; real processes are started at the end."""

import os
import re

import pytest
import torch
from fairseq.dataclass.configs import DistributedTrainingConfig, FairseqConfig
from fairseq.distributed import utils
from omegaconf import OmegaConf

from fairseq_pmlm import distributed, progress
from fairseq_pmlm.errors import PMLMError

TORCHRUN = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "6", "RANK": "4", "LOCAL_RANK": "1"}
SLURM = {"SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "alone", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2"}


@pytest.fixture
def environment(monkeypatch):
    for name in [name for name in os.environ if name in TORCHRUN or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(*item) for item in variables.items()]


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
        progress.begin()

    def something(cfg):
        progress.begin()
        progress.update()

    with pytest.raises(PMLMError, match="nothing was trained: no update was made"):
        utils.call_main(config(), nothing)
    utils.call_main(config(), something)
    utils.call_main(config(), lambda cfg: None)  # fairseq-validate, for example
    with pytest.raises(PMLMError, match="--write-checkpoints-asynchronously cannot be used"):
        utils.call_main(config(checkpoint={"write_checkpoints_asynchronously": True}), something)


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
