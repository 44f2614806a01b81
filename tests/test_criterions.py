"""The losses of fine-tuning against their definitions."""

import math

import pytest
import torch

from fairseq_pmlm.criterions.pmlm_seq2seq import kl_label_smoothing

PAD = 1


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_kl_label_smoothing_is_the_divergence_from_the_smoothed_target(epsilon):
    torch.manual_seed(1)
    lprobs = torch.randn(5, 9, dtype=torch.float64).log_softmax(1).requires_grad_()
    target = torch.tensor([4, 0, PAD, 8, 3])
    loss, nll = kl_label_smoothing(lprobs, target, epsilon, PAD)
    for row, gold in enumerate(target.tolist()):
        if gold == PAD:
            assert loss[row] == 0
            assert nll[row] == 0
            continue
        wanted = [1 - epsilon if i == gold else 0 if i == PAD else epsilon / 7 for i in range(9)]
        divergence = sum(q * (math.log(q) - lprobs[row, i].item()) for i, q in enumerate(wanted) if q)
        assert loss[row].item() == pytest.approx(divergence, abs=1e-12)
        assert nll[row].item() == pytest.approx(-lprobs[row, gold].item(), abs=1e-12)
    loss.sum().backward()
    assert lprobs.grad[2].abs().max() == 0


def test_the_smoothed_target_itself_has_no_loss():
    wanted = torch.full((1, 9), 0.1 / 7)
    wanted[0, 4], wanted[0, PAD] = 0.9, 1e-30
    loss, _ = kl_label_smoothing(wanted.log(), torch.tensor([4]), 0.1, PAD)
    assert loss.item() == pytest.approx(0, abs=1e-6)
