"""What a checkpoint may hold besides tensors and Python's own literals, and what is made of it.

Whoever wrote the file chooses the arguments that these types are called with and the attributes that their instances
get, so each of them is plain data: no function that looks up, imports, evaluates or calls anything. Where a library's
own class does more, or need not be installed, a stand-in takes its place.
"""

import argparse
import collections
import functools
import pickle
import re
import typing
from typing import Any

import numpy as np

# fairseq's classes; files from before 2020 hold the meters themselves, under the module that they were in then
FAIRSEQ = (
    "fairseq.data.dictionary.Dictionary",  # what fairseq's speech tasks keep in their state
    "fairseq.distributed.utils._TensorPlaceholder",  # where a tensor was in an object that is being broadcast
    *(
        f"fairseq.{module}.{meter}"
        for meter in ("AverageMeter", "TimeMeter", "StopwatchMeter")
        for module in ("meters", "logging.meters")
    ),
)

# omegaconf's classes: the configuration is a container on its way from rank 0 to the others, and in some older files
CONTAINERS = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig")
NODES = ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "BytesNode")
OMEGACONF = (
    *CONTAINERS,
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{node}" for node in NODES),
)


@functools.cache
def allowed_types() -> dict[str, Any]:
    """What a checkpoint of fairseq may hold besides tensors and Python's own literals.

    numpy's scalars have stand-ins, because numpy's own state setters trust their input; so have types that are there to
    be named, which a pickle could call (``str`` of lists within lists fills any memory), and fairseq's classes.
    omegaconf's containers are its own where it is installed, else dicts and lists.

    Returns:
        The name under which a pickle knows it -> what is used in its place.
    """
    allowed = {
        "argparse.Namespace": argparse.Namespace,  # the options, or cfg.model in newer checkpoints
        # numpy scalars: statistics, learning rates, best scores; numpy 1 and numpy 2 name them differently
        "numpy.dtype": _PickledDtype,
        "numpy.core.multiarray.scalar": _numpy_scalar,
        "numpy._core.multiarray.scalar": _numpy_scalar,
        "collections.defaultdict": _defaultdict,  # an empty cache in omegaconf's ContainerMetadata
        # ... whose metadata names the types of keys and elements
        "typing.Any": _TypeName(typing.Any),
        "typing.Dict": _TypeName(typing.Dict),
        "typing.List": _TypeName(typing.List),
    }
    for builtin in (bool, int, float, str, bytes, list, dict, tuple):
        allowed[f"builtins.{builtin.__name__}"] = _TypeName(builtin)
    return allowed | _omegaconf() | {name: _uncallable(Attributes, name) for name in FAIRSEQ}


def _omegaconf() -> dict[str, type]:
    """omegaconf's classes, or what stands in for them where it is not installed."""
    try:
        from omegaconf import base, dictconfig, listconfig, nodes
    except ImportError:
        return plain_containers()
    modules = {"base": base, "dictconfig": dictconfig, "listconfig": listconfig, "nodes": nodes}
    kinds = {name: getattr(modules[name.split(".")[1]], name.split(".")[2]) for name in OMEGACONF}
    return {name: _by_state(kind, name) for name, kind in kinds.items()}


def plain_containers() -> dict[str, type]:
    """What stands in for omegaconf's classes where it is not installed, until :func:`to_plain`."""
    return {name: _uncallable(Attributes, name) for name in OMEGACONF}


def _uncallable(kind: type, name: str, **members: Any) -> type:
    """A subclass of *kind* that a pickle can make an empty instance of, but not call.

    Args:
        kind: its base.
        name: under which a pickle knows it.
        members: of the class.
    """

    class Meta(type(kind)):  # type: ignore[misc]  # omegaconf's classes have a metaclass of their own
        def __call__(cls, *args, **kwargs):
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {name}(...)")

    module, _, short = name.rpartition(".")
    return Meta(short, (kind,), {"__module__": module, **members})


class Attributes:
    """An object of a class that is not there: what its pickle says of its attributes."""

    def __setstate__(self, state: Any):
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"not the attributes of an object: {type(state).__name__}")
        self.__dict__ = state  # no copy: a small pickle can name one large state many times

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {', '.join(map(str, vars(self))) or 'no attributes'}>"


def _by_state(kind: type, name: str) -> type:
    """A stand-in for a class of omegaconf's whose instances have a state: made empty, they get it and are of *kind*."""

    def set_state(self, state: dict[str, Any]):
        state = {key: value.kind if isinstance(value, _TypeName) else value for key, value in state.items()}
        object.__setattr__(self, "__class__", kind)
        setter = getattr(kind, "__setstate__", None)
        if setter is not None:
            setter(self, state)
        else:
            self.__dict__.update(state)

    return _uncallable(kind, name, stands_for=kind, __setstate__=set_state)


def to_plain(content: Any) -> Any:
    """*content* with dicts, lists and values in place of what :func:`plain_containers` has left in it.

    References (``${a}``) and ``???`` stay as they are written. *content* is changed in place, and may not hold itself.
    """
    plain: dict[int, Any] = {}  # what takes the place of an object, by its id
    pending = [(content, False)]
    while pending:
        found, parts_done = pending.pop()
        if id(found) in plain:
            continue
        parts = _parts(found)
        if parts and not parts_done:
            pending.append((found, True))
            pending.extend((part, False) for part in parts)
        else:
            plain[id(found)] = _rebuild(found, plain)
    return plain[id(content)]


def _parts(found: Any) -> list[Any]:
    if isinstance(found, dict):
        return list(found.values())
    if isinstance(found, (list, tuple)):
        return list(found)
    if isinstance(found, Attributes) and _of_omegaconf(found):
        return [part for name, part in vars(found).items() if name in ("_content", "_val")]
    return list(vars(found).values()) if isinstance(found, (argparse.Namespace, Attributes)) else []


def _rebuild(found: Any, plain: dict[int, Any]) -> Any:
    """*found* with what is in *plain* in the place of its parts: itself, unless it is a tuple or of omegaconf's."""
    if isinstance(found, Attributes) and _of_omegaconf(found):
        return plain[id(_parts(found)[0])] if _parts(found) else found
    if isinstance(found, tuple):
        changed = any(plain[id(part)] is not part for part in found)
        return tuple(plain[id(part)] for part in found) if changed else found
    if isinstance(found, list):
        found[:] = [plain[id(part)] for part in found]
    elif parts := _parts(found):
        held = found if isinstance(found, dict) else vars(found)
        for name, part in zip(list(held), parts, strict=True):
            if plain[id(part)] is not part:
                held[name] = plain[id(part)]
    return found


def _of_omegaconf(found: Any) -> bool:
    return type(found).__module__.startswith("omegaconf.")


class _TypeName:
    """Stands in for a type in a pickle, where it is the value of an attribute. Called, it makes an empty value alone:
    that is how the second protocol writes ``b""``."""

    def __init__(self, kind: Any):
        self.kind = kind

    def __call__(self) -> Any:
        return self.kind()


def _defaultdict(factory: Any = None) -> collections.defaultdict:
    """Stands in for ``collections.defaultdict``: an empty one."""
    return collections.defaultdict(factory.kind if isinstance(factory, _TypeName) else None)


class _PickledDtype:
    """Stands in for ``numpy.dtype`` in a pickle: the type of a number, nothing else (no objects, no fields)."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        # the code is for example 'f8', or '>f8' from other writers
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[biufc]\d{1,2}", code):
            # worded as torch words it, see safe_load
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
