"""Where the pieces of a text begin and end in it, for extractive question answering.

Every tokenizer of the package has ``encode_with_offsets``, which says for each symbol of ``encode`` which characters of
the original text it stands for. The libraries count in the text that they are given, after
:func:`~fairseq_pmlm.utils.io.clean_line`, each in its own way; this is what they share.
"""

from collections.abc import Sequence

import numpy as np

from ..utils.io import clean_line


def original_offsets(text: str, spans: Sequence[tuple[int, int]], blank: Sequence[bool]) -> np.ndarray:
    """Offsets in *text* of pieces that were cut from ``clean_line(text)``.

    White space at the ends of a piece does not belong to it. A character that makes several pieces (bytes, or what a
    normalization spells it out to) belongs to each of them.

    Args:
        text: the original text.
        spans: begin and end of each piece in ``clean_line(text)``.
        blank: which pieces are white space alone: they get no character, wherever a library puts them.

    Returns:
        int32 (pieces, 2), begin and end of each piece; equal for a piece without a character.
    """
    clean = clean_line(text)
    found = np.zeros((len(spans), 2), np.int32)
    for i, (begin, end) in enumerate(spans):
        while begin < end and clean[begin].isspace():
            begin += 1
        while begin < end and clean[end - 1].isspace():
            end -= 1
        found[i] = (end if blank[i] else begin), end
    for i in range(len(spans) - 2, -1, -1):  # sentencepiece gives a character to the last of its pieces
        if not blank[i] and spans[i][0] == spans[i][1] == found[i + 1, 0]:
            found[i] = found[i + 1]
    if len(clean) == len(text):
        return found
    # \r\n has become one space: where each character of the clean text stands in the original one
    kept = [i for i, c in enumerate(text) if not (c == "\n" and text[i - 1 : i] == "\r")]
    places = np.array([*kept, len(text)], np.int32)
    empty = found[:, 0] == found[:, 1]
    ends = np.where(empty, places[found[:, 0]], places[np.maximum(found[:, 1], 1) - 1] + 1)
    return np.stack([places[found[:, 0]], ends], axis=1)
