"""Many processes: torchrun, Slurm and fairseq's own start of them, on CPUs as on GPUs; and nothing that trains nothing.

fairseq counts GPUs. Without any it starts no process at all and exits with 0, or divides by their number; a torchrun or
srun that it does not notice trains as many copies as there are processes, one over the other.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Optional

import torch

from ..utils.errors import PMLMError, first_line
from . import training_state
from .replace import Patch

logger = logging.getLogger(__name__)

TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")

# what gloo, NCCL and the store say where another process is gone
GONE = re.compile(
    r"Connection (closed|reset|refused)|closed by (remote )?peer|Broken pipe|Socket (closed|Timeout)|[Tt]imed out|"
    r"remote process exited|Failed to (recv|send)|no error|Application timeout"
)


def train_in_many_processes() -> list[Patch]:
    """Start, join and watch the processes of a training; see the functions that are called."""
    from fairseq import models
    from fairseq.distributed import utils
    from fairseq.trainer import Trainer

    def wrap_main(original):
        def patched(cfg, main, **kwargs):
            if importlib.util.find_spec("torch_xla") is None:
                keep_off_tpus(cfg)
            check(cfg)
            main = functools.partial(must_train, main)
            plan = cfg.distributed_training
            with losses_named(plan):
                if cfg.common.tpu or plan.pipeline_model_parallel:
                    original(cfg, main, **kwargs)
                elif on_gpus(cfg):
                    join_on_gpus(plan)
                    original(cfg, main, **kwargs)
                else:
                    join_on_cpus(plan)
                    if plan.distributed_init_method is None or plan.distributed_no_spawn:
                        original(cfg, main, **kwargs)
                    else:
                        spawn(cfg, main, kwargs)
            leave(utils)

        return patched

    def wrap_model(original):
        def patched(args, model, process_group, device):
            if device.type != "cpu":
                return original(args, model, process_group, device)
            # fairseq names a GPU, which torch refuses for parameters that are on none
            names = original.__globals__
            ddp = names["DistributedDataParallel"]
            names["DistributedDataParallel"] = lambda *a, device_ids, output_device, **kw: ddp(*a, **kw)
            try:
                return original(args, model, process_group, device)
            finally:
                names["DistributedDataParallel"] = ddp

        return patched

    def wrap_step(original):
        def patched(self, samples, *args, **kwargs):
            training_state.update()
            return original(self, samples if self.is_fsdp else without_fillers(samples), *args, **kwargs)

        return patched

    def wrap_gather(original):
        def patched(data, group=None, max_size=16384):
            group = utils.get_global_group() if group is None else group
            if torch.distributed.get_backend(group) != "gloo":
                return original(data, group, max_size)
            gathered = [None] * utils.get_world_size(group)  # fairseq's goes through the memory of a GPU
            torch.distributed.all_gather_object(gathered, data, group=group)
            return gathered

        return patched

    return [
        Patch(utils, "call_main", ["torch.cuda.device_count(),", "infer_init_method("], wrap_main),
        Patch(utils, "all_gather_list", ["torch.cuda.ByteTensor(buffer_size)"], wrap_gather),
        Patch(models, "DistributedFairseqModel", ["device_ids=[args.device_id],"], wrap_model),
        Patch(Trainer, "train_step", ["if is_dummy_batch:", "sample_size *= 0.0"], wrap_step),
    ]


def on_gpus(cfg) -> bool:
    """Whether GPUs are there, and to be used."""
    return torch.cuda.is_available() and not cfg.common.cpu


def keep_off_tpus(cfg) -> None:
    """Set ``tpu`` to False wherever *cfg* holds it: ``common``, ``distributed_training`` and ``optimizer``.

    Why: fairseq's option parsing takes ``--bf16`` for a request to use TPUs, and the trainer then fails to find one.
    """
    from omegaconf import DictConfig  # late: it comes with fairseq, and where that is missing, one line says so

    for key in cfg:
        node = cfg._get_node(key)  # as it is: values may be missing, or point at each other
        if isinstance(node, DictConfig) and not node._is_none():
            keep_off_tpus(node)
        elif key == "tpu":
            cfg.tpu = False


def check(cfg) -> None:
    """Refuse what would end in a traceback, or train nothing.

    Raises:
        PMLMError: naming the option.
    """
    plan = cfg.distributed_training
    if cfg.checkpoint.write_checkpoints_asynchronously:
        raise PMLMError(
            "--write-checkpoints-asynchronously cannot be used: a crash leaves half of such a checkpoint, and without "
            "iopath fairseq trains nothing"
        )
    sharded = "--zero-sharding os" if str(plan.zero_sharding) == "os" else None
    if str(plan.ddp_backend) in ("fully_sharded", "slowmo"):
        sharded = f"--ddp-backend {plan.ddp_backend}"
        if not on_gpus(cfg):
            raise PMLMError(
                f"{sharded} needs GPUs; on CPUs give pytorch_ddp or legacy_ddp, also with --zero-sharding os"
            )
    if sharded and importlib.util.find_spec("fairscale") is None:
        raise PMLMError(f"{sharded} needs fairscale: pip install fairscale")


# ---------------------------------------------------------------------------------------------------------------------
# who we are, among how many


def tasks() -> tuple[str, int]:
    """Who has started this process with others, and how many there are: torchrun or Slurm's srun; else 1.

    What sbatch says of its job is no matter: its script is one process, and the tasks are what srun makes of it.
    """
    if all(name in os.environ for name in TORCHRUN):
        return "torchrun", int(os.environ["WORLD_SIZE"])
    return "Slurm", int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def join_on_gpus(plan) -> None:
    """Let fairseq see that there are other processes, and under Slurm where to meet.

    Why: with one GPU a machine its world is of size 1, which it takes for a training by itself; and without a port, the
    machines of a Slurm job wait for the others each on its own.
    """
    starter, count = tasks()
    if plan.distributed_init_method is not None or count == 1:
        return
    if plan.distributed_world_size == 1:
        plan.distributed_world_size = count
    if starter == "Slurm" and plan.distributed_port <= 0:
        plan.distributed_port = slurm_port()


def join_on_cpus(plan) -> None:
    """Decide who we are among how many, as fairseq does on GPUs; the backend is gloo.

    Raises:
        PMLMError: what the options and the environment say does not go together.
    """
    starter, count = tasks()
    if plan.distributed_init_method is None and count > 1:
        plan.distributed_world_size = count
        plan.distributed_no_spawn = True
        if starter == "torchrun":
            plan.distributed_init_method = "env://"
            plan.distributed_rank = int(os.environ["RANK"])
        else:
            port = plan.distributed_port if plan.distributed_port > 0 else slurm_port()
            plan.distributed_init_method = f"tcp://{slurm_host()}:{port}"
            plan.distributed_rank = int(os.environ["SLURM_PROCID"])
    elif plan.distributed_world_size > 1 and not plan.distributed_no_spawn:
        if plan.distributed_rank:
            raise PMLMError(
                f"--distributed-rank {plan.distributed_rank} on a CPU needs --distributed-no-spawn: one process each; "
                "torchrun starts them all"
            )
        if plan.distributed_init_method is None:
            plan.distributed_init_method = f"tcp://localhost:{free_port(plan.distributed_port)}"
    if plan.distributed_init_method is None:
        if plan.distributed_world_size > 1:
            raise PMLMError(
                f"--distributed-world-size {plan.distributed_world_size} with --distributed-no-spawn needs "
                "--distributed-init-method tcp://HOST:PORT and --distributed-rank; torchrun sets all of them"
            )
        return
    plan.device_id = 0
    if plan.distributed_backend == "nccl":  # the default, and for GPUs
        plan.distributed_backend = "gloo"


def check_joined(trainer) -> None:
    """Refuse to train beside other processes as if there were none.

    Why: ``fairseq-hydra-train`` reads ``common.user_dir`` when it has decided already who trains with whom, so that
    nothing here could tell it of the others, and each would train a copy, one over the other.

    Raises:
        PMLMError: this process was started with others, and trains without them.
    """
    starter, count = tasks()
    if count > 1 and trainer.data_parallel_world_size == 1 and not torch.distributed.is_initialized():
        raise PMLMError(
            f"{starter} has started {count} processes, and each of them would train by itself, one over the other: "
            "fairseq-hydra-train does not join them here; give fairseq-train"
        )


def slurm_port() -> int:
    """A port that all tasks of a Slurm job choose alike, and jobs beside it on the same machines hardly ever."""
    return random.Random(int(os.environ.get("SLURM_JOB_ID", 0))).randint(10000, 60000)


def slurm_host() -> str:
    """The first machine of the job step.

    Raises:
        PMLMError: Slurm says nothing of it, or only its ``scontrol``, which is not there, can tell.
    """
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise PMLMError("srun has started this, and SLURM_STEP_NODELIST does not say where; give torchrun instead")
    if not re.search(r"[\[,]", nodes):
        return nodes
    try:
        return subprocess.check_output(["scontrol", "show", "hostnames", nodes], text=True).split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise PMLMError(f"scontrol does not say which machines {nodes} are ({first_line(error)})") from error


def free_port(wanted: int) -> int:
    """*wanted*, or where that is none, a port of this machine that is free."""
    if wanted > 0:
        return wanted
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


# ---------------------------------------------------------------------------------------------------------------------
# running


def spawn(cfg, main, kwargs: dict) -> None:
    """As many processes as ``--distributed-world-size`` says, on this machine's CPUs.

    Why: fairseq starts one for each GPU, which is none, and exits with 0.

    Raises:
        PMLMError: one of them was killed.
    """
    count = cfg.distributed_training.distributed_world_size
    logger.info(f"starting {count} processes on this machine's CPUs")
    cfg.distributed_training.distributed_rank = None  # each finds its own
    try:
        torch.multiprocessing.spawn(_spawned, (os.getpid(), main, cfg, kwargs), nprocs=count)
    except torch.multiprocessing.ProcessExitedException as error:
        raise PMLMError(
            f"process {error.error_index} of {count} {str(error).split(' ', 2)[-1]}, and the others were stopped; "
            "the same command goes on from the last checkpoint"
        ) from error


def _spawned(index: int, parent: int, main, cfg, kwargs: dict) -> None:
    """One of the processes of :func:`spawn`."""
    from fairseq.distributed import utils

    # to end with the process that has started this one: torch's SIGINT is ignored by what a script runs with "&", and
    # does not come where that process has ended already
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGTERM)  # type: ignore[attr-defined]  # torch has no stub
    if os.getppid() != parent:
        sys.exit("the process that has started this one is gone")
    with losses_named(cfg.distributed_training):
        utils.distributed_main(index, main, cfg, kwargs)
    leave(utils)


def leave(utils) -> None:
    """Take leave of the other processes, which torch wants to be done before Python ends."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        vars(utils.get_global_group).pop("_global_group", None)


def must_train(main, cfg, **kwargs) -> None:
    """fairseq's *main*, and an error where it was a training and made no update."""
    training_state.early_stopping = getattr(main, "__globals__", {}).get("should_stop_early")
    main(cfg, **kwargs)
    if training_state.trained_nothing():
        raise PMLMError(
            "nothing was trained: no update was made; what is logged above says why (--stop-min-lr, for example)"
        )


@contextlib.contextmanager
def losses_named(plan) -> Iterator[None]:
    """Say in one line that another process is gone, where torch's library for messages says so in its own words."""
    try:
        yield
    except RuntimeError as error:
        if not plan.distributed_world_size > 1 or not is_loss(error):
            raise
        # without the place in gloo's source, and its advice
        cause = re.sub(r"^\[\S+:\d+\] |\. This is typically .*", "", str(error).splitlines()[0])
        who = "a process" if plan.distributed_rank is None else f"process {plan.distributed_rank}"
        raise PMLMError(
            f"{who} of {plan.distributed_world_size} has lost another one ({cause}); the output of "
            "that one says why it ended; the same command goes on from the last checkpoint"
        ) from error


def is_loss(error: Optional[BaseException]) -> bool:
    """Whether *error* is that of a message to or from a process that is gone."""
    kinds = (torch.distributed.DistBackendError, torch.distributed.DistNetworkError, torch.distributed.DistStoreError)
    return isinstance(error, kinds) or ("gloo" in str(error) and GONE.search(str(error)) is not None)


def without_fillers(samples: list) -> list:
    """The batches of one update that hold samples; where none does, the first, which gets a gradient of 0.

    Why: where the batches of an epoch do not go round, fairseq gives some processes empty ones at the end, and takes
    the whole update of such a process, full batches and all (``--update-freq``), for empty: its gradients count, and
    its number of samples, by which the sum is divided, does not.
    """
    return [sample for sample in samples if sample] or samples[:1]
