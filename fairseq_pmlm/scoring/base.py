"""What all scores share: the number with its interval, the bootstrap behind it, the checks and the signature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import numpy as np

from .._version import __version__
from ..utils.errors import PMLMError

MOST_SAMPLES = 1_000_000  # of the bootstrap; all of them are held in memory


class Score(NamedTuple):
    """One number, and its bootstrap interval.

    ``mean`` is the score of the whole test set: the mean over segments for ROUGE, the corpus score for BLEU, chrF and
    METEOR. ``low`` and ``high`` bound the interval; both are None without a bootstrap.
    """

    mean: float
    low: Optional[float] = None
    high: Optional[float] = None


@dataclass
class Scores:
    """What one metric says of one system.

    Attributes:
        values: score by name (``rouge1``, ...; ``bleu``, ``bleu1``, ...; ``chrf``; ``meteor``), 0..100; statistics
            also have counts of words.
        signature: one line that says how the numbers were made.
        per_segment: float array of shape (segments,) by name, 0..100; None for what is no mean over segments.
        segments: number of hypotheses.
        empty: number of hypotheses without any text; they are scored like all others.
        confidence: probability that the intervals cover, 0..1.
        samples: the score of each resample, a float array of shape (bootstrap samples,) by name; what
            :func:`~fairseq_pmlm.scoring.compare.compare` takes differences of.
    """

    values: dict[str, Score]
    signature: str
    per_segment: Optional[dict[str, np.ndarray]]
    segments: int
    empty: int
    confidence: float
    samples: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn.

    Attributes:
        samples: number of resamples of the segments; 0 for no intervals.
        confidence: probability that an interval covers, between 0 and 1.
        seed: the same seed draws the same segments in every metric and for every system.

    Raises:
        PMLMError: an option that makes no sense.
    """

    samples: int = 1000
    confidence: float = 0.95
    seed: int = 12345

    def __post_init__(self):
        if not 0 <= self.samples <= MOST_SAMPLES:
            raise PMLMError(
                f"bootstrap {self.samples}: expected the number of resamples, up to {MOST_SAMPLES:,}, or 0 for none"
            )
        if not 0 < self.confidence < 1:
            raise PMLMError(f"confidence {self.confidence}: expected a probability between 0 and 1, such as 0.95")
        if self.seed < 0:
            raise PMLMError(f"seed {self.seed}: expected 0 or more")

    def sums(self, stats: np.ndarray) -> np.ndarray:
        """Sums of *stats* (segments, columns) over the drawn segments of each resample: (samples, columns)."""
        segments = len(stats)
        generator = np.random.default_rng(self.seed)
        sums = np.empty((self.samples, stats.shape[1]))
        block = max(1, 4_000_000 // segments)  # resamples at a time: bounds the memory to some 100 MB
        for start in range(0, self.samples, block):
            rows = min(block, self.samples - start)
            draws = generator.integers(segments, size=(rows, segments))
            # how often each resample holds each segment: one bincount, each resample counting in a range of its own
            draws += segments * np.arange(rows)[:, None]
            counts = np.bincount(draws.ravel(), minlength=rows * segments).reshape(rows, segments)
            sums[start : start + rows] = counts.astype(stats.dtype) @ stats
        return sums

    def interval(self, samples: np.ndarray) -> tuple[Optional[float], Optional[float]]:
        """Percentile interval that holds the middle *confidence* of *samples*; (None, None) where there are none.

        Samples for which the score is not defined (nan) do not count.
        """
        samples = samples[~np.isnan(samples)]
        if not len(samples):
            return None, None
        low, high = np.quantile(samples, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return float(low), float(high)


DEFAULT = Bootstrap()


def corpus_scores(
    stats: np.ndarray | Sequence[Sequence[float]],
    functions: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    bootstrap: Bootstrap,
) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
    """Scores, and those of each resample, that are functions of counts which add up over segments.

    A resample is then a weighted sum of rows, and no text is read twice.

    Args:
        stats: counts, whole numbers: a row for each segment.
        functions: for each name, from sums of *stats* (rows, columns) to scores (rows,).
        bootstrap: how intervals are drawn.
    """
    rows = np.array(stats, dtype=np.float64)  # sums are exact below 2 ** 53
    sums = np.concatenate([rows.sum(axis=0, keepdims=True), bootstrap.sums(rows)])
    scores = {name: function(sums) for name, function in functions.items()}
    values = {name: Score(float(s[0]), *bootstrap.interval(s[1:])) for name, s in scores.items()}
    return values, {name: s[1:] for name, s in scores.items()}


def check_segments(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise PMLMError unless there is something to score and every list of references is as long as *hypotheses*."""
    if isinstance(references, str) or not references or any(isinstance(reference, str) for reference in references):
        raise PMLMError("references: expected one list of texts per reference file, as in [first_file, second_file]")
    if not hypotheses:
        raise PMLMError("nothing to score: no hypotheses")
    for number, reference in enumerate(references, 1):
        if len(reference) != len(hypotheses):
            raise PMLMError(f"{len(hypotheses)} hypotheses but {len(reference)} texts in reference list {number}")


def count_empty(hypotheses: Sequence[str]) -> int:
    """How many hypotheses hold nothing but white space."""
    return sum(not hypothesis.strip() for hypothesis in hypotheses)


def sign(name: str, pairs: Mapping, bootstrap: Optional[Bootstrap], library: Mapping, origin: Mapping = {}) -> str:
    """sacrebleu-style signature: ``name|key:value|...``; where the texts come from, the bootstrap and versions last."""
    pairs = {**pairs, **origin}
    if bootstrap:
        pairs["bootstrap"] = bootstrap.samples
        if bootstrap.samples:
            pairs["seed"] = bootstrap.seed
    pairs |= {**library, "pmlm": __version__}
    return "|".join([name, *(f"{key}:{value}" for key, value in pairs.items())])
