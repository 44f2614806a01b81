"""Exact match and F1 of extracted answers, as SQuAD's official evaluations compute them.

Both versions compare normalized texts (:func:`normalize`) and give a question its best score over the reference
answers; F1 counts common words. They differ where nothing is left of a text: version 1.1 has no F1 for it, version 2.0
compares it with the empty answer of a question that has none. Version 2.0 also reports the questions with and without
an answer apart, and the scores at the best threshold of the probability that there is no answer.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

import numpy as np

from ..utils.errors import PMLMError
from .base import DEFAULT, Bootstrap, Score, Scores, corpus_scores, count_empty, sign

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
EVEN = 0.5  # probability of no answer at which <s> and the best span have the same score


def normalize(text: str) -> str:
    """What the scores see of an answer: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_and_f1(prediction: str, answers: Sequence[str], version: str) -> tuple[float, float]:
    """Exact match and F1 of one question, 0..1.

    Args:
        prediction: empty for "no answer".
        answers: references; none where the question has no answer.
        version: "1.1" or "2.0".
    """
    golds = [normalize(answer) for answer in answers]
    if version == "2.0":
        golds = [gold for gold in golds if gold] or [""]
    ours = normalize(prediction)
    return (
        float(max((ours == gold for gold in golds), default=0.0)),
        max((f1(ours.split(), gold.split(), version) for gold in golds), default=0.0),
    )


def f1(ours: Sequence[str], theirs: Sequence[str], version: str) -> float:
    """Harmonic mean of precision and recall of words."""
    if version == "2.0" and not (ours and theirs):
        return float(list(ours) == list(theirs))
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def best_threshold(
    scores: np.ndarray, probabilities: np.ndarray, has_answer: np.ndarray, answered: np.ndarray
) -> tuple[float, float]:
    """The best mean score that a threshold can give, 0..100, and that threshold.

    Whatever has a larger probability of no answer than the threshold counts as "no answer". As in the official
    evaluation, questions are admitted one after the other in the order of their probabilities, those of equal
    probability, too, and the threshold starts at 0.

    Args:
        scores: float (questions,), 0..1, of the predictions without any threshold.
        probabilities: float (questions,), that there is no answer.
        has_answer: bool (questions,), whether there is one.
        answered: bool (questions,), whether the prediction is not empty.
    """
    order = np.argsort(probabilities, kind="stable")
    gains = np.where(has_answer, scores, -answered.astype(float))[order]
    totals = np.concatenate([[0.0], np.cumsum(gains)]) + (~has_answer).sum()
    best = int(totals.argmax())
    return 100 * float(totals[best]) / len(scores), float(probabilities[order[best - 1]]) if best else 0.0


def share(parts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """In percent; nan of nothing, as a resample may hold no question without an answer."""
    return 100 * np.divide(parts, of, out=np.full(parts.shape, np.nan), where=of > 0)


class SquadScores(NamedTuple):
    """Scores, and the thresholds that ``best_exact`` and ``best_f1`` need (by metric; none without probabilities)."""

    scores: Scores
    thresholds: dict[str, float]


def score_squad(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    version: str,
    probabilities: Optional[Mapping[str, float]] = None,
    threshold: float = 1.0,
    bootstrap: Bootstrap = DEFAULT,
) -> SquadScores:
    """Score predictions, all of which are needed.

    Args:
        predictions: id -> answer, empty for "no answer".
        references: id -> reference answers, none for a question that has no answer.
        version: "1.1" or "2.0".
        probabilities: id -> probability that there is no answer; version 2.0 only, or None.
        threshold: what has a larger probability counts as "no answer", whatever was predicted.
        bootstrap: how intervals are drawn.

    Returns:
        ``exact`` and ``f1``; for version 2.0 ``HasAns_exact``, ``HasAns_f1``, ``NoAns_exact`` and ``NoAns_f1`` where
        there are such questions; with *probabilities*, ``best_exact`` and ``best_f1``.

    Raises:
        PMLMError: nothing to score; predictions or probabilities are missing, naming an id.
    """
    if not references:
        raise PMLMError("nothing to score: there are no questions")
    for what, given in (("prediction", predictions), ("probability of no answer", probabilities)):
        missing = [] if given is None else [number for number in references if number not in given]
        if missing:
            raise PMLMError(
                f"{len(missing):,} of {len(references):,} questions have no {what}; the first: {missing[0]}"
            )
    ids = list(references)
    has = np.array([bool(references[number]) for number in ids])
    values = np.array([exact_and_f1(predictions[number], references[number], version) for number in ids])
    best, thresholds = {}, {}
    if version == "2.0" and probabilities is not None:
        nulls = np.array([float(probabilities[number]) for number in ids])
        answered = np.array([predictions[number] != "" for number in ids])
        for column, name in enumerate(("exact", "f1")):
            score, thresholds[name] = best_threshold(values[:, column], nulls, has, answered)
            best[f"best_{name}"] = Score(score)
        values[nulls > threshold] = (~has[nulls > threshold]).astype(float)[:, None]

    parts = {"": np.ones(len(ids), bool)}
    if version == "2.0":
        parts |= {name: part for name, part in (("HasAns_", has), ("NoAns_", ~has)) if part.any()}
    columns: list[np.ndarray] = []
    functions = {}
    for prefix, part in parts.items():
        for column, name in enumerate(("exact", "f1")):
            total = len(columns)
            columns += [values[:, column] * part, part]
            functions[prefix + name] = lambda sums, at=total: share(sums[:, at], sums[:, at + 1])
    found, samples = corpus_scores(np.stack(columns, axis=1), functions, bootstrap)
    pairs = {"version": version, "multiref": "max"}
    if version == "2.0" and probabilities is not None:
        pairs["threshold"] = f"{threshold:g}"
    scores = Scores(
        found | best,
        sign("squad", pairs, bootstrap, {}),
        {"exact": 100 * values[:, 0], "f1": 100 * values[:, 1]},
        len(ids),
        count_empty([predictions[number] for number in ids]),
        bootstrap.confidence,
        samples,
    )
    return SquadScores(scores, thresholds)
