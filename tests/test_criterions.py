"""The losses of fine-tuning against their definitions, and against fairseq's."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from reference import small_dictionary, small_model
from test_decoding import sources

from fairseq_pmlm.criterions.pmlm_seq2seq import PMLMSeq2SeqCriterion
from fairseq_pmlm.projection_loss import projection_loss

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
