"""One clear line, instead of a traceback, for what a user can fix."""

import contextlib
import re
import sys
import traceback
from typing import TypeVar

Kind = TypeVar("Kind", bound=BaseException)
LONGEST = 1500  # characters of a message
HOOK = "is_pmlm_hook"  # how install_excepthook knows its own
# how the last line of a traceback begins, whichever of the package's errors it is
RAISED = re.compile(rf"^{re.escape(__package__.rpartition('.')[0])}\.[\w.]+Error: (.*)$", re.MULTILINE)


class PMLMError(Exception):
    """Bad input: the message names the file, line or option, the value found, and what would be right.

    One line of at most :data:`LONGEST` characters, whatever a file has put into the values it quotes.
    """

    def __init__(self, message: str = ""):
        if not RAISED.search(message):  # else torch has raised it again, see message()
            message = " ".join(filter(None, message.splitlines())).strip()
            if len(message) > LONGEST:
                message = f"{message[: LONGEST - 400]} ... {message[-300:]}"
        super().__init__(message)


def find_cause(error: BaseException | None, kind: type[Kind]) -> Kind | None:
    """The first of *kind* in *error*'s chain of causes, itself included, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def find_user_error(error: BaseException | None) -> PMLMError | None:
    """The :class:`PMLMError` in *error*'s chain of causes, or None (fairseq re-raises what happens while loading)."""
    return find_cause(error, PMLMError)


def message(error: BaseException | None) -> str | None:
    """What a :class:`PMLMError` in *error*'s chain says, or None.

    Also where it was raised in another process: torch passes on the traceback of a spawned trainer or a data-loader
    worker as text.
    """
    found = find_user_error(error)
    text = str(found if found is not None else error)
    if raised := RAISED.findall(text):
        return raised[-1]
    return None if found is None else text


def install_excepthook() -> None:
    """Print an uncaught :class:`PMLMError` as one line on stderr; Python then exits with status 1.

    Any other exception goes to the hook that was there before. Calling this twice is harmless.
    """
    previous = sys.excepthook
    if getattr(previous, HOOK, False):
        return

    def hook(kind, error, trace):
        text = message(error)
        if text is None:
            previous(kind, error, trace)
        else:
            with contextlib.suppress(AttributeError, OSError, ValueError):  # closed or full: not what is wrong here
                sys.stdout.flush()
            if sys.stderr is not None:
                print(f"fairseq_pmlm: error: {text}", file=sys.stderr)

    setattr(hook, HOOK, True)
    sys.excepthook = hook


def describe(error: BaseException) -> str:
    """The last line of *error*'s traceback, for a message that has to quote a foreign exception."""
    return traceback.format_exception_only(error)[-1].strip()


def first_line(error: BaseException) -> str:
    """The first line of :func:`describe`, for foreign exceptions of several lines."""
    return describe(error).splitlines()[0]
