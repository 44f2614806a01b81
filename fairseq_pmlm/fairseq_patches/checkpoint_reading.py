"""Checkpoints as fairseq reads them: data is loaded, code is not, and what is wrong with a file is said in one line."""

import contextlib
import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator

import torch

from ..checkpoints import context
from ..checkpoints.architecture import check_sizes
from ..checkpoints.safe_load import torch_load
from ..checkpoints.stand_ins import FAIRSEQ
from ..utils.errors import PMLMError, find_user_error, first_line
from .replace import Patch


def load_data_only() -> list[Patch]:
    """Let fairseq load its own checkpoints, but nothing in them that could run code.

    Why: torch >= 2.6 loads with ``weights_only=True`` and refuses what fairseq stores beside the weights
    (facebookresearch/fairseq#5610). The usual remedy, ``weights_only=False``, unpickles: it calls whatever the file
    says. Here only plain data is added (:mod:`fairseq_pmlm.checkpoints.stand_ins`), while these functions run. The
    broadcast needs it as well: with more than one process, rank 0 sends what it has read to the others as a pickle.

    Not covered: fairseq itself passes some *strings* of a checkpoint's options to ``eval`` when it builds certain
    models of its own (fconv, lightconv, wav2vec, ...); it is no more than loading that is safe here.
    """
    from fairseq import checkpoint_utils
    from fairseq.distributed import utils as distributed_utils

    def wrap_broadcast(original):
        def patched(*args, **kwargs):
            # rank 0 has looked at it; here, places stand for its tensors, which are sent after it
            with _torch_loads_data_only(_load_data):
                return original(*args, **kwargs)

        return patched

    def wrap_reader(original):
        # the reader of files: a path that cannot be opened is the user's to mend as well
        signature = inspect.signature(original)

        def patched(*args, **kwargs):
            path, *_ = signature.bind(*args, **kwargs).arguments.values()
            context.opened(path)
            try:
                with _torch_loads_data_only(_load_checked):
                    return original(*args, **kwargs)
            except FileNotFoundError as error:
                raise PMLMError(f"checkpoint {path} does not exist") from error
            except (PermissionError, IsADirectoryError) as error:
                raise PMLMError(f"checkpoint {path} cannot be read: {first_line(error)}") from error
            except Exception as error:  # fairseq expects a structure that the file need not have
                if find_user_error(error):
                    raise
                raise PMLMError(f"checkpoint {path} cannot be used: {first_line(error)}") from error

        return patched

    file_line = 'state = torch.load(f, map_location=torch.device("cpu"))'
    broadcast_line = 'obj = torch.load(buffer, map_location="cpu")'
    return [
        Patch(checkpoint_utils, "load_checkpoint_to_cpu", [file_line], wrap_reader),
        Patch(checkpoint_utils, "load_ema_from_checkpoint", ["new_state = torch.load("], wrap_reader),
        Patch(distributed_utils, "_broadcast_object_slow", [broadcast_line], wrap_broadcast),
    ]


_loading = threading.RLock()


@contextlib.contextmanager
def _torch_loads_data_only(load: Callable) -> Iterator[None]:
    """Within this block ``torch.load`` is *load*, one of the two below.

    The functions of fairseq that call it are long; swapping the one call keeps them as they are. Inside the call, and
    not around fairseq's function, the cause of an error is known to be the file.
    """
    with _loading:
        previous, torch.load = torch.load, load
        try:
            yield
        finally:
            torch.load = previous


def _load_data(file, *args, **kwargs):
    """``torch_load``, with fairseq's own classes."""
    return torch_load(file, *args, types=fairseq_types(), **kwargs)


def _load_checked(file, *args, **kwargs):
    """The same, and a look at what it has read."""
    content = _load_data(file, *args, **kwargs)
    check_sizes(content, context.current().where)
    return content


@functools.cache
def fairseq_types() -> dict[str, type]:
    """fairseq's own classes of plain data, which its trainer, its tasks and its broadcast need for stand-ins."""
    from fairseq.data.dictionary import Dictionary
    from fairseq.distributed.utils import _TensorPlaceholder
    from fairseq.logging import meters

    known = {kind.__name__: kind for kind in (Dictionary, _TensorPlaceholder)}
    known |= {name: getattr(meters, name) for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")}
    return {name: known[name.rpartition(".")[2]] for name in FAIRSEQ}


def name_missing_checkpoints() -> list[Patch]:
    """Say in one line that the file given as ``--path`` does not exist.

    Why: fairseq checks it itself, before it loads anything, and ends in a traceback.
    """
    from fairseq import checkpoint_utils

    def wrap(original):
        def patched(*args, **kwargs):
            try:
                return original(*args, **kwargs)
            except OSError as error:
                found = re.fullmatch(r"Model file not found: (.+)", str(error))
                if found is None:
                    raise
                raise PMLMError(f"checkpoint {found[1]} does not exist") from error

        return patched

    return [Patch(checkpoint_utils, "load_model_ensemble_and_task", ["Model file not found: {}"], wrap)]


def tell_finetuning() -> list[Patch]:
    """Tell the model when training starts from a checkpoint instead of going on from it.

    Why: a head for other classes must be initialized again when a model is fine-tuned, and is an error when it is
    resumed, validated or used. Models are built and loaded alike in all of these.
    """
    from fairseq.trainer import Trainer

    def wrap(original):
        signature = inspect.signature(original)

        def patched(*args, **kwargs):
            with context.reading(finetuning=bool(signature.bind(*args, **kwargs).arguments.get("reset_optimizer"))):
                return original(*args, **kwargs)

        return patched

    return [Patch(Trainer, "load_checkpoint", ["reset_optimizer=False,", "self.model.load_state_dict("], wrap)]
