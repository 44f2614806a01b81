"""Dropout for a CPU against torch's, and attention with it against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F

from fairseq_pmlm.model.kernels import dropout
from fairseq_pmlm.model.kernels.dropout import Dropout, DroppedAttention, dropout_attention, random_bits, threshold


@pytest.mark.parametrize("p", [0.1, 0.5, 0.03])
def test_how_many_are_dropped_and_what_the_others_become(p):
    torch.manual_seed(1)
    layer = Dropout(p).train()
    x = torch.rand(400, 500, requires_grad=True)
    y = layer(x)
    kept = y != 0
    share = 1 - kept.float().mean().item()
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / x.numel())
    torch.testing.assert_close(y[kept], x[kept] / (1 - p))
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept / (1 - p))
    assert abs((1 - kept.float().mean(0)).std() - math.sqrt(p * (1 - p) / 400)) < 0.005  # no column differs


def test_seeds_mean_what_they_mean():
    layer, x = Dropout(0.3).train(), torch.ones(1000)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_out_of_training():
    x = torch.rand(7, 3)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert not Dropout(1.0).train()(x).any()


def test_other_types_are_torch_s_business():
    y = Dropout(0.5).train()(torch.ones(1000, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert set(y.float().tolist()) == {0.0, 2.0}


def heads_of(*shape, dtype=torch.float64):
    """As attention gets them: views of a tensor that holds all heads of a slot together."""
    batch, heads, slots, size = shape
    made = torch.randn(batch, slots, heads * size, dtype=dtype)
    return made.unflatten(2, (heads, size)).transpose(1, 2).detach().requires_grad_()


def masks(batch, heads, queries, keys):
    hidden = torch.rand(batch, 1, queries, keys) < 0.3
    hidden[..., 0] = False
    torch.manual_seed(3)
    return {
        "none": None,
        "padding": torch.zeros(batch, 1, 1, keys, dtype=torch.float64).masked_fill(hidden[:, :, :1], -math.inf),
        "rows": torch.zeros(batch, 1, queries, keys, dtype=torch.float64).masked_fill(hidden, -math.inf),
        "bias": torch.randn(1, heads, queries, keys, dtype=torch.float64).requires_grad_(),
        "both": torch.randn(batch, heads, queries, keys, dtype=torch.float64).masked_fill(hidden, -math.inf),
    }


@pytest.mark.parametrize("kind", ["none", "padding", "rows", "bias", "both"])
@pytest.mark.parametrize("heads", [1, 2, 5])
def test_attention_is_what_it_is_defined_to_be(kind, heads, monkeypatch):
    batch, queries, keys, size, p = 2, 6, 9, 4, 0.3
    monkeypatch.setattr(dropout, "SCORES", 2 * queries * keys + 1)  # two heads at a time
    torch.manual_seed(2)
    q, k, v = (heads_of(batch, heads, n, size) for n in (queries, keys, keys))
    mask = masks(batch, heads, queries, keys)[kind]
    torch.manual_seed(7)
    few = [min(2, heads - h) for h in range(0, heads, 2)]
    drawn = [random_bits((n, queries, keys)) for _ in range(batch) for n in few]
    kept = torch.cat(drawn).view(batch, heads, queries, keys)
    kept = (kept >= threshold(p)).double() / (1 - p)
    assert 0.5 < kept.ne(0).double().mean() < 0.9
    torch.manual_seed(7)
    ours = dropout_attention(q, k, v, mask, p)
    scores = q @ k.transpose(2, 3) / math.sqrt(size) + (0 if mask is None else mask)
    plain = (scores.softmax(-1) * kept) @ v
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    wanted = [x for x in (q, k, v, mask) if x is not None and x.requires_grad]
    direction = torch.randn_like(plain)
    here = torch.autograd.grad(ours, wanted, direction)
    there = torch.autograd.grad(plain, wanted, direction)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_attention_in_single_precision_is_near():
    q, k, v = (heads_of(2, 4, 50, 16, dtype=torch.float32) for _ in range(3))
    torch.manual_seed(1)
    single = dropout_attention(q, k, v, None, 0.1)
    torch.manual_seed(1)
    double = DroppedAttention.apply(q.double(), k.double(), v.double(), None, 0.1)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_without_dropout_torch_attends():
    q, k, v = (heads_of(2, 4, 10, 8) for _ in range(3))
    assert torch.equal(dropout_attention(q, k, v, None, 0.0), F.scaled_dot_product_attention(q, k, v))


def test_large_scores_do_not_overflow():
    q, k, v = (heads_of(1, 2, 10, 8, dtype=torch.float32) for _ in range(3))
    out = dropout_attention(q * 1000, k, v, None, 0.1)
    out.sum().backward()
    assert out.isfinite().all()
    assert q.grad.isfinite().all()
