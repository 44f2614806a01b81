"""A SQuAD file as part of a data-bin, and back.

DIR/valid.question.bin and valid.passage.bin (with .idx) hold pieces, one item a question or passage, without special
symbols; valid.extent.bin where each piece of a passage stands in its text (pairs of characters); valid.windows.npy the
windows, a row of :data:`COLUMNS` each; valid.questions.jsonl and valid.passages.jsonl the texts that predictions need.
valid.unmapped.txt lists the ids of answers that no run of pieces spells. DIR/squad.json says how all was made.
"""

import os
from typing import Any

import numpy as np

from ..utils.errors import PMLMError, describe, first_line
from ..utils.io import read_json, read_records
from . import windows

META = "squad.json"
AGAIN = "prepare the data again"
SIDES = ("question", "passage", "extent")
# question and passage: their numbers; first, length: pieces of the passage; start, end: slots of the answer, 0 for no
# answer (the slot of <s>), -1 where it is not known in pieces
COLUMNS = ("question", "passage", "first", "length", "start", "end")
OURS = (
    r"(train|valid|test)\.((question|passage|extent)\.(bin|idx)|windows\.npy|(questions|passages)\.jsonl"
    r"|unmapped\.txt)|squad\.json"
)


def read_meta(folder: str) -> tuple[str, windows.Limits, dict[str, Any]]:
    """Version, limits, and what is known of each part.

    Raises:
        PMLMError: there is no squad.json, or it is damaged.
    """
    path = os.path.join(folder, META)
    if not os.path.isfile(path):
        raise PMLMError(f"there is no {path}; prepare the data with pmlm prepare squad")
    content = read_json(path)
    try:
        version, limits, parts = content["version"], windows.Limits(**content["limits"]), content["parts"]
        if version not in ("1.1", "2.0") or not all(type(limit) is int for limit in limits):
            raise ValueError(f"version {version!r}, {limits}")
        if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
            raise TypeError("parts are no objects")
    except (KeyError, TypeError, ValueError) as error:
        raise PMLMError(f"{path} is damaged ({describe(error)}); {AGAIN}") from None
    return version, limits, parts


def read_windows(prefix: str, questions: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """The windows of a part, int64 (windows, 6).

    Args:
        prefix: DIR/PART.
        questions, passages: the pieces of each question and passage.

    Raises:
        PMLMError: the file is missing or damaged, or does not belong to these questions and passages.
    """
    path = f"{prefix}.windows.npy"
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses its header as Python
        raise PMLMError(f"{path} is missing or damaged ({first_line(error)}); {AGAIN}") from None
    fits = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.shape[1] == len(COLUMNS) and rows.dtype == np.int64
    if fits and len(rows):
        question, passage, first, length, start, end = rows.T
        fits = rows[:, :4].min() >= 0 and question.max() < len(questions) and passage.max() < len(passages)
    if fits and len(rows):
        offset = np.asarray(questions, np.int64)[question] + 2
        fits = (first <= np.asarray(passages, np.int64)[passage] - length).all()
        for slot in (start, end):  # any other has no score that a loss could be computed of
            special = (slot == windows.NO_ANSWER) | (slot == windows.UNKNOWN)
            fits = fits and (special | ((slot >= offset) & (slot < offset + length))).all()
    if not fits or not len(rows):
        raise PMLMError(f"{path} does not belong to the questions and passages beside it; {AGAIN}")
    return rows


class Texts:
    """Ids, passages and references of a part, for predictions.

    Raises:
        PMLMError: a file is missing or damaged, or does not belong to *questions* and *passages*.
    """

    def __init__(self, prefix: str, questions: int, passages: int):
        records = read_records(f"{prefix}.questions.jsonl", ("id", "answers"))
        rows = [values for _, values in records]
        self.ids: list[str] = [row[0] for row in rows]
        self.answers: list[list[str]] = [row[1] for row in rows]
        self.passages = [text for _, (text,) in read_records(f"{prefix}.passages.jsonl", ("passage",))]
        for row, (number, answers) in enumerate(rows, start=1):
            if not isinstance(answers, list) or not all(isinstance(text, str) for text in (number, *answers)):
                raise PMLMError(f"{prefix}.questions.jsonl, record {row}: id and answers are not text; {AGAIN}")
        for row, text in enumerate(self.passages, start=1):
            if not isinstance(text, str):
                raise PMLMError(f"{prefix}.passages.jsonl, record {row}: the passage is not text; {AGAIN}")
        if (len(self.ids), len(self.passages)) != (questions, passages):
            raise PMLMError(
                f"{prefix} has texts of {len(self.ids):,} questions and {len(self.passages):,} passages, but is of "
                f"{questions:,} and {passages:,}; {AGAIN}"
            )
