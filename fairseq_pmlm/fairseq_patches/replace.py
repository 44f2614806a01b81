"""Put a function in the place of one of fairseq's, and remember the original."""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType

# fairseq's own functions by their full names, as they were before they were patched
ORIGINALS: dict[str, Callable] = {}


def replace(
    module: ModuleType | type, name: str, lines: list[str], wrap: Callable[[Callable], Callable]
) -> tuple[str, bool]:
    """Put ``wrap(original)`` in the place of a function of fairseq; a second patch of it wraps the first.

    Args:
        module: the module or class that holds the function.
        name: the function's name there; callers inside fairseq look it up at call time.
        lines: the source lines that the patch is about.
        wrap: makes the new function out of the original.

    Returns:
        The function's full name, and whether its source holds all of *lines*.
    """
    full_name = f"{module.__qualname__ if isinstance(module, type) else module.__name__}.{name}"
    current = getattr(module, name, None)
    if current is None:  # nothing to mend, and nothing to wrap
        return full_name, False
    # after a re-import, what is found here is a patch by the import before: it has to go
    original = getattr(current, "pmlm_original", current)
    inner = current if full_name in ORIGINALS else original
    try:
        source = inspect.getsource(original)
    except (OSError, TypeError):
        source = ""
    patched = functools.wraps(original)(wrap(inner))
    patched.pmlm_original = original
    ORIGINALS[full_name] = original
    setattr(module, name, patched)
    return full_name, all(line in source for line in lines)
