"""Pre-training: ``fairseq-train DATA --user-dir fairseq_pmlm --task pmlm --arch pmlm_base --criterion pmlm``."""

import logging
import os
from dataclasses import dataclass, field

from fairseq import utils
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import SAMPLE_BREAK_MODE_CHOICES
from omegaconf import II, MISSING

from ..data.blocks import TextBlocks
from ..data.collate import OBJECTIVES
from ..data.pretraining_dataset import PMLMDataset
from ..utils.errors import PMLMError
from .base import PMLMBaseConfig, PMLMBaseTask, load_dictionary

logger = logging.getLogger(__name__)


@dataclass
class PMLMTaskConfig(PMLMBaseConfig):
    """Options of ``--task pmlm``."""

    data: str = field(
        default=MISSING,
        metadata={"help": "data directories, separated by colons; training visits them one an epoch, round-robin"},
    )
    objective: ChoiceEnum(list(OBJECTIVES)) = field(  # type: ignore[valid-type]  # a call makes the enum
        default="ae+par",
        metadata={
            "help": "ae: autoencoding, as in BERT; par: partially autoregressive, a block of masked tokens a step; "
            "ar: one masked token a step; ae+par, ae+ar: both in one pass"
        },
    )
    sample_break_mode: SAMPLE_BREAK_MODE_CHOICES = field(
        default="none",
        metadata={
            "help": "none: fill each block with --tokens-per-sample tokens; complete: whole lines only; complete_doc: "
            "likewise, and no block crosses a document (documents are separated by empty lines); eos: a block a line"
        },
    )
    tokens_per_sample: int = field(
        default=512, metadata={"help": "longest block in tokens, with <s> and two </s>; at most --max-positions"}
    )
    mask_prob: float = field(default=0.15, metadata={"help": "share of the tokens to mask, at least"})
    leave_unmasked_prob: float = field(
        default=0.1, metadata={"help": "probability that a masked place shows the original token"}
    )
    random_token_prob: float = field(
        default=0.1, metadata={"help": "probability that a masked place shows a random token"}
    )
    corrupt_pseudo: bool = field(
        default=False,
        metadata={
            "help": "let [P] slots show what the [M] slots of their place show, but for [M] itself; without it, "
            "--objective par alone starts to learn late, and the later the higher --lr is"
        },
    )
    seed: int = II("common.seed")
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")


@register_task("pmlm", dataclass=PMLMTaskConfig)
class PMLMTask(PMLMBaseTask):
    """Pseudo-masked language modeling on blocks of contiguous text."""

    def __init__(self, cfg: PMLMTaskConfig, dictionary):
        super().__init__(cfg, dictionary)
        self.slots_help = "tokens of a block"
        if cfg.objective != "ae":
            self.slots_help = (
                f"tokens + 2 (ceil({cfg.mask_prob} tokens) + 5) of a block: [P] and originals are appended"
            )
        if not 0 < cfg.mask_prob <= 1:
            raise PMLMError(f"--mask-prob {cfg.mask_prob} is not in (0, 1]")
        self.check_corruption()
        if cfg.tokens_per_sample < 4:
            raise PMLMError(
                f"--tokens-per-sample {cfg.tokens_per_sample} leaves no room for text between <s> and two </s>; give 4 "
                "or more"
            )

    @classmethod
    def setup_task(cls, cfg: PMLMTaskConfig, **kwargs):
        return cls(cfg, load_dictionary(cfg.data))

    def build_model(self, cfg, from_checkpoint=False):
        model = super().build_model(cfg, from_checkpoint)
        if self.cfg.tokens_per_sample > model.max_positions():
            raise PMLMError(
                f"--tokens-per-sample {self.cfg.tokens_per_sample} is more than the --max-positions "
                f"{model.max_positions()} rows of the position table"
            )
        return model

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load *split* of the data directory that is due in *epoch*."""
        paths = utils.split_paths(self.cfg.data)
        # Only training visits the shards in turn; validation sets lie in the first (as in fairseq's masked_lm, whose
        # validation loads with epoch 1).
        prefix = os.path.join(paths[(epoch - 1) % len(paths)], split)
        blocks = TextBlocks(
            self.load_binarized(prefix, combine, scan=False),
            self.cfg.tokens_per_sample - 3,
            pad=self.dictionary.pad(),
            eos=self.dictionary.eos(),
            break_mode=self.cfg.sample_break_mode,
            types=len(self.dictionary),
        )
        if split == "train" and self.cfg.objective == "par" and not self.cfg.corrupt_pseudo:
            logger.warning(
                "--objective par without --corrupt-pseudo starts to learn late, and the later the higher --lr is"
            )
        logger.info(f"loaded {len(blocks):,} blocks of {blocks.sizes.mean():.1f} tokens from {prefix}")
        if blocks.lines.cut_lines:
            logger.info(f"{blocks.lines.cut_lines:,} lines of {prefix} are longer than a block, and cut into several")
        if blocks.dropped_tokens:
            logger.warning(f"{blocks.dropped_tokens:,} tokens of {prefix} are left out: alone, they make no block")
        self.datasets[split] = PMLMDataset(
            blocks,
            self.dictionary,
            objective=self.cfg.objective,
            seed=self.cfg.seed,
            mask_prob=self.cfg.mask_prob,
            leave_unmasked_prob=self.cfg.leave_unmasked_prob,
            random_token_prob=self.cfg.random_token_prob,
            corrupt_pseudo=self.cfg.corrupt_pseudo,
            shuffle=split == "train",
        )

    def max_positions(self):
        return None
