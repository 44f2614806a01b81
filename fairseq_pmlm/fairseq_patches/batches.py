"""Batches: every sample is in one, whole."""

import inspect
import logging

import numpy as np

from ..utils.errors import PMLMError
from .replace import Patch

logger = logging.getLogger(__name__)


def lose_no_sample() -> list[Patch]:
    """Keep the last batch whatever its size.

    Why: since December 2022 ``batch_by_size`` drops the last batch when its size is not a multiple of
    ``--required-batch-size-multiple`` (8 by default), without a word: of 37 test sentences 32 are
    translated, and a data set of fewer than 8 is "empty". The multiple is there to make matrix products faster;
    that must not cost data.
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

    return [Patch(data_utils, "batch_by_size", ["if bsz_mult > 1 and len(b[-1]) % bsz_mult != 0:", "b = b[:-1]"], wrap)]


def refuse_long_samples() -> list[Patch]:
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
            logger.warning(f"{count}: cut (--shorten-method {given['shorten_method']})")
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
        Patch(sentence_prediction, "maybe_shorten_dataset", [shorten], wrap_shorten),
        Patch(task, "filter_indices_by_size", ["will be skipped, "], wrap_filter),
    ]
