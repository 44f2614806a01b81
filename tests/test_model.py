"""One pass equals many: the backbone against forwards that hold only what a step may see."""

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bucket, forward, kind, logits, may_see, small_dictionary, small_model

from fairseq_pmlm.data import layout, masking
from fairseq_pmlm.model.attention import RelativePositionBias

RELATIVE = pytest.mark.parametrize("relative", [False, True])
MASK, PSEUDO = 34, 35  # in the small dictionary of 4 + 30 + 2 types


def random_example(seed: int, length: int = 20, one_token_steps: bool = False):
    """A text, its mask and its slots, all corrupted 80/10/10."""
    rng = np.random.default_rng(seed)
    text = np.concatenate([[0], rng.integers(4, 34, length - 2), [2]])
    segments = (np.arange(length) > length // 2).astype(np.int64)
    maskable = (text != 0) & (text != 2)
    mask = masking.draw_mask(maskable, rng, mask_prob=0.3, one_token_steps=one_token_steps)
    shown = masking.corrupt(text[mask.positions], MASK, np.arange(4, 34), rng)
    slots = layout.pretraining_layout(text, segments, mask, shown, np.full(len(shown), PSEUDO))
    return text, segments, mask, shown, slots


def run(model, slots, queries=None, context_queries=0):
    """Hidden states (slots, dim) of one example through the backbone."""
    batch = [
        torch.from_numpy(np.asarray(getattr(slots, name)))[None]
        for name in ("tokens", "positions", "segments", "steps")
    ]
    if queries is not None:
        queries = torch.as_tensor(queries)[None]
    return model.backbone(*batch, slots.context_length, queries, context_queries)[0]


def step_forward(model, text, segments, mask, shown, step):
    """What [P] of *step* must give: a forward over the context, the originals of earlier steps, and its own [P]."""
    context = text.copy()
    context[mask.positions] = shown
    slots = [(int(t), i, int(segments[i]), ("context", 0)) for i, t in enumerate(context)]
    for place, at in zip(mask.positions.tolist(), mask.steps.tolist(), strict=True):
        if at < step:
            slots.append((int(text[place]), place, int(segments[place]), ("original", at)))
        if at == step:
            slots.append((PSEUDO, place, int(segments[place]), ("pseudo", at)))
    kinds = [slot[3] for slot in slots]
    sees = [[k for k, key in enumerate(kinds) if may_see(query, key)] for query in kinds]
    x = forward(model, [s[0] for s in slots], [s[1] for s in slots], [s[2] for s in slots], sees)
    return x, [i for i, k in enumerate(kinds) if k[0] == "pseudo"], [s[1] for s in slots if s[3][0] == "pseudo"]


@RELATIVE
@pytest.mark.parametrize("seed", range(4))
def test_ae_outputs_equal_a_plain_masked_lm(relative, seed):
    model = small_model(relative, seed, dtype=torch.float64)
    text, segments, mask, shown, slots = random_example(seed)
    ours = run(model, slots)[mask.positions]
    context = text.copy()
    context[mask.positions] = shown
    everything = list(range(len(text)))
    plain = forward(model, context.tolist(), everything, segments.tolist(), [everything] * len(text))
    torch.testing.assert_close(ours, plain[mask.positions], rtol=0, atol=1e-10)
    torch.testing.assert_close(model.output_layer(ours), logits(model, plain[mask.positions]), rtol=0, atol=1e-10)


@RELATIVE
@pytest.mark.parametrize("one_token_steps", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_one_pass_equals_a_pass_for_each_step(relative, one_token_steps, seed):
    model = small_model(relative, seed, dtype=torch.float64)
    text, segments, mask, shown, slots = random_example(seed, one_token_steps=one_token_steps)
    ours = run(model, slots, slots.queries, slots.context_queries)[slots.context_queries :]
    for step in range(1, mask.steps[-1] + 1):
        x, pseudo, places = step_forward(model, text, segments, mask, shown, step)
        rows = [mask.positions.tolist().index(place) for place in places]
        torch.testing.assert_close(ours[rows], x[pseudo], rtol=0, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(4, 40), st.booleans(), st.booleans())
def test_one_pass_on_random_cases(seed, length, relative, one_token_steps):
    model = small_model(relative, 0, dtype=torch.float64, layers=2)
    text, segments, mask, shown, slots = random_example(seed, length, one_token_steps)
    ours = run(model, slots, slots.queries, slots.context_queries)[slots.context_queries :]
    step = int(np.random.default_rng(seed).integers(1, mask.steps[-1] + 1))
    x, pseudo, places = step_forward(model, text, segments, mask, shown, step)
    rows = [mask.positions.tolist().index(place) for place in places]
    torch.testing.assert_close(ours[rows], x[pseudo], rtol=0, atol=1e-9)


@RELATIVE
@pytest.mark.parametrize("seed", range(5))
def test_what_a_step_may_not_see_does_not_matter_to_the_bit(relative, seed):
    model = small_model(relative, seed)
    _, _, mask, _, slots = random_example(seed)
    before = run(model, slots)
    steps = slots.steps
    appended = np.flatnonzero(steps)
    for step in range(1, mask.steps[-1] + 1):
        other = np.isin(np.arange(len(steps)), appended) & ~((steps > 0) & (steps < step)) & (steps != -step)
        perturbed = slots._replace(tokens=np.where(other, (slots.tokens + 7) % 30 + 4, slots.tokens))
        after = run(model, perturbed)
        assert torch.equal(before[steps == -step], after[steps == -step])
        assert torch.equal(before[steps == 0], after[steps == 0])
        if other.any():
            assert not torch.equal(before, after)
    everything = slots._replace(tokens=np.where(steps != 0, (slots.tokens + 7) % 30 + 4, slots.tokens))
    assert torch.equal(before[steps == 0], run(model, everything)[steps == 0])


@RELATIVE
def test_gradients_of_the_joint_loss_equal_the_sum_over_separate_passes(relative):
    text, segments, mask, shown, slots = random_example(3)
    targets = torch.from_numpy(text[mask.positions])

    model = small_model(relative, 0, dtype=torch.float64)
    scores = model.output_layer(run(model, slots, slots.queries, slots.context_queries))
    F.cross_entropy(scores, torch.from_numpy(slots.targets), reduction="sum").backward()
    joint = {name: p.grad for name, p in model.named_parameters()}

    model = small_model(relative, 0, dtype=torch.float64)
    context = text.copy()
    context[mask.positions] = shown
    everything = list(range(len(text)))
    x = forward(model, context.tolist(), everything, segments.tolist(), [everything] * len(text))
    F.cross_entropy(logits(model, x[mask.positions]), targets, reduction="sum").backward()
    for step in range(1, mask.steps[-1] + 1):
        x, pseudo, places = step_forward(model, text, segments, mask, shown, step)
        F.cross_entropy(logits(model, x[pseudo]), torch.from_numpy(text[places]), reduction="sum").backward()
    for name, p in model.named_parameters():
        # <pad> has no slot here, but the tied softmax reaches its row; fairseq's embedding keeps it without gradient
        torch.testing.assert_close(joint[name], p.grad, rtol=1e-8, atol=1e-10, msg=name)


@RELATIVE
def test_no_gradient_flows_from_a_step_to_what_it_may_not_see(relative):
    model = small_model(relative, 1)
    _, _, mask, _, slots = random_example(5)
    embedded = []
    model.backbone.layernorm_embedding.register_forward_hook(
        lambda module, args, x: embedded.append(x) or x.retain_grad()
    )
    for step in range(1, mask.steps[-1] + 1):
        embedded.clear()
        run(model, slots)[slots.steps == -step].sum().backward()
        reached = embedded[0].grad[0].abs().sum(-1) > 0
        for i, w in enumerate(slots.steps):
            allowed = may_see(("pseudo", step), kind(int(w)))
            assert bool(reached[i]) == allowed, (step, w)


@RELATIVE
def test_the_golden_example_through_the_backbone(relative):
    model = small_model(relative, dictionary=small_dictionary(), dtype=torch.float64)
    sees = [np.flatnonzero(row).tolist() for row in golden.MASK]
    expected = forward(model, golden.TOKENS, golden.POSITIONS, golden.SEGMENTS, sees)
    slots = layout.Slots(
        *(np.array(x) for x in (golden.TOKENS, golden.POSITIONS, golden.SEGMENTS, golden.STEPS)), 6, None, None, 0
    )
    torch.testing.assert_close(run(model, slots), expected, rtol=0, atol=1e-10)


@RELATIVE
def test_selected_queries_equal_the_rows_of_all(relative):
    model = small_model(relative, 2, dtype=torch.float64)
    *_, slots = random_example(7)
    everything = run(model, slots)
    torch.testing.assert_close(
        run(model, slots, slots.queries, slots.context_queries), everything[slots.queries], rtol=0, atol=1e-12
    )
    only_pseudo = slots.queries[slots.context_queries :]
    torch.testing.assert_close(run(model, slots, only_pseudo, 0), everything[only_pseudo], rtol=0, atol=1e-12)


@given(st.integers(-300, 300), st.sampled_from([(32, 128), (16, 64), (8, 20)]))
def test_relative_position_buckets(distance, shape):
    bias = RelativePositionBias(*shape, heads=2)
    assert bias.buckets(torch.tensor([distance])).item() == bucket(distance, *shape)


def test_heads_can_start_by_looking_nearby():
    weight = RelativePositionBias(32, 128, heads=4, slope=1.0).weight.detach()
    for distance, expected in ((0, 0), (1, -1), (-1, -1), (5, -5), (-7, -7)):
        row = weight[bucket(distance, 32, 128)]
        assert row[0].item() == pytest.approx(expected, abs=0.1)
        assert row[1].item() == pytest.approx(expected / 4, abs=0.1)
        assert row[2:].abs().max() < 0.1
    assert weight[bucket(200, 32, 128), 0] < weight[bucket(20, 32, 128), 0] < -15


def test_initialization():
    model = small_model(layers=2, seed=1)
    from fairseq_pmlm.model.config import PMLMConfig
    from fairseq_pmlm.model.transformer import Backbone

    torch.manual_seed(0)
    backbone = Backbone(PMLMConfig(encoder_layers=1, encoder_embed_dim=256, encoder_attention_heads=4), 500, 1)
    assert backbone.embed_tokens.weight[4:].std().item() == pytest.approx(0.02, rel=0.05)
    assert (backbone.embed_tokens.weight[1] == 0).all()
    assert backbone.layers[0].fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (backbone.layers[0].fc1.bias == 0).all()
    assert model.output_layer.weight is model.backbone.embed_tokens.weight


@pytest.mark.parametrize(
    ("name", "millions"),
    [("pmlm_tiny", 0.4), ("pmlm_mini", 3.2), ("pmlm_small", 10.6), ("pmlm_base", 85.1), ("pmlm_large", 302)],
)
def test_architectures_have_the_published_sizes(name, millions):
    from argparse import Namespace

    from fairseq.models import ARCH_CONFIG_REGISTRY

    from fairseq_pmlm.model.config import PMLMConfig
    from fairseq_pmlm.model.transformer import Layer

    args = Namespace()
    ARCH_CONFIG_REGISTRY[name](args)
    with torch.device("meta"):
        layer = Layer(PMLMConfig(**vars(args)))
    assert args.encoder_layers * sum(p.numel() for p in layer.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
