"""Which checkpoint is being read, and what for: fairseq tells neither to the model that it goes into."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the code that loads parameters needs to know of the checkpoint that they come from."""

    where: str = "the checkpoint"  # what to call it in messages: "checkpoint FILE" once a file was read
    finetuning: bool = False  # a trainer that starts afresh reads it; loaded in any other way, it is taken as it is


NOTHING = Reading()
_reading: ContextVar[Reading] = ContextVar("reading", default=NOTHING)


def current() -> Reading:
    """What is being read in this thread, or was read last."""
    return _reading.get()


def opened(path: str) -> None:
    """Remember the file *path*: the model gets its parameters after the file was read."""
    _reading.set(dataclasses.replace(current(), where=f"checkpoint {path}"))


@contextlib.contextmanager
def reading(finetuning: bool) -> Iterator[None]:
    """Within this block, checkpoints are read to start a training from them (*finetuning*), or for something else."""
    before = current().finetuning
    _reading.set(dataclasses.replace(current(), finetuning=finetuning))
    try:
        yield
    finally:
        _reading.set(dataclasses.replace(current(), finetuning=before))
