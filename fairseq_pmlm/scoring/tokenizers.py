"""What a word is, for scores: tokenizers for any script, and a stop where the usual one loses most of the text."""

import hashlib
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Optional

import regex
import sentencepiece

from ..utils.errors import PMLMError, describe
from ..utils.optional import require

TOKENIZERS = ["default", "intl", "char", "none", "spm"]
MAX_FOREIGN_LETTERS = 0.10  # share of letters that the default tokenizer may lose before scoring stops

# stdlib's \w leaves out combining marks, which would cut Hindi or Thai words at every vowel sign
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
CHARACTER = regex.compile(r"[\p{L}\p{N}]\p{M}*")
UNSPACED_LETTER = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}&&\p{L}]", flags=regex.V1
)


def build_rouge_tokenizer(
    tokenizer: Optional[str], stem: bool = False, sentencepiece_model: Optional[str] = None
) -> tuple[Callable[[str], list[str]], str]:
    """The function from a text to its tokens for :func:`score_rouge`, and the tokenizer's name in the signature.

    Raises:
        PMLMError: unknown tokenizer, *stem* with another than ``default``, ``spm`` without a model or vice versa.
    """
    check_tokenizer(tokenizer, sentencepiece_model)
    tokenizer = tokenizer or "default"
    if stem and tokenizer != "default":
        raise PMLMError(f"tokenizer {tokenizer!r}: the stemmer is for English and works with 'default' only")
    if tokenizer == "default":
        tokenizers = require("rouge_score.tokenizers", "the tokenizer 'default'")
        return tokenizers.DefaultTokenizer(use_stemmer=stem).tokenize, "default"
    if tokenizer == "intl":
        return lambda text: WORD.findall(fold(text)), "intl"
    if tokenizer == "char":
        return lambda text: CHARACTER.findall(fold(text)), "char"
    if tokenizer == "none":
        return str.split, "none"
    assert sentencepiece_model  # see check_tokenizer
    encode, name = load_sentencepiece(sentencepiece_model)
    # punctuation scores nothing in ROUGE, and neither should the bare "▁" that may begin every text
    return lambda text: [piece for piece in encode(fold(text)) if WORD.search(piece)], name


def fold(text: str) -> str:
    """*text* without case, composed (NFC): the same word typed on another keyboard is the same word."""
    return unicodedata.normalize("NFC", text.casefold())


def load_sentencepiece(path: str) -> tuple[Callable[[str], list[str]], str]:
    """The encoder of the sentencepiece model *path*, and ``spm-`` with the first 8 hex digits of the file's SHA-256."""
    try:
        with open(path, "rb") as file:
            model = file.read()
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (OSError, RuntimeError) as error:
        raise PMLMError(f"sentencepiece model {path}: cannot be loaded: {describe(error)}") from error
    if not model:  # sentencepiece takes no bytes for no model, and would fail later
        raise PMLMError(f"sentencepiece model {path}: is empty")
    return lambda text: processor.encode(text, out_type=str), f"spm-{hashlib.sha256(model).hexdigest()[:8]}"


def check_tokenizer(tokenizer: Optional[str], sentencepiece_model: Optional[str]) -> None:
    """Raise PMLMError unless the tokenizer exists and a model is given exactly where it is needed."""
    if tokenizer is not None and tokenizer not in TOKENIZERS:
        raise PMLMError(f"tokenizer {tokenizer!r}: unknown; there are {', '.join(TOKENIZERS)}")
    if tokenizer == "spm" and not sentencepiece_model:
        raise PMLMError("tokenizer 'spm': needs the path of a sentencepiece model")
    if tokenizer != "spm" and sentencepiece_model:
        raise PMLMError(f"sentencepiece model {sentencepiece_model}: is for the tokenizer 'spm' only")


def foreign_share(texts: Iterable[str]) -> float:
    """Share of the letters of *texts* that lie outside a-z, which rouge-score's own tokenizer drops."""
    letters = foreign = 0
    for text in texts:
        if text.isascii():
            letters += sum(map(str.isalpha, text))
            continue
        text = fold(text)
        in_text = sum(map(str.isalpha, text))
        letters += in_text
        foreign += in_text - sum(map(text.count, string.ascii_lowercase))
    return foreign / max(letters, 1)


def suggest_tokenizer(texts: Iterable[str]) -> str:
    """``default`` where rouge-score's own tokenizer will do for *texts*, else ``intl``."""
    return "intl" if foreign_share(texts) > MAX_FOREIGN_LETTERS else "default"


def stop_if_not_english(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise PMLMError if more than 10 % of all letters are not a-z: rouge-score's tokenizer would drop them."""
    foreign = foreign_share(each_text(hypotheses, references))
    if foreign > MAX_FOREIGN_LETTERS:
        raise PMLMError(
            f"{100 * foreign:.0f} % of the letters lie outside a-z, and rouge-score's tokenizer drops them: "
            "choose the tokenizer 'intl' (languages with spaces between words), 'char' (Chinese, Japanese, Thai) or "
            "'spm' (with a sentencepiece model); 'default' if this is meant"
        )


def stop_if_unspaced(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise PMLMError if more than 10 % of all letters are of a script without spaces: 13a would find no words."""
    letters = unspaced = 0
    for text in each_text(hypotheses, references):
        letters += sum(map(str.isalpha, text))
        if not text.isascii():
            unspaced += len(UNSPACED_LETTER.findall(text))
    if unspaced > MAX_FOREIGN_LETTERS * letters:
        raise PMLMError(
            f"{100 * unspaced / letters:.0f} % of the letters are of a script without spaces between words, which "
            "sacrebleu's 13a takes for very long words: choose the tokenizer 'char' or 'spm' (with a sentencepiece "
            "model); 'default' if this is meant"
        )


def each_text(hypotheses: Sequence[str], references: Sequence[Sequence[str]]):
    """All hypotheses, then all texts of every reference list."""
    yield from hypotheses
    for reference in references:
        yield from reference
