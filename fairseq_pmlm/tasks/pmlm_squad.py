"""Extractive question answering: a question and a passage in, the place of the answer in the passage out.

``fairseq-train DATA --user-dir fairseq_pmlm --task pmlm_squad --arch pmlm_base --criterion pmlm_squad
--finetune-from-model PRETRAINED``, then ``pmlm predict``.
"""

import logging
import os
from dataclasses import dataclass, field

import numpy as np
from fairseq import utils
from fairseq.tasks import register_task
from omegaconf import II, MISSING

from ..model.heads import SpanHead
from ..squad.dataset import SquadDataset
from ..squad.files import SIDES, read_meta
from ..utils.errors import PMLMError
from .base import MissingDataError, PMLMBaseConfig, PMLMBaseTask, load_dictionary

logger = logging.getLogger(__name__)


@dataclass
class PMLMSquadConfig(PMLMBaseConfig):
    """Options of ``--task pmlm_squad``."""

    data: str = field(
        default=MISSING,
        metadata={"help": "data directories, separated by colons; training visits them one an epoch, round-robin"},
    )
    max_answer_length: int = field(
        default=30, metadata={"help": "validation: longest answer in tokens; training has answers of any length"}
    )
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")


@register_task("pmlm_squad", dataclass=PMLMSquadConfig)
class PMLMSquadTask(PMLMBaseTask):
    """Spans of passages as answers."""

    slots_help = "a window: <s> question </s> passage </s>"

    def __init__(self, cfg: PMLMSquadConfig, dictionary):
        super().__init__(cfg, dictionary)
        self.rows = None  # of the position table; known once there is a model
        if cfg.max_answer_length < 1:
            raise PMLMError(f"--max-answer-length {cfg.max_answer_length}: expected 1 or more")

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        return cls(cfg, load_dictionary(cfg.data))

    def build_model(self, cfg, from_checkpoint=False):
        model = super().build_model(cfg, from_checkpoint)
        model.register_head("span_head", SpanHead(model.cfg.encoder_embed_dim))
        self.rows = min(model.max_positions(), self.rows or model.max_positions())
        return model

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load the part *split* of the data directory that is due in *epoch*.

        Raises:
            PMLMError: a window is longer than the position table; see :mod:`fairseq_pmlm.squad.files`.
        """
        paths = utils.split_paths(self.cfg.data)
        directory = paths[(epoch - 1) % len(paths)]
        prefix = os.path.join(directory, split)
        if not os.path.isfile(f"{prefix}.windows.npy"):
            raise MissingDataError(
                f"{prefix}.windows.npy does not exist; is this the data directory for --task pmlm_squad?"
            )
        version, _, parts = read_meta(directory)
        sides = {side: self.load_binarized(f"{prefix}.{side}", scan=side != "extent") for side in SIDES}
        question, passage, extent = (sides[side] for side in SIDES)
        dataset = SquadDataset(
            prefix,
            question,
            passage,
            extent,
            self.dictionary,
            version,
            answered=bool(parts.get(split, {}).get("answered")),
            shuffle=split == "train",
        )
        longest = int(dataset.sizes.max())
        if self.rows is not None and longest > self.rows:
            raise PMLMError(
                f"{prefix} has windows of {longest} tokens, and the model --max-positions {self.rows}; give "
                f"--max-positions {longest} or prepare the data with --max-source-positions {self.rows}"
            )
        unknown = int(np.sum(dataset.rows[:, 4] < 0))
        logger.info(
            f"{split}: {len(sides['question']):,} questions of SQuAD version {version}, {len(sides['passage']):,} "
            f"passages, {len(dataset):,} windows" + (f", {unknown:,} of them without a known answer" if unknown else "")
        )
        self.datasets[split] = dataset

    def max_positions(self):
        return self.rows
