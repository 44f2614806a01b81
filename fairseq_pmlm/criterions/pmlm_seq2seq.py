"""The loss of seq2seq fine-tuning: label-smoothed cross-entropy at the slots that predict the target."""

import math
from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.dataclass import ChoiceEnum

from ..model.kernels.projection_loss import CHUNK, ONE_HOT, Distribution
from ..model.pmlm import Predict
from ..utils.errors import PMLMError
from .pmlm import PMLMCriterionConfig, check_chunk


@dataclass
class PMLMSeq2SeqCriterionConfig(LabelSmoothedCrossEntropyCriterionConfig, PMLMCriterionConfig):
    """Options of ``--criterion pmlm_seq2seq``: fairseq's, with label smoothing on by default."""

    label_smoothing: float = field(
        default=0.1, metadata={"help": "share of the target distribution that goes to other types; 0: none"}
    )
    label_smoothing_type: ChoiceEnum(["fairseq", "kl"]) = field(  # type: ignore[valid-type]  # a call makes the enum
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
        projection_chunk=CHUNK,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        if not 0 <= label_smoothing < 1:
            raise PMLMError(f"--label-smoothing {label_smoothing} is not in [0, 1)")
        check_chunk(projection_chunk)
        self.label_smoothing_type = str(label_smoothing_type)
        self.chunk = projection_chunk

    def forward(self, model, sample, reduce=True):
        """As fairseq's, without the scores of padding: only the tokens to be predicted meet the vocabulary.

        Returns:
            the loss summed over tokens (or (tokens,), without gradients, unless *reduce*), the sample size, and what
            is logged.
        """
        target = model.get_targets(sample, None)
        real = target.ne(self.padding_idx)
        real[:, : self.ignore_prefix_size] = False
        select = real.flatten().nonzero()[:, 0]
        distribution, constant = self.smoothed(len(self.task.target_dictionary))
        predict = Predict(select=select, target=target.flatten()[select], distribution=distribution, chunk=self.chunk)
        losses = model(predict, **sample["net_input"])
        loss = losses.loss + constant * len(select) if reduce else losses.rows + constant
        nll = losses.nll.sum() if reduce else losses.nll
        sample_size = len(target) if self.sentence_avg else sample["ntokens"]
        logged = {
            "loss": loss.data,
            "nll_loss": nll.data,
            "ntokens": sample["ntokens"],
            "nsentences": len(target),
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            logged["n_correct"] = int(losses.correct.sum())
            logged["total"] = len(select)
        return loss, sample_size, logged

    def smoothed(self, types: int) -> tuple[Distribution, float]:
        """What to predict, and what to add to its cross-entropy, in nats a token."""
        if not self.eps:
            return ONE_HOT, 0.0
        if self.label_smoothing_type == "kl":
            share = self.eps / (types - 2)
            negative_entropy = (1 - self.eps) * math.log(1 - self.eps) + self.eps * math.log(share)
            return Distribution(1 - self.eps - share, share, without=self.padding_idx), negative_entropy
        share = self.eps / (types - 1)
        return Distribution(1 - self.eps - share, share), 0.0
