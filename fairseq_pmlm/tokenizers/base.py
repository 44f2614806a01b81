"""The interface that every tokenizer implements."""

import hashlib
import os
from abc import ABC, abstractmethod
from typing import ClassVar, Optional, Self, Sequence

import numpy as np

from ..utils.io import clean_line, read_bytes, write_bytes
from .symbols import SPECIAL, UNK


class Tokenizer(ABC):
    """Text to the symbols of a dictionary, and back.

    Every piece of the tokenizer has a symbol of its own, without white space in it, so that encoded text can be split
    at spaces. Text never becomes a special symbol, whatever it spells.

    A subclass hands what it has read from its file to the constructor: each file is opened once.

    Attributes:
        name: of the encoder that fairseq's ``--bpe`` chooses.
        file_name: of the tokenizer file in a data directory.
        content: of that file, as :meth:`save` writes it.
        table: the dictionary symbol of each piece id; None where a piece has none.
        id_to_symbol: what :meth:`encode` writes for each piece id; ``<unk>`` for pieces that text must not spell.
        pieces: ordinary symbol -> piece, in the order of the ids.

    Args:
        content: of the tokenizer file.
        pieces: as the tokenizer spells them, in the order of their ids.
        table: the dictionary symbol of each, see :func:`~fairseq_pmlm.tokenizers.symbols.name_pieces`.
    """

    name: ClassVar[str]
    file_name: ClassVar[str]

    def __init__(self, content: bytes, pieces: Sequence[str], table: Sequence[Optional[str]]):
        self.content = content
        self.table = list(table)
        ordinary = [None if symbol in SPECIAL else symbol for symbol in table]
        self.id_to_symbol = [UNK if symbol is None else symbol for symbol in ordinary]
        self.pieces = {s: piece for s, piece in zip(ordinary, pieces, strict=True) if s is not None}

    @classmethod
    def load(cls, path: str) -> Self:
        """The tokenizer of a file.

        Raises:
            PMLMError: the file is missing or broken, or belongs to another kind of tokenizer.
        """
        return cls.parse(read_bytes(path), path)

    @classmethod
    @abstractmethod
    def parse(cls, content: bytes, path: str) -> Self:
        """The tokenizer of a file that has been read already; *path* is what messages call it.

        Raises:
            PMLMError: the content is broken, or belongs to another kind of tokenizer.
        """

    def save(self, folder: str) -> str:
        """Write the tokenizer file, and its settings where it has any, into *folder*; returns the file's path."""
        path = os.path.join(folder, self.file_name)
        write_bytes(path, self.content)
        return path

    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer file, as hexadecimal digits. Checkpoints store it."""
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def fingerprint_file(cls, path: str) -> str:
        """The fingerprint of the tokenizer file *path*, without building a tokenizer from it."""
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()

    @property
    def symbols(self) -> list[str]:
        """The types of a dictionary for this tokenizer, in order: what stands between ``<unk>`` and ``<mask>``."""
        return list(self.pieces)

    def encode(self, text: str) -> str:
        """Symbols separated by spaces; ``<unk>`` for what no piece spells, never another special symbol."""
        return " ".join([self.id_to_symbol[i] for i in self.encode_lines([clean_line(text)])[0]])

    @abstractmethod
    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        """The piece ids of each of *lines*, which must be clean; ``id_to_symbol`` makes of them what encode() writes.

        See :func:`~fairseq_pmlm.utils.io.clean_line`.
        """

    @abstractmethod
    def encode_with_offsets(self, text: str) -> tuple[list[str], np.ndarray]:
        """The symbols of :meth:`encode`, and the offsets of each in *text*.

        Returns:
            symbols; and int32 (symbols, 2), see :func:`~fairseq_pmlm.tokenizers.offsets.original_offsets`.
        """

    @abstractmethod
    def decode(self, symbols: str) -> str:
        """Text from symbols separated by spaces. Special symbols stay as they are spelled."""

    @abstractmethod
    def is_beginning_of_word(self, symbol: str) -> bool:
        """Whether a symbol starts a word, for whole-word masking; special symbols always do."""
