"""Which row of a checkpoint's embedding is which symbol of a fairseq dictionary.

A dictionary begins with ``<s> <pad> </s> <unk>`` and ends with ``<mask> <pseudo>``; a vocabulary has its special pieces
anywhere, and no [P].
"""

import os
from typing import Any, NamedTuple

from ..checkpoints.safe_load import check_fetched
from ..tokenizers import byte_bpe, wordpiece
from ..tokenizers.base import Tokenizer
from ..tokenizers.byte_bpe import ByteBPE
from ..tokenizers.sentencepiece import SentencePiece
from ..tokenizers.symbols import FAIRSEQ_SYMBOLS, all_symbols, write_dictionary
from ..tokenizers.wordpiece import WordPiece
from ..utils.errors import PMLMError
from ..utils.io import parse_json, read_bytes

PSEUDO_PIECE = "[PSEUDO]"  # the line of an exported vocab.txt whose row is that of [P]
PSEUDO_KEY, MASK_KEY = "pseudo_token_id", "mask_token_id"  # in an exported config.json: the rows of [P] and [M]


class Vocabulary(NamedTuple):
    """A tokenizer, and what its pieces are to a checkpoint.

    tokenizer: the tokenizer.
    symbols: the dictionary's symbol of each row of the embedding; ``<pseudo>`` only if it has a row of its own.
    """

    tokenizer: Tokenizer
    symbols: list[str]

    def rows(self) -> list[int]:
        """For each symbol of the dictionary its row; ``<pseudo>`` shares the row of ``<mask>`` if it has none."""
        row = {symbol: i for i, symbol in enumerate(self.symbols)}
        row.setdefault("<pseudo>", row["<mask>"])
        return [row[symbol] for symbol in all_symbols(self.tokenizer.symbols)]

    def write(self, folder: str) -> str:
        """Write dict.txt and the tokenizer file into *folder*; returns the path of the latter."""
        write_dictionary(os.path.join(folder, "dict.txt"), self.tokenizer.symbols)
        return self.tokenizer.save(folder)


def read(path: str, config: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a tokenizer file: vocab.txt, a sentencepiece model, vocab.json with merges.txt, tokenizer.json.

    Args:
        path: the file; it is read once.
        config: config.json of the checkpoint; one that we have exported says which rows are those of [P] and [M].

    Raises:
        PMLMError: the file is missing, damaged, or of another kind.
    """
    if not os.path.isfile(path):
        raise PMLMError(f"--vocab {path}: no such file")
    content = read_bytes(path)
    check_fetched(content, path)
    own_pseudo = PSEUDO_KEY in config
    tokenizer: Tokenizer
    if path.endswith(".model"):
        tokenizer = SentencePiece.parse(content, path)
    elif path.endswith(".json"):
        tokenizer = _from_json(parse_json(content, path), path, own_pseudo)
    else:
        tokenizer = _wordpiece(*wordpiece.read_vocabulary(path, content), own_pseudo)
    symbols = row_symbols(tokenizer, path)
    if own_pseudo:
        symbols = _place_pseudo(symbols, config, path)
    return Vocabulary(tokenizer, symbols)


def _from_json(content: dict[str, Any], path: str, own_pseudo: bool) -> Tokenizer:
    """The tokenizer of a tokenizer.json, whichever model it has, or of a vocab.json."""
    model = content.get("model")
    kind = str(model.get("type")) if isinstance(model, dict) else "BPE"
    if kind == "Unigram":
        raise PMLMError(f"{path} holds sentencepiece's pieces without its model; give --vocab sentencepiece.bpe.model")
    if kind == "WordPiece":
        return _wordpiece(*wordpiece.read_tokenizer_json(content, path), own_pseudo)
    return ByteBPE(byte_bpe.build_from(content, path))


def _wordpiece(pieces: list[str], settings: wordpiece.Settings, own_pseudo: bool) -> WordPiece:
    """WordPiece; a last piece [PSEUDO] of a file that we have exported is ours, in another one it is like any other."""
    return WordPiece(pieces[:-1] if own_pseudo and pieces[-1] == PSEUDO_PIECE else pieces, settings)


def row_symbols(tokenizer: Tokenizer, path: str) -> list[str]:
    """The dictionary symbol of each row of an embedding: that of the piece with its number.

    Of sentencepiece, the rows are those of XLM-R: fairseq's four, the pieces behind sentencepiece's three, ``<mask>``.

    Raises:
        PMLMError: a sentencepiece model, the file *path*, that has other special pieces.
    """
    named = [symbol for symbol in tokenizer.table if symbol is not None]
    if isinstance(tokenizer, SentencePiece):
        if any(symbol is not None for symbol in tokenizer.table[:3]) or None in tokenizer.table[3:]:
            raise PMLMError(f"{path}: its first three pieces, and no others, must be <unk>, <s> and </s>, as in XLM-R")
        return [*FAIRSEQ_SYMBOLS, *named, "<mask>"]
    return named


def _place_pseudo(symbols: list[str], config: dict[str, Any], path: str) -> list[str]:
    """*symbols* with ``<pseudo>``, which has a row of its own behind all others, or in the place of ``<mask>``."""
    mask: Any = config.get(MASK_KEY)
    pseudo: Any = config[PSEUDO_KEY]
    symbols = [*symbols, "<pseudo>"]
    whole = all(isinstance(row, int) and not isinstance(row, bool) for row in (mask, pseudo))
    if not whole or {mask, pseudo} != {symbols.index("<mask>"), len(symbols) - 1}:
        raise PMLMError(
            f"config.json gives {PSEUDO_KEY} {pseudo} and {MASK_KEY} {mask}; with {path} they can only be "
            f"{len(symbols) - 1} and {symbols.index('<mask>')}, in either order"
        )
    symbols[mask], symbols[pseudo] = "<mask>", "<pseudo>"
    return symbols
