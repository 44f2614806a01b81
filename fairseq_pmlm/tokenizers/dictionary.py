"""The vocabulary of a directory: ``dict.txt``, and beside it the file of the tokenizer that it was made from."""

import os

from ..utils.errors import PMLMError
from ..utils.io import read_lines
from . import files as tokenizer_files
from .sentencepiece import EXTRA_SYMBOLS, FAIRSEQ_SYMBOLS


def read_dictionary(path: str) -> list[str]:
    """The symbols of a ``dict.txt`` in the order of the file, without fairseq's own four.

    Raises:
        PMLMError: the file is missing, a line is not ``symbol count``, or a symbol is there twice.
    """
    symbols: dict[str, int] = {}
    for number, line in read_lines(path):
        symbol, _, count = line.rpartition(" ")
        if not symbol or not count.isdigit() or symbol in FAIRSEQ_SYMBOLS:
            raise PMLMError(
                f"{path}, line {number}: not 'symbol count' as fairseq's dictionaries have it, but {line[:100]!r}"
            )
        if symbol in symbols:
            raise PMLMError(
                f"{path}, line {number}: the symbol {symbol[:100]!r} stands in line {symbols[symbol]} already"
            )
        symbols[symbol] = number
    return list(symbols)


def find_vocabulary(folder: str) -> tuple[str, str]:
    """Paths of the dictionary and of the tokenizer file in the directory that ``--vocab-from`` names.

    Raises:
        PMLMError: one is missing or broken, or they do not belong together.
    """
    dictionary, model = os.path.join(folder, "dict.txt"), tokenizer_files.find(folder)
    if not os.path.isfile(dictionary):
        raise PMLMError(f"--vocab-from {folder}: there is no dict.txt")
    if model is None:
        raise PMLMError(f"--vocab-from {folder}: there is no {' or '.join(tokenizer_files.KINDS)}")
    if read_dictionary(dictionary) != [*tokenizer_files.symbols(model), *EXTRA_SYMBOLS]:
        raise PMLMError(f"--vocab-from {folder}: dict.txt was not made from the {os.path.basename(model)} beside it")
    return dictionary, model
