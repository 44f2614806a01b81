"""WordPiece, BERT's tokenizer.

The tokenizer is a ``vocab.txt``, one piece a line, whose numbers are the rows of a checkpoint's embedding. Its special
pieces are fairseq's special symbols under other names: [CLS] is ``<s>``, [PAD] ``<pad>``, [SEP] ``</s>``, [UNK]
``<unk>``, [MASK] ``<mask>``. Text that spells one of them stays text.
"""

import hashlib
import json
import os
import re
from typing import Any, NamedTuple, Optional, Self

import numpy as np
import tokenizers

from ..utils.errors import PMLMError, describe
from ..utils.io import clean_line, read_json, read_lines, write_json
from .base import Tokenizer
from .offsets import original_offsets
from .symbols import SPECIAL, name_pieces

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


def read_vocabulary(path: str, content: Optional[bytes] = None) -> tuple[list[str], Settings]:
    """The pieces of a ``vocab.txt`` in order, and its settings; lines may be empty, unused or repeated.

    Args:
        path: the file.
        content: its bytes, where they have been read already.

    Raises:
        PMLMError: the file cannot be read, or lacks one of the special pieces; see also :func:`read_settings`.
    """
    pieces = check_vocabulary([line for _, line in read_lines(path, content=content)], path)
    return pieces, read_settings(path, pieces)


def check_vocabulary(pieces: list[str], path: str) -> list[str]:
    """*pieces*, if all special ones are there; raises PMLMError if not."""
    for piece in SPECIAL_PIECES:
        if piece not in pieces:
            raise PMLMError(f"{path} is not a WordPiece vocabulary: none of its {len(pieces)} pieces is {piece}")
    return pieces


def read_tokenizer_json(content: dict[str, Any], path: str) -> tuple[list[str], Settings]:
    """Pieces and settings of a ``tokenizer.json`` of the ``tokenizers`` library whose model is WordPiece.

    Args:
        content: what the file *path* holds.
        path: the file, for messages.

    Raises:
        PMLMError: it is damaged, or another kind of tokenizer.
    """
    try:
        ids = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
        pieces = sorted(ids, key=ids.__getitem__)
        "".join(pieces).encode()  # JSON can spell half surrogates, which no file of pieces can hold
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
        accents = normalizer["strip_accents"]
        if accents is not None and not isinstance(accents, bool):
            raise PMLMError(f"{path}: its normalizer.strip_accents is {accents!r}, neither true nor false")
        settings = Settings(bool(normalizer["lowercase"]), accents, bool(normalizer["handle_chinese_chars"]))
    except (KeyError, TypeError, UnicodeEncodeError) as error:
        raise PMLMError(f"{path} is not BERT's WordPiece ({describe(error)})") from None
    return check_vocabulary(pieces, path), settings


def symbol_table(pieces: list[str]) -> list[str]:
    """The dictionary symbol of each line of a vocabulary; special pieces under fairseq's names."""
    ids = {piece: i for i, piece in enumerate(pieces)}  # of a piece that is there twice, the last one counts
    specials = {ids[piece] for piece in SPECIAL_PIECES}
    table = name_pieces(None if i in specials else piece for i, piece in enumerate(pieces))
    return [SPECIAL_PIECES[pieces[i]] if symbol is None else symbol for i, symbol in enumerate(table)]


def vocabulary_file(pieces: list[str]) -> bytes:
    """What a ``vocab.txt`` with these pieces holds."""
    return "".join(f"{piece}\n" for piece in pieces).encode()


def hash_vocabulary(pieces: list[str], settings: Settings) -> str:
    """SHA-256 of the pieces, whatever line ends a file gives them, and of settings that they do not imply."""
    content = vocabulary_file(pieces)
    if settings != implied_settings(pieces):
        content += json.dumps(settings).encode()
    return hashlib.sha256(content).hexdigest()


def implied_settings(pieces: list[str]) -> Settings:
    """Lower-case text unless a piece has a capital letter: such a piece could never be used."""
    ordinary = (piece for piece in pieces if not (piece.startswith("[") and piece.endswith("]")))
    return Settings(do_lower_case=all(piece == piece.lower() for piece in ordinary))


def read_settings(path: str, pieces: list[str]) -> Settings:
    """The settings for the ``vocab.txt`` *path*: those in the tokenizer_config.json next to it, else those of a
    tokenizer.json there, else implied.

    Raises:
        PMLMError: one of these is broken, or is of another tokenizer than BERT's.
    """
    settings = implied_settings(pieces)
    whole = os.path.join(os.path.dirname(path), "tokenizer.json")
    if os.path.isfile(whole):
        _, settings = read_tokenizer_json(read_json(whole), whole)
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


class WordPiece(Tokenizer):
    """Text to dictionary symbols and back; see the module's docstring.

    Args:
        vocabulary: the pieces, all special ones among them.
        settings: of the tokenizer (default: what the pieces imply).
    """

    name = "pmlm_wordpiece"
    file_name = "vocab.txt"

    def __init__(self, vocabulary: list[str], settings: Optional[Settings] = None):
        super().__init__(vocabulary_file(vocabulary), vocabulary, symbol_table(vocabulary))
        self.vocabulary = vocabulary
        self.settings = implied_settings(vocabulary) if settings is None else settings
        ids = {piece: i for i, piece in enumerate(vocabulary)}  # of a piece that is there twice, the last one counts
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

    @classmethod
    def parse(cls, content: bytes, path: str) -> Self:
        return cls(*read_vocabulary(path, content))

    def save(self, folder: str) -> str:
        """Write vocab.txt into *folder*, and next to it the settings where the pieces do not imply them."""
        if self.settings != implied_settings(self.vocabulary):
            write_json(os.path.join(folder, CONFIG), self.settings._asdict())
        return super().save(folder)

    def fingerprint(self) -> str:
        """See :func:`hash_vocabulary`."""
        return hash_vocabulary(self.vocabulary, self.settings)

    @classmethod
    def fingerprint_file(cls, path: str) -> str:
        return hash_vocabulary(*read_vocabulary(path))

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        return [self.tokenizer.encode(line, add_special_tokens=False).ids for line in lines]

    def encode_with_offsets(self, text: str) -> tuple[list[str], np.ndarray]:
        found = self.tokenizer.encode(clean_line(text), add_special_tokens=False)
        return [self.id_to_symbol[i] for i in found.ids], original_offsets(text, found.offsets, [False] * len(found))

    def decode(self, symbols: str) -> str:
        """Text from symbols separated by spaces; special symbols stay as they are spelled.

        Pieces are joined to words, ``. , ? !`` to the word before them, and the contractions of English. What else
        stood between the words of the original text is not known any more, and neither is its case where the tokenizer
        has changed it.
        """
        text = self.decoder.decode([self.pieces.get(symbol, symbol) for symbol in symbols.split()])
        return CONTRACTION.sub("'", text)

    def is_beginning_of_word(self, symbol: str) -> bool:
        return symbol in SPECIAL or not symbol.startswith(CONTINUES)
