"""Batches of fairseq: no sample is dropped, no limit exceeded, and fixed shapes are left alone."""

import re

import numpy as np
import pytest
from commands import USER_DIR
from fairseq.data import data_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from translation import SENTENCES, fairseq, noise

from fairseq_pmlm.fairseq_patches.replace import ORIGINALS

original_batches = ORIGINALS["fairseq.data.data_utils.batch_by_size"]


def lengths(batches):
    return [len(batch) for batch in batches]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 37])
def test_no_sample_is_dropped(count):
    def sizes(index):
        return 5

    for options in ({"max_sentences": 8}, {"max_sentences": 16}, {"max_tokens": 50}, {"max_tokens": 40}, {}):
        options["required_batch_size_multiple"] = 8
        batches = data_utils.batch_by_size(range(count), sizes, **options)
        assert np.concatenate(batches).tolist() == list(range(count))
        dropped = count - sum(lengths(original_batches(range(count), sizes, **options)))
        assert dropped == count % 8  # what the patch is about


def test_no_samples_no_batches():
    assert data_utils.batch_by_size([], lambda i: 1, required_batch_size_multiple=8) == []
    with pytest.raises(IndexError):
        original_batches([], lambda i: 1, required_batch_size_multiple=8)


def test_indices_may_be_a_generator():
    batches = data_utils.batch_by_size((i for i in range(11)), lambda i: 1, max_sentences=4)
    assert lengths(batches) == [4, 4, 3]


def test_fixed_shapes_are_left_alone():
    # (batch size, length)
    shapes = [(8, 4), (4, 8)]
    for multiple in (1, 8):
        arguments = (np.arange(37), lambda i: int(i) % 8 + 1, None, None, None, multiple, shapes)
        ours, theirs = data_utils.batch_by_size(*arguments), original_batches(*arguments)
        assert [list(batch) for batch in ours] == [list(batch) for batch in theirs]


def slow_batches(indices, sizes, max_tokens, max_sentences, multiple):
    """The rule, written down: fill up while the limits hold, then hand on what exceeds the multiple; keep the tail."""
    batches, batch = [], []

    def close():
        keep = max(multiple * (len(batch) // multiple), len(batch) % multiple)
        batches.append(batch[:keep])
        del batch[:keep]

    def too_big(batch):
        too_many = max_sentences is not None and len(batch) > max_sentences
        too_long = max_tokens is not None and len(batch) * max(sizes[i] for i in batch) > max_tokens
        return too_many or too_long

    for index in indices:
        while too_big([*batch, index]):  # what was handed on may be too big together with a long sentence
            close()
        batch.append(index)
    while batch:
        close()
    return batches


@settings(deadline=None, max_examples=300)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=80),
    room=st.none() | st.integers(0, 200),
    max_sentences=st.none() | st.integers(1, 40),
    multiple=st.integers(1, 9),
    vector=st.booleans(),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_index_once_in_order_within_limits(sizes, room, max_sentences, multiple, vector, shuffle):
    max_tokens = None if room is None else max(sizes) + room  # a longer sentence is an error before this is called
    indices = list(range(len(sizes)))
    shuffle.shuffle(indices)
    batches = data_utils.batch_by_size(
        np.array(indices),
        num_tokens_fn=lambda i: sizes[i],
        num_tokens_vec=np.array([sizes[i] for i in indices]) if vector else None,
        max_tokens=max_tokens,
        max_sentences=max_sentences,
        required_batch_size_multiple=multiple,
    )
    assert [int(i) for batch in batches for i in batch] == indices
    for batch in batches:
        assert len(batch) > 0
        assert max_sentences is None or len(batch) <= max_sentences
        assert max_tokens is None or len(batch) * max(sizes[i] for i in batch) <= max_tokens
    for batch in batches[:-1]:
        assert len(batch) < multiple or len(batch) % multiple == 0
    assert [list(batch) for batch in batches] == slow_batches(indices, sizes, max_tokens, max_sentences, multiple)


@pytest.mark.slow
def test_37_sentences_give_37_hypotheses(toy):
    options = [toy / "bin", "--path", toy / "ck/checkpoint_last.pt", "--cpu", "--beam", 1, "--num-workers", 0]
    options += ["--required-batch-size-multiple", 8, "--max-len-b", 3]
    run = fairseq("generate", *options, *USER_DIR)
    assert len(re.findall(r"^H-\d+\t", run.stdout, re.M)) == SENTENCES
    assert noise(run.stderr) == []
    # without the patch: exit status 0, and 5 sentences fewer
    run = fairseq("generate", *options, "--user-dir", toy / "bare", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert len(re.findall(r"^H-\d+\t", run.stdout, re.M)) == 32
    messages = " ".join(noise(run.stderr))
    for part in ("hydra.experimental.initialize", "hydra.experimental.compose", "package header", "DEBUG:hydra"):
        assert part in messages
