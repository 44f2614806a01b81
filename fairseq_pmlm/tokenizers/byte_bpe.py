"""Byte-level BPE, the tokenizer of GPT-2 and RoBERTa, as a fairseq bpe: ``--bpe pmlm_byte_bpe``.

The tokenizer is a ``tokenizer.json`` of the ``tokenizers`` library. Every byte of a text has a printable character, so
no piece holds white space and nothing is unknown; ``\u0120`` spells a space. fairseq's own ``gpt2`` does the same with
numbers for symbols, and two files that it downloads.
"""

import os
from dataclasses import dataclass, field

import numpy as np
import tokenizers
from fairseq.data.encoders import BPE_REGISTRY, register_bpe
from fairseq.dataclass import FairseqDataclass

from ..utils.errors import PMLMError, describe
from ..utils.io import clean_line, read_json, read_lines
from .offsets import extents
from .sentencepiece import FAIRSEQ_SYMBOLS, SPECIAL, UNK, name_pieces, option

SPACE = "\u0120"  # how byte-level BPE spells a space
SPECIAL_PIECES = (*FAIRSEQ_SYMBOLS, "<mask>")


def build(vocabulary: dict[str, int], merges: list[tuple[str, str]], prefix_space: bool) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer without special tokens: the library would find them in the text of a user.

    Args:
        vocabulary: piece -> number; the special pieces are there as well.
        merges: pairs of pieces, the most frequent first.
        prefix_space: read a text as if a space stood before it.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def read(path: str) -> tokenizers.Tokenizer:
    """The tokenizer of a ``tokenizer.json``, or of a ``vocab.json`` with a ``merges.txt`` beside it.

    Raises:
        PMLMError: the file is missing or broken, is another kind of tokenizer, or lacks a special piece.
    """
    content = read_json(path)
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
        tokenizer = build(vocabulary, [tuple(merge) for merge in merges], prefix_space)
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


@dataclass
class PMLMByteBPEConfig(FairseqDataclass):
    """Options of ``--bpe pmlm_byte_bpe``."""

    byte_bpe_tokenizer: str = field(
        default="???", metadata={"help": "tokenizer.json with a byte-level BPE model, as importing RoBERTa writes it"}
    )


class PMLMByteBPE:
    """Text to dictionary symbols and back; see the module's docstring.

    Raises:
        PMLMError: the tokenizer is missing or broken.
    """

    def __init__(self, cfg):
        self.tokenizer = read(option(cfg, "byte_bpe_tokenizer", "pmlm_byte_bpe"))
        vocabulary = self.tokenizer.get_vocab()
        pieces = sorted(vocabulary, key=vocabulary.get)
        table = name_pieces(None if piece in SPECIAL_PIECES else piece for piece in pieces)
        self.symbols = [UNK if symbol is None else symbol for symbol in table]
        self.pieces = {symbol: pieces[i] for i, symbol in enumerate(table) if symbol is not None}
        # the dictionary's symbol of each number
        self.table = [pieces[i] if symbol is None else symbol for i, symbol in enumerate(table)]

    def encode(self, x: str) -> str:
        """Symbols separated by spaces; never a special one, whatever *x* spells."""
        return " ".join([self.symbols[i] for i in self.tokenizer.encode(clean_line(x), add_special_tokens=False).ids])

    def number(self, lines: list[str]) -> list[list[int]]:
        """What :meth:`encode` writes for lines that are clean already, as places in ``symbols``."""
        return [self.tokenizer.encode(line, add_special_tokens=False).ids for line in lines]

    def encode_with_extents(self, x: str) -> tuple[list[str], np.ndarray]:
        """The symbols of :meth:`encode`, and where each stands in *x*; see :func:`offsets.extents`."""
        found = self.tokenizer.encode(clean_line(x), add_special_tokens=False)
        blank = [not piece.strip(SPACE) for piece in found.tokens]
        return [self.symbols[i] for i in found.ids], extents(x, found.offsets, blank)

    def decode(self, x: str) -> str:
        """Text from symbols separated by spaces. Special symbols stay as they are spelled."""
        text, run = [], []
        for symbol in x.split():
            if symbol in SPECIAL:
                text += [self.tokenizer.decoder.decode(run), f" {symbol}"]
                run = []
            else:
                run.append(self.pieces.get(symbol, symbol))
        return "".join([*text, self.tokenizer.decoder.decode(run)]).strip(" ")

    def is_beginning_of_word(self, x: str) -> bool:
        """Whether a dictionary symbol starts a word, for whole-word masking; special symbols always do."""
        return x in SPECIAL or x.startswith(SPACE)


if "pmlm_byte_bpe" not in BPE_REGISTRY:  # the package may be imported under a second name
    register_bpe("pmlm_byte_bpe", dataclass=PMLMByteBPEConfig)(PMLMByteBPE)
