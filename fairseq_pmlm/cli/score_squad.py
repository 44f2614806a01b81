"""The part of ``pmlm score`` that scores answers to SQuAD's questions."""

import math

from ..scoring.base import Bootstrap, Scores
from ..scoring.squad import score_squad
from ..squad.reader import SquadFile
from ..utils.errors import PMLMError
from ..utils.io import Counts, kind, read_json


def score_answers(
    predictions_path: str, references_path: str, na_probs: str | None, threshold: float | None, bootstrap: Bootstrap
) -> tuple[Scores, list[str]]:
    """Scores, and notes on them.

    Args:
        predictions_path: JSON object, id -> text.
        references_path: SQuAD's JSON.
        na_probs: JSON object, id -> probability of no answer; for version 2.0 alone.
        threshold: of these probabilities (default: 1, at which predictions stand as they are).
        bootstrap: how intervals are computed.

    Raises:
        PMLMError: a file holds something else, or lacks a question.
    """
    file = SquadFile(references_path, Counts())
    if na_probs and file.version != "2.0":
        raise PMLMError(f"--na-probs: {references_path} is of version {file.version}, where all questions have answers")
    references = {q.id: [a.text for a in q.answers] for paragraph in file.paragraphs() for q in paragraph.questions}
    predictions = read_values(predictions_path, str)
    probabilities = read_values(na_probs, float) if na_probs else None
    used = 1.0 if threshold is None else threshold
    scores, thresholds = score_squad(predictions, references, file.version, probabilities, used, bootstrap)
    notes = [f"best threshold for {name}: {value:.6g}" for name, value in thresholds.items()]
    strangers = len(predictions.keys() - references.keys())
    if strangers:
        notes.append(f"{strangers:,} predictions are for no question of {references_path}")
    return scores, notes


def read_values(path: str, wanted: type) -> dict:
    """The JSON object in a file, all of whose values are of type *wanted*; raises PMLMError naming the first other."""
    content = read_json(path)
    for number, found in content.items():
        numeric = wanted is float and isinstance(found, (int, float)) and not isinstance(found, bool)
        if numeric and not math.isfinite(found):
            raise PMLMError(f"{path}, id {number}: expected a number, found {found}")
        if not numeric and not isinstance(found, wanted):
            raise PMLMError(
                f"{path}, id {number}: expected {'a number' if wanted is float else 'text'}, found {kind(found)}"
            )
    return content
