"""The loss of extractive question answering: where the answer starts, and where it ends."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics
from torch import Tensor

from ..model.pmlm import Predict
from ..squad.validation import Judged, summarize
from ..squad.windows import UNKNOWN


@register_criterion("pmlm_squad")
class PMLMSquadCriterion(FairseqCriterion):
    """Mean of the cross-entropies of start and end over the slots of the passage and <s>.

    Windows that do not hold the answer point at <s>. When the model is evaluated, the answers are judged, too.
    """

    def forward(self, model, sample, reduce=True):
        """Loss of one batch of :class:`fairseq_pmlm.squad.dataset.SquadDataset`.

        Returns:
            a tuple: the loss in nats summed over windows (or (windows,), unless *reduce*), the number of windows whose
            answer is known, and what is logged.
        """
        logits, _ = model(Predict(head="span_head"), **sample["net_input"])
        loss, correct = span_loss(logits, sample["candidates"], sample["target"])
        known = int(sample["target"][:, 0].ne(UNKNOWN).sum())
        logged = {
            "loss": loss.sum().detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": known,
            "ncorrect": correct,
        }
        dataset = self.task.datasets.get(sample["part"])
        if not model.training and dataset is not None and dataset.answered:
            logged["judged"] = Judged.of(dataset.judge(sample, logits, self.task.cfg.max_answer_length))
            logged["version"] = dataset.version
        return loss.sum() if reduce else loss, known, logged

    @staticmethod
    def reduce_metrics(logging_outputs) -> None:
        """Log the loss in bits and the share of windows whose start and end are both right (in percent); of a
        validation, exact match and F1 over all of its questions (0..100)."""
        total = {
            key: sum(utils.item(log.get(key, 0)) for log in logging_outputs)
            for key in ("loss", "sample_size", "ncorrect")
        }
        windows = total["sample_size"]
        metrics.log_scalar("loss", total["loss"] / max(windows, 1) / math.log(2), windows, round=3)
        if windows:
            metrics.log_scalar("accuracy", 100 * total["ncorrect"] / windows, windows, round=2)
        version = next((log["version"] for log in logging_outputs if "version" in log), None)
        if version is None:  # training
            return
        rows = np.concatenate([log["judged"].rows for log in logging_outputs if "judged" in log])
        metrics.log_concat_tensor("_windows", torch.from_numpy(rows))
        for name in ("exact", "f1") + (("best_exact", "best_f1") if version == "2.0" else ()):
            metrics.log_derived(
                name,
                lambda meters, name=name: round(summarize(meters["_windows"].tensor.numpy(), version)[name], 2),
            )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return False


def span_loss(logits: Tensor, candidates: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each window, and how many windows are right.

    Args:
        logits: (windows, slots, 2).
        candidates: bool (windows, slots), slots that an answer can start or end at.
        target: int64 (windows, 2), slots of start and end; -1 twice where they are not known: no loss.

    Returns:
        a tuple: float32 (windows,), in nats; number of windows of which both are predicted, a scalar tensor.
    """
    scores = logits.float().masked_fill(~candidates[:, :, None], -torch.inf)
    loss = F.cross_entropy(scores, target, ignore_index=UNKNOWN, reduction="none").mean(1)
    return loss, scores.detach().argmax(1).eq(target).all(1).sum()
