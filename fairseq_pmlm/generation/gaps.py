"""Gaps in a text: ``<mask>`` for one token, ``<mask:3>`` for three; and the order in which they are to be filled."""

import re
from collections.abc import Sequence

import numpy as np

from ..data.masking import Mask
from ..model.pmlm import Symbols
from ..tokenizers.base import Tokenizer
from ..tokenizers.symbols import UNK
from ..utils.errors import PMLMError

GAP = re.compile(r"<mask(:[^>]*)?>")
# Takes the place of a gap while the text around it is cut into pieces, so that these are the same as in any text: a
# character that is a word of its own for WordPiece, and that no other tokenizer has learned to join to its neighbours.
STAND_IN = "\U0002a6d6"
ORDERS = ("left-to-right", "right-to-left", "random")
UNITS = ("token", "span", "all")


def cut(text: str, where: str) -> tuple[list[str], list[int]]:
    """The parts of *text* around its gaps, one more than there are gaps, and how many tokens each gap holds.

    Gaps with nothing but white space between them are one.

    Raises:
        PMLMError: the text has no gap, or an empty one; *where* (file, line) starts the message.
    """
    parts: list[str] = []
    sizes: list[int] = []
    end = 0
    for match in GAP.finditer(text):
        number = (match[1] or ":1")[1:]
        if not number.isascii() or not number.isdigit() or len(number) > 9 or not 1 <= int(number) <= 1000:
            raise PMLMError(
                f"{where}: {match[0]:.40} is not a gap; write <mask> for one token, or <mask:N> for 1 to 1000"
            )
        between = text[end : match.start()]
        if sizes and not between.strip():
            sizes[-1] += int(number)
        else:
            parts.append(between)
            sizes.append(int(number))
        end = match.end()
    if not sizes:
        raise PMLMError(f"{where}: no gap; write <mask> where a token is missing, or <mask:N> for N tokens")
    return [*parts, text[end:]], sizes


def encode(text: str, bpe: Tokenizer, dictionary: Symbols, where: str) -> tuple[np.ndarray, list[range]]:
    """A text with gaps as ``<s> ... </s>``, and the positions of each gap.

    Args:
        text: with gaps, as :func:`cut` reads them.
        bpe: the tokenizer.
        dictionary: of the model.
        where: file and line.

    Returns:
        int64 (tokens,), with <mask> in the gaps; and a range of positions for each gap.

    Raises:
        PMLMError: see :func:`cut`.
    """
    parts, sizes = cut(text, where)
    starts = (np.cumsum([len(part) for part in parts[:-1]]) + np.arange(len(sizes))).tolist()
    symbols, extents = bpe.encode_with_offsets(STAND_IN.join(parts))
    tokens, blank = ["<s>"], False
    gaps: list[range] = []
    for symbol, (begin, end) in zip(symbols, extents.tolist(), strict=True):
        inside = [gap for gap, start in enumerate(starts) if begin <= start < end]
        if not inside:
            tokens.append(symbol)
        elif blank and starts[inside[0]] == begin:
            tokens.pop()  # the space before a gap is a matter of what fills it
        for gap in inside:
            if gap == len(gaps):  # else one more piece of the same stand-in
                if starts[gap] > begin:  # characters that the tokenizer does not know, joined to one piece
                    tokens.append(UNK)
                gaps.append(range(len(tokens), len(tokens) + sizes[gap]))
                tokens += ["<mask>"] * sizes[gap]
            begin = starts[gap] + 1
        if inside and begin < end:
            tokens.append(UNK)
        blank = begin == end and not inside
    if len(gaps) < len(sizes):
        raise PMLMError(f"{where}: the tokenizer drops the character U+{ord(STAND_IN):X}, which marks the gaps")
    return to_ids([*tokens, "</s>"], dictionary), gaps


def encode_filled(
    text: str, fillers: Sequence[str], bpe: Tokenizer, dictionary: Symbols, where: str
) -> tuple[np.ndarray, list[range]]:
    """A text whose gaps are filled as ``<s> ... </s>``, and the positions of the tokens in each gap.

    Args:
        text: with gaps, as :func:`cut` reads them; their numbers of tokens are ignored.
        fillers: the text of each gap.
        bpe, dictionary, where: as for :func:`encode`.

    Raises:
        PMLMError: there are not as many fillers as gaps; one of them has no token, or shares one with its surroundings.
    """
    parts, sizes = cut(text, where)
    if len(fillers) != len(sizes):
        raise PMLMError(f"{where}: {len(sizes)} gaps, and {len(fillers)} spans to fill them with")
    whole, bounds = parts[0], []
    for filler, part in zip(fillers, parts[1:], strict=True):
        bounds.append((len(whole), len(whole) + len(filler)))
        whole += filler + part
    symbols, extents = bpe.encode_with_offsets(whole)
    begins, ends = extents[:, 0], extents[:, 1]
    found = []
    for filler, (start, stop) in zip(fillers, bounds, strict=True):
        inside = np.flatnonzero((begins < stop) & (ends > start) & (begins < ends))
        if not len(inside):
            raise PMLMError(f"{where}: the span {filler!r} holds no token")
        for i in inside[[0, -1]]:
            if begins[i] < start or ends[i] > stop:
                raise PMLMError(
                    f"{where}: the span {filler!r} shares the token {symbols[i]!r} with the text next to it; let "
                    "spans begin and end where tokens do"
                )
        first = inside[0]
        if first and begins[first - 1] == ends[first - 1] and whole[start - 1 : start].isspace():
            first -= 1  # the space before it is a piece of its own, and the span's, as in encode()
        found.append(range(int(first) + 1, int(inside[-1]) + 2))
    return to_ids(["<s>", *symbols, "</s>"], dictionary), found


def to_ids(symbols: Sequence[str], dictionary: Symbols) -> np.ndarray:
    """int64 (symbols,)"""
    return np.array([dictionary.index(symbol) for symbol in symbols], np.int64)


def factorize(gaps: Sequence[range], unit: str, order: str, rng: np.random.Generator) -> Mask:
    """The positions of all gaps in a factorization order.

    Args:
        gaps: positions of each.
        unit: what one step predicts: a ``token``, a ``span``, or ``all`` at once.
        order: of the steps, one of :data:`ORDERS`.
        rng: for ``random``.
    """
    places = [place for gap in gaps for place in gap]
    steps = {"token": [[place] for place in places], "span": [list(gap) for gap in gaps], "all": [places]}[unit]
    if order == "right-to-left":
        steps.reverse()
    elif order == "random":
        steps = [steps[i] for i in rng.permutation(len(steps))]
    return to_mask(steps)


def read_order(line: str, gaps: Sequence[range], where: str) -> Mask:
    """A given order: the masked tokens of a text by number, from 1; those of one step joined by commas.

    ``2 1,3``: the second token first, then the first and the third at once.

    Raises:
        PMLMError: the line does not give each token exactly one step.
    """
    places = [place for gap in gaps for place in gap]
    try:
        steps = [[int(number) for number in step.split(",")] for step in line.split()]
    except ValueError:
        steps = []
    if sorted(number for step in steps for number in step) != list(range(1, len(places) + 1)):
        raise PMLMError(
            f"{where}: {line!r} is not an order of {len(places)} tokens; give each of the numbers 1 to {len(places)} "
            "once, with commas between those of one step and spaces between steps"
        )
    return to_mask([[places[number - 1] for number in step] for step in steps])


def to_mask(steps: Sequence[Sequence[int]]) -> Mask:
    """The mask whose steps predict these positions."""
    numbers = np.repeat(np.arange(1, len(steps) + 1), [len(step) for step in steps])
    return Mask(np.array([place for step in steps for place in step], np.int64), numbers)
