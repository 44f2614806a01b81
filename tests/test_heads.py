"""Texts that are only read, classification heads, and which heads a checkpoint and a model agree on."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from reference import forward, small_dictionary, small_model

from fairseq_pmlm.checkpoints import context
from fairseq_pmlm.model.batch_layout import text_slots
from fairseq_pmlm.tasks.model import task_labels
from fairseq_pmlm.utils.errors import PMLMError

EXACT = {"rtol": 0, "atol": 1e-10}


def text(seed: int, *lengths: int) -> list[int]:
    """<s> a </s>, or <s> a </s> b </s>, with texts of *lengths* words."""
    rng = np.random.default_rng(seed)
    return [0] + [token for length in lengths for token in [*rng.integers(4, 34, length).tolist(), 2]]


TEXTS = [text(0, 5), text(1, 9), text(2, 3, 6), text(3, 7, 1), text(4, 1)]


def padded(texts, width=0):
    width = max(width, *map(len, texts))
    return torch.tensor([row + [1] * (width - len(row)) for row in texts])


def segments(row):
    """0 up to the first </s> and 1 behind it, by looking."""
    return [int(2 in row[:place]) for place in range(len(row))]


def with_heads(relative=False, dtype=torch.float64, **heads):
    """A small model with heads of random weights: name -> number of classes."""
    model = small_model(relative, dtype=dtype)
    for name, classes in heads.items():
        model.register_classification_head(name, num_classes=classes)
        for parameter in model.classification_heads[name].parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def test_the_layout_of_a_batch_is_that_of_each_text():
    slots = text_slots(padded(TEXTS), 2, 2)
    for i, row in enumerate(TEXTS):
        alone = {"tokens": row, "positions": [*range(len(row))], "segments": segments(row), "steps": [0] * len(row)}
        for name, wanted in alone.items():
            assert slots[name][i, : len(row)].tolist() == wanted
    assert slots["context_length"] == len(max(TEXTS, key=len))
    # one segment row, as in imported RoBERTa; a third text shares the second one's
    assert not text_slots(padded(TEXTS), 2, 1)["segments"].any()
    assert text_slots(padded([text(0, 1, 1, 1)]), 2, 3)["segments"].tolist() == [[0, 0, 0, 1, 1, 1, 1]]


@pytest.mark.parametrize("relative", [False, True])
def test_features_and_classes_equal_a_plain_forward_of_each_text(relative):
    model = with_heads(relative, task=3)
    with torch.no_grad():
        tokens = padded(TEXTS, 20)
        features, _ = model(src_tokens=tokens, features_only=True)
        classes, _ = model(src_tokens=tokens, src_lengths=None, classification_head_name="task")
        head = model.classification_heads["task"]
        for i, row in enumerate(TEXTS):
            everything = list(range(len(row)))
            plain = forward(model, row, everything, segments(row), [everything] * len(row))
            torch.testing.assert_close(features[i, : len(row)], plain, **EXACT)
            single, _ = model(src_tokens=torch.tensor([row]), features_only=True)
            torch.testing.assert_close(single[0], plain, **EXACT)
            hidden = torch.tanh(plain[0] @ head.dense.weight.T + head.dense.bias)
            torch.testing.assert_close(classes[i], hidden @ head.out_proj.weight.T + head.out_proj.bias, **EXACT)
    assert classes.shape == (len(TEXTS), 3)


def test_dropout_of_the_head_is_an_option():
    def outputs(**options):
        torch.manual_seed(0)
        quiet = {"dropout": 0.0, "attention_dropout": 0.0}
        model = small_model(**quiet, **options)
        model.register_classification_head("task", num_classes=2)
        model.train()
        tokens = padded([TEXTS[0]] * 50)
        return model(src_tokens=tokens, classification_head_name="task")[0].std(0).max().item()

    assert outputs() < 1e-6
    assert outputs(pooler_dropout=0.5) > 1e-3


def test_reading_classifying_and_generating_share_every_tensor_of_the_backbone():
    model = with_heads(task=2)
    backbone = {name: id(p) for name, p in model.backbone.named_parameters()}
    names = [name for name, _ in model.named_parameters()]
    assert [name.removeprefix("backbone.") for name in names if name.startswith("backbone.")] == list(backbone)
    others = {name.split(".")[0] for name in names} - {"backbone"}
    assert others == {"output_layer", "classification_heads"}
    # every one of them takes part in each of the three
    tokens = padded(TEXTS)
    previous = torch.tensor([[2, 5, 6]] * len(TEXTS))
    lengths = tokens.ne(1).sum(1)
    losses = {
        "reading": lambda: model(src_tokens=tokens, features_only=True)[0],
        "classifying": lambda: model(src_tokens=tokens, classification_head_name="task")[0],
        "generating": lambda: model(src_tokens=tokens, src_lengths=lengths, prev_output_tokens=previous)[0],
    }
    for loss in losses.values():
        model.zero_grad()
        (loss() * torch.randn(1, dtype=torch.float64)).pow(2).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())
    assert backbone == {name: id(p) for name, p in model.backbone.named_parameters()}


def load(model, state, finetuning=False):
    """What fairseq does with a checkpoint."""
    with context.reading(finetuning=finetuning):
        model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, strict=True)
    return model


def test_heads_of_the_checkpoint_are_registered_whatever_it_is_loaded_for():
    trained = with_heads(one=2, two=5)
    state = trained.state_dict()
    assert state["classification_heads.two.out_proj.weight"].shape == (5, 16)
    for finetuning in (False, True):
        loaded = load(small_model(seed=1, dtype=torch.float64), state, finetuning)
        assert list(loaded.classification_heads) == ["one", "two"]
        ours = loaded.state_dict()
        assert ours.keys() == state.keys()
        assert all(torch.equal(ours[key], state[key]) for key in state)


def test_missing_heads_start_with_random_weights_at_fine_tuning_alone():
    pretrained = small_model(dtype=torch.float64).state_dict()
    model = with_heads(task=2)
    before = model.classification_heads["task"].out_proj.weight.clone()
    load(model, pretrained, finetuning=True)
    assert torch.equal(model.classification_heads["task"].out_proj.weight, before)
    assert torch.equal(model.backbone.embed_tokens.weight, pretrained["backbone.embed_tokens.weight"])
    with pytest.raises(PMLMError, match=r"has no head 'classification_heads\.task' \(its heads: none\)"):
        load(model, pretrained)


def labelled(model, name, labels):
    model.labels = labels
    model.register_classification_head(name, num_classes=len(labels))
    return model


def test_a_head_for_other_classes_is_another_head(caplog):
    three = with_heads(task=3, other=2).state_dict()
    model = with_heads(task=2)
    before = model.classification_heads["task"].out_proj.weight.clone()
    with pytest.raises(PMLMError, match=r"'classification_heads\.task' differs: 3 classes there and 2 here"):
        load(model, three)
    with caplog.at_level(logging.WARNING):
        load(model, three, finetuning=True)
    assert len(caplog.records) == 1
    assert "3 classes there and 2 here; initialized again" in caplog.text
    assert torch.equal(model.classification_heads["task"].out_proj.weight, before)
    assert torch.equal(
        model.classification_heads["other"].dense.weight, three["classification_heads.other.dense.weight"]
    )

    # as many classes, but others: no shape shows it
    there = labelled(small_model(), "task", ["bad", "good"]).state_dict()
    with pytest.raises(PMLMError, match="the classes bad, good there and good, bad here"):
        load(labelled(small_model(), "task", ["good", "bad"]), there)
    same = load(labelled(small_model(seed=3), "task", ["bad", "good"]), there)
    assert same.classification_heads["task"].labels == ["bad", "good"]
    unlabelled = small_model(seed=4)
    unlabelled.register_classification_head("task", num_classes=2)
    weight = load(unlabelled, there).classification_heads["task"].out_proj.weight
    assert torch.equal(weight, there["classification_heads.task.out_proj.weight"])


def test_tensors_that_are_no_head_are_named():
    state = with_heads(task=2).state_dict()
    del state["classification_heads.task.dense.bias"]
    with pytest.raises(PMLMError, match=r"the tensors of 'classification_heads\.task' do not fit"):
        load(small_model(dtype=torch.float64), state)
    del state["classification_heads.task.out_proj.weight"]
    with pytest.raises(PMLMError, match=r"the tensors of 'classification_heads\.task' are not those of a head"):
        load(small_model(dtype=torch.float64), state)


@pytest.mark.parametrize("name", ["a.b", "keys", ""])
def test_names_that_no_head_can_have(name):
    with pytest.raises(PMLMError, match="cannot be the name of a head"):
        small_model().register_classification_head(name, num_classes=2)


def task(labels=("bad", "good"), num_classes=2, init_token=0, separator_token=None, regression_target=False, **more):
    dictionary = Dictionary()
    for label in [*labels, "madeupword0000", "<mask>"]:
        dictionary.add_symbol(label)
    cfg = SimpleNamespace(
        data="somewhere", num_classes=num_classes, init_token=init_token, separator_token=separator_token,
        regression_target=regression_target, **{"shorten_method": "none", **more},
    )  # fmt: skip
    return SimpleNamespace(label_dictionary=dictionary, source_dictionary=small_dictionary(), cfg=cfg)


def test_what_a_task_must_agree_on_with_the_model():
    assert task_labels(task()) == ["bad", "good"]
    assert task_labels(task(regression_target=True, num_classes=1)) is None
    assert task_labels(SimpleNamespace()) is None
    for options, message in [
        ({"init_token": None}, "--init-token 0 puts first; given is None"),
        ({"separator_token": 2}, "--separator-token 2: a PMLM reads pairs as <s> a </s> b </s>"),
        ({"shorten_method": "random_crop"}, "--shorten-method random_crop may cut off <s>"),
        ({"labels": ["a", "b", "c"]}, r"somewhere/label/dict.txt has 3 classes \(a, b, c\), and the head has 2"),
        ({"num_classes": 3}, r"has 2 classes \(bad, good\), and the head has 3"),
    ]:
        with pytest.raises(PMLMError, match=message):
            task_labels(task(**options))
