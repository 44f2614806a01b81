"""Byte-level BPE, the tokenizer of GPT-2 and RoBERTa.

The tokenizer is a ``tokenizer.json`` of the ``tokenizers`` library. Every byte of a text has a printable character, so
no piece holds white space and nothing is unknown; ``\u0120`` spells a space. fairseq's own ``gpt2`` does the same with
numbers for symbols, and two files that it downloads.
"""

import os
from typing import Any, Optional, Self

import numpy as np
import tokenizers

from ..utils.errors import PMLMError, describe
from ..utils.io import clean_line, parse_json, read_json, read_lines
from .base import Tokenizer
from .offsets import original_offsets
from .symbols import FAIRSEQ_SYMBOLS, SPECIAL, name_pieces

SPACE = "\u0120"  # how byte-level BPE spells a space
SPECIAL_PIECES = (*FAIRSEQ_SYMBOLS, "<mask>")


def build(vocabulary: dict[str, int], merges: list[tuple[str, str]], prefix_space: bool) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer without special tokens: the library would find them in the text of a user.

    Args:
        vocabulary: piece -> id, special pieces included.
        merges: pairs of pieces, the most frequent first.
        prefix_space: read a text as if a space stood before it.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def build_from(content: dict[str, Any], path: str) -> tokenizers.Tokenizer:
    """The tokenizer of a ``tokenizer.json``, or of a ``vocab.json`` with a ``merges.txt`` next to it.

    Args:
        content: what the file *path* holds.
        path: the file, for messages, and to find ``merges.txt``.

    Raises:
        PMLMError: the file is broken, is another kind of tokenizer, or lacks a special piece.
    """
    try:
        if "model" not in content:
            beside = path.removesuffix("vocab.json") + "merges.txt"
            merges = [line.split(" ") for _, line in read_lines(beside) if line and not line.startswith("#version")]
            settings = os.path.join(os.path.dirname(path), "tokenizer_config.json")
            prefix_space = os.path.isfile(settings) and read_json(settings).get("add_prefix_space") is True
            vocabulary = content
        else:
            check_settings(path, content)
            vocabulary = content["model"]["vocab"] | {
                token["content"]: token["id"] for token in content["added_tokens"]
            }
            beside, merges = path, content["model"]["merges"]
            merges = [m.split(" ") if isinstance(m, str) else m for m in merges] if isinstance(merges, list) else []
            prefix_space = content["pre_tokenizer"].get("add_prefix_space", False)
        if not merges:
            raise PMLMError(f"{beside} has no merges, so that every byte would be a piece")
        odd = next((i for i, merge in enumerate(merges) if len(merge) != 2), None)
        if odd is not None:
            raise PMLMError(f"{beside}: merge {odd + 1}, {' '.join(merges[odd])!r}, is not a pair of pieces")
        tokenizer = build(vocabulary, [(merge[0], merge[1]) for merge in merges], prefix_space)
    except PMLMError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise PMLMError(f"{path} is not byte-level BPE ({describe(error)})") from None
    for piece in SPECIAL_PIECES:
        if piece not in vocabulary:
            raise PMLMError(f"{path}: none of its {len(vocabulary)} pieces is {piece}")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise PMLMError(f"{path}: the numbers of its {len(vocabulary)} pieces are not 0 to {len(vocabulary) - 1}")
    return tokenizer


def check_settings(path: str, content: dict) -> None:
    """Refuse a ``tokenizer.json`` that cuts text in another way than :func:`build` does."""
    model, before = content["model"], content["pre_tokenizer"] or {}
    if model["type"] != "BPE":
        raise PMLMError(f"{path} is not byte-level BPE; its model is {model['type']}")
    wanted = [
        ("normalizer", content.get("normalizer"), None),
        ("pre_tokenizer.type", before.get("type"), "ByteLevel"),
        ("pre_tokenizer.use_regex", before.get("use_regex", True), True),
        ("model.dropout", model.get("dropout") or None, None),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix") or None, None),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix") or None, None),
        ("model.byte_fallback", model.get("byte_fallback", False), False),
        ("model.ignore_merges", model.get("ignore_merges", False), False),
    ]
    for name, found, expected in wanted:
        if found != expected:
            found = found.get("type", found) if isinstance(found, dict) else found
            raise PMLMError(
                f"{path}: its {name} is {found!r}; the byte-level BPE of GPT-2 and RoBERTa has {expected!r}"
            )


class ByteBPE(Tokenizer):
    """Text to dictionary symbols and back; see the module's docstring.

    Args:
        tokenizer: of the library, as :func:`build` makes it.
        content: of its file (default: what the library writes).
    """

    name = "pmlm_byte_bpe"
    file_name = "tokenizer.json"

    def __init__(self, tokenizer: tokenizers.Tokenizer, content: Optional[bytes] = None):
        self.tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        pieces = sorted(ids, key=ids.__getitem__)
        named = name_pieces(None if piece in SPECIAL_PIECES else piece for piece in pieces)
        table = [piece if symbol is None else symbol for piece, symbol in zip(pieces, named, strict=True)]
        super().__init__(tokenizer.to_str().encode() if content is None else content, pieces, table)

    @classmethod
    def parse(cls, content: bytes, path: str) -> Self:
        found = parse_json(content, path)
        return cls(build_from(found, path), content if "model" in found else None)

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        return [self.tokenizer.encode(line, add_special_tokens=False).ids for line in lines]

    def encode_with_offsets(self, text: str) -> tuple[list[str], np.ndarray]:
        found = self.tokenizer.encode(clean_line(text), add_special_tokens=False)
        blank = [not piece.strip(SPACE) for piece in found.tokens]
        return [self.id_to_symbol[i] for i in found.ids], original_offsets(text, found.offsets, blank)

    def decode(self, symbols: str) -> str:
        text: list[str] = []
        run: list[str] = []
        for symbol in symbols.split():
            if symbol in SPECIAL:
                text += [self.tokenizer.decoder.decode(run), f" {symbol}"]
                run = []
            else:
                run.append(self.pieces.get(symbol, symbol))
        return "".join([*text, self.tokenizer.decoder.decode(run)]).strip(" ")

    def is_beginning_of_word(self, symbol: str) -> bool:
        return symbol in SPECIAL or symbol.startswith(SPACE)
