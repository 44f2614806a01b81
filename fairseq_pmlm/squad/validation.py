"""Exact match and F1 over a whole validation set, whose windows come in batches of any order, in any process."""

import numpy as np

from ..scoring.squad import EVEN, best_threshold
from .spans import no_answer_probability


class Judged(int):
    """A number of windows, which carries what ``SquadDataset.judge`` says of them.

    It travels as a logging output; fairseq-validate shows those to the user, and only knows how to show numbers.
    """

    rows: np.ndarray

    @classmethod
    def of(cls, rows: list[tuple[float, ...]]) -> "Judged":
        judged = cls(len(rows))
        judged.rows = np.array(rows, np.float64).reshape(-1, 6)
        return judged


def summarize(rows: np.ndarray, version: str) -> dict[str, float]:
    """Metrics over questions, 0..100.

    ``exact`` and ``f1`` of the best span of all windows of a question; for version 2.0, "no answer" where <s> has a
    larger score, and ``best_exact`` and ``best_f1`` with the best threshold instead.

    Args:
        rows: float64 (windows, 6), see :meth:`~fairseq_pmlm.squad.dataset.SquadDataset.judge`.
        version: "1.1" or "2.0".
    """
    question, best, null, exact, f1, has = rows.T
    order = np.lexsort((-best, question))  # the best window of each question first
    first = np.concatenate([[True], np.diff(question[order]) > 0])
    chosen = order[first]
    exact, f1, has, best = exact[chosen], f1[chosen], has[chosen].astype(bool), best[chosen]
    null = np.minimum.reduceat(null[order], np.flatnonzero(first))
    if version != "2.0":
        return {"exact": 100 * exact.mean(), "f1": 100 * f1.mean()}
    probabilities = np.array([no_answer_probability(*pair) for pair in zip(null, best, strict=True)])
    answered = np.isfinite(best)
    scores = {}
    for name, values in (("exact", exact), ("f1", f1)):
        scores[name] = 100 * np.where(probabilities > EVEN, ~has, values).mean()
        scores[f"best_{name}"] = best_threshold(values, probabilities, has, answered)[0]
    return scores
