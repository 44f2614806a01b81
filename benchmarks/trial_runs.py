"""Short real trainings that can be killed: small data, fairseq's commands as processes that start at once, a record.

fairseq is imported once; each command is then a process of its own, forked from this one, with its own arguments,
output and files, and SIGKILL ends it as it ends any other. What it does is recorded as it happens: each update with the
samples in it and its loss, each batch of validation, and what is being done right now.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), os.pardir))
WORDS = [f"w{i}" for i in range(40)]

TRAIN = (
    f"--user-dir {ROOT}/fairseq_pmlm --cpu --encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--encoder-attention-heads 2 --max-positions 64 --optimizer adam --lr-scheduler polynomial_decay --lr 0.003 "
    "--warmup-updates 10 --log-format json --log-interval 7"
).split()
PRETRAIN = [*TRAIN, "--task", "pmlm", "--criterion", "pmlm", "--arch", "pmlm_tiny", "--tokens-per-sample", "32"]
SEQ2SEQ = [*TRAIN, "--task", "pmlm_seq2seq", "--criterion", "pmlm_seq2seq", "--arch", "pmlm_tiny"]


def sentences(count: int, seed: int, low: int = 4, high: int = 14) -> list[np.ndarray]:
    """Lines of types 4 to 43, in which each word is mostly followed by the next one."""
    rng = np.random.default_rng(seed)
    lines = []
    for length in rng.integers(low, high, count):
        steps = np.where(rng.random(length) < 0.8, 1, rng.integers(40, size=length))
        lines.append(4 + (rng.integers(40) + np.cumsum(steps)) % 40)
    return lines


def binarize(prefix: str, lines: list[np.ndarray]) -> None:
    """Write *lines* as fairseq-preprocess would, and the dictionary beside them."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    os.makedirs(os.path.dirname(prefix), exist_ok=True)
    builder = MMapIndexedDatasetBuilder(prefix + ".bin", dtype=np.uint16)
    for line in lines:
        builder.add_item(torch.from_numpy(np.append(line, 2)))
    builder.finalize(prefix + ".idx")


def dictionary(directory: str, *names: str) -> None:
    for name in names:
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.writelines(f"{word} 1\n" for word in [*WORDS, "<mask>", "<pseudo>"])


def make_text(directory: str, train: int = 300, valid: int = 37, seed: int = 1) -> str:
    """A data directory for ``--task pmlm``."""
    binarize(os.path.join(directory, "train"), sentences(train, seed))
    binarize(os.path.join(directory, "valid"), sentences(valid, seed + 1000))
    dictionary(directory, "dict.txt")
    return directory


def make_pairs(directory: str, count: int) -> str:
    """A data directory for ``--task pmlm_seq2seq``, with *count* pairs in each part."""
    for seed, split in enumerate(("train", "valid", "test")):
        lines = sentences(count, seed, low=2, high=9)
        binarize(os.path.join(directory, f"{split}.src-tgt.src"), lines)
        binarize(os.path.join(directory, f"{split}.src-tgt.tgt"), [line[:3] for line in lines])
    dictionary(directory, "dict.src.txt", "dict.tgt.txt")
    return directory


# ---------------------------------------------------------------------------------------------------------------------
# processes


@dataclass
class Record:
    """What a training has done: of each update, what was done last, after however many restarts."""

    updates: dict[int, dict] = field(default_factory=dict)
    valid: list[int] = field(default_factory=list)
    made: int = 0  # updates, those that were made again after a restart included
    doing: str = "starting"
    operations: int = 0


def read_record(path: str) -> Record:
    """The record at *path*, to which the processes of one training have added one after the other."""
    record = Record()
    if os.path.exists(path):
        with open(path, encoding="ascii") as file:
            for line in file:
                found = json.loads(line)
                if "update" in found:
                    record.updates[found["update"]] = found
                    record.made += 1
                elif "valid" in found:
                    record.valid += found["valid"]
                else:
                    record.doing = found.get("doing", record.doing)
                    record.operations = found.get("operations", record.operations)
    return record


def start(command: str, arguments: list, log: str, record: str, kill_at: int = 0, environment: dict | None = None):
    """Start ``fairseq-COMMAND`` with *arguments*; its output goes to *log*, what it does to *record*.

    Args:
        kill_at: end with SIGKILL in the midst of this operation on a checkpoint's file (from 1: a write, a sync, a
            rename), having written half of what was to be written.
        environment: variables for it.
    """
    arguments = [str(argument) for argument in arguments]
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(command, arguments, log, record, kill_at, environment or {})
    )
    process.start()
    return process


def finish(process, timeout: float = 1200) -> int:
    """Wait for *process*; its exit status, negative for a signal."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"a command did not end within {timeout:.0f} seconds")
    return process.exitcode


def _run(command: str, arguments: list[str], log: str, record: str, kill_at: int, environment: dict) -> None:
    """fairseq's command in this process, recorded."""
    import importlib

    import fairseq_pmlm.tasks  # noqa: F401

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    module = importlib.import_module(f"fairseq_cli.{command}")
    _watch(record, kill_at)
    sys.argv = [f"fairseq-{command}", *arguments]
    try:
        module.cli_main()
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        os._exit(1)
    sys.stdout.flush()


def _watch(path: str, kill_at: int) -> None:
    """Record what this process does from now on, and end it where *kill_at* says."""
    import fairseq_cli.train
    from fairseq import checkpoint_utils
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    from fairseq_pmlm.fairseq_patches import checkpoint_files

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    operations = 0

    def note(**what):
        os.write(file, (json.dumps(what) + "\n").encode())

    def ids(samples):
        return [int(i) for sample in samples if sample for i in sample["id"]]

    def around(owner, name, doing):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            note(doing=doing)
            result = original(*args, **kwargs)
            note(doing="training", operations=operations)
            return result

        setattr(owner, name, wrapped)

    train_step, valid_step = Trainer.train_step, Trainer.valid_step

    def recorded_step(self, samples, *args, **kwargs):
        result = train_step(self, samples, *args, **kwargs)
        meters = metrics.get_meters("train")
        loss, norm = float(meters["loss"].val), float(meters["gnorm"].val)
        note(update=self.get_num_updates(), loss=loss, norm=norm, ids=ids(samples), time=time.monotonic())
        return result

    def recorded_valid(self, sample, *args, **kwargs):
        note(valid=ids([sample]))
        return valid_step(self, sample, *args, **kwargs)

    def operation(write=None):
        nonlocal operations
        operations += 1
        if operations == kill_at:
            if write is not None:
                write()
            os.kill(os.getpid(), signal.SIGKILL)

    class Watched:
        """An open file; each write is an operation."""

        def __init__(self, name, mode):
            self.file = open(name, mode, buffering=0)  # noqa: SIM115
            self.fileno, self.flush = self.file.fileno, self.file.flush

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            operation(lambda: self.file.write(bytes(data)[: len(data) // 2]))
            return self.file.write(data)

    Trainer.train_step, Trainer.valid_step = recorded_step, recorded_valid
    around(fairseq_cli.train, "validate", "validating")
    around(checkpoint_utils, "save_checkpoint", "writing a checkpoint")
    around(checkpoint_utils, "load_checkpoint", "loading a checkpoint")
    # where the module looks for open(): only its own writing is counted
    checkpoint_files.open = lambda name, mode: (Watched if mode == "wb" else open)(name, mode)
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        setattr(os, name, lambda *args, original=original: (operation(), original(*args))[1])


def parameters(save_dir: str) -> dict[str, torch.Tensor]:
    """The parameters in ``checkpoint_last.pt``."""
    from fairseq_pmlm.checkpoints.safe_load import torch_load

    return torch_load(os.path.join(save_dir, "checkpoint_last.pt"))["model"]
