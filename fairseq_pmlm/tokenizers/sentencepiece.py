"""sentencepiece as a fairseq bpe that text cannot break out of: ``--bpe pmlm_sentencepiece``.

fairseq's own ``sentencepiece`` writes pieces as they are and looks them up in the dictionary by name. Two things go
wrong. A text that spells ``</s>`` or ``<mask>`` becomes the special symbol wherever the model knows that piece, or
does not know it and passes it on. And fairseq splits encoded text at Unicode white space, so that a piece with U+3000
or U+00A0 in it falls apart. Here every piece has a symbol of its own, by a table from piece ids to symbols
(:func:`symbol_table`), and no symbol is special or holds white space.
"""

import contextlib
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Iterable, Optional

import numpy as np
import sentencepiece
from fairseq.data.encoders import BPE_REGISTRY, register_bpe
from fairseq.dataclass import FairseqDataclass
from omegaconf.errors import MissingMandatoryValue

from ..utils.errors import PMLMError, describe
from ..utils.io import clean_line, write_text
from .offsets import extents

SPACE = "\u2581"  # how sentencepiece spells a space
UNK = "<unk>"
FAIRSEQ_SYMBOLS = ("<s>", "<pad>", "</s>", UNK)  # fairseq's Dictionary puts these first by itself
EXTRA_SYMBOLS = ("<mask>", "<pseudo>")  # ours come last
SPECIAL = frozenset(FAIRSEQ_SYMBOLS + EXTRA_SYMBOLS)
# What fairseq or an imported vocabulary gives a meaning to; no piece may be spelled like this in a dictionary.
RESERVED = SPECIAL | {"<<unk>>", "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "#fairseq:overwrite"}
MADE_UP = re.compile(r"madeupword\d+")  # fairseq pads dictionaries with these
BRACKETED = re.compile(r"[<\[].*[>\]]", re.DOTALL)
WHITE = re.compile(r"\s")


def load_model(path: str) -> sentencepiece.SentencePieceProcessor:
    """Load a sentencepiece model.

    Raises:
        PMLMError: the file is missing or is not a sentencepiece model.
    """
    if not os.path.isfile(path):
        raise PMLMError(f"no such sentencepiece model: {path}")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except Exception as error:  # RuntimeError, OSError: it depends on the version
        raise PMLMError(f"{path} is not a sentencepiece model ({describe(error)})") from None


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
            odd.append(i)
        else:
            table[i] = piece
            taken.add(piece)
    for i in reversed(odd):
        symbol = WHITE.sub(lambda match: f"<U+{ord(match.group()):04X}>", pieces[i]) or "<empty>"
        while symbol in taken or MADE_UP.fullmatch(symbol):
            symbol += "_"
        table[i] = symbol
        taken.add(symbol)
    return table


def symbol_table(model: sentencepiece.SentencePieceProcessor) -> list[Optional[str]]:
    """Dictionary symbol of every piece id; None for control and unknown pieces, which have none."""
    ids = range(model.GetPieceSize())
    return name_pieces(None if model.IsControl(i) or model.IsUnknown(i) else model.IdToPiece(i) for i in ids)


def symbols(model_path: str) -> list[str]:
    """The dictionary's types for a sentencepiece model, in the order of their ids.

    Raises:
        PMLMError: see :func:`load_model`.
    """
    return [symbol for symbol in symbol_table(load_model(model_path)) if symbol is not None]


def write_dictionary(path: str, symbols: Iterable[str], counts: Optional[Counter] = None) -> None:
    """Write fairseq's ``dict.txt``: *symbols*, then ``<mask>`` and ``<pseudo>``, each with its count (1 if unknown).

    ``<s> <pad> </s> <unk>`` are left to fairseq, which puts them at 0 to 3. The file appears complete or not at all.
    """
    lines = (f"{symbol} {1 if counts is None else counts[symbol]}\n" for symbol in (*symbols, *EXTRA_SYMBOLS))
    write_text(path, "".join(lines))


def all_symbols(symbols: Iterable[str]) -> list[str]:
    """What a dictionary holds, in its order, whose file :func:`write_dictionary` has written for *symbols*."""
    return [*FAIRSEQ_SYMBOLS, *symbols, *EXTRA_SYMBOLS]


def option(cfg, name: str, bpe: str) -> str:
    """The file that *cfg* gives for the option *name* of ``--bpe`` *bpe*.

    Raises:
        PMLMError: it gives none.
    """
    path = None
    with contextlib.suppress(MissingMandatoryValue):
        path = getattr(cfg, name)
    if not path or path == "???":
        raise PMLMError(f"--bpe {bpe} needs --{name.replace('_', '-')} FILE")
    return path


@dataclass
class PMLMSentencepieceConfig(FairseqDataclass):
    """Options of ``--bpe pmlm_sentencepiece``."""

    sentencepiece_model: str = field(
        default="???",
        metadata={
            "help": "sentencepiece model file that cuts text into pieces; the prepare scripts write it as "
            "sentencepiece.model beside dict.txt"
        },
    )


class PMLMSentencepiece:
    """Text to dictionary symbols and back; see the module's docstring.

    Raises:
        PMLMError: the model file is missing or broken.
    """

    def __init__(self, cfg):
        self.model = load_model(option(cfg, "sentencepiece_model", "pmlm_sentencepiece"))
        self.unk = self.model.unk_id()
        table = symbol_table(self.model)
        self.symbols = [UNK if symbol is None else symbol for symbol in table]
        self.pieces = {symbol: self.model.IdToPiece(i) for i, symbol in enumerate(table) if symbol is not None}

    def encode(self, x: str) -> str:
        """Symbols separated by spaces. Never a special one, whatever *x* spells; ``<unk>`` or its own surface for a
        character that the model does not know."""
        x = clean_line(x)  # what training text went through
        ids = self.model.EncodeAsIds(x)
        if self.unk not in ids:
            return " ".join([self.symbols[i] for i in ids])
        pieces = self.model.EncodeAsPieces(x)
        return " ".join(
            self._unknown(piece) if i == self.unk else self.symbols[i] for i, piece in zip(ids, pieces, strict=True)
        )

    def number(self, lines: list[str]) -> list[list[int]]:
        """What :meth:`encode` writes for lines that are clean already, as places in ``symbols``."""
        return self.model.Encode(lines, out_type=int, num_threads=1)

    def encode_with_extents(self, x: str) -> tuple[list[str], np.ndarray]:
        """The symbols of :meth:`encode`, and where each stands in *x*; see :func:`offsets.extents`."""
        clean = clean_line(x)
        if hasattr(self.model, "EncodeAsOffsetMapping"):  # sentencepiece 0.2.2 and later
            found = self.model.EncodeAsOffsetMapping(clean)
            pieces, spans = found["pieces"], found["offsets"]
        else:
            found = self.model.EncodeAsImmutableProto(clean).pieces
            pieces, spans = [piece.piece for piece in found], [(piece.begin, piece.end) for piece in found]
        return self.encode(x).split(), extents(x, spans, [not piece.strip(SPACE) for piece in pieces])

    def _unknown(self, surface: str) -> str:
        """An unknown surface is passed on, for fairseq to count as replaced, unless something could know it."""
        collides = surface in self.pieces or surface in RESERVED or MADE_UP.fullmatch(surface)
        return UNK if collides or BRACKETED.fullmatch(surface) or WHITE.search(surface) else surface

    def decode(self, x: str) -> str:
        """Text from symbols separated by spaces. Special symbols stay as they are spelled.

        Text that fairseq has already put together (``--post-process sentencepiece``) is returned unchanged, unless all
        of its words are pieces of the model.
        """
        tokens = x.split()
        encoded = all(token in self.pieces or token in SPECIAL for token in tokens)
        if SPACE not in x and not encoded:
            return x
        # sentencepiece passes on what it does not know, but not its own unknown and control pieces: these hide
        # behind a mark for the time being.
        joined, number = "".join(tokens), 0
        while f"\ue000{number}\ue001" in joined:
            number += 1
        mark, hidden, pieces = f"\ue000{number}\ue001", [], []
        for token in tokens:
            piece = self.pieces.get(token)
            if piece is None:
                i = self.model.PieceToId(token)
                if self.model.IdToPiece(i) == token and (self.model.IsUnknown(i) or self.model.IsControl(i)):
                    hidden.append(token)
                    piece = mark
                else:
                    piece = token.replace(SPACE, " ")
            pieces.append(piece)
        first, *others = self.model.DecodePieces(pieces).split(mark)
        return (first + "".join(token + text for token, text in zip(hidden, others, strict=True))).strip(" ")

    def is_beginning_of_word(self, x: str) -> bool:
        """Whether a dictionary symbol starts a word, for whole-word masking; special symbols always do."""
        return x in SPECIAL or x.startswith(SPACE)


if "pmlm_sentencepiece" not in BPE_REGISTRY:  # the package may be imported under a second name
    register_bpe("pmlm_sentencepiece", dataclass=PMLMSentencepieceConfig)(PMLMSentencepiece)
