"""The losses of fine-tuning against their definitions, and against fairseq's."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import ListDataset
from reference import small_dictionary, small_model
from test_decoding import sources

from fairseq_pmlm.criterions.pmlm import PMLMCriterion
from fairseq_pmlm.criterions.pmlm_seq2seq import PMLMSeq2SeqCriterion
from fairseq_pmlm.data.blocks import TextBlocks
from fairseq_pmlm.data.pretraining_dataset import PMLMDataset
from fairseq_pmlm.model.kernels.projection_loss import projection_loss
from fairseq_pmlm.model.transformer import Layer

PAD = 1


def kl(lprobs, target, epsilon):
    """Losses with --label-smoothing-type kl where the model says *lprobs* (tokens, types)."""
    task = SimpleNamespace(target_dictionary=small_dictionary())
    criterion = PMLMSeq2SeqCriterion(task, False, epsilon, label_smoothing_type="kl")
    distribution, constant = criterion.smoothed(lprobs.size(1))
    weight, bias = torch.eye(lprobs.size(1), dtype=lprobs.dtype), torch.zeros(lprobs.size(1), dtype=lprobs.dtype)
    losses = projection_loss(lprobs, weight, bias, target, distribution)
    assert losses.loss.item() == pytest.approx(losses.rows.sum().item())
    return losses.rows + constant, losses.nll


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_kl_label_smoothing_is_the_divergence_from_the_smoothed_target(epsilon):
    torch.manual_seed(1)
    lprobs = torch.randn(5, 9, dtype=torch.float64).log_softmax(1)
    target = torch.tensor([4, 0, 2, 8, 3])
    loss, nll = kl(lprobs, target, epsilon)
    for row, gold in enumerate(target.tolist()):
        wanted = [1 - epsilon if i == gold else 0 if i == PAD else epsilon / 7 for i in range(9)]
        divergence = sum(q * (math.log(q) - lprobs[row, i].item()) for i, q in enumerate(wanted) if q)
        assert loss[row].item() == pytest.approx(divergence, abs=1e-12)
        assert nll[row].item() == pytest.approx(-lprobs[row, gold].item(), abs=1e-12)


def test_the_smoothed_target_itself_has_no_loss():
    wanted = torch.full((1, 9), 0.1 / 7)
    wanted[0, 4], wanted[0, PAD] = 0.9, 1e-30
    loss, _ = kl(wanted.log(), torch.tensor([4]), 0.1)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("sentence_avg", [False, True])
def test_the_loss_is_fairseq_s(prefix, sentence_avg):
    model = small_model(dtype=torch.float64)
    tokens, lengths = sources([6, 4, 5])
    target = torch.tensor([[5, 6, 7, 2], [9, 2, PAD, PAD], [8, 4, 2, PAD]])
    previous = torch.tensor([[2, 5, 6, 7], [2, 9, PAD, PAD], [2, 8, 4, PAD]])
    net_input = {"src_tokens": tokens, "src_lengths": lengths, "prev_output_tokens": previous}
    sample = {"net_input": net_input, "target": target, "ntokens": 9}
    task = SimpleNamespace(target_dictionary=small_dictionary())
    results = []
    for kind in (PMLMSeq2SeqCriterion, LabelSmoothedCrossEntropyCriterion):
        model.zero_grad()
        loss, size, logged = kind(task, sentence_avg, 0.1, prefix, True)(model, sample)
        loss.backward()
        results.append((loss, size, logged, [p.grad for p in model.parameters() if p.grad is not None]))
    (ours, size, logged, gradients), (theirs, expected_size, expected, expected_gradients) = results
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert size == expected_size
    assert {k: pytest.approx(float(v), rel=1e-6) for k, v in logged.items()} == {
        k: float(v) for k, v in expected.items()
    }
    for here, there in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-7)


def pretraining_batch(objective, rows=(0, 1, 2, 3)):
    lines = [torch.randint(4, 34, (n,), generator=torch.Generator().manual_seed(n)) for n in (30, 9, 26, 1)]
    lines = ListDataset([torch.cat([line, torch.tensor([2])]) for line in lines], np.array([31, 10, 27, 2]))
    blocks = TextBlocks(lines, 40, PAD, 2, "eos")
    data = PMLMDataset(blocks, small_dictionary(), objective, mask_prob=0.3)
    return data.collater([data[i] for i in rows])


def plain_pretraining_loss(model, batch):
    """Negative log-likelihood of each prediction from the scores of everything."""
    net_input = {name: value for name, value in batch["net_input"].items() if name != "select"}
    scores = model(**net_input).flatten(0, 1)[batch["net_input"]["select"]]
    return torch.nn.functional.cross_entropy(scores, batch["target"], reduction="none"), scores


@pytest.mark.parametrize("objective", ["ae", "par", "ar", "ae+par", "ae+ar"])
@pytest.mark.parametrize("options", [{}, {"separate_output": True}, {"relative": True}])
def test_the_loss_of_pretraining_is_the_plain_one(objective, options):
    """In chunks, with the tied embedding's gradients joined in place, and logged by objective."""
    model = small_model(dtype=torch.float64, **options)
    batch = pretraining_batch(objective)
    task = SimpleNamespace(source_dictionary=small_dictionary())
    loss, size, logged = PMLMCriterion(task, projection_chunk=7)(model, batch)
    nll, scores = plain_pretraining_loss(model, batch)
    names = objective.split("+")
    assert size * len(names) == len(nll)
    parameters = dict(model.named_parameters())
    ours, theirs = (torch.autograd.grad(x, parameters.values(), allow_unused=True) for x in (loss, nll.sum()))
    torch.testing.assert_close(loss, nll.sum())
    for name, here, there in zip(parameters, ours, theirs, strict=True):
        assert (here is None) == (there is None), name
        if here is not None:
            assert not here.is_sparse, name
            torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9, msg=name)
    correct = scores.argmax(1).eq(batch["target"])
    for name, part, right in zip(names, nll.chunk(len(names)), correct.chunk(len(names)), strict=True):
        assert logged[f"{name}_loss"].item() == pytest.approx(part.sum().item())
        assert logged[f"{name}_correct"].item() == right.sum().item()


def gradients(batch, seed=3, **options):
    model = small_model(**options).train()
    task = SimpleNamespace(source_dictionary=small_dictionary())
    torch.manual_seed(seed)
    loss, *_ = PMLMCriterion(task)(model, batch)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("option", ["checkpoint_activations", "offload_activations"])
def test_activations_computed_anew_change_nothing_to_the_bit(option, relative):
    options = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "relative": relative}
    batch = pretraining_batch("ae+par")
    plain, anew = gradients(batch, **options), gradients(batch, **options, **{option: True})
    assert all(torch.equal(a, b) for a, b in zip(plain, anew, strict=True))


def test_layers_are_what_is_computed_anew(monkeypatch):
    calls = []
    forward = Layer.forward
    monkeypatch.setattr(Layer, "forward", lambda *args: calls.append(1) or forward(*args))
    for option, times in (({}, 1), ({"checkpoint_activations": True}, 2)):
        calls.clear()
        gradients(pretraining_batch("ae+par"), **option)
        assert len(calls) == 3 * times


def test_compiled_layers_are_the_same_and_serve_all_shapes(monkeypatch):
    """What is compiled is the whole layer, once for the inner ones and once for the last, whatever the batches."""
    compile_ = torch.compile
    # without torch's own code generator, which takes minutes
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compile_(*args, **kwargs, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    options = {"dropout": 0.0, "attention_dropout": 0.0}
    batch = pretraining_batch("ae+par")
    halves = [pretraining_batch("ae+par", rows) for rows in ([0, 2], [1, 3, 0])]
    for part in (batch, *halves):
        for plain, compiled in zip(gradients(part, **options), gradients(part, **options, compile=True), strict=True):
            torch.testing.assert_close(plain, compiled, rtol=1e-5, atol=1e-5)
    assert 2 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
    assert not torch._dynamo.utils.counters["graph_break"]
