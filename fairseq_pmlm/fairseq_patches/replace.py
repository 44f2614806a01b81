"""Put functions in the place of fairseq's, all of them or none, and remember the originals."""

import functools
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

from ..utils.errors import PMLMError, first_line

# fairseq's own functions by their full names, as they were before they were patched
ORIGINALS: dict[str, Callable] = {}


class Patch(NamedTuple):
    """What is to take the place of a function of fairseq."""

    owner: ModuleType | type  # the module or class that holds the function
    name: str  # the function's name there; callers inside fairseq look it up at call time
    lines: list[str]  # the source lines that the patch is about
    wrap: Callable[[Callable], Callable]  # makes the new function out of the original

    @property
    def full_name(self) -> str:
        owner = self.owner
        return f"{owner.__qualname__ if isinstance(owner, type) else owner.__name__}.{self.name}"


def install(patches: Iterable[Patch]) -> list[str]:
    """Put ``wrap(original)`` in the place of each function; a second patch of one wraps the first.

    Returns:
        The full names of functions that are missing, or whose source does not hold all the lines it should.

    Raises:
        PMLMError: a patch cannot be made of what is there, which its message names; all is as it was before.
    """
    unexpected, undo = [], []
    remembered = dict(ORIGINALS)
    try:
        for patch in patches:
            before = vars(patch.owner).get(patch.name, _INHERITED)
            if not _install(patch):
                unexpected.append(patch.full_name)
            undo.append((patch.owner, patch.name, before))
    except BaseException as error:
        for owner, name, before in reversed(undo):
            if before is not _INHERITED:
                setattr(owner, name, before)
            elif name in vars(owner):
                delattr(owner, name)
        ORIGINALS.clear()
        ORIGINALS.update(remembered)
        if not isinstance(error, Exception):
            raise
        raise PMLMError(f"{patch.full_name}: {first_line(error)}") from error
    return unexpected


_INHERITED: Any = object()


def _install(patch: Patch) -> bool:
    """Put one patch in place; whether its function's source holds all of its lines."""
    current = getattr(patch.owner, patch.name, None)
    if current is None:  # nothing to mend, and nothing to wrap
        return False
    # after a re-import, what is found here is a patch by the import before: it has to go
    original = getattr(current, "pmlm_original", current)
    inner = current if patch.full_name in ORIGINALS else original
    try:
        source = inspect.getsource(original)
    except (OSError, TypeError):
        source = ""
    patched: Any = functools.wraps(original)(patch.wrap(inner))
    patched.pmlm_original = original
    setattr(patch.owner, patch.name, patched)
    ORIGINALS[patch.full_name] = original
    return all(line in source for line in patch.lines)
