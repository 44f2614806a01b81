import golden
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import kind, may_see

from fairseq_pmlm.data import layout, masking
from fairseq_pmlm.model.batch_layout import seq2seq_slots


def assert_slots(slots, tokens, positions, segments, steps):
    assert slots.tokens.tolist() == tokens
    assert slots.positions.tolist() == positions
    assert slots.segments.tolist() == segments
    assert slots.steps.tolist() == steps


def golden_slots(**objectives):
    return layout.pretraining_layout(
        golden.TEXT,
        golden.SEGMENTS_OF_TEXT,
        masking.Mask(golden.MASKED, golden.STEPS_OF_MASKED),
        shown=np.full(3, golden.M),
        pseudo=np.full(3, golden.P),
        **objectives,
    )


def test_golden_pretraining_layout():
    slots = golden_slots()
    assert_slots(slots, golden.TOKENS, golden.POSITIONS, golden.SEGMENTS, golden.STEPS)
    assert slots.context_length == 6
    assert slots.queries.tolist() == golden.QUERIES
    assert slots.targets.tolist() == golden.TARGETS
    assert slots.context_queries == 3


def test_golden_mask():
    steps = np.array(golden.STEPS)
    assert (layout.visible(steps, steps) == golden.MASK).all()
    steps = torch.tensor(golden.STEPS)
    assert (layout.visible(steps, steps).numpy() == golden.MASK).all()


def test_golden_single_objectives():
    slots = golden_slots(autoregressive=False)
    assert_slots(slots, golden.TOKENS[:6], golden.POSITIONS[:6], golden.SEGMENTS[:6], [0] * 6)
    assert slots.queries.tolist() == golden.QUERIES[:3]
    slots = golden_slots(autoencoding=False)
    assert_slots(slots, golden.TOKENS, golden.POSITIONS, golden.SEGMENTS, golden.STEPS)  # [M] slots stay in place
    assert slots.queries.tolist() == golden.QUERIES[3:]
    assert slots.context_queries == 0


def test_golden_pair():
    slots = layout.seq2seq_layout(golden.TEXT[:3], golden.TEXT[3:], pseudo=np.full(3, golden.P))
    assert_slots(slots, golden.PAIR_TOKENS, golden.PAIR_POSITIONS, golden.PAIR_SEGMENTS, golden.PAIR_STEPS)
    assert slots.queries.tolist() == [3, 4, 5]
    assert slots.targets.tolist() == [14, 15, 16]
    assert (layout.visible(slots.steps, slots.steps) == golden.PAIR_MASK).all()


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=12))
def test_the_rule_says_what_the_words_say(steps):
    visible = layout.visible(np.array(steps), np.array(steps))
    for q, query in enumerate(steps):
        for k, key in enumerate(steps):
            assert visible[q, k] == may_see(kind(query), kind(key))


@given(st.integers(1, 70), st.integers(0, 2**32), st.booleans())
def test_slots_of_random_texts(length, seed, one_token_steps):
    rng = np.random.default_rng(seed)
    text, segments = rng.integers(10, 99, length), (np.arange(length) > length // 2).astype(int)
    mask = masking.draw_mask(np.ones(length, bool), rng, one_token_steps=one_token_steps)
    slots = layout.pretraining_layout(
        text, segments, mask, np.full(len(mask.positions), golden.M), np.full(len(mask.positions), golden.P)
    )
    pseudo, original = slots.steps < 0, slots.steps > 0
    assert (slots.tokens[pseudo] == golden.P).all()
    assert sorted(slots.positions[pseudo]) == sorted(mask.positions)
    assert (slots.tokens[original] == text[slots.positions[original]]).all()
    assert set(-slots.steps[pseudo]) - set(slots.steps[original]) == {mask.steps[-1]}  # the last step's are left out
    assert (slots.segments == segments[slots.positions]).all()
    assert (slots.targets == text[slots.positions[slots.queries]]).all()
    assert len(slots.tokens) <= length + 2 * masking.max_masked(length)


@given(st.lists(st.tuples(st.integers(2, 7), st.integers(1, 6)), min_size=1, max_size=4), st.integers(0, 2**32))
def test_batches_of_pairs_are_laid_out_like_single_pairs(lengths, seed):
    rng = np.random.default_rng(seed)
    pad, eos = 1, 2
    pairs = [(rng.integers(10, 99, s), np.append(rng.integers(10, 99, t - 1), eos)) for s, t in lengths]
    source = np.full((len(pairs), max(s for s, _ in lengths)), pad)
    previous = np.full((len(pairs), max(t for _, t in lengths)), pad)
    for row, (s, t) in enumerate(pairs):
        source[row, : len(s)] = s
        previous[row, : len(t)] = np.append(eos, t[:-1])
    lengths = torch.tensor([len(s) for s, _ in pairs])
    batch = seq2seq_slots(torch.from_numpy(source), lengths, torch.from_numpy(previous), pad, golden.P, (0, 1))
    for row, (s, t) in enumerate(pairs):
        single = layout.seq2seq_layout(s, t, np.full(len(t), golden.P))
        real = batch["tokens"][row] != pad
        for name in ("tokens", "positions", "segments", "steps"):
            assert batch[name][row][real].tolist() == getattr(single, name).tolist()
        queries = batch["queries"][row][: len(t)]
        assert (batch["tokens"][row][queries] == golden.P).all()
        assert (-batch["steps"][row][queries]).tolist() == list(range(1, len(t) + 1))
        assert (batch["steps"][row][~real] == 0).all()  # padding looks at the context
