"""The loss of seq2seq fine-tuning: fairseq's label-smoothed cross-entropy at the [P] slots."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)


@dataclass
class PMLMSeq2SeqCriterionConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of ``--criterion pmlm_seq2seq``: fairseq's, with label smoothing on by default."""

    label_smoothing: float = field(
        default=0.1, metadata={"help": "share of the target distribution spread over all types; 0: none"}
    )


@register_criterion("pmlm_seq2seq", dataclass=PMLMSeq2SeqCriterionConfig)
class PMLMSeq2SeqCriterion(LabelSmoothedCrossEntropyCriterion):
    """As fairseq's ``label_smoothed_cross_entropy``: the model returns one distribution per target token."""
