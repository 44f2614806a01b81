"""Checkpoints: data is loaded, code is not.

A checkpoint is a pickle, and a pickle says which functions are to be called with what. torch's ``weights_only`` allows
tensors and Python's own literals; :func:`torch_load` adds the plain data that fairseq's checkpoints hold besides.
"""

import argparse
import collections
import functools
import os
import pickle
import re
import typing
from typing import Any

import numpy as np
import torch

from .errors import PMLMError, first_line


def torch_load(file: Any, *args, **kwargs) -> Any:
    """``torch.load`` that never executes pickled code and says in one line what is wrong with a file.

    Args:
        file: a path or an open binary file.
        args: as for ``torch.load``.
        kwargs: as for ``torch.load``; ``weights_only`` is True whatever they or torch's environment variables say.

    Raises:
        PMLMError: if the file is truncated or no checkpoint, or holds a type that is not in :func:`allowed_types`.
        OSError: if the file cannot be opened.
    """
    kwargs["weights_only"] = True
    # leave alone what the user has allowed with torch.serialization.add_safe_globals: leaving the block removes ours
    extra = [(kind, name) for name, kind in allowed_types().items()]
    extra = [item for item in extra if item not in torch.serialization.get_safe_globals()]
    try:
        with torch.serialization.safe_globals(extra):
            # not torch.load: people replace that one to get weights_only=False everywhere
            return torch.serialization.load(file, *args, **kwargs)
    except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError):
        raise
    except Exception as error:  # what a damaged file raises can be nearly anything: torch parses before it checks
        if isinstance(file, (str, os.PathLike)) or isinstance(getattr(file, "name", None), str):
            name = f"checkpoint {getattr(file, 'name', file)}"
        else:
            name = "what another process has broadcast"
        refused = _refused_type(error)
        if refused:
            raise PMLMError(
                f"{name} holds {refused}, which is none of the data types that fairseq's checkpoints hold; "
                "it was not loaded, because loading it could run code"
            ) from error
        raise PMLMError(f"{name} is truncated, or not a checkpoint ({first_line(error)})") from error


@functools.cache
def allowed_types() -> dict[str, Any]:
    """What a checkpoint of fairseq may hold beside tensors and Python's own literals.

    Whoever wrote the file chooses the arguments that these are called with and the attributes that their
    instances get, so each of them must be plain data: no function that looks up, imports, evaluates or calls anything.
    numpy's scalars have stand-ins, because numpy's own state setters trust their input.

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
        "omegaconf.dictconfig.DictConfig": dictconfig.DictConfig,
        "omegaconf.listconfig.ListConfig": listconfig.ListConfig,
        "omegaconf.base.ContainerMetadata": base.ContainerMetadata,
        "omegaconf.base.Metadata": base.Metadata,
        "collections.defaultdict": collections.defaultdict,  # an empty cache in ContainerMetadata
        # ... whose metadata names the types of keys and elements
        "typing.Any": typing.Any,
        "typing.Dict": typing.Dict,
        "typing.List": typing.List,
        # what fairseq's speech tasks keep in their state
        "fairseq.data.dictionary.Dictionary": Dictionary,
        # where a tensor was in an object that is being broadcast
        "fairseq.distributed.utils._TensorPlaceholder": _TensorPlaceholder,
    }
    for node in ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "BytesNode"):
        allowed[f"omegaconf.nodes.{node}"] = getattr(nodes, node)
    for builtin in (bool, int, float, str, bytes, list, dict, tuple):
        allowed[f"builtins.{builtin.__name__}"] = builtin
    # files from before 2020 hold the meters themselves, under the module that they were in then
    for meter in ("AverageMeter", "TimeMeter", "StopwatchMeter"):
        allowed[f"fairseq.meters.{meter}"] = allowed[f"fairseq.logging.meters.{meter}"] = getattr(meters, meter)
    return allowed


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
