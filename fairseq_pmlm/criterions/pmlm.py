"""The joint loss of pre-training: autoencoding plus partially autoregressive, each logged apart."""

import math
from dataclasses import dataclass, field

from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

from ..data.collate import OBJECTIVES
from ..model.kernels.projection_loss import CHUNK
from ..model.pmlm import Predict
from ..utils.errors import PMLMError

PARTS = ("ae", "par", "ar")


@dataclass
class PMLMCriterionConfig(FairseqDataclass):
    """Options of ``--criterion pmlm``."""

    projection_chunk: int = field(
        default=CHUNK,
        metadata={
            "help": "predictions whose scores are held at a time, which bounds their memory: so many x types x 4 bytes"
        },
    )


@register_criterion("pmlm", dataclass=PMLMCriterionConfig)
class PMLMCriterion(FairseqCriterion):
    """Sum of the objectives' negative log-likelihoods over the number of masked positions (paper, section 3.1).

    A position counts once, whether one objective or two predict it.
    """

    def __init__(self, task, projection_chunk: int = CHUNK):
        super().__init__(task)
        check_chunk(projection_chunk)
        self.chunk = projection_chunk

    def forward(self, model, sample, reduce=True):
        """Loss of one batch of :class:`fairseq_pmlm.data.pretraining_dataset.PMLMDataset`.

        Returns:
            a tuple: the summed loss in nats, the number of masked positions, and what is logged of them.
        """
        losses = model(Predict(target=sample["target"], chunk=self.chunk), **sample["net_input"])
        objectives = sample["objectives"]
        masked = len(sample["target"]) // len(objectives)
        log = {key: sample[key] for key in ("ntokens", "nsentences", "nslots")}
        log["nslots_padded"] = sample["net_input"]["tokens"].numel()
        for i, name in enumerate(objectives):
            mine = slice(i * masked, (i + 1) * masked)
            log[f"{name}_loss"] = losses.nll[mine].sum()
            log[f"{name}_correct"] = losses.correct[mine].sum()
        log.update(loss=losses.loss.detach(), nmasked=masked, sample_size=masked)
        return losses.loss, masked, log

    @staticmethod
    def reduce_metrics(logging_outputs) -> None:
        """Log losses in bits, perplexities and accuracies (in percent) per masked position; masked positions and slots
        per second, and the share of slots that are padding, in percent."""
        total = {key: sum(utils.item(log.get(key, 0)) for log in logging_outputs) for key in logging_outputs[0]}
        masked = total.get("nmasked", 0)
        metrics.log_scalar("nmasked", masked, priority=185, round=1)
        metrics.log_speed("masked_per_second", masked, priority=95, round=1)
        padded = total.get("nslots_padded", 0)
        if padded:
            metrics.log_speed("slots_per_second", total["nslots"], priority=96, round=1)
            metrics.log_scalar("padding", 100 * (1 - total["nslots"] / padded), padded, priority=187, round=2)
        if not masked:
            metrics.log_scalar("loss", 0, 0)  # nothing was predicted; fairseq would take a loss of -1 otherwise
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


def check_chunk(predictions: int) -> None:
    """Refuse a ``--projection-chunk`` that holds nothing.

    Raises:
        PMLMError: naming it.
    """
    if predictions < 1:
        raise PMLMError(f"--projection-chunk {predictions} holds no prediction; give 1 or more")


assert set(PARTS) == {part for parts in OBJECTIVES.values() for part in parts}
