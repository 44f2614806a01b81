"""Layer-wise learning-rate decay: each layer takes the steps that an optimizer of its own would take."""

import copy

import pytest
import torch
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.fp16_optimizer import FP16Optimizer
from test_heads import TEXTS, padded, with_heads

from fairseq_pmlm.optim.layer_decay import LayerDecayConfig, LayerDecayOptimizer
from fairseq_pmlm.utils.errors import PMLMError

DECAY = 0.5


def config(**options):
    return LayerDecayConfig(
        **{"layer_lr_decay": DECAY, "lr": [0.01], "weight_decay": 0.1, "adam_betas": "(0.9, 0.98)", **options}
    )


def expected_scale(name):
    """In a model of three layers."""
    if not name.startswith("backbone."):
        return 1.0
    return {"backbone.layers.2.": DECAY, "backbone.layers.1.": DECAY**2, "backbone.layers.0.": DECAY**3}.get(
        name[:18], DECAY**4
    )


def gradients(model):
    model.zero_grad()
    model(src_tokens=padded(TEXTS), classification_head_name="task")[0].pow(2).sum().backward()


def test_steps_are_those_of_an_adam_for_each_parameter_with_the_rate_of_its_layer():
    model, peer = with_heads(True, task=2), with_heads(True, task=2)
    ours = LayerDecayOptimizer(config(), list(model.parameters()))
    theirs = {name: FairseqAdam(config(), [parameter]) for name, parameter in peer.named_parameters()}
    for lr in (0.01, 0.02, 0.005):
        ours.set_lr(lr)
        assert ours.get_lr() == lr
        gradients(model)
        ours.step()
        gradients(peer)
        for name, optimizer in theirs.items():
            optimizer.set_lr(lr * expected_scale(name))
            optimizer.step()
    for (name, mine), other in zip(model.named_parameters(), peer.parameters(), strict=True):
        assert torch.equal(mine, other), name
    scales = {expected_scale(name) for name in theirs}
    assert scales == {1.0, DECAY, DECAY**2, DECAY**3, DECAY**4} == set(ours.scales.values())


def test_what_is_saved_is_resumed():
    straight = with_heads(task=2)
    broken = with_heads(task=2)
    one, two = (LayerDecayOptimizer(config(), list(model.parameters())) for model in (straight, broken))
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(two.state_dict())
            two = LayerDecayOptimizer(config(), list(broken.parameters()))
            two.load_state_dict(state)
        for model, optimizer in ((straight, one), (broken, two)):
            optimizer.set_lr(0.01 * (step + 1))
            gradients(model)
            optimizer.step()
    for mine, other in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_copies_in_fp32_keep_their_layers():
    model = with_heads(task=2, dtype=torch.bfloat16)
    copies = FP16Optimizer.build_fp32_params(None, list(model.parameters()), flatten=False)
    optimizer = LayerDecayOptimizer(config(), copies)
    assert set(optimizer.scales) == {"embeddings", "layer0", "layer1", "layer2", "default"}


def test_what_cannot_be_decayed():
    with pytest.raises(PMLMError, match=r"--layer-lr-decay 1\.5 is not in \(0, 1\]"):
        LayerDecayOptimizer(config(layer_lr_decay=1.5), [torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(PMLMError, match="finds no layers"):
        LayerDecayOptimizer(config(), [torch.nn.Parameter(torch.zeros(2))])
