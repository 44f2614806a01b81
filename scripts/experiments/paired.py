"""Differences between two systems that were measured on the same items with the same seeds, and their intervals."""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """First system minus second, and the 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        digits = 2 if self.high - self.low >= 0.01 else 3
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"

    def verdict(self, less_is_better: bool = False) -> str:
        """``better``, ``worse`` or ``not separable``: the interval excludes 0, or not; of one training, it says so."""
        if self.low <= 0 <= self.high:
            return "not separable"
        word = "better" if (self.mean < 0) == less_is_better else "worse"
        return word if self.seeds > 1 else f"{word}, in one training"


def difference(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], weights: Optional[np.ndarray] = None
) -> Difference:
    """Paired t interval for items and trainings that are both drawn from many.

    The variance of the mean is that of the items, and that of the trainings where there are several, less what both
    have counted: the noise of an item in a training (as in a crossed random-effects model). The degrees of freedom are
    Satterthwaite's, so few trainings make a wide interval where trainings differ, and cost nothing where they do not.
    With one training the interval is about this one alone. A bootstrap over three trainings would cover far too
    seldom: it takes their variance for known.

    Args:
        first, second: for each seed a float array (items,); an item's sum, where items have *weights*.
        weights: float (items,), how many things an item is the sum of; None for one each.
    """
    gaps = np.stack([a.astype(float) - b for a, b in zip(first, second, strict=True)])  # (seeds, items)
    seeds, items = gaps.shape
    weights = np.ones(items) if weights is None else weights.astype(float)
    scale, drawn = weights.sum(), int((weights > 0).sum())
    per_seed = gaps.sum(1) / scale
    mean = float(per_seed.mean())
    if drawn < 2:
        return Difference(mean, -np.inf, np.inf, seeds)
    correction = drawn / (drawn - 1)
    of_items = gaps.mean(0) - mean * weights  # what an item moves the ratio by, to first order, times scale
    of_items_variance = correction * (of_items**2).sum() / scale**2
    variance, freedom = of_items_variance, drawn - 1
    if seeds > 1:
        of_seeds_variance = per_seed.var(ddof=1) / seeds
        noise = gaps - np.outer(per_seed, weights) - of_items
        of_noise_variance = correction * (noise**2).sum() / (seeds - 1) / seeds / scale**2
        added = of_seeds_variance + of_items_variance - of_noise_variance
        variance = max(added, of_seeds_variance, of_items_variance)
        if variance > 0:
            spread = of_seeds_variance**2 / (seeds - 1) + of_items_variance**2 / (drawn - 1)
            freedom = variance**2 / spread
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * variance**0.5)
    return Difference(mean, mean - half, mean + half, seeds)
