"""fairseq_pmlm.model.kernels.linear: packed products equal torch's, and follow the weights."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F

from fairseq_pmlm.model.kernels.linear import PackableLinear, has_onednn

SLICES = [slice(None), slice(0, 16), slice(16, 48)]


def pair():
    torch.manual_seed(1)
    plain = PackableLinear(24, 48)
    packed = copy.deepcopy(plain)
    packed.make_generation_fast_()
    return plain, packed


@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (300, 24), (0, 24), (3, 5, 24)])
@pytest.mark.parametrize("activation", [None, F.gelu, F.relu])
@pytest.mark.parametrize("outputs", SLICES, ids=str)
def test_packed_equals_plain(shape, activation, outputs):
    plain, packed = pair()
    x = torch.randn(shape)
    expected = F.linear(x, plain.weight[outputs], plain.bias[outputs])
    expected = expected if activation is None else activation(expected)
    with torch.no_grad():
        torch.testing.assert_close(packed(x, activation, outputs), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(plain(x, activation, outputs), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24)])
@pytest.mark.parametrize("outputs", [slice(None), slice(8, 40)])
def test_gradients_are_those_of_torch(shape, outputs):
    plain, _ = pair()
    x = torch.randn(shape, requires_grad=True)
    direction = torch.randn(*shape[:-1], 48)[..., outputs]
    wanted = [x, plain.weight, plain.bias]
    ours = torch.autograd.grad(plain(x, F.gelu, outputs), wanted, direction)
    theirs = torch.autograd.grad(F.gelu(F.linear(x, plain.weight, plain.bias))[..., outputs], wanted, direction)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_no_rows():
    plain, packed = pair()
    x = torch.zeros(0, 24, requires_grad=True)
    plain(x).sum().backward()
    assert not plain.weight.grad.any()
    with torch.no_grad():
        assert packed(x).shape == (0, 48)


def test_rows_that_are_not_contiguous():
    plain, packed = pair()
    for x in (torch.randn(6, 9, 24)[:, -2:], torch.randn(24, 6).t(), torch.randn(4, 6, 24).transpose(0, 1)):
        with torch.no_grad():
            torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.skipif(not has_onednn(torch.zeros(1)), reason="this torch has no oneDNN for this CPU")
def test_packing_happens_without_gradients_only(monkeypatch):
    _, packed = pair()
    x = torch.randn(3, 24, requires_grad=True)
    packed(x).sum().backward()
    assert x.grad is not None
    assert not packed.packs
    with torch.no_grad():
        packed(x)
    assert list(packed.packs) == [(None, None)]


def test_changed_weights_are_packed_anew():
    plain, packed = pair()
    x = torch.randn(3, 24)
    with torch.no_grad():
        packed(x)
        packed.weight.mul_(2)
        packed.bias.add_(1)
        torch.testing.assert_close(packed(x), 2 * plain(x) + 1 - plain.bias, rtol=0, atol=1e-5)
        packed.load_state_dict(plain.state_dict())
        torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=1e-5)
        packed.weight = torch.nn.Parameter(-plain.weight)
        torch.testing.assert_close(packed(x), 2 * plain.bias - plain(x), rtol=0, atol=1e-5)


def test_packs_are_neither_copied_nor_saved():
    _, packed = pair()
    with torch.no_grad():
        packed(torch.randn(3, 24))
    assert not copy.deepcopy(packed).packs
    file = io.BytesIO()
    torch.save(packed, file)
    assert len(file.getvalue()) < 2 * 4 * (24 * 48 + 48)
    assert list(packed.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype):
    plain, _ = pair()
    plain = plain.to(dtype)
    packed = copy.deepcopy(plain)
    packed.make_generation_fast_()
    x = torch.randn(3, 24, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(packed(x), plain(x))


def test_training_forgets_packed_weights():
    _, packed = pair()
    x = torch.randn(7, 24)
    with torch.no_grad():
        packed.eval()(x)
        packed.train()
        packed.weight.data.mul_(2)  # as fairseq's optimizers do: no version of the weight says so
        torch.testing.assert_close(packed.eval()(x), F.linear(x, packed.weight, packed.bias))
