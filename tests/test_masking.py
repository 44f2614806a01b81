import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_pmlm.data import masking


def test_statistics_on_512_tokens():
    masks = [masking.draw_mask(np.ones(512, bool), masking.generator(1, 1, i)) for i in range(4000)]
    steps = np.array([mask.steps[-1] for mask in masks])
    masked = np.array([len(mask.positions) for mask in masks])
    assert steps.mean() == pytest.approx(37.4, abs=0.5)
    assert masked.mean() == pytest.approx(78.1, abs=0.5)
    assert masked.sum() / steps.sum() == pytest.approx(2.09, abs=0.03)
    assert masked.min() >= 77
    assert masked.max() <= 82
    lengths = np.concatenate([np.bincount(mask.steps)[1:] for mask in masks])
    assert lengths[lengths > 1].sum() / lengths.sum() == pytest.approx(0.70, abs=0.01)


def test_statistics_on_128_tokens():
    masks = [masking.draw_mask(np.ones(128, bool), masking.generator(2, 1, i)) for i in range(4000)]
    assert np.mean([mask.steps[-1] for mask in masks]) == pytest.approx(10.2, abs=0.2)
    assert np.mean([len(mask.positions) for mask in masks]) == pytest.approx(21.1, abs=0.2)


def test_every_place_is_as_likely():
    counts = np.zeros(40)
    for i in range(20000):
        counts[masking.draw_mask(np.ones(40, bool), masking.generator(0, 1, i)).positions] += 1
    inner = counts[6:-6]  # n-grams that would overrun the text are rejected, which thins out its ends
    assert inner.std() / inner.mean() < 0.03


@given(st.lists(st.booleans(), max_size=80), st.integers(0, 2**32), st.sampled_from([0.01, 0.15, 0.5, 1.0]))
def test_a_mask_is_blocks_of_maskable_tokens(maskable, seed, mask_prob):
    maskable = np.array(maskable, bool)
    mask = masking.draw_mask(maskable, np.random.default_rng(seed), mask_prob)
    count = maskable.sum()
    assert len(mask.positions) == len(mask.steps)
    if not count:
        assert len(mask.positions) == 0
        return
    assert len(set(mask.positions.tolist())) == len(mask.positions)
    assert maskable[mask.positions].all()
    assert len(mask.positions) >= 1
    assert mask_prob * count - 1e-6 <= len(mask.positions) <= masking.max_masked(len(maskable), mask_prob)
    assert mask.steps[0] == 1
    assert set(np.diff(mask.steps)) <= {0, 1}
    for step in range(1, mask.steps[-1] + 1):
        block = mask.positions[mask.steps == step]
        assert len(block) <= 6
        assert (np.diff(block) == 1).all()
    # until the last block came, less than the share was masked
    before_last = (mask.steps < mask.steps[-1]).sum()
    assert before_last < max(1, mask_prob * count)


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_ar_has_one_token_a_step_in_the_same_order(length, seed):
    blocks = masking.draw_mask(np.ones(length, bool), np.random.default_rng(seed))
    tokens = masking.draw_mask(np.ones(length, bool), np.random.default_rng(seed), one_token_steps=True)
    assert tokens.positions.tolist() == blocks.positions.tolist()
    assert tokens.steps.tolist() == list(range(1, len(tokens.positions) + 1))


def test_a_single_maskable_token_among_many_is_found():
    maskable = np.zeros(100_000, bool)
    maskable[77_777] = True
    mask = masking.draw_mask(maskable, masking.generator(1, 1, 1))
    assert mask.positions.tolist() == [77_777]


def test_the_mask_depends_on_seed_epoch_and_index():
    def draw(*key):
        return tuple(masking.draw_mask(np.ones(200, bool), masking.generator(*key)).positions.tolist())

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(3, 2, 1)}) == 5


def test_corruption_shares():
    tokens = np.full(200_000, 5)
    shown = masking.corrupt(tokens, symbol=99, random_types=np.arange(10, 60), rng=np.random.default_rng(0))
    assert (shown == 99).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown == 5).mean() == pytest.approx(0.1, abs=0.01)
    random = shown[(shown != 99) & (shown != 5)]
    assert len(random) / len(tokens) == pytest.approx(0.1, abs=0.01)
    assert set(random) == set(range(10, 60))


@pytest.mark.parametrize(("leave", "random", "expected"), [(0, 0, {99}), (1, 0, {5}), (0, 1, {7})])
def test_corruption_extremes(leave, random, expected):
    rng = np.random.default_rng(0)
    shown = masking.corrupt(np.full(50, 5), 99, np.array([7]), rng, leave_unmasked_prob=leave, random_token_prob=random)
    assert set(shown) == expected
