"""Checkpoints: data is loaded, code is not.

A checkpoint is a pickle, and a pickle says which functions are to be called with what. torch's ``weights_only`` allows
tensors and Python's own literals; :func:`torch_load` adds the plain data that fairseq's checkpoints hold besides. A
small file cannot claim much memory either: nothing in it may be larger than the file.
"""

import contextlib
import io
import os
import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO

import torch

from ..utils.errors import PMLMError, first_line
from .stand_ins import CONTAINERS, FAIRSEQ, Attributes, allowed_types, to_plain


def torch_load(file: Any, *args, types: Mapping[str, Any] | None = None, **kwargs) -> Any:
    """``torch.load`` that never executes pickled code and says in one line what is wrong with a file.

    Args:
        file: a path or an open binary file.
        args: as for ``torch.load``.
        types: what is to be used in place of some of :func:`~fairseq_pmlm.checkpoints.stand_ins.allowed_types`, by the
            same names: classes of plain data.
        kwargs: as for ``torch.load``; ``weights_only`` is True whatever they or torch's environment variables say.

    Raises:
        PMLMError: if the file is truncated or no checkpoint, or holds a type that is not allowed, or claims more
            memory than it has bytes.
        OSError: if the file cannot be opened.
    """
    kwargs["weights_only"] = True
    path = os.fspath(file) if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
    name = f"checkpoint {path}" if isinstance(path, str) else "what another process has broadcast"
    with _rewound(file) as stream:
        size = check_archive(stream, name)
    allowed = {**allowed_types(), **(types or {}), **_allowed_by_user()}
    # leave alone what the user has allowed: leaving the block removes ours
    theirs = torch.serialization.get_safe_globals()
    extra: list[Any] = [(kind, name) for name, kind in allowed.items() if (kind, name) not in theirs]
    try:
        with torch.serialization.safe_globals(extra):
            # not torch.load: people replace that one to get weights_only=False everywhere
            content = torch.serialization.load(file, *args, **kwargs)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except MemoryError as error:
        raise PMLMError(f"{name} does not fit into memory") from error
    except Exception as error:  # what a damaged file raises can be nearly anything: torch parses before it checks
        refused = _refused_type(error)
        if refused:
            raise PMLMError(
                f"{name} holds {refused}, which is none of the data types that fairseq's checkpoints hold; "
                "it was not loaded, because loading it could run code"
            ) from error
        reason = first_line(error).partition(". ")[0]  # torch goes on with advice that is no good here
        raise PMLMError(f"{name} is truncated, or not a checkpoint ({reason})") from error
    check_content(content, size, name, _with_attributes(allowed))
    return to_plain(content) if issubclass(allowed[CONTAINERS[0]], Attributes) else content


def check_readable(path: str) -> None:
    """Raise PMLMError if the file *path* cannot be read, or only stands for one that Git LFS has not fetched."""
    try:
        with open(path, "rb") as f:
            start = f.read(64)
    except OSError as error:
        raise PMLMError(f"cannot read {path}: {error.strerror or error}") from None
    check_fetched(start, path)


def check_fetched(content: bytes, path: str) -> None:
    """Raise PMLMError if *content*, of the file *path*, only stands for a file that Git LFS has not fetched."""
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        raise PMLMError(f"{path} is a Git LFS pointer, not the file that it stands for; get that with git lfs pull")


def _allowed_by_user() -> dict[str, Any]:
    """The classes of fairseq's that the user has allowed with ``torch.serialization.add_safe_globals``, by name."""
    items = torch.serialization.get_safe_globals()
    named = [
        item[::-1] if isinstance(item, tuple) else (f"{item.__module__}.{item.__qualname__}", item) for item in items
    ]
    return {name: kind for name, kind in named if name in FAIRSEQ}


@contextlib.contextmanager
def _rewound(file: Any) -> Iterator[BinaryIO]:
    """*file*, a path or an open file, for reading; an open file is where it was afterwards."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as stream:
            yield stream
        return
    place = file.tell()
    try:
        yield file
    finally:
        file.seek(place)


def check_archive(stream: BinaryIO, name: str) -> int:
    """Refuse a file that would grow while it is unpacked, before it is.

    Args:
        stream: the file.
        name: what to call it in messages.

    Returns:
        its size in bytes.

    Raises:
        PMLMError: it is compressed, which ``torch.save`` never does; calls for bytes by their number; or is a damaged
            archive.
    """
    start = stream.tell()
    size = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    zipped = stream.read(4) == b"PK\x03\x04"
    stream.seek(start)
    pickles = [stream]
    if zipped:
        try:
            archive = zipfile.ZipFile(stream)
            held = sum(entry.file_size for entry in archive.infolist())
            if held > size:
                raise PMLMError(
                    f"{name} is compressed: {held:,} bytes in a file of {size:,}; torch.save does not compress, so it "
                    "was not unpacked"
                )
            names = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
            pickles = [io.BytesIO(archive.read(entry)) for entry in names]
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, ValueError) as error:
            raise PMLMError(f"{name} is truncated, or not a checkpoint ({first_line(error)})") from None
    # the one function of torch's own list that makes much out of little
    if any(called == "bytearray" for pickled in pickles for called in _globals(pickled)):
        raise PMLMError(f"{name} holds builtins.bytearray, which no checkpoint of fairseq does; it was not loaded")
    return size


def _globals(stream: BinaryIO) -> Iterator[str]:
    """What the pickles at the beginning of *stream* name: types and functions, without their modules."""
    with contextlib.suppress(Exception):  # here the pickles end, or are broken, which torch says better
        for _ in range(5):  # as many as torch's older format begins with
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    yield str(argument).rsplit(" ", 1)[-1]


def check_content(content: Any, size: int, name: str, kinds: Collection[type]) -> None:
    """Refuse content that is small in its file but large in use.

    Args:
        content: what was loaded.
        size: of the file, in bytes.
        name: what to call it in messages.
        kinds: classes whose instances have attributes.

    Raises:
        PMLMError: tensors that are not plain numbers, or hold more bytes than the file; lists within lists that stand
            for far more values than it has bytes, or contain themselves.
    """
    storages: dict[int, int] = {}
    # values of an object if nothing in it were shared, as in a copy of it
    count: dict[int, int] = {}
    pending = [(content, False, name)]
    opened: set[int] = set()
    while pending:
        found, done, where = pending.pop()
        parts = _parts(found, kinds)
        if isinstance(found, torch.Tensor):
            _check_tensor(found, where)
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            count[id(found)] = 1
        elif done:
            count[id(found)] = 1 + sum(count.get(id(part), 1) for part in parts)
            opened.discard(id(found))
            if count[id(found)] > 16 * size:
                raise PMLMError(f"{name} is not sound: lists within lists that stand for {count[id(found)]:,} values")
        elif id(found) in opened:
            raise PMLMError(f"{name} is not sound: a list in it holds itself")
        elif parts and id(found) not in count:
            opened.add(id(found))
            pending.append((found, True, where))
            keys = {id(part): f"{name}: {key!r}" for key, part in found.items()} if isinstance(found, dict) else {}
            for part in parts:
                if isinstance(part, torch.Tensor) or _parts(part, kinds):
                    pending.append((part, False, keys.get(id(part), where)))
    if sum(storages.values()) > size:
        raise PMLMError(f"{name} is not sound: tensors of {sum(storages.values()):,} bytes in a file of {size:,}")


def _parts(found: Any, kinds: Collection[type]) -> list[Any]:
    """What an object holds."""
    if isinstance(found, dict):
        return [*found.keys(), *found.values()]
    if isinstance(found, (list, tuple, set)):
        return list(found)
    if type(found) in kinds:
        way_up = "_parent" if type(found).__module__.startswith("omegaconf.") else None
        return [part for name, part in vars(found).items() if name != way_up]
    return []


def _with_attributes(allowed: Mapping[str, Any]) -> frozenset[type]:
    """Of *allowed* types, the classes whose instances have attributes."""
    kinds = (getattr(kind, "stands_for", kind) for kind in allowed.values())
    return frozenset(kind for kind in kinds if isinstance(kind, type) and hasattr(kind, "__dict__"))


def _check_tensor(tensor: torch.Tensor, name: str) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        what = "no numbers (meta)" if tensor.device.type == "meta" else f"{tensor.layout}, {tensor.dtype}"
        raise PMLMError(f"{name} holds {what}, not plain numbers; save the checkpoint with dense tensors")
    claimed = tensor.numel() * tensor.element_size()
    if claimed > tensor.untyped_storage().nbytes():
        raise PMLMError(
            f"{name} is not sound: a tensor of {claimed:,} bytes, {tuple(tensor.shape)}, of which it holds "
            f"{tensor.untyped_storage().nbytes():,}"
        )


def _refused_type(error: Exception) -> str | None:
    """The type that torch has refused to load, if that is what *error* says."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    # "Unsupported global: GLOBAL os.system was not an allowed global", "unsupported GLOBAL posix.system whose module"
    found = re.search(r"GLOBAL (\S+)", str(error))
    # "Can only build ..., but got <class>", "Trying to call reduce for unrecognized function <function>"
    found = found or re.search(r"(?:Can only (?:build|create) .+ but got|unrecognized function) (.+)", str(error))
    # torch drops the module of a builtin
    return re.sub(r"^(?=\w+$)", "builtins.", found[1]) if found else None
