"""Differences between two systems that were measured on the same items with the same seeds, and their intervals."""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

SAMPLES = 2000


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
    rng = np.random.default_rng(12345)
    drawn = np.empty(SAMPLES)
    for i in range(SAMPLES):
        times = np.bincount(rng.integers(items, size=items), minlength=items)
        per_seed = gaps @ times / max(times @ weights, 1e-9)
        drawn[i] = per_seed[rng.integers(seeds, size=seeds)].mean()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(float((gaps.sum(1) / weights.sum()).mean()), float(low), float(high), seeds)
