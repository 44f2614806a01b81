"""Checkpoints as files: written whole or not at all, and the newest whole one found when the last one is not.

fairseq copies over a checkpoint that is there, so a kill in the middle leaves half of one; and it starts anew, without
a word, where ``checkpoint_last.pt`` is missing.
"""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, Optional

import torch

from ..checkpoints.safe_load import torch_load
from ..utils.errors import PMLMError, find_cause, first_line
from ..utils.io import replacing
from .replace import Patch

logger = logging.getLogger(__name__)

# what no second attempt mends
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR}

# what fairseq calls checkpoints, but for the last one, without suffix and ending; another suffix is another training's
NAMES = r"checkpoint(\d+|_\d+_\d+|_best|\.best_.+?)"


# ---------------------------------------------------------------------------------------------------------------------
# writing


def write_whole() -> list[Patch]:
    """Let every checkpoint appear complete, under its name, or not at all.

    Why: fairseq writes the first of a checkpoint's names in a way that a crash of the machine can tear (it does not
    sync), after an error appends a second attempt to the first, and copies in place to the other names, of which
    ``checkpoint_last.pt`` is one. Copies stay copies and no links: damage to one of them shall leave the others. And
    where nothing can be written, it ends in a traceback, as does one of two trainings that begin at the same time.
    """
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    def wrap_save(original):
        def patched(obj, filename, async_write=False):
            if async_write or not PathManager.supports_rename(filename):
                return original(obj, filename, async_write)
            return write(filename, lambda file: _save(obj, file))

        return patched

    def wrap_copy(original):
        def patched(src_path, dst_path, overwrite=False):
            if PathManager.path_requires_pathmanager(src_path) or PathManager.path_requires_pathmanager(dst_path):
                return original(src_path, dst_path, overwrite)

            def copy(file):
                with open(src_path, "rb") as source:
                    shutil.copyfileobj(source, file, 2**20)

            write(dst_path, copy)
            return dst_path

        return patched

    def wrap_verify(original):
        def patched(save_dir):
            try:
                os.makedirs(save_dir, exist_ok=True)
                with tempfile.TemporaryFile(dir=save_dir):
                    pass
            except OSError as error:
                raise PMLMError(f"--save-dir {save_dir} cannot be written: {error.strerror or error}") from error

        return patched

    return [
        Patch(checkpoint_utils, "verify_checkpoint_directory", ['os.path.join(save_dir, "dummy")'], wrap_verify),
        Patch(
            checkpoint_utils, "torch_persistent_save", ['PathManager.rename(filename + ".tmp", filename)'], wrap_save
        ),
        Patch(PathManager, "copy", ["return shutil.copyfile(src_path, dst_path)"], wrap_copy),
    ]


def write(path: str, fill: Callable[[BinaryIO], None], attempts: int = 3) -> None:
    """Write *path* with *fill*: under a temporary name, synced to the disk, then renamed.

    Raises:
        PMLMError: the system refuses, at once or, where it may think better of it (a network's disk), three times.
    """
    for attempt in range(1, attempts + 1):
        try:
            with replacing(path) as temporary, open(temporary, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            break
        except PMLMError as error:
            if attempt == attempts or getattr(error.__cause__, "errno", None) in LASTING:
                kept = "; the file of that name is still the one before" if os.path.exists(path) else ""
                raise PMLMError(f"checkpoint {error}{kept}") from error
            logger.warning(f"{error}; once more in 2.5 seconds")
            time.sleep(2.5)
    with contextlib.suppress(OSError):  # that the new name is on the disk as well; not every system can
        folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _save(obj, file: BinaryIO) -> None:
    """``torch.save``, whose zip writer hides what the system has said."""
    try:
        torch.save(obj, file)
    except RuntimeError as error:
        cause = find_cause(error, OSError)
        if cause is None:
            raise
        raise cause from None


# ---------------------------------------------------------------------------------------------------------------------
# one training a directory

_held: dict[str, BinaryIO] = {}


def hold(directory: str, suffix: str = "", seconds: float = 30) -> None:
    """Keep other trainings out of *directory* for as long as this process lives, by a lock on a file there.

    Two that write the same names would each go on from the other's, and remove what it is writing. The system lifts the
    lock when the process ends, however it ends; a network's disk without locks keeps nobody out.

    Args:
        directory: ``--save-dir``.
        suffix: ``--checkpoint-suffix``, by which several may share a directory.
        seconds: how long to wait for one that is just being stopped.

    Raises:
        PMLMError: another training has it.
    """
    path = os.path.abspath(os.path.join(directory, f".lock{suffix}"))
    if path in _held:
        return
    try:
        file = open(path, "ab")  # noqa: SIM115
    except OSError:
        return
    for waited in itertools.count():
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES) and waited < seconds:
                if not waited:
                    logger.warning(f"another training writes into {directory}: waiting {seconds:g} seconds for its end")
                time.sleep(1)
                continue
            file.close()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise PMLMError(f"another training writes into --save-dir {directory}; give another one") from None
            return
        _held[path] = file
        return


# ---------------------------------------------------------------------------------------------------------------------
# which one to go on from


class Found(NamedTuple):
    """A checkpoint that training can go on from, and what was wrong with ``checkpoint_last.pt``."""

    path: str
    updates: int
    reason: str


def damage(path: str) -> Optional[str]:
    """What is wrong with the file of a checkpoint, in a few words, or None: it is all there, whatever it holds.

    Every byte is read: the checksums of the records say what was lost in between, which torch does not look at.
    """
    try:
        if os.path.getsize(path) == 0:
            return "is empty"
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                if file.read(4) == b"PK\x03\x04":
                    return f"is cut short (after {os.path.getsize(path):,} bytes)"
            torch_load(path, map_location="cpu")  # the format before 2020
            return None
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
        return f"is damaged (in {torn})" if torn else None
    except PMLMError as error:
        return str(error).removeprefix(f"checkpoint {path} ")
    except Exception as error:  # a damaged directory of a zip file can raise nearly anything
        return f"cannot be read ({first_line(error)})"


def last_whole(directory: str, suffix: str = "", besides: Optional[str] = None) -> Optional[Found]:
    """The checkpoint to go on from, where it is not ``checkpoint_last.pt``, or None.

    Args:
        directory: ``--save-dir``.
        suffix: ``--checkpoint-suffix``.
        besides: a checkpoint that is there for something else.

    Returns:
        None where ``checkpoint_last.pt`` is whole, or no checkpoint is there; else the newest by number of updates.

    Raises:
        PMLMError: there are checkpoints, and none of them is whole (and a state of training).
    """
    last = os.path.join(directory, f"checkpoint_last{suffix}.pt")
    reason = damage(last) if os.path.lexists(last) else "is missing"
    if reason is None:
        return None
    pattern = re.compile(rf"{NAMES}{re.escape(suffix)}\.pt")
    names = sorted(filter(pattern.fullmatch, os.listdir(directory))) if os.path.isdir(directory) else []
    paths = [os.path.join(directory, name) for name in names]
    paths = [path for path in paths if not (besides and os.path.exists(besides) and os.path.samefile(path, besides))]
    updates = {path: _updates(path) for path in paths}
    # of the same update, the older name first: the rest are copies of it
    for path in sorted(paths, key=lambda path: (-updates[path], os.path.getmtime(path))):
        if updates[path] >= 0 and damage(path) is None:
            return Found(path, updates[path], reason)
    if reason == "is missing" and not paths:
        return None
    others = f", and none of the {len(paths)} other checkpoints in {directory} can be gone on from" if paths else ""
    raise PMLMError(f"checkpoint {last} {reason}{others}; to start anew, move them away or give another --save-dir")


def _updates(path: str) -> int:
    """The number of updates that a checkpoint was written after; -1 where it does not say, or cannot be read."""
    try:
        state = torch_load(path, map_location="cpu", mmap=zipfile.is_zipfile(path))
        state["extra_state"]["train_iterator"]
        return int(state["optimizer_history"][-1]["num_updates"])
    except (PMLMError, OSError, LookupError, TypeError, ValueError):
        return -1


def remove_unfinished(directory: str, suffix: str = "") -> None:
    """Remove what writing has left where it was killed."""
    pattern = re.compile(rf"({NAMES}|checkpoint_last){re.escape(suffix)}\.(\d+\.tmp\.pt|pt\.tmp)")
    for name in filter(pattern.fullmatch, os.listdir(directory) if os.path.isdir(directory) else []):
        logger.info(f"{os.path.join(directory, name)} was not finished: removed")
        os.remove(os.path.join(directory, name))
