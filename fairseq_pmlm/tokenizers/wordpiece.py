"""WordPiece, BERT's tokenizer, as a fairseq bpe: ``--bpe pmlm_wordpiece``.

The tokenizer is a ``vocab.txt``, one piece a line, whose numbers are the rows of a checkpoint's embedding. Its special
pieces are fairseq's special symbols under other names: [CLS] is ``<s>``, [PAD] ``<pad>``, [SEP] ``</s>``, [UNK]
``<unk>``, [MASK] ``<mask>``. Text that spells one of them stays text.
"""

import json
import os
import re
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import numpy as np
import tokenizers
from fairseq.data.encoders import BPE_REGISTRY, register_bpe
from fairseq.dataclass import FairseqDataclass

from ..utils.errors import PMLMError, describe
from ..utils.io import clean_line, read_json, read_lines, write_json, write_text
from .offsets import extents
from .sentencepiece import SPECIAL, UNK, name_pieces, option

# what BERT calls the symbols of fairseq
SPECIAL_PIECES = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": "<mask>"}
CONFIG = "tokenizer_config.json"  # beside vocab.txt, as in other people's folders
LONGEST = 100  # characters of a word that is cut into pieces; a longer one is unknown
# WordPiece makes three words of don't, and its decoder leaves them so
CONTRACTION = re.compile(r"(?<=\w) ' (?=(?:s|t|m|d|re|ve|ll)\b)", re.IGNORECASE)
CONTINUES = "##"  # how a piece begins that does not begin a word


class Settings(NamedTuple):
    """What a vocabulary does not say of its tokenizer; None for accents: strip them from lower-cased text."""

    do_lower_case: bool
    strip_accents: Optional[bool] = None
    tokenize_chinese_chars: bool = True


def read_vocabulary(path: str) -> list[str]:
    """The pieces of a ``vocab.txt`` in order; lines may be empty, unused or there twice.

    Raises:
        PMLMError: the file cannot be read, or lacks one of the special pieces.
    """
    return check_vocabulary([line for _, line in read_lines(path)], path)


def check_vocabulary(pieces: list[str], path: str) -> list[str]:
    """*pieces*, if all special ones are there; raises PMLMError if not."""
    for piece in SPECIAL_PIECES:
        if piece not in pieces:
            raise PMLMError(f"{path} is no WordPiece vocabulary: none of its {len(pieces)} pieces is {piece}")
    return pieces


def read_tokenizer_json(path: str) -> tuple[list[str], "Settings"]:
    """Pieces and settings of a ``tokenizer.json`` of the ``tokenizers`` library whose model is WordPiece.

    Raises:
        PMLMError: it is damaged, or another kind of tokenizer.
    """
    content = read_json(path)
    try:
        ids = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
        pieces = sorted(ids, key=ids.get)
        if content["model"]["type"] != "WordPiece" or [ids[piece] for piece in pieces] != list(range(len(ids))):
            raise PMLMError(f"{path} is not WordPiece with the numbers 0 to {len(ids) - 1}")
        normalizer, model = content["normalizer"], content["model"]
        wanted = [
            ("normalizer.type", normalizer["type"], "BertNormalizer"),
            ("normalizer.clean_text", normalizer.get("clean_text", True), True),
            ("pre_tokenizer.type", content["pre_tokenizer"]["type"], "BertPreTokenizer"),
            ("model.unk_token", model.get("unk_token", "[UNK]"), "[UNK]"),
            ("model.continuing_subword_prefix", model.get("continuing_subword_prefix", CONTINUES), CONTINUES),
            ("model.max_input_chars_per_word", model.get("max_input_chars_per_word", LONGEST), LONGEST),
        ]
        for name, found, expected in wanted:
            if found != expected:
                raise PMLMError(f"{path}: its {name} is {found!r}; BERT's WordPiece has {expected!r}")
        settings = Settings(
            bool(normalizer["lowercase"]), normalizer["strip_accents"], bool(normalizer["handle_chinese_chars"])
        )
    except (KeyError, TypeError) as error:
        raise PMLMError(f"{path} is not BERT's WordPiece ({describe(error)})") from None
    return check_vocabulary(pieces, path), settings


def name_symbols(pieces: list[str]) -> list[str]:
    """The dictionary's symbol of each line of a vocabulary; special pieces under fairseq's names."""
    ids = {piece: i for i, piece in enumerate(pieces)}  # of a piece that is there twice, the last one counts
    specials = {ids[piece] for piece in SPECIAL_PIECES}
    table = name_pieces(None if i in specials else piece for i, piece in enumerate(pieces))
    return [SPECIAL_PIECES[pieces[i]] if symbol is None else symbol for i, symbol in enumerate(table)]


def write_vocabulary(path: str, pieces: list[str], settings: Settings) -> None:
    """Write *pieces* to the ``vocab.txt`` *path*, and *settings* beside it where the pieces do not imply them."""
    write_text(path, "".join(f"{piece}\n" for piece in pieces))
    if settings != implied_settings(pieces):
        write_json(os.path.join(os.path.dirname(path), CONFIG), settings._asdict())


def implied_settings(pieces: list[str]) -> Settings:
    """Lower-case text unless a piece has a capital letter: such a piece could never be used."""
    ordinary = (piece for piece in pieces if not (piece.startswith("[") and piece.endswith("]")))
    return Settings(do_lower_case=all(piece == piece.lower() for piece in ordinary))


def read_settings(path: str, pieces: list[str]) -> Settings:
    """The settings for the ``vocab.txt`` *path*: those that the tokenizer_config.json beside it names, else those of a
    tokenizer.json there, else implied.

    Raises:
        PMLMError: one of these is broken, or is of another tokenizer than BERT's.
    """
    settings = implied_settings(pieces)
    whole = os.path.join(os.path.dirname(path), "tokenizer.json")
    if os.path.isfile(whole):
        _, settings = read_tokenizer_json(whole)
    beside = os.path.join(os.path.dirname(path), CONFIG)
    if not os.path.isfile(beside):
        return settings
    try:
        with open(beside, encoding="utf-8") as f:
            given = json.load(f)
        given = {name: given[name] for name in Settings._fields if name in given}
    except (OSError, ValueError, TypeError) as error:
        raise PMLMError(f"{beside} is not a JSON object ({describe(error)})") from None
    for name, value in given.items():
        if not isinstance(value, bool) and not (name == "strip_accents" and value is None):
            raise PMLMError(f"{beside}: {name} is {value!r}, neither true nor false")
    return settings._replace(**given)


@dataclass
class PMLMWordPieceConfig(FairseqDataclass):
    """Options of ``--bpe pmlm_wordpiece``."""

    wordpiece_vocab: str = field(
        default="???",
        metadata={
            "help": "vocab.txt, one piece a line; text is lower-cased if no piece has a capital letter, unless a "
            "tokenizer_config.json beside it says otherwise (do_lower_case, strip_accents, tokenize_chinese_chars)"
        },
    )


class PMLMWordPiece:
    """Text to dictionary symbols and back; see the module's docstring.

    Raises:
        PMLMError: the vocabulary is missing or broken.
    """

    def __init__(self, cfg):
        path = option(cfg, "wordpiece_vocab", "pmlm_wordpiece")
        pieces = read_vocabulary(path)
        self.settings = read_settings(path, pieces)
        ids = {piece: i for i, piece in enumerate(pieces)}  # of a piece that is there twice, the last one counts
        table = name_symbols(pieces)
        self.symbols = [UNK if symbol in SPECIAL else symbol for symbol in table]
        self.pieces = {symbol: piece for symbol, piece in zip(table, pieces, strict=True) if symbol not in SPECIAL}
        model = tokenizers.models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST)
        # No special token is added: the library would find "[SEP]" in the text of a user.
        self.tokenizer = tokenizers.Tokenizer(model)
        self.tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=self.settings.tokenize_chinese_chars,
            strip_accents=self.settings.strip_accents,
            lowercase=self.settings.do_lower_case,
        )
        self.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        self.decoder = tokenizers.decoders.WordPiece(prefix=CONTINUES, cleanup=True)

    def encode(self, x: str) -> str:
        """Symbols separated by spaces, ``<unk>`` for a word that no pieces spell; never another special one."""
        return " ".join([self.symbols[i] for i in self.tokenizer.encode(clean_line(x), add_special_tokens=False).ids])

    def number(self, lines: list[str]) -> list[list[int]]:
        """What :meth:`encode` writes for lines that are clean already, as places in ``symbols``."""
        return [self.tokenizer.encode(line, add_special_tokens=False).ids for line in lines]

    def encode_with_extents(self, x: str) -> tuple[list[str], np.ndarray]:
        """The symbols of :meth:`encode`, and where each stands in *x*; see :func:`offsets.extents`."""
        found = self.tokenizer.encode(clean_line(x), add_special_tokens=False)
        return [self.symbols[i] for i in found.ids], extents(x, found.offsets, [False] * len(found))

    def decode(self, x: str) -> str:
        """Text from symbols separated by spaces; special symbols stay as they are spelled.

        Pieces are joined to words, ``. , ? !`` to the word before them, and the contractions of English. What else
        stood between the words of the original text is not known any more, and neither is its case where the tokenizer
        has changed it.
        """
        text = self.decoder.decode([self.pieces.get(symbol, symbol) for symbol in x.split()])
        return CONTRACTION.sub("'", text)

    def is_beginning_of_word(self, x: str) -> bool:
        """Whether a dictionary symbol starts a word, for whole-word masking; special symbols always do."""
        return x in SPECIAL or not x.startswith(CONTINUES)


if "pmlm_wordpiece" not in BPE_REGISTRY:  # the package may be imported under a second name
    register_bpe("pmlm_wordpiece", dataclass=PMLMWordPieceConfig)(PMLMWordPiece)
