"""Is one system better than another? Paired bootstrap over the segments that both have answered."""

from typing import NamedTuple

import numpy as np

from ..utils.errors import PMLMError
from .base import Scores


class Difference(NamedTuple):
    """Score of the first system minus that of the second, its bootstrap interval, and a two-sided p-value.

    p is the share of resamples whose difference lies as far from their mean difference as the measured one lies from 0,
    or farther: how often chance alone would give that much. It is never below 1 / (samples + 1). sacrebleu and Moses
    take the absolute value before the mean, which halves p where one system is clearly better.
    """

    mean: float
    low: float
    high: float
    p: float


def compare(first: Scores, second: Scores) -> dict[str, Difference]:
    """Differences by name between two systems, scored against the same references with the same bootstrap.

    The same seed draws the same segments for both, so the difference of two resampled scores is that of a resampled
    test set (paired bootstrap, Koehn 2004).

    Raises:
        PMLMError: there are no resamples, or the two were not made in the same way.
    """
    if first.signature != second.signature or first.segments != second.segments:
        raise PMLMError(
            f"two systems are compared on the same segments, scored alike; found {first.segments} and "
            f"{second.segments}, {first.signature} and {second.signature}"
        )
    differences = {}
    for name, samples in first.samples.items():
        if not len(samples):
            raise PMLMError("bootstrap 0: a comparison needs resamples")
        drawn = samples - second.samples[name]
        mean = first.values[name].mean - second.values[name].mean
        beyond = int((np.abs(drawn - drawn.mean()) >= abs(mean)).sum())  # all of them for equal systems
        tail = (1 - first.confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        differences[name] = Difference(mean, float(low), float(high), (beyond + 1) / (len(drawn) + 1))
    return differences
