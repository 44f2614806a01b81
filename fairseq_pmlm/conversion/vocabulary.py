"""Which row of a checkpoint's embedding is which symbol of a fairseq dictionary.

A dictionary begins with ``<s> <pad> </s> <unk>`` and ends with ``<mask> <pseudo>``; a vocabulary has its special pieces
anywhere, and no [P].
"""

import os
import shutil
from typing import Any, NamedTuple

from ..tokenizers import byte_bpe, wordpiece
from ..tokenizers import files as tokenizer_files
from ..tokenizers.sentencepiece import (
    EXTRA_SYMBOLS,
    FAIRSEQ_SYMBOLS,
    all_symbols,
    load_model,
    symbol_table,
    write_dictionary,
)
from ..utils.errors import PMLMError
from ..utils.io import read_json, write_text
from .files import check_readable

PSEUDO_PIECE = "[PSEUDO]"  # the line of an exported vocab.txt whose row is that of [P]
PSEUDO_KEY, MASK_KEY = "pseudo_token_id", "mask_token_id"  # in an exported config.json: the rows of [P] and [M]


class Vocabulary(NamedTuple):
    """A tokenizer's vocabulary.

    path: the tokenizer file.
    name: what it is called beside a dictionary.
    symbols: the dictionary's symbol of each row of the embedding, ``<pseudo>`` last if it has a row of its own.
    """

    path: str
    name: str
    symbols: list[str]

    def rows(self) -> list[int]:
        """For each symbol of the dictionary its row; ``<pseudo>`` shares the row of ``<mask>`` if it has none."""
        row = {symbol: i for i, symbol in enumerate(self.symbols)}
        row.setdefault("<pseudo>", row["<mask>"])
        return [row[symbol] for symbol in all_symbols(self.types())]

    def types(self) -> list[str]:
        """The dictionary's ordinary symbols."""
        special = {*FAIRSEQ_SYMBOLS, *EXTRA_SYMBOLS}
        return [symbol for symbol in self.symbols if symbol not in special]

    def write(self, folder: str) -> str:
        """Write dict.txt and the tokenizer file into *folder*; returns the path of the latter."""
        write_dictionary(os.path.join(folder, "dict.txt"), self.types())
        target = os.path.join(folder, self.name)
        if self.name == "vocab.txt":
            wordpiece.write_vocabulary(target, *read_wordpiece(self.path, "<pseudo>" in self.symbols))
        elif self.name == "tokenizer.json":
            write_text(target, byte_bpe.read(self.path).to_str())
        else:
            shutil.copyfile(self.path, target)
        return target


def read(path: str, config: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a tokenizer file: vocab.txt, a sentencepiece model, vocab.json with merges.txt, tokenizer.json.

    Args:
        path: the file.
        config: config.json of the checkpoint; one that we have exported says which rows are those of [P] and [M].

    Raises:
        PMLMError: the file is missing, damaged, or of another kind.
    """
    if not os.path.isfile(path):
        raise PMLMError(f"--vocab {path}: no such file")
    check_readable(path)
    if path.endswith(".model"):
        name, symbols = "sentencepiece.model", _sentencepiece_symbols(path)
    elif path.endswith(".json") and model_of(path) == "Unigram":
        raise PMLMError(f"{path} holds sentencepiece's pieces without its model; give --vocab sentencepiece.bpe.model")
    elif path.endswith(".json") and model_of(path) != "WordPiece":
        name = "tokenizer.json"
        symbols = tokenizer_files.load(path, name).table
    else:
        name = "vocab.txt"
        pieces, _ = read_wordpiece(path, PSEUDO_KEY in config)
        symbols = wordpiece.name_symbols(pieces)
    if PSEUDO_KEY in config:
        symbols = _place_pseudo(symbols, config, path)
    return Vocabulary(path, name, symbols)


def _place_pseudo(symbols: list[str], config: dict[str, Any], path: str) -> list[str]:
    """*symbols* with ``<pseudo>``, which has a row of its own behind all others, or in the place of ``<mask>``."""
    mask, pseudo = config.get(MASK_KEY), config[PSEUDO_KEY]
    symbols = [*symbols, "<pseudo>"]
    whole = all(isinstance(row, int) and not isinstance(row, bool) for row in (mask, pseudo))
    if not whole or {mask, pseudo} != {symbols.index("<mask>"), len(symbols) - 1}:
        raise PMLMError(
            f"config.json gives {PSEUDO_KEY} {pseudo} and {MASK_KEY} {mask}; with {path} they can only be "
            f"{len(symbols) - 1} and {symbols.index('<mask>')}, in either order"
        )
    symbols[mask], symbols[pseudo] = "<mask>", "<pseudo>"
    return symbols


def _sentencepiece_symbols(path: str) -> list[str]:
    """Laid out as XLM-R does: fairseq's four, the pieces behind sentencepiece's three, then ``<mask>``."""
    table = symbol_table(load_model(path))
    if any(symbol is not None for symbol in table[:3]) or None in table[3:]:
        raise PMLMError(f"{path}: its first three pieces, and no others, must be <unk>, <s> and </s>, as in XLM-R")
    return [*FAIRSEQ_SYMBOLS, *table[3:], "<mask>"]


def model_of(path: str) -> str:
    """What a JSON file of the ``tokenizers`` library calls its model; BPE if it is a plain vocabulary."""
    model = read_json(path).get("model")
    return str(model.get("type")) if isinstance(model, dict) else "BPE"


def read_wordpiece(path: str, own_pseudo: bool = False) -> tuple[list[str], wordpiece.Settings]:
    """Pieces and settings of a vocab.txt, or of a tokenizer.json with WordPiece.

    Args:
        path: the file.
        own_pseudo: a last line [PSEUDO] is ours and no piece; in a file of other people it is one like any other.
    """
    if path.endswith(".json"):
        pieces, settings = wordpiece.read_tokenizer_json(path)
    else:
        pieces = wordpiece.read_vocabulary(path)
        settings = wordpiece.read_settings(path, pieces)
    return pieces[:-1] if own_pseudo and pieces[-1] == PSEUDO_PIECE else pieces, settings
