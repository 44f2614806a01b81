"""Directories that appear when they are complete, or not at all."""

import contextlib
import errno
import os
import platform
import re
import shutil
import signal
import sys
import threading
from typing import Iterable, Iterator

from .errors import PMLMError


def check_inputs(destdir: str, paths: Iterable[str | None], option: str = "--destdir") -> None:
    """Refuse to replace a directory that holds one of *paths*, which are read; None: not given.

    Raises:
        PMLMError: *destdir* does.
    """
    parent = os.path.realpath(destdir)
    for path in filter(None, paths):
        if os.path.commonpath([parent, os.path.realpath(path)]) == parent:
            raise PMLMError(f"{option} {destdir} would be replaced, but {path} in it is read; choose another directory")


@contextlib.contextmanager
def building(
    destdir: str,
    overwrite: bool,
    ours: re.Pattern,
    option: str = "--destdir",
    what: str = "a corpus",
    shared: bool = False,
) -> Iterator[str]:
    """A temporary directory next to *destdir* that becomes *destdir* when the block ends, and vanishes if it fails.

    Args:
        destdir: the directory to write.
        overwrite: whether to replace one that is there.
        ours: names of the files that such a directory may hold.
        option: what to call *destdir* in messages.
        what: what to call its contents.
        shared: whether other processes may be making the same: whoever is first has made it, the others' is dropped.

    Raises:
        PMLMError: *destdir* holds the like and *overwrite* is false, holds other files, or cannot be written; another
            process has written it meanwhile.
    """
    destdir = os.path.realpath(destdir)
    parent, name = os.path.split(destdir)
    if os.path.lexists(destdir) and not os.path.isdir(destdir):
        raise PMLMError(f"{option} {destdir} is not a directory")
    try:
        present = sorted(os.listdir(destdir)) if os.path.isdir(destdir) else []
    except OSError as error:
        raise PMLMError(f"cannot read {option} {destdir}: {error.strerror or error}") from error
    strangers = [entry for entry in present if not ours.fullmatch(entry)]
    if strangers:
        raise PMLMError(f"{option} {destdir} holds other files ({strangers[0]}); choose a new directory")
    if present and not overwrite and not shared:
        raise PMLMError(f"{option} {destdir} already holds {what}; choose another or add --overwrite")

    made = []  # parents that are not there yet, outermost last
    folder = parent
    while not os.path.isdir(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    prefix = f".{name}.building-{platform.node()}-"
    siblings: list[str] = []
    with contextlib.suppress(OSError):  # one may write to a directory that one may not read
        siblings = os.listdir(folder) if not made else []
    for entry in siblings:
        number = entry.removeprefix(prefix) if entry.startswith(prefix) else ""
        path = os.path.join(parent, entry)
        # a number alone: what was there before, with -old behind the number, may be the only copy
        if number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)
            print(f"note: removed {path}, left from a run that was killed")
        elif entry.startswith(f".{name}.building-"):
            print(f"note: {path} is left from a run that was killed, unless that is still running")

    temporary = os.path.join(parent, f"{prefix}{os.getpid()}")
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit)  # clean up when asked to stop, as after Ctrl-C
    done, old = False, f"{temporary}-old"
    try:
        os.makedirs(temporary)
        yield temporary
        if overwrite and os.path.isdir(destdir):
            os.rename(destdir, old)
        try:
            os.rename(temporary, destdir)  # which an empty directory does not prevent
            done = True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not shared:
                raise PMLMError(f"{option} {destdir}: another process has written it meanwhile") from error
    except BrokenPipeError:  # the reader of what is printed has gone
        raise
    except OSError as error:
        raise PMLMError(f"cannot write {option} {destdir}: {error.strerror or error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, previous)
        if os.path.isdir(old):
            if os.path.lexists(destdir):
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(old, destdir)
        if not done:
            shutil.rmtree(temporary, ignore_errors=True)
            with contextlib.suppress(OSError):
                for folder in made:
                    os.rmdir(folder)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _exit(signum, frame):
    sys.exit(128 + signum)
