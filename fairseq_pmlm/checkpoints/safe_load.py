"""Checkpoints: data is loaded, code is not.

A checkpoint is a pickle, and a pickle says which functions are to be called with what. torch's ``weights_only`` allows
tensors and Python's own literals; :func:`torch_load` adds the plain data that fairseq's checkpoints hold besides. A
small file cannot claim much memory either: nothing in it may be larger than the file.
"""

import argparse
import collections
import contextlib
import functools
import io
import os
import pickle
import pickletools
import re
import typing
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import torch

from ..utils.errors import PMLMError, first_line


def torch_load(file: Any, *args, **kwargs) -> Any:
    """``torch.load`` that never executes pickled code and says in one line what is wrong with a file.

    Args:
        file: a path or an open binary file.
        args: as for ``torch.load``.
        kwargs: as for ``torch.load``; ``weights_only`` is True whatever they or torch's environment variables say.

    Raises:
        PMLMError: if the file is truncated or no checkpoint, or holds a type that is not in :func:`allowed_types`, or
            claims more memory than it has bytes.
        OSError: if the file cannot be opened.
    """
    kwargs["weights_only"] = True
    path = os.fspath(file) if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
    name = f"checkpoint {path}" if isinstance(path, str) else "what another process has broadcast"
    with _rewound(file) as stream:
        size = check_archive(stream, name)
    # leave alone what the user has allowed with torch.serialization.add_safe_globals: leaving the block removes ours
    extra = [(kind, name) for name, kind in allowed_types().items()]
    extra = [item for item in extra if item not in torch.serialization.get_safe_globals()]
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
        raise PMLMError(f"{name} is truncated, or not a checkpoint ({first_line(error)})") from error
    check_content(content, size, name)
    return content


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
                    yield argument.rsplit(" ", 1)[-1]


def check_content(content: Any, size: int, name: str) -> None:
    """Refuse what is small in its file, and large to whoever uses it.

    Args:
        content: what was loaded.
        size: of the file, in bytes.
        name: what to call it in messages.

    Raises:
        PMLMError: tensors that are no plain numbers, or more of them than the file holds; lists within lists that stand
            for far more values than it has bytes, or hold themselves.
    """
    storages: dict[int, int] = {}
    # values that an object stands for where nothing is shared, as whoever copies it would make them
    count: dict[int, int] = {}
    pending = [(content, False, name)]
    opened: set[int] = set()
    while pending:
        found, done, where = pending.pop()
        parts = _parts(found)
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
                if isinstance(part, torch.Tensor) or _parts(part):
                    pending.append((part, False, keys.get(id(part), where)))
    if sum(storages.values()) > size:
        raise PMLMError(f"{name} is not sound: tensors of {sum(storages.values()):,} bytes in a file of {size:,}")


def _parts(found: Any) -> list[Any]:
    """What an object holds."""
    if isinstance(found, dict):
        return [*found.keys(), *found.values()]
    if isinstance(found, (list, tuple, set)):
        return list(found)
    if type(found) in _plain_types():
        return [part for key, part in vars(found).items() if key != "_parent"]  # omegaconf's way up
    return []


@functools.cache
def _plain_types() -> frozenset[type]:
    kinds = (getattr(kind, "stands_for", kind) for kind in allowed_types().values())
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


@functools.cache
def allowed_types() -> dict[str, Any]:
    """What a checkpoint of fairseq may hold beside tensors and Python's own literals.

    Whoever wrote the file chooses the arguments that these are called with and the attributes that their
    instances get, so each of them must be plain data: no function that looks up, imports, evaluates or calls anything.
    numpy's scalars have stand-ins, because numpy's own state setters trust their input; so have types that are there to
    be named, which a pickle could call (``str`` of lists within lists fills any memory).

    Returns:
        The name under which a pickle knows it -> what is used in its place.
    """
    from fairseq.data.dictionary import Dictionary
    from fairseq.distributed.utils import _TensorPlaceholder
    from fairseq.logging import meters
    from omegaconf import base, dictconfig, listconfig, nodes

    allowed = {
        "argparse.Namespace": argparse.Namespace,  # the options, or cfg.model in newer checkpoints
        # numpy scalars: statistics, learning rates, best scores; numpy 1 and numpy 2 name them differently
        "numpy.dtype": _PickledDtype,
        "numpy.core.multiarray.scalar": _numpy_scalar,
        "numpy._core.multiarray.scalar": _numpy_scalar,
        # omegaconf: the configuration is a container on its way from rank 0 to the others, and in some older files
        "omegaconf.dictconfig.DictConfig": _by_state(dictconfig.DictConfig),
        "omegaconf.listconfig.ListConfig": _by_state(listconfig.ListConfig),
        "omegaconf.base.ContainerMetadata": _by_state(base.ContainerMetadata),
        "omegaconf.base.Metadata": _by_state(base.Metadata),
        "collections.defaultdict": _defaultdict,  # an empty cache in ContainerMetadata
        # ... whose metadata names the types of keys and elements
        "typing.Any": _TypeName(typing.Any),
        "typing.Dict": _TypeName(typing.Dict),
        "typing.List": _TypeName(typing.List),
        # what fairseq's speech tasks keep in their state
        "fairseq.data.dictionary.Dictionary": Dictionary,
        # where a tensor was in an object that is being broadcast
        "fairseq.distributed.utils._TensorPlaceholder": _TensorPlaceholder,
    }
    for node in ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "BytesNode"):
        allowed[f"omegaconf.nodes.{node}"] = _by_state(getattr(nodes, node))
    for builtin in (bool, int, float, str, bytes, list, dict, tuple):
        allowed[f"builtins.{builtin.__name__}"] = _TypeName(builtin)
    # files from before 2020 hold the meters themselves, under the module that they were in then
    for meter in ("AverageMeter", "TimeMeter", "StopwatchMeter"):
        allowed[f"fairseq.meters.{meter}"] = allowed[f"fairseq.logging.meters.{meter}"] = getattr(meters, meter)
    return allowed


class _TypeName:
    """Stands in for a type in a pickle, where it is the value of an attribute. Called, it makes an empty value alone:
    that is how the second protocol writes ``b""``."""

    def __init__(self, kind: Any):
        self.kind = kind

    def __call__(self) -> Any:
        return self.kind()


def _by_state(kind: type) -> type:
    """A stand-in for a class of omegaconf's whose instances have a state: made empty, they get it and are of *kind*."""

    class Meta(type(kind)):
        def __call__(cls, *args, **kwargs):
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {kind.__module__}.{kind.__qualname__}(...)")

    class StandIn(kind, metaclass=Meta):
        stands_for = kind

        def __setstate__(self, state: dict[str, Any]):
            state = {key: value.kind if isinstance(value, _TypeName) else value for key, value in state.items()}
            object.__setattr__(self, "__class__", kind)
            setter = getattr(kind, "__setstate__", None)
            if setter is not None:
                setter(self, state)
            else:
                self.__dict__.update(state)

    return StandIn


def _defaultdict(factory: Any = None) -> collections.defaultdict:
    """Stands in for ``collections.defaultdict``: an empty one."""
    return collections.defaultdict(factory.kind if isinstance(factory, _TypeName) else None)


class _PickledDtype:
    """Stands in for ``numpy.dtype`` in a pickle: the type of a number, nothing else (no objects, no fields)."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        # the code is for example 'f8', or '>f8' from other writers
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[biufc]\d{1,2}", code):
            # worded as torch words it, see _refused_type
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype({code!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple):
        # (version, byte order, ...): for the type of a number, the rest says nothing new
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(dtype: _PickledDtype, data: bytes) -> np.generic:
    """Stands in for ``numpy.core.multiarray.scalar`` in a pickle: the one number whose bytes are *data*."""
    if not isinstance(dtype, _PickledDtype) or not isinstance(data, bytes) or len(data) != dtype.dtype.itemsize:
        raise ValueError("not the bytes of one number")
    return np.frombuffer(data, dtype.dtype)[0]


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
