"""Projection and cross-entropy in chunks against the plain thing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_pmlm.model.kernels.projection_loss import ONE_HOT, Distribution, projection_loss

TYPES = 21
DISTRIBUTIONS = [ONE_HOT, Distribution(0.9 - 0.1 / 20, 0.1 / 20), Distribution(0.9 - 0.1 / 19, 0.1 / 19, without=1)]


def plain(x, weight, bias, target, distribution):
    """The loss of each prediction, by definition: minus the sum over types of probability wanted * log-probability."""
    lprobs = (x @ weight.T + bias).log_softmax(-1)
    wanted = torch.full_like(lprobs, distribution.others)
    if distribution.without is not None:
        wanted[:, distribution.without] = 0
    wanted[torch.arange(len(target)), target] += distribution.target
    assert torch.allclose(wanted.sum(1), torch.ones_like(wanted[:, 0]))
    return -(wanted * lprobs).sum(1), -lprobs.gather(1, target[:, None])[:, 0], lprobs.argmax(1).eq(target)


def problem(predictions, dtype, seed=0):
    torch.manual_seed(seed)
    shapes = (predictions, 8), (TYPES, 8), (TYPES,)
    parameters = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    return parameters, torch.randint(2, TYPES, (predictions,))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.sampled_from([1, 8]),
    st.sampled_from(DISTRIBUTIONS),
    st.sampled_from([(torch.float64, 1e-11), (torch.float32, 1e-4)]),
    st.sampled_from([1.0, 0.3]),
)
def test_losses_and_gradients_are_those_of_the_plain_thing(predictions, chunk, pad_to, distribution, precision, factor):
    dtype, tolerance = precision
    parameters, target = problem(predictions, dtype)
    losses = projection_loss(*parameters, target, distribution, chunk, pad_to)
    ours = torch.autograd.grad(losses.loss * factor, parameters)
    rows, nll, correct = plain(*parameters, target, distribution)
    theirs = torch.autograd.grad(rows.sum() * factor, parameters)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(losses.loss, rows.sum(), **close)
    torch.testing.assert_close(losses.rows, rows.detach(), **close)
    torch.testing.assert_close(losses.nll, nll.detach(), **close)
    assert torch.equal(losses.correct, correct)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **close)


def test_low_precision_is_for_the_products_alone():
    parameters, target = problem(40, torch.float32)
    low = [p.detach().bfloat16().requires_grad_() for p in parameters]
    losses = projection_loss(*low, target, chunk=7)
    assert losses.loss.dtype == losses.nll.dtype == torch.float32
    rows, *_ = plain(*(p.float() for p in low), target, ONE_HOT)
    torch.testing.assert_close(losses.rows, rows.detach(), rtol=2e-2, atol=5e-2)
    losses.loss.backward()
    of_plain = torch.autograd.grad(rows.sum(), low)
    for p, expected in zip(low, of_plain, strict=True):
        assert p.grad.dtype == torch.bfloat16
        assert (p.grad.float() - expected.float()).norm() < 0.03 * expected.float().norm()


def test_scores_of_a_chunk_are_all_that_is_held(monkeypatch):
    import fairseq_pmlm.model.kernels.projection_loss as module

    shapes = []
    project = module.project
    monkeypatch.setattr(module, "project", lambda x, *rest: shapes.append(len(x)) or project(x, *rest))
    parameters, target = problem(25, torch.float32)
    projection_loss(*parameters, target, chunk=10)
    assert shapes == [10, 10, 5]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_to_predict(training):
    parameters, target = problem(0, torch.float32)
    with torch.set_grad_enabled(training):
        losses = projection_loss(*parameters, target)
    assert losses.loss.item() == 0
    assert len(losses.nll) == 0
    if training:
        losses.loss.backward()
        assert all(p.grad is not None and not p.grad.any() for p in parameters)


def test_extreme_scores_stay_finite():
    parameters, target = problem(4, torch.float32)
    x = (parameters[0] * 1e4).detach().requires_grad_()
    losses = projection_loss(x, *parameters[1:], target)
    losses.loss.backward()
    assert losses.rows.isfinite().all()
    assert x.grad.isfinite().all()
