"""sentencepiece, so that text cannot break out of it.

fairseq's own ``sentencepiece`` writes pieces as they are and looks them up in the dictionary by name. Two things go
wrong. A text that spells ``</s>`` or ``<mask>`` becomes the special symbol wherever the model knows that piece, or
does not know it and passes it on. And fairseq splits encoded text at Unicode white space, so that a piece with U+3000
or U+00A0 in it falls apart. Here every piece has a symbol of its own, by a table from piece ids to symbols
(:func:`symbol_table`), and no symbol is special or holds white space.
"""

import os
import re
from typing import Optional, Self

import numpy as np
import sentencepiece

from ..utils.errors import PMLMError, describe
from ..utils.io import clean_line
from .base import Tokenizer
from .offsets import original_offsets
from .symbols import MADE_UP, RESERVED, SPECIAL, UNK, WHITE, name_pieces

SPACE = "\u2581"  # how sentencepiece spells a space
BRACKETED = re.compile(r"[<\[].*[>\]]", re.DOTALL)


def symbol_table(model: sentencepiece.SentencePieceProcessor) -> list[Optional[str]]:
    """Dictionary symbol of every piece id; None for control and unknown pieces, which have none."""
    ids = range(model.GetPieceSize())
    return name_pieces(None if model.IsControl(i) or model.IsUnknown(i) else model.IdToPiece(i) for i in ids)


class SentencePiece(Tokenizer):
    """Text to dictionary symbols and back; see the module's docstring.

    Args:
        model: as the library has read it.
        content: of its file.
    """

    name = "pmlm_sentencepiece"
    file_name = "sentencepiece.model"

    def __init__(self, model: sentencepiece.SentencePieceProcessor, content: bytes):
        pieces = [model.IdToPiece(i) for i in range(model.GetPieceSize())]
        super().__init__(content, pieces, symbol_table(model))
        self.model = model
        self.unk = model.unk_id()

    @classmethod
    def load(cls, path: str) -> Self:
        if not os.path.isfile(path):
            raise PMLMError(f"no such sentencepiece model: {path}")
        return super().load(path)

    @classmethod
    def parse(cls, content: bytes, path: str) -> Self:
        model = sentencepiece.SentencePieceProcessor()
        try:
            model.LoadFromSerializedProto(content)
        except Exception as error:  # RuntimeError, OSError: it depends on the version
            raise PMLMError(f"{path} is not a sentencepiece model ({describe(error)})") from None
        return cls(model, content)

    def encode(self, text: str) -> str:
        """Symbols separated by spaces. Never a special one, whatever *text* spells; ``<unk>`` or its own surface for a
        character that the model does not know."""
        text = clean_line(text)  # what training text went through
        ids = self.model.EncodeAsIds(text)
        if self.unk not in ids:
            return " ".join([self.id_to_symbol[i] for i in ids])
        pieces = self.model.EncodeAsPieces(text)
        return " ".join(
            self._unknown(piece) if i == self.unk else self.id_to_symbol[i]
            for i, piece in zip(ids, pieces, strict=True)
        )

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        return self.model.Encode(lines, out_type=int, num_threads=1)

    def encode_with_offsets(self, text: str) -> tuple[list[str], np.ndarray]:
        clean = clean_line(text)
        if hasattr(self.model, "EncodeAsOffsetMapping"):  # sentencepiece 0.2.2 and later
            found = self.model.EncodeAsOffsetMapping(clean)
            pieces, spans = found["pieces"], found["offsets"]
        else:
            found = self.model.EncodeAsImmutableProto(clean).pieces  # type: ignore[attr-defined]  # not in new stubs
            pieces, spans = [piece.piece for piece in found], [(piece.begin, piece.end) for piece in found]
        return self.encode(text).split(), original_offsets(text, spans, [not piece.strip(SPACE) for piece in pieces])

    def _unknown(self, surface: str) -> str:
        """An unknown surface is passed on, for fairseq to count as replaced, unless something could know it."""
        collides = surface in self.pieces or surface in RESERVED or MADE_UP.fullmatch(surface)
        return UNK if collides or BRACKETED.fullmatch(surface) or WHITE.search(surface) else surface

    def decode(self, symbols: str) -> str:
        """Text from symbols separated by spaces. Special symbols stay as they are spelled.

        Text that fairseq has already put together (``--post-process sentencepiece``) is returned unchanged, unless all
        of its words are pieces of the model.
        """
        tokens = symbols.split()
        encoded = all(token in self.pieces or token in SPECIAL for token in tokens)
        if SPACE not in symbols and not encoded:
            return symbols
        # sentencepiece passes on what it does not know, but not its own unknown and control pieces: a mark takes their
        # place meanwhile.
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

    def is_beginning_of_word(self, symbol: str) -> bool:
        return symbol in SPECIAL or symbol.startswith(SPACE)
