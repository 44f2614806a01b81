"""What fairseq takes for granted is looked at: files are sound, gradients are numbers."""

import logging
import re
from typing import Any

from ..tokenizers.dictionary import read_dictionary
from ..utils.errors import PMLMError, first_line
from .replace import Patch

logger = logging.getLogger(__name__)

# of the FloatingPointErrors of the trainer, those that NaN is to blame for: its own words with one GPU, and the norms
# that it lists with several; not a disagreement of theirs, nor a loss scale that has become too small
NONFINITE = re.compile(r"^gradients are Nan/Inf|^rank +\d+ = -?(nan|inf)$", re.MULTILINE)


def name_dictionary_lines() -> list[Patch]:
    """Say which line of a dictionary is broken.

    Why: fairseq ends in a traceback that has neither the file nor the number of the line.
    """
    from fairseq.data import Dictionary

    def wrap(original):
        def patched(self, f):
            try:
                return original(self, f)
            except FileNotFoundError:
                raise
            except Exception as error:
                if not isinstance(f, str):  # fairseq's function calls itself; the outer call knows the name
                    raise
                read_dictionary(f)  # names the line
                raise PMLMError(f"{f}: {first_line(error)[:300]}") from error

        return patched

    return [Patch(Dictionary, "add_from_file", ["Incorrect dictionary format, expected"], wrap)]


def check_classified_texts() -> list[Patch]:
    """Check the binarized texts and labels of ``sentence_prediction`` as our own tasks check theirs.

    Why: an index is believed, and a token beyond the dictionary is looked up beyond the end of the embedding; on a GPU
    nothing says where it came from.
    """
    from fairseq.tasks.sentence_prediction import SentencePredictionTask

    from ..data import indexed

    def wrap(original):
        def patched(self, split, combine=False, **kwargs):
            sides = {"input0": self.source_dictionary, "input1": self.source_dictionary}
            if not self.cfg.regression_target:
                sides["label"] = self.label_dictionary
            for side, dictionary in sides.items():
                labels = dictionary if side == "label" else None
                indexed.check(f"{self.cfg.data}/{side}/{split}", len(dictionary), combine, labels)
            return original(self, split, combine=combine, **kwargs)

        return patched

    return [Patch(SentencePredictionTask, "load_dataset", ["dataset = data_utils.load_indexed_dataset("], wrap)]


def name_nonfinite_samples() -> list[Patch]:
    """Log the samples of an update whose gradients are NaN or infinite, and leave it out where that is asked for.

    Why: fairseq runs the update again, names the module where NaN comes up, and stops, but says nothing of the data.
    Only with ``--fp16`` or ``--amp`` does it go on, as the loss scale may have been too large. Here it goes on where
    ``--nonfinite-updates`` allows so many in a row.
    """
    from fairseq.trainer import Trainer

    def wrap(original):
        def patched(self, samples, *args, **kwargs):
            try:
                done = original(self, samples, *args, **kwargs)
            except FloatingPointError as error:
                if not NONFINITE.search(str(error)):
                    raise
                self.nonfinite_updates = getattr(self, "nonfinite_updates", 0) + 1
                allowed = getattr(self.task.cfg, "nonfinite_updates", 0) or 0
                logger.error(
                    f"update {self.get_num_updates() + 1}: gradients are NaN or infinite; samples of its batches: "
                    f"{[identify(sample) for sample in samples]}"
                )
                if self.nonfinite_updates > allowed:
                    raise PMLMError(
                        f"update {self.get_num_updates() + 1}: gradients are NaN or infinite; the log names its "
                        "samples, and the module where that begins; crash.pt in --save-dir holds the model"
                        + (f"; {self.nonfinite_updates} such updates in a row" if allowed else "")
                    ) from error
                logger.warning(f"left out: number {self.nonfinite_updates} in a row of --nonfinite-updates {allowed}")
                self.zero_grad()
                return None  # as where memory ran out: no update
            self.nonfinite_updates = 0
            return done

        return patched

    return [Patch(Trainer, "train_step", ['raise FloatingPointError("gradients are Nan/Inf")'], wrap)]


def identify(sample: Any) -> list[int]:
    """The indices of a batch's samples in its dataset."""
    ids = sample.get("id") if isinstance(sample, dict) else None
    return [] if ids is None else ids.tolist()
