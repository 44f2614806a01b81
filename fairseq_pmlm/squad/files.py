"""A SQuAD file as part of a data-bin, and back.

DIR/valid.question.bin and valid.passage.bin (with .idx) hold pieces, one item a question or passage, without special
symbols; valid.extent.bin where each piece of a passage stands in its text (pairs of characters); valid.windows.npy the
windows, a row of :data:`COLUMNS` each; valid.questions.jsonl and valid.passages.jsonl the texts that predictions need.
valid.unmapped.txt lists the ids of answers that no run of pieces spells. DIR/squad.json says how all was made.
"""

import os
from typing import Any

import numpy as np

from ..errors import PMLMError, describe
from ..text import read_json, read_records
from . import windows

META = "squad.json"
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
        raise PMLMError(f"there is no {path}; prepare the data with scripts/prepare_squad.py")
    content = read_json(path)
    try:
        return str(content["version"]), windows.Limits(**content["limits"]), dict(content["parts"])
    except (KeyError, TypeError, ValueError) as error:
        raise PMLMError(f"{path} is damaged ({describe(error)}); prepare the data again") from None


def read_windows(prefix: str, questions: int, passages: int) -> np.ndarray:
    """The windows of a part, int64 (windows, 6).

    Raises:
        PMLMError: the file is missing or damaged, or does not belong to that many questions and passages.
    """
    path = f"{prefix}.windows.npy"
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PMLMError(f"{path} is missing or damaged ({describe(error)}); prepare the data again") from None
    fits = rows.ndim == 2 and rows.shape[1] == len(COLUMNS) and rows.dtype == np.int64 and len(rows)
    if not fits or rows.min() < windows.UNKNOWN or rows[:, 0].max() >= questions or rows[:, 1].max() >= passages:
        raise PMLMError(f"{path} does not belong to the questions and passages beside it; prepare the data again")
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
        if (len(self.ids), len(self.passages)) != (questions, passages):
            raise PMLMError(
                f"{prefix} has texts of {len(self.ids):,} questions and {len(self.passages):,} passages, but is of "
                f"{questions:,} and {passages:,}; prepare the data again"
            )
