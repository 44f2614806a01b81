"""The joint loss of pre-training: autoencoding plus partially autoregressive, each logged apart."""

import math

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics

from ..datasets import OBJECTIVES

PARTS = ("ae", "par", "ar")


@register_criterion("pmlm")
class PMLMCriterion(FairseqCriterion):
    """Sum of the objectives' negative log-likelihoods over the number of masked positions (paper, section 3.1).

    A position counts once, whether one objective or two predict it.
    """

    def __init__(self, task):
        super().__init__(task)
        self.padding_idx = task.source_dictionary.pad()

    def forward(self, model, sample, reduce=True):
        """Loss of one batch of :class:`fairseq_pmlm.datasets.PMLMDataset`.

        Returns:
            a tuple: the summed loss in nats, the number of masked positions, and what is logged of them.
        """
        logits = model(**sample["net_input"])
        objectives = sample["objectives"]
        log = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"]}
        loss = 0.0
        masked = 0
        for name, scores, target in zip(
            objectives,
            logits.chunk(len(objectives), dim=1),
            sample["target"].chunk(len(objectives), dim=1),
            strict=True,
        ):
            nll = F.cross_entropy(
                scores.flatten(0, 1).float(), target.flatten(), ignore_index=self.padding_idx, reduction="sum"
            )
            with torch.no_grad():
                real = target.ne(self.padding_idx)
                masked = real.sum()
                log[f"{name}_correct"] = (scores.argmax(-1).eq(target) & real).sum()
            log[f"{name}_loss"] = nll.detach()
            loss = loss + nll
        masked = utils.item(masked)
        log.update(loss=loss.detach(), nmasked=masked, sample_size=masked)
        return loss, masked, log

    @staticmethod
    def reduce_metrics(logging_outputs) -> None:
        """Log losses in bits, perplexities and accuracies (in percent) per masked position."""
        total = {key: sum(utils.item(log.get(key, 0)) for log in logging_outputs) for key in logging_outputs[0]}
        masked = total.get("nmasked", 0)
        metrics.log_scalar("nmasked", masked, priority=185, round=1)
        if not masked:
            return
        metrics.log_scalar("loss", total["loss"] / masked / math.log(2), masked, round=3)
        for name in PARTS:
            if f"{name}_loss" not in total:
                continue
            metrics.log_scalar(f"{name}_loss", total[f"{name}_loss"] / masked / math.log(2), masked, round=3)
            metrics.log_derived(f"{name}_ppl", lambda meters, key=f"{name}_loss": utils.get_perplexity(meters[key].avg))
            metrics.log_scalar(f"{name}_accuracy", 100 * total[f"{name}_correct"] / masked, masked, round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


assert set(PARTS) == {part for parts in OBJECTIVES.values() for part in parts}
