"""Classification and regression with the metrics of GLUE, computed over a whole validation set.

fairseq's own ``sentence_prediction`` works as well. Its metrics beside the accuracy want classes that are spelled as
numbers, and more than one process cannot add them up.
"""

import math
import warnings
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

from ..preparation.glue import METRICS
from ..utils.errors import PMLMError
from ..utils.optional import require

CORRELATIONS = ("pearson", "spearman")


@dataclass
class PMLMSentencePredictionConfig(FairseqDataclass):
    """Options of ``--criterion pmlm_sentence_prediction``; the first two are those of fairseq's own."""

    classification_head_name: str = field(
        default="sentence_classification_head", metadata={"help": "name of the classification head to use"}
    )
    regression_target: bool = field(default=False, metadata={"help": "targets are numbers; mean squared error"})
    metrics: str = field(
        default="",
        metadata={
            "help": "what to report at validation, separated by commas: accuracy, f1 (of the second class), mcc; or "
            "pearson, spearman. 'score' is their mean, for --best-checkpoint-metric score (default: accuracy, or "
            "pearson,spearman)"
        },
    )


def compute(metric: str, predicted, wanted) -> float:
    """One of :data:`~fairseq_pmlm.preparation.glue.METRICS`, in percent.

    Args:
        metric: its name.
        predicted, wanted: arrays (samples,): indices of classes, or numbers.

    Returns:
        0 for a correlation that is not defined: of a constant, or of a single sample.
    """
    if metric in CORRELATIONS and len(wanted) < 2:
        return 0.0
    what = f"the metric {metric}"
    functions = {
        "accuracy": lambda: (predicted == wanted).mean(),
        "f1": lambda: require("sklearn.metrics", what).f1_score(wanted, predicted, zero_division=0),
        "mcc": lambda: require("sklearn.metrics", what).matthews_corrcoef(wanted, predicted),
        "pearson": lambda: require("scipy.stats", what).pearsonr(predicted, wanted)[0],
        "spearman": lambda: require("scipy.stats", what).spearmanr(predicted, wanted)[0],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants
        value = functions[metric]()
    return round(100 * float(value), 2) if math.isfinite(value) else 0.0


@register_criterion("pmlm_sentence_prediction", dataclass=PMLMSentencePredictionConfig)
class PMLMSentencePredictionCriterion(FairseqCriterion):
    """Cross-entropy over classes, or mean squared error.

    Raises:
        PMLMError: metrics that there are not, or that are not for such targets.
    """

    def __init__(self, cfg: PMLMSentencePredictionConfig, task):
        super().__init__(task)
        self.head, self.regression = cfg.classification_head_name, cfg.regression_target
        self.metrics = [name.strip() for name in cfg.metrics.split(",") if name.strip()]
        self.metrics = self.metrics or (list(CORRELATIONS) if self.regression else ["accuracy"])
        for name in self.metrics:
            if name not in METRICS:
                raise PMLMError(f"--metrics {name}: there is none of that name, but {', '.join(METRICS)}")
            if (name in CORRELATIONS) != self.regression:
                what = "classes" if self.regression else "numbers (--regression-target)"
                raise PMLMError(f"--metrics {name} is for {what}")
        if "f1" in self.metrics and task.cfg.num_classes != 2:
            raise PMLMError(f"--metrics f1 is for two classes, not --num-classes {task.cfg.num_classes}")

    def forward(self, model, sample, reduce=True):
        """The loss summed over samples, the number of samples, and what is logged.

        Raises:
            PMLMError: the data has no labels.
        """
        if "target" not in sample:
            raise PMLMError("this split has no labels; pmlm predict predicts them")
        outputs, _ = model(**sample["net_input"], features_only=True, classification_head_name=self.head)
        targets = model.get_targets(sample, [outputs]).view(-1)
        if self.regression:
            outputs, targets = outputs.view(-1).float(), targets.float()
            loss, predicted = F.mse_loss(outputs, targets, reduction="sum"), outputs.detach()
        else:
            predicted = outputs.argmax(dim=1)
            loss = F.cross_entropy(outputs.float(), targets, reduction="sum")
        logged = {
            "loss": loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": targets.numel(),
            "sample_size": targets.numel(),
        }
        if not self.regression:
            logged["ncorrect"] = (predicted == targets).sum()
        if not model.training:
            logged |= {"metrics": self.metrics, "predicted": predicted.tolist(), "wanted": targets.tolist()}
        return loss, targets.numel(), logged

    @staticmethod
    def reduce_metrics(logging_outputs) -> None:
        """Log the loss (in bits per sample for classes), and the metrics of all samples seen since the last reset."""
        total = {key: sum(log.get(key, 0) for log in logging_outputs) for key in ("loss", "sample_size", "ncorrect")}
        size = max(1, total["sample_size"])
        classes = any("ncorrect" in log for log in logging_outputs)
        metrics.log_scalar("loss", total["loss"] / size / (math.log(2) if classes else 1), size, round=4)
        names = next((log["metrics"] for log in logging_outputs if "metrics" in log), None)
        if names is None:  # training
            if classes:
                metrics.log_scalar("accuracy", 100.0 * total["ncorrect"] / size, size, round=2)
            return
        for key in ("predicted", "wanted"):
            values = [value for log in logging_outputs for value in log.get(key, ())]
            metrics.log_concat_tensor(f"_{key}", torch.tensor(values, dtype=torch.float64))

        def derive(name):
            return lambda meters: compute(name, meters["_predicted"].tensor.numpy(), meters["_wanted"].tensor.numpy())

        for name in names:
            metrics.log_derived(name, derive(name))
        metrics.log_derived("score", lambda meters: round(sum(derive(name)(meters) for name in names) / len(names), 2))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """No: the metrics want every prediction."""
        return False
