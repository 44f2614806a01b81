"""Batches of texts of similar length, for whatever is not one of fairseq's data sets."""

from collections.abc import Iterator, Sequence

import numpy as np


def batches(sizes: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices of *sizes* in batches of at most *max_tokens*, with padding, or of one; the longest come first."""
    batch: list[int] = []
    for i in np.argsort([-size for size in sizes], kind="stable").tolist():
        if batch and (len(batch) + 1) * sizes[batch[0]] > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
