"""Summarization, question generation and the like: source in, target out, with one stack for both.

``fairseq-train DATA --user-dir fairseq_pmlm --task pmlm_seq2seq --arch pmlm_base --criterion pmlm_seq2seq
--finetune-from-model PRETRAINED``, then ``fairseq-generate`` and ``fairseq-interactive``.
"""

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
from fairseq import utils
from fairseq.data import ListDataset, PrependTokenDataset, data_utils
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from omegaconf import II, MISSING

from ..data.pair_dataset import Corruption, CutDataset, PseudoMaskedPairDataset
from ..generation.sequence_generator import EARLY_STOPS, LENGTH_PENALTIES, SUPPRESSED, find_symbols
from ..model.config import seq2seq_limits
from ..utils.errors import PMLMError
from .base import MissingDataError, PMLMBaseConfig, PMLMBaseTask, load_dictionary
from .generator import Generator, check_options

logger = logging.getLogger(__name__)


@dataclass
class PMLMSeq2SeqConfig(PMLMBaseConfig):
    """Options of ``--task pmlm_seq2seq``."""

    data: str = field(
        default=MISSING,
        metadata={"help": "data directories, separated by colons; training visits them one an epoch, round-robin"},
    )
    source_lang: Optional[str] = field(
        default=None,
        metadata={"help": "suffix of the source files (default: as in the data directory)", "argparse_alias": "-s"},
    )
    target_lang: Optional[str] = field(
        default=None,
        metadata={"help": "suffix of the target files (default: as in the data directory)", "argparse_alias": "-t"},
    )
    leave_unmasked_prob: float = field(
        default=0.1, metadata={"help": "training: probability that a [P] slot shows the token itself"}
    )
    random_token_prob: float = field(
        default=0.1, metadata={"help": "training: probability that a [P] slot shows a random token"}
    )
    target_mask_prob: float = field(
        default=0.0,
        metadata={
            "help": "training: probability that the slot of a target token shows what its [P] shows; published: XSum "
            "0.4 to 0.5, CNN/DailyMail 0.7 to 0.8"
        },
    )
    source_mask_prob: float = field(
        default=0.0,
        metadata={
            "help": "training: probability that a source token is corrupted, as --leave-unmasked-prob and "
            "--random-token-prob say"
        },
    )
    length_penalty_type: ChoiceEnum(LENGTH_PENALTIES) = field(  # type: ignore[valid-type]  # a call makes the enum
        default="fairseq",
        metadata={
            "help": "generation: what --lenpen means. fairseq: sum of log-probabilities / length ^ lenpen; wu: / ((5 + "
            "length) / 6) ^ lenpen, as in the published results, where 0 is the plain sum"
        },
    )
    early_stop: ChoiceEnum(EARLY_STOPS) = field(  # type: ignore[valid-type]  # a call makes the enum
        default="fairseq",
        metadata={
            "help": "generation: when to stop early. fairseq: when --beam hypotheses have ended; exact: when "
            "no open one can overtake them any more; never: not at all, the same result later"
        },
    )
    no_repeat_ngram_ignore: Optional[str] = field(
        default=None,
        metadata={
            "help": "generation: words or signs, separated by spaces, such as '. ,'; --no-repeat-ngram-size does not "
            "hold for n-grams with one of them"
        },
    )
    seed: int = II("common.seed")
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")


@register_task("pmlm_seq2seq", dataclass=PMLMSeq2SeqConfig)
class PMLMSeq2SeqTask(PMLMBaseTask):
    """Generation of a target from a source."""

    slots_help = "source + 2 x target tokens of a pair, as each target token has a [P]"

    def __init__(self, cfg: PMLMSeq2SeqConfig, dictionary):
        super().__init__(cfg, dictionary)
        self.limits: Optional[tuple[int, int]] = None  # longest source and target; known once there is a model
        self.cuts = ("none", "none")
        self.check_corruption()
        for name in ("target_mask_prob", "source_mask_prob"):
            if not 0 <= getattr(cfg, name) <= 1:
                raise PMLMError(f"--{name.replace('_', '-')} {getattr(cfg, name)} is not in [0, 1]")

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        if cfg.source_lang is None or cfg.target_lang is None:
            directory = utils.split_paths(cfg.data)[0]
            if os.path.isdir(directory):
                cfg.source_lang, cfg.target_lang = data_utils.infer_language_pair(directory)
        if cfg.source_lang is None or cfg.target_lang is None:
            raise PMLMError(
                f"{cfg.data} holds no binarized pairs (such as train.src-tgt.src.bin); see pmlm prepare pairs"
            )
        dictionary = load_dictionary(cfg.data, f"dict.{cfg.source_lang}.txt")
        if load_dictionary(cfg.data, f"dict.{cfg.target_lang}.txt") != dictionary:
            raise PMLMError(
                f"dict.{cfg.source_lang}.txt and dict.{cfg.target_lang}.txt in {cfg.data} differ; one stack for "
                "both sides needs one dictionary (fairseq-preprocess --srcdict dict.txt --tgtdict dict.txt)"
            )
        return cls(cfg, dictionary)

    def build_model(self, cfg, from_checkpoint=False):
        model = super().build_model(cfg, from_checkpoint)
        limits, cuts = seq2seq_limits(model.cfg), (str(model.cfg.cut_source), str(model.cfg.cut_target))
        if self.limits not in (None, limits) or (self.limits and self.cuts != cuts):
            raise PMLMError(
                f"the models of the ensemble disagree on source and target limits, {self.limits} and {limits}, or on "
                f"what to cut, {self.cuts} and {cuts}; settle it with --model-overrides \"{{'max_source_positions': N, "
                "'max_target_positions': N, 'cut_source': ..., 'cut_target': ...}\""
            )
        self.limits, self.cuts = limits, cuts
        return model

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load *split* of the data directory that is due in *epoch*.

        Raises:
            PMLMError: pairs longer than the limits, and no option that says what to cut.
        """
        paths = utils.split_paths(self.cfg.data)
        directory = paths[(epoch - 1) % len(paths)]
        source_lang, target_lang = self.cfg.source_lang, self.cfg.target_lang
        pairs = (f"{source_lang}-{target_lang}", f"{target_lang}-{source_lang}")
        prefixes = [os.path.join(directory, f"{split}.{pair}.") for pair in pairs]
        prefix = next((path for path in prefixes if os.path.isfile(f"{path}{source_lang}.bin")), None)
        if prefix is None:
            raise MissingDataError(f"{prefixes[0]}{source_lang}.bin does not exist; prepare the split {split!r} first")
        source = self.load_binarized(prefix + source_lang, combine)
        target = self.load_binarized(prefix + target_lang, combine)
        if len(source) != len(target):
            raise PMLMError(
                f"{prefix}{source_lang} holds {len(source):,} lines and {prefix}{target_lang} {len(target):,}; "
                "binarize both again"
            )
        source = self.limit(source, 0, prefix + source_lang, reserved=1)
        target = self.limit(target, 1, prefix + target_lang)
        source = PrependTokenDataset(source, self.dictionary.bos())
        corruption = Corruption(
            self.cfg.seed,
            self.cfg.leave_unmasked_prob,
            self.cfg.random_token_prob,
            self.cfg.target_mask_prob,
            self.cfg.source_mask_prob,
        )
        self.datasets[split] = PseudoMaskedPairDataset(
            source,
            source.sizes,
            self.dictionary,
            target,
            target.sizes,
            self.dictionary,
            shuffle=split == "train",
            corruption=corruption,
        )

    def limit(self, dataset, side: int, name: str, reserved: int = 0):
        """*dataset* with all sequences within the limit of *side*; cut only if the model's options say so.

        Args:
            dataset: sequences that end in </s>.
            side: 0 for sources, 1 for targets.
            name: what to call it in messages.
            reserved: tokens that will be added to each sequence.
        """
        assert self.limits is not None, "build the model first"
        limit, keep = self.limits[side] - reserved, self.cuts[side]
        what = ("source", "target")[side]
        sizes = np.asarray(dataset.sizes)
        empty = int((sizes <= 1).sum())
        if empty:
            logger.warning(
                f"{empty:,} of {len(dataset):,} lines of {name} are empty"
                + ("; so will their hypotheses be" if side == 0 else "")
            )
        option = f"--max-{what}-positions {self.limits[side]}"
        long = int((sizes > limit).sum())
        if not long:
            return dataset
        first = int(np.argmax(sizes > limit)) + 1
        count = f"{long:,} of {len(dataset):,} lines of {name} are longer than {option}"
        if keep == "none":
            raise PMLMError(
                f"{count} (the first is number {first}, the longest has {sizes.max() + reserved} tokens); raise "
                f"the limit, or say which part to keep: --cut-{what} head, tail or middle (of a checkpoint: "
                f"--model-overrides \"{{'cut_{what}': 'head'}}\")"
            )
        logger.warning(f"{count}: cut to their {keep}")
        return CutDataset(dataset, limit, keep, self.dictionary.eos(), name)

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None, **kwargs):
        """Sources for ``fairseq-interactive``: *src_tokens*, a list of int64 (length,), each ending in </s>."""
        source = self.limit(ListDataset(src_tokens, src_lengths), 0, "the input", reserved=1)
        source = PrependTokenDataset(source, self.dictionary.bos())
        return PseudoMaskedPairDataset(
            source, source.sizes, self.dictionary, tgt_dict=self.dictionary, constraints=constraints, shuffle=False
        )

    def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, prefix_allowed_tokens_fn=None):
        check_options(args, len(self.dictionary))
        if self.cfg.no_repeat_ngram_ignore and not getattr(args, "no_repeat_ngram_size", 0):
            raise PMLMError("--no-repeat-ngram-ignore belongs to --no-repeat-ngram-size, which is not given")
        kwargs: dict[str, Any] = {"tokens_to_suppress": SUPPRESSED}
        if seq_gen_cls is None:
            seq_gen_cls = Generator
            kwargs["length_penalty_type"] = self.cfg.length_penalty_type
            kwargs["early_stop"] = self.cfg.early_stop
            kwargs["no_repeat_ngram_ignore"] = find_symbols(self.dictionary, self.cfg.no_repeat_ngram_ignore)
        kwargs |= extra_gen_cls_kwargs or {}
        return super().build_generator(models, args, seq_gen_cls, kwargs, prefix_allowed_tokens_fn)

    def max_positions(self):
        return self.limits
