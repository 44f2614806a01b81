"""The tokenizers as fairseq's ``--bpe`` knows them."""

import contextlib
from dataclasses import dataclass, field

from fairseq.data.encoders import BPE_REGISTRY, register_bpe
from fairseq.dataclass import FairseqDataclass
from omegaconf.errors import MissingMandatoryValue

from ..tokenizers.base import Tokenizer
from ..tokenizers.byte_bpe import ByteBPE
from ..tokenizers.sentencepiece import SentencePiece
from ..tokenizers.wordpiece import WordPiece
from ..utils.errors import PMLMError


@dataclass
class PMLMSentencepieceConfig(FairseqDataclass):
    """Options of ``--bpe pmlm_sentencepiece``."""

    sentencepiece_model: str = field(
        default="???",
        metadata={
            "help": "sentencepiece model file that cuts text into pieces; pmlm prepare writes it as "
            "sentencepiece.model next to dict.txt"
        },
    )


@dataclass
class PMLMWordPieceConfig(FairseqDataclass):
    """Options of ``--bpe pmlm_wordpiece``."""

    wordpiece_vocab: str = field(
        default="???",
        metadata={
            "help": "vocab.txt, one piece a line; text is lower-cased if no piece has a capital letter, unless a "
            "tokenizer_config.json next to it says otherwise (do_lower_case, strip_accents, tokenize_chinese_chars)"
        },
    )


@dataclass
class PMLMByteBPEConfig(FairseqDataclass):
    """Options of ``--bpe pmlm_byte_bpe``."""

    byte_bpe_tokenizer: str = field(
        default="???", metadata={"help": "tokenizer.json with a byte-level BPE model, as importing RoBERTa writes it"}
    )


# what --bpe calls it -> the tokenizer, and the option that names its file
ENCODERS: dict[str, tuple[type[Tokenizer], str]] = {
    SentencePiece.name: (SentencePiece, "sentencepiece_model"),
    WordPiece.name: (WordPiece, "wordpiece_vocab"),
    ByteBPE.name: (ByteBPE, "byte_bpe_tokenizer"),
}


def load(cfg, name: str) -> Tokenizer:
    """The tokenizer that the options *cfg* of ``--bpe`` *name* ask for.

    Raises:
        PMLMError: they name no file; see also :meth:`~fairseq_pmlm.tokenizers.base.Tokenizer.load`.
    """
    tokenizer, option = ENCODERS[name]
    path = None
    with contextlib.suppress(MissingMandatoryValue):
        path = getattr(cfg, option)
    if not path or path == "???":
        raise PMLMError(f"--bpe {name} needs --{option.replace('_', '-')} FILE")
    return tokenizer.load(path)


class PMLMSentencepiece:
    """``--bpe pmlm_sentencepiece``"""

    @staticmethod
    def build_bpe(cfg: PMLMSentencepieceConfig) -> Tokenizer:
        return load(cfg, SentencePiece.name)


class PMLMWordPiece:
    """``--bpe pmlm_wordpiece``"""

    @staticmethod
    def build_bpe(cfg: PMLMWordPieceConfig) -> Tokenizer:
        return load(cfg, WordPiece.name)


class PMLMByteBPE:
    """``--bpe pmlm_byte_bpe``"""

    @staticmethod
    def build_bpe(cfg: PMLMByteBPEConfig) -> Tokenizer:
        return load(cfg, ByteBPE.name)


if SentencePiece.name not in BPE_REGISTRY:  # the package may be imported under a second name
    register_bpe(SentencePiece.name, dataclass=PMLMSentencepieceConfig)(PMLMSentencepiece)
    register_bpe(WordPiece.name, dataclass=PMLMWordPieceConfig)(PMLMWordPiece)
    register_bpe(ByteBPE.name, dataclass=PMLMByteBPEConfig)(PMLMByteBPE)
