"""Each thing that makes training fast computes what the plain way computes: losses and gradients, without dropout."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import ablations
from peers import dictionary
from training import blocks_of_text, build_pmlm, pmlm_losses

ARGS = Namespace(layers=3, width=128, tokens=48, sentences=3, batches=1, data=None, device="cpu", dropout=0.0)
ARGS.attention_dropout = 0.0


def loss_and_gradients(model, loss):
    model.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    return value.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("relative_positions", [False, True])
@pytest.mark.parametrize("name", ablations.SWITCHES)
def test_the_fast_way_equals_the_plain_way(name, relative_positions):
    torch.manual_seed(1)
    args = Namespace(**vars(ARGS), relative_positions=relative_positions)
    symbols = dictionary(300)
    model = build_pmlm(args, symbols).train()
    (loss,) = pmlm_losses(model, blocks_of_text(args, symbols), args, symbols)
    fast, fast_gradients = loss_and_gradients(model, loss)
    before = dict(vars(model.backbone)), dict(vars(model.output_layer))
    with ablations.SWITCHES[name](model):
        if name not in ("linear", "dropout", "attention-dropout"):  # which replace nothing of this one model's
            assert (vars(model.backbone), vars(model.output_layer)) != before
        plain, plain_gradients = loss_and_gradients(model, loss)
    assert plain == pytest.approx(fast, rel=1e-5)
    assert fast_gradients.keys() == plain_gradients.keys()
    for key, gradient in plain_gradients.items():
        torch.testing.assert_close(fast_gradients[key], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())
