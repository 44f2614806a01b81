"""The loss of seq2seq fine-tuning: label-smoothed cross-entropy at the slots that predict the target."""

import math
from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

from ..errors import PMLMError


@dataclass
class PMLMSeq2SeqCriterionConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of ``--criterion pmlm_seq2seq``: fairseq's, with label smoothing on by default."""

    label_smoothing: float = field(
        default=0.1, metadata={"help": "share of the target distribution that goes to other types; 0: none"}
    )
    label_smoothing_type: ChoiceEnum(["fairseq", "kl"]) = field(
        default="fairseq",
        metadata={
            "help": "fairseq: cross-entropy, the share spread over all types; kl: as the authors', divergence from a "
            "distribution in which <pad> has nothing (same minimum, 0; other losses are not comparable)"
        },
    )


@register_criterion("pmlm_seq2seq", dataclass=PMLMSeq2SeqCriterionConfig)
class PMLMSeq2SeqCriterion(LabelSmoothedCrossEntropyCriterion):
    """As fairseq's ``label_smoothed_cross_entropy``: the model returns one distribution per target token."""

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size=0,
        report_accuracy=False,
        label_smoothing_type="fairseq",
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        if not 0 <= label_smoothing < 1:
            raise PMLMError(f"--label-smoothing {label_smoothing} is not in [0, 1)")
        self.label_smoothing_type = str(label_smoothing_type)

    def compute_loss(self, model, net_output, sample, reduce=True):
        if self.label_smoothing_type == "fairseq":
            return super().compute_loss(model, net_output, sample, reduce)
        lprobs, target = self.get_lprobs_and_target(model, net_output, sample)
        loss, nll = kl_label_smoothing(lprobs, target, self.eps, self.padding_idx)
        return (loss.sum(), nll.sum()) if reduce else (loss, nll)


def kl_label_smoothing(lprobs: Tensor, target: Tensor, epsilon: float, pad: int) -> tuple[Tensor, Tensor]:
    """KL divergence from the smoothed target: 1 - *epsilon* for its token, 0 for <pad>, equal shares for all others.

    Args:
        lprobs: (tokens, types), log-probabilities.
        target: int64 (tokens,), *pad* where nothing is to be learned.
        epsilon: share of the other types.
        pad: index of <pad>.

    Returns:
        (tokens,) each, in nats: the divergence, and the negative log-likelihood; 0 where the target is *pad*.
    """
    others = lprobs.size(-1) - 2
    nll = -lprobs.gather(1, target[:, None]).squeeze(1)
    rest = -lprobs.sum(1) - nll + lprobs[:, pad]
    negative_entropy = sum(share * math.log(share / n) for share, n in ((1 - epsilon, 1), (epsilon, others)) if share)
    loss = (1 - epsilon) * nll + epsilon / others * rest + negative_entropy
    nothing = target.eq(pad)
    return loss.masked_fill(nothing, 0.0), nll.masked_fill(nothing, 0.0)
