"""``fairseq-generate --scoring rouge``."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.scoring import SCORER_REGISTRY, BaseScorer, register_scorer

from ..utils.errors import PMLMError
from .base import Bootstrap, Scores
from .presets import PRESETS, find_preset, prepare
from .rouge import score_rouge
from .tokenizers import build_rouge_tokenizer, stop_if_not_english


@dataclass
class RougeConfig(FairseqDataclass):
    """Options of ``--scoring rouge``."""

    rouge_tokenizer: Optional[str] = field(
        default=None,
        metadata={
            "help": "tokenizer of --scoring rouge: default (a-z and 0-9), intl, char, none or spm; without this option "
            "default, and a stop if more than a tenth of the letters are others"
        },
    )
    rouge_stem: bool = field(default=False, metadata={"help": "stem English words in --scoring rouge (Porter)"})
    rouge_sentencepiece_model: Optional[str] = field(
        default=None, metadata={"help": "sentencepiece model for --rouge-tokenizer spm"}
    )
    rouge_preset: Optional[str] = field(
        default=None,
        metadata={"help": f"score as published results were ({', '.join(PRESETS)}); it settles tokenizer and stemming"},
    )


class FairseqRougeScorer(BaseScorer):
    """ROUGE of what ``fairseq-generate`` decodes, without intervals (``pmlm score`` has them)."""

    EARLY = 64  # pairs after which the letters are looked at for the first time

    def __init__(self, cfg: RougeConfig):
        super().__init__(cfg)
        # a bad option stops here, not after an hour of decoding
        build_rouge_tokenizer(cfg.rouge_tokenizer, cfg.rouge_stem, cfg.rouge_sentencepiece_model)
        if cfg.rouge_preset:
            find_preset(cfg.rouge_preset)
            if cfg.rouge_tokenizer or cfg.rouge_stem:
                raise PMLMError(f"--rouge-preset {cfg.rouge_preset} settles --rouge-tokenizer and --rouge-stem itself")

    def add_string(self, ref: str, pred: str) -> None:
        super().add_string(ref, pred)
        if len(self.pred) == self.EARLY and self.cfg.rouge_tokenizer is None:
            stop_if_not_english(self.pred, [self.ref])

    def scores(self) -> Scores:
        cfg, bootstrap = self.cfg, Bootstrap(0)
        if cfg.rouge_preset:
            texts = prepare(cfg.rouge_preset, self.pred, [self.ref])
            return score_rouge(*texts.pair, **texts.preset.rouge, bootstrap=bootstrap, origin=texts.origin)
        return score_rouge(
            self.pred,
            [self.ref],
            tokenizer=cfg.rouge_tokenizer,
            stem=cfg.rouge_stem,
            sentencepiece_model=cfg.rouge_sentencepiece_model,
            bootstrap=bootstrap,
        )

    def score(self) -> float:
        """ROUGE-L, 0..100; with ``--rouge-preset cnndm`` that over sentences."""
        name = "rougeLsum" if self.cfg.rouge_preset == "cnndm" else "rougeL"
        return self.scores().values[name].mean

    def result_string(self) -> str:
        """All types, the number of segments and empty hypotheses, and the signature on one line."""
        scores = self.scores()
        values = " ".join(f"{name} = {value.mean:.2f}" for name, value in scores.values.items())
        return f"{values} ({scores.segments} segments, {scores.empty} empty) {scores.signature}"


if "rouge" not in SCORER_REGISTRY:  # fairseq refuses the second registration of a module that is loaded twice
    register_scorer("rouge", dataclass=RougeConfig)(FairseqRougeScorer)
