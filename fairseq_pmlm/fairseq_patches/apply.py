"""All patches of fairseq, and the one place that applies them.

fairseq is not maintained any more, so it is mended here. A patch replaces one function; its module says
why, and names the source lines that it is about. They are written to do no harm where upstream has mended the same.
Nothing else patches fairseq.
"""

import atexit
import logging
import warnings

from ..utils.errors import PMLMError, first_line
from . import batches, checkpoint_files, checkpoint_reading, distributed, guards, noise, resuming, threads, user_dir
from .replace import ORIGINALS, install

INSTALL = 'pip install "fairseq-pmlm[fairseq]"'

# each returns its patches, and its docstring says why they are there; a later patch of the same function wraps the
# earlier ones
PATCHES = (
    checkpoint_reading.load_data_only,
    checkpoint_reading.name_missing_checkpoints,
    checkpoint_reading.tell_finetuning,
    batches.lose_no_sample,
    batches.refuse_long_samples,
    checkpoint_files.write_whole,
    resuming.resume_exactly,
    distributed.train_in_many_processes,
    guards.name_dictionary_lines,
    guards.check_classified_texts,
    guards.name_nonfinite_samples,
    user_dir.know_user_dir,
)


class MissingFairseqError(PMLMError, ImportError):
    """fairseq is not installed, or cannot be imported on this Python."""


def apply() -> None:
    """Patch fairseq: everything, or nothing. A second call, a second import and the import in a spawned worker are
    harmless; where another version of fairseq has other source lines, one warning says so.

    Raises:
        MissingFairseqError: if fairseq cannot be imported; the message says what to install.
        PMLMError: if a patch does not fit this fairseq at all, which is left as it was.
    """
    import_fairseq()
    if ORIGINALS:
        return
    try:
        unexpected = install([patch for describe in PATCHES for patch in describe()])
    except Exception as error:
        reason = str(error) if isinstance(error, PMLMError) else first_line(error)
        raise PMLMError(
            f"this fairseq is not one that fairseq_pmlm can patch, and was left as it was ({reason}): {INSTALL}"
        ) from error
    atexit.register(threads.stop_readers)
    noise.silence_deprecations()
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
        # some of its modules call logging.basicConfig(level=DEBUG) when they are imported, which only an
        # application should do; fairseq's own commands have configured logging before they come here
        if not handlers:
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.disable(disabled)
