"""The dictionary of a data directory, ``dict.txt``, read without fairseq; and the tokenizer file that belongs to it."""

import logging
import os
import re
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import PMLMError
from ..utils.io import read_bytes, read_lines
from . import files
from .base import Tokenizer
from .symbols import EXTRA_SYMBOLS, FAIRSEQ_SYMBOLS, MADE_UP, OVERWRITE

logger = logging.getLogger(__name__)

LINE_END = re.compile("\r\n|\r|\n")  # what ends a line of a text file for Python, and so for fairseq


class Dictionary:
    """Symbols and their indices: takes the place of fairseq's ``Dictionary`` wherever one is only read.

    ``<s> <pad> </s> <unk>`` are at 0 to 3.
    """

    bos_word, pad_word, eos_word, unk_word = FAIRSEQ_SYMBOLS
    bos_index, pad_index, eos_index, unk_index = range(4)

    def __init__(self) -> None:
        self.symbols: list[str] = []
        self.count: list[int] = []
        self.indices: dict[str, int] = {}
        for symbol in FAIRSEQ_SYMBOLS:
            self.add_symbol(symbol)
        self.nspecial = len(self.symbols)

    @classmethod
    def load(cls, path: str) -> "Dictionary":
        """The dictionary of a ``dict.txt``: lines of ``symbol count``, as fairseq reads them.

        A symbol may appear twice only if the later line ends in ``#fairseq:overwrite``; that one counts.

        Raises:
            PMLMError: the file cannot be read, or naming the line: it is not of that form, or its symbol is taken.
        """
        dictionary = cls()
        first_line: dict[str, int] = {}
        for number, text in enumerate(_lines(path), 1):
            line = text.rstrip()
            overwrite = line.endswith(f" {OVERWRITE}")
            symbol, space, count = line.removesuffix(f" {OVERWRITE}").rpartition(" ")
            taken = first_line.setdefault(symbol, number)
            if not space or not _is_int(count) or (symbol in FAIRSEQ_SYMBOLS and not overwrite):
                raise malformed(path, number, text)
            if taken < number and not overwrite:
                raise duplicate(path, number, symbol, taken)
            dictionary.add_symbol(symbol, int(count), overwrite)
        return dictionary

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.indices

    def __eq__(self, other: object) -> bool:
        return self.indices == getattr(other, "indices", None)

    def __getitem__(self, index: int) -> str:
        """The symbol at *index*; ``<unk>`` beyond the last one."""
        return self.symbols[index] if index < len(self.symbols) else self.unk_word

    def index(self, symbol: str) -> int:
        """The index of *symbol*; that of ``<unk>`` if the dictionary lacks it."""
        return self.indices.get(symbol, self.unk_index)

    def bos(self) -> int:
        """The index of ``<s>``."""
        return self.bos_index

    def pad(self) -> int:
        """The index of ``<pad>``."""
        return self.pad_index

    def eos(self) -> int:
        """The index of ``</s>``."""
        return self.eos_index

    def unk(self) -> int:
        """The index of ``<unk>``."""
        return self.unk_index

    def add_symbol(self, symbol: str, count: int = 1, overwrite: bool = False) -> int:
        """Add *symbol*, or increase its count where the dictionary has it; returns its index.

        Args:
            symbol: the symbol.
            count: how often it occurred.
            overwrite: give it a new index, even if it has one.
        """
        index = self.indices.get(symbol)
        if index is not None and not overwrite:
            self.count[index] += count
            return index
        self.indices[symbol] = len(self.symbols)
        self.symbols.append(symbol)
        self.count.append(count)
        return len(self.symbols) - 1

    def encode_line(self, line: str, append_eos: bool = True, add_if_not_exist: bool = False) -> Tensor:
        """Symbols separated by white space as int32 (symbols,), with the index of ``</s>`` after them.

        Args:
            line: the symbols.
            append_eos: end in ``</s>``.
            add_if_not_exist: add symbols that the dictionary lacks; else they are ``<unk>``.
        """
        look_up = self.add_symbol if add_if_not_exist else self.index
        ids = [look_up(symbol) for symbol in line.split()]
        return torch.tensor([*ids, self.eos_index] if append_eos else ids, dtype=torch.int32)


def _lines(path: str) -> list[str]:
    """The lines of a UTF-8 file as ``readlines`` cuts them, without their ends."""
    try:
        lines = LINE_END.split(read_bytes(path).decode("utf-8"))
    except UnicodeDecodeError:
        for _ in read_lines(path):  # names the line
            pass
        raise
    return lines if lines[-1] else lines[:-1]


def _is_int(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def malformed(path: str, number: int, line: str) -> PMLMError:
    """The error for a line of dict.txt that has another form."""
    return PMLMError(f"{path}, line {number}: not 'symbol count' as fairseq's dictionaries have it, but {line[:100]!r}")


def duplicate(path: str, number: int, symbol: str, first: int) -> PMLMError:
    """The error for a line of dict.txt whose symbol an earlier one has."""
    return PMLMError(f"{path}, line {number}: the symbol {symbol[:100]!r} is already in line {first}")


def read_dictionary(path: str) -> list[str]:
    """The symbols of a ``dict.txt`` in the order of the file, without fairseq's own four.

    Raises:
        PMLMError: the file is missing, a line is not ``symbol count``, or a symbol appears twice.
    """
    symbols: dict[str, int] = {}
    for number, line in read_lines(path):
        symbol, _, count = line.rpartition(" ")
        if not symbol or not count.isdigit() or symbol in FAIRSEQ_SYMBOLS:
            raise malformed(path, number, line)
        if symbol in symbols:
            raise duplicate(path, number, symbol, symbols[symbol])
        symbols[symbol] = number
    return list(symbols)


def load_dictionary(data: str) -> Dictionary:
    """The dictionary of the first of *data*'s directories, which ``:`` separates.

    ``<mask>`` and ``<pseudo>`` are added where it lacks them.

    Raises:
        PMLMError: no such directory or file; see also :meth:`Dictionary.load`.
    """
    path = find_dictionary(data)
    dictionary = Dictionary.load(path)
    add_extra_symbols(dictionary, path)
    return dictionary


def find_dictionary(data: str, file_name: str = "dict.txt") -> str:
    """The path of *file_name*, else of dict.txt, in the first of *data*'s directories, which ``:`` separates.

    Raises:
        PMLMError: no such directory or file.
    """
    directory = data.split("|" if "://" in data else os.pathsep)[0]  # as fairseq does
    candidates = [os.path.join(directory, name) for name in dict.fromkeys((file_name, "dict.txt"))]
    path = next((path for path in candidates if os.path.isfile(path)), None)
    if path is None:
        raise PMLMError(f"no {' or '.join(candidates)}; prepare the data first, or name the directory that holds it")
    return path


def add_extra_symbols(dictionary: Any, path: str) -> None:
    """Add ``<mask>`` and ``<pseudo>`` where a dictionary, ours or fairseq's, lacks them; *path* is its file."""
    for symbol in EXTRA_SYMBOLS:
        if symbol not in dictionary:
            logger.info(f"{path} lacks {symbol}: added after its last symbol")
            dictionary.add_symbol(symbol)
    logger.info(f"dictionary: {len(dictionary):,} types")


def load_vocabulary(folder: str) -> tuple[str, Tokenizer]:
    """The path of the dictionary, and the tokenizer, in the directory that ``--vocab-from`` names.

    Raises:
        PMLMError: one is missing or broken, or they do not belong together.
    """
    dictionary, path = os.path.join(folder, "dict.txt"), files.find(folder)
    if not os.path.isfile(dictionary):
        raise PMLMError(f"--vocab-from {folder}: it has no dict.txt")
    if path is None:
        raise PMLMError(f"--vocab-from {folder}: it has no {' or '.join(files.KINDS)}")
    tokenizer = files.load(path)
    if read_dictionary(dictionary) != [*tokenizer.symbols, *EXTRA_SYMBOLS]:
        raise PMLMError(f"--vocab-from {folder}: dict.txt was not made from {os.path.basename(path)} next to it")
    return dictionary, tokenizer


def label_names(dictionary: Any) -> list[str]:
    """The classes in a dictionary of labels, ours or fairseq's, without what fairseq adds to it."""
    symbols = dictionary.symbols[dictionary.nspecial :]
    return [symbol for symbol in symbols if symbol != "<mask>" and not MADE_UP.fullmatch(symbol)]
