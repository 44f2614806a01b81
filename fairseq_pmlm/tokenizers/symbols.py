"""The symbols of a dictionary: special ones, reserved spellings, and a symbol of its own for every piece."""

import re
from collections import Counter
from typing import Iterable, Optional

from ..utils.io import write_text

UNK = "<unk>"
FAIRSEQ_SYMBOLS = ("<s>", "<pad>", "</s>", UNK)  # fairseq's Dictionary puts these first by itself
EXTRA_SYMBOLS = ("<mask>", "<pseudo>")  # ours come last
SPECIAL = frozenset(FAIRSEQ_SYMBOLS + EXTRA_SYMBOLS)
OVERWRITE = "#fairseq:overwrite"  # at the end of a line of dict.txt: an earlier line may have the symbol, too
# What fairseq or an imported vocabulary gives a meaning to; a dictionary must not spell a piece like this.
RESERVED = SPECIAL | {"<<unk>>", "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", OVERWRITE}
MADE_UP = re.compile(r"madeupword\d+")  # fairseq pads dictionaries with these
WHITE = re.compile(r"\s")


def name_pieces(pieces: Iterable[Optional[str]]) -> list[Optional[str]]:
    """Dictionary symbols for a tokenizer's pieces, each of them unique; None stays None: it has no symbol of its own.

    A piece is its own symbol. White space in it is spelled out (``<U+3000>``), and ``_`` is appended to what would be
    reserved or taken; of pieces that are spelled alike, the last one keeps the name. Ordinary pieces come first, so
    that the odd ones never take a name from them.
    """
    pieces = list(pieces)
    table: list[Optional[str]] = [None] * len(pieces)
    taken = set(RESERVED)
    odd = []
    for i, piece in reversed(list(enumerate(pieces))):
        if piece is None:
            continue
        if not piece or piece in taken or MADE_UP.fullmatch(piece) or WHITE.search(piece):
            odd.append((i, piece))
        else:
            table[i] = piece
            taken.add(piece)
    for i, piece in reversed(odd):
        symbol = WHITE.sub(lambda match: f"<U+{ord(match.group()):04X}>", piece) or "<empty>"
        while symbol in taken or MADE_UP.fullmatch(symbol):
            symbol += "_"
        table[i] = symbol
        taken.add(symbol)
    return table


def all_symbols(symbols: Iterable[str]) -> list[str]:
    """The symbols, in order, of a dictionary whose file :func:`write_dictionary` has written for *symbols*."""
    return [*FAIRSEQ_SYMBOLS, *symbols, *EXTRA_SYMBOLS]


def write_dictionary(path: str, symbols: Iterable[str], counts: Optional[Counter] = None) -> None:
    """Write fairseq's ``dict.txt``: *symbols*, then ``<mask>`` and ``<pseudo>``, each with its count (1 if unknown).

    ``<s> <pad> </s> <unk>`` are left to fairseq, which puts them at 0 to 3. The file appears complete or not at all.
    """
    lines = (f"{symbol} {1 if counts is None else counts[symbol]}\n" for symbol in (*symbols, *EXTRA_SYMBOLS))
    write_text(path, "".join(lines))
