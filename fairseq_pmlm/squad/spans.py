"""From the scores of slots to answers: the best spans of a window, and of all windows of a question (numpy).

A span in several windows has its best score; BERT's scripts count it in the window that shows most around it alone.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """An answer in the passage, from piece *first* to piece *last*; its score is the sum of both logits."""

    score: float
    first: int
    last: int


def best_spans(start: np.ndarray, end: np.ndarray, usable: np.ndarray, longest: int, count: int) -> list[Span]:
    """The *count* spans with the largest sum of a start and an end score, the best first.

    Of equal scores, the earlier and then the shorter span comes first.

    Args:
        start, end: float (pieces,), scores of the pieces of a window.
        usable: bool (pieces,), which pieces stand for any text: no span starts or ends with another one.
        longest: most pieces of a span.
        count: how many; there are fewer where the window has no more.
    """
    pieces = len(start)
    width = min(longest, pieces)
    first, last = np.arange(pieces)[:, None], np.arange(pieces)[:, None] + np.arange(width)
    inside = last < pieces
    last = np.minimum(last, pieces - 1)
    allowed = inside & usable[first] & usable[last]
    scores = np.where(allowed, start.astype(np.float64)[first] + end.astype(np.float64)[last], -np.inf).ravel()
    count = min(count, int(allowed.sum()))
    if not count:
        return []
    if count == 1:
        chosen = [int(scores.argmax())]
    else:
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        likely = np.flatnonzero(scores >= least)
        chosen = likely[np.argsort(-scores[likely], kind="stable")][:count].tolist()
    return [Span(float(scores[i]), i // width, i // width + i % width) for i in chosen]


def merge(windows: Iterable[Sequence[Span]], count: int) -> list[Span]:
    """The *count* best of the spans that the windows of a question have, in pieces of the passage, the best first.

    One that several windows hold counts once, with its best score.
    """
    found: dict[tuple[int, int], float] = {}
    for score, first, last in itertools.chain.from_iterable(windows):
        found[first, last] = max(score, found.get((first, last), -np.inf))
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Span(score, *place) for place, score in ordered[:count]]


def no_answer_probability(null: float, best: float) -> float:
    """How likely there is no answer, from the score of <s> (start plus end) and that of the best span: 0.5 if equal.

    It grows with the difference of both, which is all that a threshold needs.
    """
    return float(1 / (1 + np.exp(-np.clip(null - best, -500, 500))))
