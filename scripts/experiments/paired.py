"""Differences between two systems that were measured on the same items with the same seeds, and their intervals."""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

from fairseq_pmlm.scoring.base import Bootstrap

BOOTSTRAP = Bootstrap(samples=2000)


class Difference(NamedTuple):
    """First system minus second, and the 95 % bootstrap interval over seeds and items."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    def verdict(self, less_is_better: bool = False) -> str:
        """``better``, ``worse`` or ``not separable``: the interval excludes 0, or not."""
        if self.low <= 0 <= self.high:
            return "not separable"
        return "better" if (self.mean < 0) == less_is_better else "worse"


def difference(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], weights: Optional[np.ndarray] = None
) -> Difference:
    """Paired bootstrap: items are drawn anew, the same for both systems, and so are pairs of trainings.

    Args:
        first, second: for each seed a float array (items,); an item's sum, where items have *weights*.
        weights: float (items,), how many things an item is the sum of; None for one each.
    """
    gaps = np.stack([a.astype(float) - b for a, b in zip(first, second, strict=True)])  # (seeds, items)
    seeds, items = gaps.shape
    weights = np.ones(items) if weights is None else weights.astype(float)
    sums = BOOTSTRAP.sums(np.column_stack([*gaps, weights]))
    with np.errstate(invalid="ignore"):  # a resample may hold only items of no weight, which does not count
        per_seed = sums[:, :-1] / sums[:, -1:]  # (samples, seeds)
    trainings = np.random.default_rng(BOOTSTRAP.seed + 1).integers(seeds, size=per_seed.shape)
    low, high = BOOTSTRAP.interval(np.take_along_axis(per_seed, trainings, axis=1).mean(1))
    return Difference(float((gaps.sum(1) / weights.sum()).mean()), low, high, seeds)
