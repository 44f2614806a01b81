"""Whether this process has trained: a training that ends without an update, and was not complete, has failed."""

from typing import Any

# fairseq's function for --patience, which keeps its counts as attributes
early_stopping: Any = None

_begun = _complete = False
_updates = 0


def begin() -> None:
    """fairseq's trainer is about to load its checkpoint, and then to train."""
    global _begun, _complete, _updates
    _begun, _complete, _updates = True, False, 0


def update() -> None:
    """An update was tried."""
    global _updates
    _updates += 1


def complete() -> None:
    """There is nothing left to train."""
    global _complete
    _complete = True


def trained_nothing() -> bool:
    """Whether a training has begun and made no update, although there was something to train."""
    return _begun and not _complete and not _updates
