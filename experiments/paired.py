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
        mean, low, high = (f"{round(value, digits) + 0.0:+.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if self.low < self.high else mean

    def verdict(self, less_is_better: bool = False) -> str:
        """``better``, ``worse`` or ``not separable``: the interval excludes 0, or not. Of one training, none."""
        if self.low <= 0 <= self.high:
            return "not separable"
        if self.seeds == 1:
            return "one training"
        return "better" if (self.mean < 0) == less_is_better else "worse"


def difference(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], weights: Optional[np.ndarray] = None
) -> Difference:
    """Paired t interval for items and trainings that are both drawn from many.

    Both variances count, each with its own quantile, so the interval is rather too wide than too narrow: that between
    the trainings, which holds the noise of an item in a training; and, without this noise, that between the items. With
    one training the interval is about this one alone. A bootstrap over three trainings would cover far too seldom: it
    takes their variance for known.

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
    between_items = correction * (of_items**2).sum() / scale**2
    between_trainings = 0.0
    if seeds > 1:
        noise = gaps - np.outer(per_seed, weights) - of_items
        between_items -= correction * (noise**2).sum() / (seeds - 1) / seeds / scale**2
        between_trainings = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) ** 2 * per_seed.var(ddof=1) / seeds
    half = (stats.t.ppf((1 + CONFIDENCE) / 2, drawn - 1) ** 2 * max(between_items, 0.0) + between_trainings) ** 0.5
    return Difference(mean, float(mean - half), float(mean + half), seeds)
