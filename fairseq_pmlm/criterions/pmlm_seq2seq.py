"""The loss of seq2seq fine-tuning: label-smoothed cross-entropy at the slots that predict the target."""

import math
from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
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

    def forward(self, model, sample, reduce=True):
        """As fairseq's, without the scores of padding: only the tokens to be predicted meet the vocabulary.

        Returns:
            the loss summed over tokens (or (tokens,), unless *reduce*), the sample size, and what is logged.
        """
        target = model.get_targets(sample, None)
        wanted = target.ne(self.padding_idx)
        wanted[:, : self.ignore_prefix_size] = False
        net_output = model(**sample["net_input"], wanted=wanted)
        target = target[wanted]
        lprobs = model.get_normalized_probs(net_output, log_probs=True)
        if self.label_smoothing_type == "kl":
            loss, nll = kl_label_smoothing(lprobs, target, self.eps, self.padding_idx)
            loss, nll = (loss.sum(), nll.sum()) if reduce else (loss, nll)
        else:
            loss, nll = label_smoothed_nll_loss(lprobs, target[:, None], self.eps, reduce=reduce)
        sample_size = len(wanted) if self.sentence_avg else sample["ntokens"]
        logged = {
            "loss": loss.data,
            "nll_loss": nll.data,
            "ntokens": sample["ntokens"],
            "nsentences": len(wanted),
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            logged["n_correct"] = int(lprobs.argmax(1).eq(target).sum())
            logged["total"] = len(target)
        return loss, sample_size, logged


def kl_label_smoothing(lprobs: Tensor, target: Tensor, epsilon: float, pad: int) -> tuple[Tensor, Tensor]:
    """KL divergence from the smoothed target: 1 - *epsilon* for its token, 0 for <pad>, equal shares for all others.

    Args:
        lprobs: (tokens, types), log-probabilities.
        target: int64 (tokens,), none of them *pad*.
        epsilon: share of the other types.
        pad: index of <pad>.

    Returns:
        (tokens,) each, in nats: the divergence, and the negative log-likelihood.
    """
    others = lprobs.size(-1) - 2
    nll = -lprobs.gather(1, target[:, None]).squeeze(1)
    rest = -lprobs.sum(1) - nll + lprobs[:, pad]
    negative_entropy = sum(share * math.log(share / n) for share, n in ((1 - epsilon, 1), (epsilon, others)) if share)
    return (1 - epsilon) * nll + epsilon / others * rest + negative_entropy, nll
