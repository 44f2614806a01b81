"""Every patch of fairseq there is: what current Python, torch and hydra broke, and one loss of data that nobody sees.

fairseq is no longer maintained, so its users mend it where they stand. :func:`apply` runs every patch once, before the
rest of the package is imported; nothing else in the package patches fairseq. Each patch names the source lines it
mends; where an installed fairseq has other lines, one warning says so. The patches are written so that they do
no harm where upstream has mended the same thing.
"""

import argparse
import atexit
import collections
import contextlib
import functools
import inspect
import logging
import os
import pickle
import queue
import re
import threading
import time
import typing
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .errors import PMLMError, describe

INSTALL = 'pip install "fairseq-pmlm[fairseq]"'

# fairseq's own functions by their full names, as they were before they were patched
ORIGINALS: dict[str, Callable] = {}

# what to call the checkpoint that was read last ("checkpoint FILE"): the model that it goes into learns no name
last_checkpoint: str | None = None


class MissingFairseqError(PMLMError, ImportError):
    """fairseq is not installed, or cannot be imported on this Python."""


def apply() -> None:
    """Patch fairseq. A second call, a second import and the import in a spawned worker are harmless.

    Raises:
        MissingFairseqError: if fairseq cannot be imported; the message says what to install.
    """
    import_fairseq()
    if ORIGINALS:
        return
    # a list, not any(): every patch has to run
    patches = [*load_data_only(), *name_missing_checkpoints(), lose_no_sample()]
    atexit.register(stop_readers)
    silence_deprecations()
    unexpected = [name for name, as_expected in patches if not as_expected]
    if unexpected:
        warnings.warn(
            "fairseq_pmlm patches functions that differ in this fairseq from those that the patches were written for, "
            f"so they may not work: {', '.join(unexpected)}",
            stacklevel=2,
        )


def import_fairseq() -> None:
    """Import fairseq, or say in one line what to install.

    Why: the package cannot require fairseq, because pip would then overwrite the fairseq that a user already has.

    Raises:
        MissingFairseqError: if it is not there, or is the last official release (0.12.2), which fails on Python 3.11.
    """
    root = logging.getLogger()
    level, handlers, disabled = root.level, root.handlers[:], root.manager.disable
    if not handlers:
        logging.disable(logging.INFO)
    try:
        import fairseq  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "fairseq":
            raise MissingFairseqError(f"fairseq needs {error.name}, which is not installed: {INSTALL}") from error
        raise MissingFairseqError(f"fairseq is not installed: {INSTALL}") from error
    except Exception as error:
        raise MissingFairseqError(f"fairseq cannot be imported ({_first_line(error)}): {INSTALL}") from error
    finally:
        # some of its modules call logging.basicConfig(level=DEBUG) when they are imported, which is for nobody but an
        # application to do; fairseq's own commands have configured logging before they come here
        if not handlers:
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.disable(disabled)


def _replace(module: ModuleType, name: str, lines: list[str], wrap: Callable[[Callable], Callable]) -> tuple[str, bool]:
    """Put ``wrap(original)`` in the place of a function of fairseq.

    Args:
        module: the module that holds the function.
        name: the function's name there; callers inside fairseq look it up at call time.
        lines: the source lines that the patch is about.
        wrap: makes the new function out of the original.

    Returns:
        The function's full name, and whether its source holds all of *lines*.
    """
    full_name = f"{module.__name__}.{name}"
    current = getattr(module, name, None)
    if current is None:  # nothing to mend, and nothing to wrap
        return full_name, False
    # after a re-import the function found here is a patch already: patch the original again, never a patch
    original = getattr(current, "pmlm_original", current)
    try:
        source = inspect.getsource(original)
    except (OSError, TypeError):
        source = ""
    patched = functools.wraps(original)(wrap(original))
    patched.pmlm_original = original
    ORIGINALS[full_name] = original
    setattr(module, name, patched)
    return full_name, all(line in source for line in lines)


# ---------------------------------------------------------------------------------------------------------------------
# checkpoints: data is loaded, code is not


def load_data_only() -> list[tuple[str, bool]]:
    """Let fairseq load its own checkpoints, but nothing in them that could run code.

    Why: torch >= 2.6 loads with ``weights_only=True`` and refuses what fairseq stores beside the weights
    (facebookresearch/fairseq#5610). The usual remedy, ``weights_only=False``, unpickles: it calls whatever the file
    says. Here only the types of :func:`allowed_types` are added, while these functions run. The broadcast needs it as
    well: with more than one process, rank 0 sends what it has read to the others as a pickle.

    Not covered: fairseq itself passes some *strings* of a checkpoint's options to ``eval`` when it builds certain
    models of its own (fconv, lightconv, wav2vec, ...); it is no more than loading that is safe here.
    """
    from fairseq import checkpoint_utils
    from fairseq.distributed import utils as distributed_utils

    def wrap(original):
        def patched(*args, **kwargs):
            with _torch_loads_data_only():
                return original(*args, **kwargs)

        return patched

    def wrap_reader(original):
        # the reader of files: a path that cannot be opened is the user's to mend as well
        signature = inspect.signature(original)

        def patched(*args, **kwargs):
            global last_checkpoint
            path, *_ = signature.bind(*args, **kwargs).arguments.values()
            last_checkpoint = f"checkpoint {path}"
            try:
                with _torch_loads_data_only():
                    return original(*args, **kwargs)
            except FileNotFoundError as error:
                raise PMLMError(f"checkpoint {path} does not exist") from error
            except (PermissionError, IsADirectoryError) as error:
                raise PMLMError(f"checkpoint {path} cannot be read: {_first_line(error)}") from error

        return patched

    file_line = 'state = torch.load(f, map_location=torch.device("cpu"))'
    broadcast_line = 'obj = torch.load(buffer, map_location="cpu")'
    return [
        _replace(checkpoint_utils, "load_checkpoint_to_cpu", [file_line], wrap_reader),
        _replace(checkpoint_utils, "load_ema_from_checkpoint", ["new_state = torch.load("], wrap_reader),
        _replace(distributed_utils, "_broadcast_object_slow", [broadcast_line], wrap),
    ]


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
        raise PMLMError(f"{name} is truncated, or not a checkpoint ({_first_line(error)})") from error


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


def _first_line(error: BaseException) -> str:
    return describe(error).splitlines()[0]


_loading = threading.RLock()


@contextlib.contextmanager
def _torch_loads_data_only() -> Iterator[None]:
    """Within this block ``torch.load`` is :func:`torch_load`.

    The functions of fairseq that call it are long; swapping the one call keeps them as they are. Inside the call, and
    not around fairseq's function, the cause of an error is known to be the file.
    """
    with _loading:
        previous, torch.load = torch.load, torch_load
        try:
            yield
        finally:
            torch.load = previous


def name_missing_checkpoints() -> list[tuple[str, bool]]:
    """Say in one line that the file given as ``--path`` or ``--finetune-from-model`` does not exist.

    Why: fairseq checks both itself, before it loads anything, and ends in a traceback.
    """
    from fairseq import checkpoint_utils

    def wrap(original):
        def patched(*args, **kwargs):
            try:
                return original(*args, **kwargs)
            except (OSError, ValueError) as error:
                found = re.fullmatch(
                    r"Model file not found: (.+)|--finetune-from-model (.+) does not exist", str(error)
                )
                if found is None:
                    raise
                raise PMLMError(f"checkpoint {found[1] or found[2]} does not exist") from error

        return patched

    return [
        _replace(checkpoint_utils, "load_model_ensemble_and_task", ["Model file not found: {}"], wrap),
        _replace(
            checkpoint_utils, "load_checkpoint", ['f"--finetune-from-model {cfg.finetune_from_model} does not'], wrap
        ),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# batches: every sample is in one


def lose_no_sample() -> tuple[str, bool]:
    """Keep the last batch whatever its size.

    Why: since December 2022 ``batch_by_size`` drops the last batch when its size is not a multiple of
    ``--required-batch-size-multiple`` (8 by default), without a word: of 37 test sentences 32 are
    translated, and a data set of fewer than 8 is "empty". The multiple is there to make matrix products faster, which
    is no reason to leave out data.
    """
    from fairseq.data import data_utils

    def wrap(original):
        signature = inspect.signature(original)

        def patched(indices, *args, **kwargs):
            if signature.bind(indices, *args, **kwargs).arguments.get("fixed_shapes") is not None:
                return original(indices, *args, **kwargs)  # nothing is dropped on that path
            if not isinstance(indices, np.ndarray):  # it may be a generator, and is needed twice
                indices = np.fromiter(indices, dtype=np.int64, count=-1)
            if len(indices) == 0:
                return []  # the original looks for its last batch
            batches = list(original(indices, *args, **kwargs))
            # batches are consecutive slices of the indices, so what is missing is the tail; it was one batch
            tail = indices[sum(map(len, batches)) :]
            return [*batches, tail] if len(tail) else batches

        return patched

    return _replace(
        data_utils, "batch_by_size", ["if bsz_mult > 1 and len(b[-1]) % bsz_mult != 0:", "b = b[:-1]"], wrap
    )


def stop_readers() -> None:
    """Stop fairseq's threads that read batches ahead, before Python ends.

    Why: where training stops within an epoch, such a thread is cut off at whatever it does; in the middle of torch's
    C++ that is "terminate called without an active exception", and status -6 for a training that has succeeded.
    """
    from fairseq.data import iterators

    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        if not isinstance(thread, iterators.BackgroundConsumer):
            continue
        thread._max_len = 0  # it looks at this after each batch
        while thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                thread._queue.get_nowait()  # it may wait for room
            thread.join(0.02)


# ---------------------------------------------------------------------------------------------------------------------
# noise

# (how the message begins, category, the module that the warning is attributed to)
NOISE = [
    (r"hydra\.experimental\.initialize\(\) is no longer experimental", UserWarning, r"hydra\."),
    (r"hydra\.experimental\.compose\(\) is no longer experimental", UserWarning, r"hydra\."),
    (r"\s*The version_base parameter is not specified", UserWarning, r"hydra\."),
    (r"In 'config': Usage of deprecated keyword in package header", UserWarning, r"hydra\."),
    (r"\s*The strict flag in the compose API is deprecated", UserWarning, r"hydra\."),
    # attributed to whatever happens to be that many frames up
    (r"\s*'config' is validated against ConfigStore schema with the same name", UserWarning, ""),
    (r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated", FutureWarning, r"fairseq\."),
    (r"'pin_memory' argument is set as true but no accelerator is found", UserWarning, r"torch\.utils\.data\."),
    # fairseq's decoder passes a bool padding mask and a float causal mask
    (r"Support for mismatched key_padding_mask and attn_mask is deprecated", UserWarning, r"torch\.nn\.functional$"),
]


def silence_deprecations() -> None:
    """Hide the deprecation warnings that every command prints about fairseq's own calls of hydra and torch.

    Why: a user can do nothing about them, and a dozen of them hide the one that matters. Filtered are these
    messages from these modules only; all other warnings show, including the same ones raised by a user's own calls
    where they can be told apart. With ``--amp`` and no GPU, torch's "Disabling" still shows: it is about the option.
    """
    for message, category, module in NOISE:
        warnings.filterwarnings("ignore", message, category, module)
    # two lines of hydra's that generate, interactive and validate show
    logging.getLogger("hydra.core.utils").setLevel(logging.INFO)
