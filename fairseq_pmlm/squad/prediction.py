"""Answers of a model to all questions of a data set, and the files that hold them."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from fairseq import utils
from tqdm import tqdm

from ..model.pmlm import Predict
from ..scoring.squad import EVEN, SquadScores, score_squad
from ..utils.errors import PMLMError
from ..utils.io import read_json
from .dataset import SquadDataset, WindowAnswers
from .spans import Span, merge, no_answer_probability

THRESHOLD = "threshold.json"
OURS = r"(predictions|spans|nbest|na_probs|threshold|scores)\.json"


@dataclass
class Prediction:
    """Answers to one question, the best first; of equal texts, the best one stands for all."""

    id: str
    texts: list[str]
    starts: list[int]  # first character of each in the passage
    scores: list[float]
    null: float  # score of <s>, in the window where it is least

    @property
    def text(self) -> str:
        """The best answer; empty where no piece of the passage can be one."""
        return self.texts[0] if self.texts else ""

    @property
    def probability(self) -> float:
        """That there is no answer."""
        return no_answer_probability(self.null, self.scores[0] if self.scores else -np.inf)

    def nbest(self, count: int, with_null: bool) -> list[dict[str, Any]]:
        """The *count* best answers as JSON shows them, with probabilities that sum to 1.

        Args:
            count: how many; "no answer" comes beside them.
            with_null: whether "no answer" is one of them, as an empty text.
        """
        best = [*zip(self.texts, self.starts, self.scores, strict=True)][:count]
        rows: list[tuple[str, int | None, float]] = [*best, ("", None, self.null)] if with_null else [*best]
        rows.sort(key=lambda row: -row[2])
        weights = np.exp(np.array([row[2] for row in rows]) - max((row[2] for row in rows), default=0))
        keys = ("text", "start", "score", "probability")
        return [
            dict(zip(keys, (*row, float(p)), strict=True)) for row, p in zip(rows, weights / weights.sum(), strict=True)
        ]


@torch.inference_mode()
def predict(
    model, task, dataset: SquadDataset, longest: int, count: int, batch_size: int, cuda: bool
) -> list[Prediction]:
    """The *count* best answers to every question, in the order of the file.

    Args:
        model: in evaluation mode, on its device.
        task: of the checkpoint; makes the batches.
        dataset: windows of the questions.
        longest: most pieces of an answer.
        count: how many answers.
        batch_size: windows at a time.
        cuda: whether the model is on a GPU.
    """
    found: list[list[WindowAnswers]] = [[] for _ in dataset.texts.ids]
    iterator = task.get_batch_iterator(dataset, max_sentences=batch_size).next_epoch_itr(shuffle=False)
    with tqdm(total=len(dataset), desc="answering", unit=" windows", disable=None) as bar:
        for sample in iterator:
            sample = utils.move_to_cuda(sample) if cuda else sample
            logits, _ = model(Predict(head="span_head"), **sample["net_input"])
            for window in dataset.decode(sample, logits, longest, count):
                found[window.question].append(window)
            bar.update(len(logits))
    return [combine(dataset, question, windows, count) for question, windows in enumerate(found)]


def combine(dataset: SquadDataset, question: int, windows: list[WindowAnswers], count: int) -> Prediction:
    """One prediction from all windows of a question."""
    if not windows:
        raise PMLMError(
            f"{dataset.prefix}: no window asks question {dataset.texts.ids[question]}; prepare the data again"
        )
    passage = windows[0].passage
    extents = dataset.extents_of(passage)
    best: dict[str, Span] = {}
    for span in merge([window.spans for window in windows], count * len(windows)):
        best.setdefault(dataset.answer(passage, span), span)
    texts = list(best)[:count]
    return Prediction(
        dataset.texts.ids[question],
        texts,
        [int(extents[best[text].first, 0]) for text in texts],
        [best[text].score for text in texts],
        min(window.null for window in windows),
    )


def read_threshold(folder: str) -> float:
    """The threshold that predictions in *folder* were made with.

    Raises:
        PMLMError: there is none.
    """
    path = os.path.join(folder, THRESHOLD)
    threshold = read_json(path).get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise PMLMError(f"{path}: 'threshold' should be a probability, but is {threshold!r}")
    return float(threshold)


def write(
    folder: str, predictions: Iterable[Prediction], dataset: SquadDataset, count: int, threshold: Optional[float]
) -> tuple[Optional[float], Optional[SquadScores]]:
    """Write all files of predictions; score them where there are references.

    Args:
        folder: directory to write.
        predictions: to all questions.
        dataset: what they answer.
        count: answers in nbest.json.
        threshold: version 2.0: what has a larger probability counts as "no answer"; None to take the best one for these
            questions, or an even one where there are no references.

    Returns:
        the threshold (None for version 1.1), and the scores.
    """
    predictions = list(predictions)
    version, with_null = dataset.version, dataset.version == "2.0"
    spans = {prediction.id: prediction.text for prediction in predictions}
    references = dict(zip(dataset.texts.ids, dataset.texts.answers, strict=True)) if dataset.answered else None
    files: dict[str, dict] = {"predictions": spans, "nbest": {p.id: p.nbest(count, with_null) for p in predictions}}
    probabilities = None
    if with_null:
        probabilities = {prediction.id: prediction.probability for prediction in predictions}
        tuned = threshold is None and references is not None
        if threshold is None:
            threshold = EVEN
            if references is not None:
                threshold = score_squad(spans, references, version, probabilities).thresholds["f1"]
        files["spans"], files["na_probs"] = spans, probabilities
        files["predictions"] = {i: "" if probabilities[i] > threshold else text for i, text in spans.items()}
        files["threshold"] = {"threshold": threshold, "tuned": tuned}
    else:
        threshold = None
    scores = None
    if references is not None:
        scores = score_squad(spans, references, version, probabilities, 1.0 if threshold is None else threshold)
    for name, content in files.items():
        with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=True, indent=1 if name in ("nbest", "threshold") else None)
    return threshold, scores
