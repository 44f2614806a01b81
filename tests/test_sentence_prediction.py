"""The criterion of classification and regression: its loss, and metrics of a whole validation set."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.logging import metrics
from test_heads import TEXTS, padded, with_heads

from fairseq_pmlm.criterions.sentence_prediction import (
    PMLMSentencePredictionConfig,
    PMLMSentencePredictionCriterion,
    compute,
)
from fairseq_pmlm.utils.errors import PMLMError


def criterion(num_classes=2, **options):
    task = SimpleNamespace(cfg=SimpleNamespace(num_classes=num_classes), target_dictionary=None)
    return PMLMSentencePredictionCriterion(
        PMLMSentencePredictionConfig(classification_head_name="task", **options), task
    )


def sample(targets, texts=TEXTS):
    tokens = padded(texts)
    net_input = {"src_tokens": tokens, "src_lengths": tokens.ne(1).sum(1)}
    return {"net_input": net_input, "target": targets, "ntokens": int(tokens.ne(1).sum())}


def reduced(logs, batches=1):
    """What is reported for *logs*, added to the meters in so many parts."""
    with metrics.aggregate(new_root=True) as agg:
        for part in np.array_split(np.arange(len(logs)), batches):
            PMLMSentencePredictionCriterion.reduce_metrics([logs[i] for i in part])
    return agg.get_smoothed_values()


def test_cross_entropy_and_squared_error():
    model = with_heads(task=3)
    targets = torch.tensor([0, 2, 1, 1, 0])
    logits, _ = model(src_tokens=padded(TEXTS), classification_head_name="task")
    loss, size, logged = criterion(3)(model, sample(targets[:, None]))
    wanted = -sum(
        math.log(math.exp(row[t]) / sum(map(math.exp, row))) for row, t in zip(logits.tolist(), targets, strict=True)
    )
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert size == logged["nsentences"] == 5
    assert reduced([logged])["loss"] == pytest.approx(wanted / 5 / math.log(2), abs=1e-4)

    model = with_heads(task=1)
    numbers = torch.tensor([0.5, 1.5, -2.0, 0.0, 4.0])
    outputs, _ = model(src_tokens=padded(TEXTS), classification_head_name="task")
    loss, _, logged = criterion(1, regression_target=True)(model, sample(numbers))
    wanted = sum((a - b) ** 2 for a, b in zip(outputs[:, 0].tolist(), numbers.tolist(), strict=True))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert reduced([logged])["loss"] == pytest.approx(wanted / 5, rel=1e-4)


def by_hand(predicted, wanted):
    """Accuracy, F1 of class 1 and Matthews' correlation from the four counts."""
    pairs = list(zip(predicted, wanted, strict=True))
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))
    return {
        "accuracy": 100 * (tp + tn) / len(pairs),
        "f1": 100 * 2 * tp / (2 * tp + fp + fn),
        "mcc": 100 * (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }


def ranks(values):
    """Ranks from 1; equal values share the mean of theirs."""
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def pearson(x, y):
    x, y = np.array(x) - np.mean(x), np.array(y) - np.mean(y)
    return 100 * (x @ y) / math.sqrt((x @ x) * (y @ y))


def log(predicted, wanted, names):
    size = len(wanted)
    extra = {} if "pearson" in names else {"ncorrect": sum(map(int.__eq__, predicted, wanted))}
    return {"loss": 1.0, "sample_size": size, "predicted": predicted, "wanted": wanted, "metrics": names, **extra}


@pytest.mark.parametrize("batches", [1, 3, 7])
def test_metrics_are_those_of_the_whole_set_whatever_the_batches(batches):
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 2, 37).tolist()
    predicted = [w if rng.random() < 0.7 else 1 - w for w in wanted]
    names = ["accuracy", "f1", "mcc"]
    parts = [log(predicted[i : i + 5], wanted[i : i + 5], names) for i in range(0, 37, 5)]
    found, expected = reduced(parts, batches), by_hand(predicted, wanted)
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=0.006)
    assert found["score"] == pytest.approx(sum(expected.values()) / 3, abs=0.02)
    # the mean over batches is another number
    means = np.mean([compute("f1", np.array(p["predicted"]), np.array(p["wanted"])) for p in parts])
    assert abs(means - expected["f1"]) > 0.1

    numbers = rng.integers(0, 6, 37).astype(float).tolist()
    guesses = [n + rng.normal() for n in numbers]
    parts = [log(guesses[i : i + 5], numbers[i : i + 5], ["pearson", "spearman"]) for i in range(0, 37, 5)]
    found = reduced(parts, batches)
    assert found["pearson"] == pytest.approx(pearson(guesses, numbers), abs=0.006)
    assert found["spearman"] == pytest.approx(pearson(ranks(guesses), ranks(numbers)), abs=0.006)


def test_what_is_not_defined_is_zero():
    constant, other = np.zeros(5), np.arange(5)
    assert compute("pearson", constant, other) == compute("spearman", constant, other) == 0
    assert compute("pearson", other[:1], other[:1]) == 0
    assert compute("mcc", constant, constant) == 0
    assert compute("f1", constant, constant) == 0
    assert compute("accuracy", constant, constant) == 100


def test_training_logs_accuracy_without_keeping_predictions():
    model = with_heads(task=2).train()
    _, _, logged = criterion()(model, sample(torch.tensor([0, 1, 0, 1, 1])))
    assert not {"predicted", "metrics"} & logged.keys()
    assert 0 <= reduced([logged])["accuracy"] <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "accuracy,bleu"}, "--metrics bleu: there is none of that name, but accuracy, f1"),
        ({"metrics": "pearson"}, "--metrics pearson is for numbers"),
        ({"metrics": "mcc", "regression_target": True}, "--metrics mcc is for classes"),
        ({"metrics": "f1", "num_classes": 3}, "--metrics f1 is for two classes, not --num-classes 3"),
    ],
)
def test_metrics_that_do_not_fit(options, message):
    with pytest.raises(PMLMError, match=message):
        criterion(**options)


def test_samples_without_labels():
    model = with_heads(task=2)
    unlabelled = sample(None)
    del unlabelled["target"]
    with pytest.raises(PMLMError, match=r"no labels; pmlm predict"):
        criterion()(model, unlabelled)
