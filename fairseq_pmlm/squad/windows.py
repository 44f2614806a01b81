"""Windows over passages, and answers in their slots: numpy in, numpy out.

A window is ``<s> question </s> passage </s>`` with as much of the passage as fits. Long passages make several, whose
parts of the passage start ``doc_stride`` pieces after each other, as BERT's do.
"""

import argparse
from typing import NamedTuple, Optional

import numpy as np

from ..scoring.squad import normalize
from ..utils.errors import PMLMError
from .reader import Answer

NO_ANSWER = 0  # the slot of <s>
UNKNOWN = -1  # the answer is not known in pieces: no target


class Limits(NamedTuple):
    """Sizes in tokens."""

    max_source_positions: int = 384  # of a window, with <s> and both </s>
    doc_stride: int = 128
    max_question_positions: int = 64  # longer questions are cut to their head


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for :class:`Limits`; the defaults are those that the field has had since BERT."""
    texts = {
        "max_source_positions": "longest window in tokens, with <s>, the question and two </s>",
        "doc_stride": "tokens of the passage from the start of one window to that of the next",
        "max_question_positions": "longest question in tokens; of a longer one the head is kept, and counted",
    }
    for name, text in texts.items():
        option, default = "--" + name.replace("_", "-"), Limits._field_defaults[name]
        parser.add_argument(option, type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")


def check(limits: Limits) -> None:
    """Refuse limits under which a part of a passage would be in no window.

    Raises:
        PMLMError: naming the options.
    """
    size, stride, question = limits
    if question < 1 or stride < 1:
        name, n = ("--max-question-positions", question) if question < 1 else ("--doc-stride", stride)
        raise PMLMError(f"{name} {n}: expected 1 or more")
    room = size - question - 3
    if stride > room:
        raise PMLMError(
            f"--doc-stride {stride} is more than what a window of --max-source-positions {size} holds of a passage "
            f"beside a question of --max-question-positions {question}, {room} tokens: the rest would never be read"
        )


def cut(pieces: int, room: int, stride: int) -> list[tuple[int, int]]:
    """First piece and number of pieces of each window over a passage.

    Args:
        pieces: length of the passage.
        room: most pieces of a window.
        stride: pieces from the start of a window to the start of the next, at most *room*.
    """
    count = 1 + max(0, -(-(pieces - room) // stride))
    return [(i * stride, min(room, pieces - i * stride)) for i in range(count)]


def find_answer(passage: str, extents: np.ndarray, answer: Answer) -> Optional[tuple[int, int]]:
    """First and last piece of an answer, or None where no run of pieces spells it.

    What the pieces spell may differ from the answer in what scoring does not see: case, articles, punctuation at its
    ends, white space.

    Args:
        passage: the text as it is.
        extents: int32 (pieces, 2), see :func:`fairseq_pmlm.tokenizers.offsets.original_offsets`.
        answer: stands in *passage* where it says.
    """
    begin, end = answer.start, answer.start + len(answer.text)
    # of pieces that share a character, the first begins a span and the last ends it
    inside = np.flatnonzero((extents[:, 0] < end) & (extents[:, 1] > begin) & (extents[:, 0] < extents[:, 1]))
    if not len(inside):
        return None
    first, last = int(inside[0]), int(inside[-1])
    return (first, last) if same(passage[extents[first, 0] : extents[last, 1]], answer.text) else None


def same(ours: str, theirs: str) -> bool:
    """Whether two texts are the same answer; where scoring would see nothing of either, they must be equal."""
    ours, theirs = ours.strip(), theirs.strip()
    return ours == theirs or (normalize(ours) == normalize(theirs) != "")


def in_window(span: Optional[tuple[int, int]], first: int, length: int, offset: int) -> tuple[int, int]:
    """Slots of an answer in a window; the slot of <s>, twice, where it does not hold the answer, or not all of it.

    Args:
        span: first and last piece of the answer in the passage; None if there is none.
        first, length: the window.
        offset: slot of its first piece.
    """
    if span is None or span[0] < first or span[1] >= first + length:
        return NO_ANSWER, NO_ANSWER
    return span[0] - first + offset, span[1] - first + offset
