"""Every patch of fairseq is applied here: what current Python, torch and hydra broke, and losses that nobody sees.

fairseq is no longer maintained, so its users mend it where they stand. :func:`apply` runs every patch once, before the
rest of the package is imported. What is about whole trainings lies apart (:mod:`checkpoint_files`,
:mod:`resuming`, :mod:`distributed`), as does what is about broken input
(:mod:`guards`); nothing else patches fairseq. Each patch names the source lines it mends; where an
installed fairseq has other lines, one warning says so. The patches are written so that they do no harm where upstream
has mended the same thing.
"""

import atexit
import contextlib
import inspect
import logging
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

from ..checkpoints.safe_load import torch_load
from ..utils.errors import PMLMError, find_user_error, first_line
from . import checkpoint_files, distributed, guards, resuming
from .replace import ORIGINALS, replace

INSTALL = 'pip install "fairseq-pmlm[fairseq]"'

# what to call the checkpoint that was read last ("checkpoint FILE"): the model that it goes into learns no name
last_checkpoint: str | None = None

# whether a trainer that starts afresh is reading it; loaded in any other way, a checkpoint is taken as it is
finetuning = False


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
    patches = [
        *load_data_only(),
        name_missing_checkpoints(),
        tell_finetuning(),
        lose_no_sample(),
        *refuse_long_samples(),
        *checkpoint_files.write_whole(),
        *resuming.resume_exactly(),
        *distributed.train_in_many_processes(),
        *guards.patches(),
    ]
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
        raise MissingFairseqError(f"fairseq cannot be imported ({first_line(error)}): {INSTALL}") from error
    finally:
        # some of its modules call logging.basicConfig(level=DEBUG) when they are imported, which is for nobody but an
        # application to do; fairseq's own commands have configured logging before they come here
        if not handlers:
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.disable(disabled)


# ---------------------------------------------------------------------------------------------------------------------
# checkpoints: data is loaded, code is not


def load_data_only() -> list[tuple[str, bool]]:
    """Let fairseq load its own checkpoints, but nothing in them that could run code.

    Why: torch >= 2.6 loads with ``weights_only=True`` and refuses what fairseq stores beside the weights
    (facebookresearch/fairseq#5610). The usual remedy, ``weights_only=False``, unpickles: it calls whatever the file
    says. Here only the types of :func:`safe_load.allowed_types` are added, while these functions run. The
    broadcast needs it as well: with more than one process, rank 0 sends what it has read to the others as a pickle.

    Not covered: fairseq itself passes some *strings* of a checkpoint's options to ``eval`` when it builds certain
    models of its own (fconv, lightconv, wav2vec, ...); it is no more than loading that is safe here.
    """
    from fairseq import checkpoint_utils
    from fairseq.distributed import utils as distributed_utils

    def wrap_broadcast(original):
        def patched(*args, **kwargs):
            # rank 0 has looked at it; here, places stand for its tensors, which are sent after it
            with _torch_loads_data_only(torch_load):
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
        replace(checkpoint_utils, "load_checkpoint_to_cpu", [file_line], wrap_reader),
        replace(checkpoint_utils, "load_ema_from_checkpoint", ["new_state = torch.load("], wrap_reader),
        replace(distributed_utils, "_broadcast_object_slow", [broadcast_line], wrap_broadcast),
    ]


_loading = threading.RLock()


@contextlib.contextmanager
def _torch_loads_data_only(load: Callable) -> Iterator[None]:
    """Within this block ``torch.load`` is *load*, :func:`safe_load.torch_load` or what goes on from it.

    The functions of fairseq that call it are long; swapping the one call keeps them as they are. Inside the call, and
    not around fairseq's function, the cause of an error is known to be the file.
    """
    with _loading:
        previous, torch.load = torch.load, load
        try:
            yield
        finally:
            torch.load = previous


def _load_checked(file, *args, **kwargs):
    """``torch_load``, and a look at what it has read."""
    from ..model import loading as state  # needs what is patched here

    content = torch_load(file, *args, **kwargs)
    state.check_sizes(content, last_checkpoint or "the checkpoint")
    return content


def name_missing_checkpoints() -> tuple[str, bool]:
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

    return replace(checkpoint_utils, "load_model_ensemble_and_task", ["Model file not found: {}"], wrap)


def tell_finetuning() -> tuple[str, bool]:
    """Set :data:`finetuning` while training starts from a checkpoint instead of going on from it.

    Why: a head for other classes is to be initialised anew when a model is fine-tuned, and is an error when it is
    resumed, validated or used. Models are built and loaded alike in all of these.
    """
    from fairseq.trainer import Trainer

    def wrap(original):
        signature = inspect.signature(original)

        def patched(*args, **kwargs):
            global finetuning
            previous = finetuning
            finetuning = bool(signature.bind(*args, **kwargs).arguments.get("reset_optimizer"))
            try:
                return original(*args, **kwargs)
            finally:
                finetuning = previous

        return patched

    return replace(Trainer, "load_checkpoint", ["reset_optimizer=False,", "self.model.load_state_dict("], wrap)


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

    return replace(data_utils, "batch_by_size", ["if bsz_mult > 1 and len(b[-1]) % bsz_mult != 0:", "b = b[:-1]"], wrap)


def refuse_long_samples() -> list[tuple[str, bool]]:
    """Make a text that is too long for ``sentence_prediction`` an error, and say how many are cut where that is wanted.

    Why: training leaves such samples out, and ``--shorten-method truncate`` cuts them without a word.
    """
    from fairseq.tasks import sentence_prediction

    def wrap_shorten(original):
        signature = inspect.signature(original)

        def patched(*args, **kwargs):
            given = signature.bind(*args, **kwargs).arguments
            result, limit, split = original(*args, **kwargs), given["tokens_per_sample"], given["split"]
            sizes = np.asarray(given["dataset"].sizes)
            if not (sizes > limit).any():
                return result
            count = f"{(sizes > limit).sum():,} of {len(sizes):,} samples of {split}"
            count += f" are longer than --max-positions {limit}"
            if (np.asarray(result.sizes) > limit).any():
                raise PMLMError(
                    f"{count} (the first is number {int(np.argmax(sizes > limit)) + 1}, the longest has {sizes.max()} "
                    "tokens); raise the limit, or cut them with --shorten-method truncate"
                )
            logging.getLogger(__name__).warning(f"{count}: cut (--shorten-method {given['shorten_method']})")
            return result

        return patched

    def wrap_filter(original):
        def patched(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
            _, left_out = dataset.filter_indices_by_size(indices, max_positions)
            if len(left_out):
                raise PMLMError(
                    f"{len(left_out):,} of {len(dataset):,} samples are longer than {max_positions} tokens, the lesser "
                    "of --max-positions and --max-tokens; raise it"
                )
            return original(self, indices, dataset, max_positions, ignore_invalid_inputs)

        return patched

    task = sentence_prediction.SentencePredictionTask
    shorten = "dataset = TruncateDataset(dataset, tokens_per_sample)"
    return [
        replace(sentence_prediction, "maybe_shorten_dataset", [shorten], wrap_shorten),
        replace(task, "filter_indices_by_size", ["will be skipped, "], wrap_filter),
    ]


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
    (r"`broadcast_buffers` is deprecated", FutureWarning, r"fairseq"),
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
