"""Candidates of a step: the same as those of fairseq's strategies, found by blocks or drawn with the same seed."""

import pytest
import torch
from fairseq import search
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import small_dictionary

from fairseq_pmlm.generation.search import BLOCK, BeamSearch, Sampling


@settings(deadline=None, max_examples=150)
@given(
    sentences=st.integers(1, 3),
    beams=st.integers(1, 4),
    types=st.integers(6 * BLOCK, 12 * BLOCK + 7),
    step=st.integers(0, 2),
    allowed=st.sampled_from([1.0, 0.5, 0.02]),
    seed=st.integers(0, 1000),
)
def test_the_same_candidates_as_fairseq_s(sentences, beams, types, step, allowed, seed):
    torch.manual_seed(seed)
    lprobs = torch.randn(sentences, beams, types, dtype=torch.float64)
    lprobs[torch.rand(lprobs.shape) > allowed] = -torch.inf
    scores = torch.randn(sentences, beams, step, dtype=torch.float64)
    if step and beams > 1 and seed % 3 == 0:
        scores[0, 1] = -torch.inf  # a beam that has ended
    ours = BeamSearch().step(step, lprobs, scores)
    theirs = search.BeamSearch(small_dictionary()).step(step, lprobs.clone(), scores)
    assert torch.equal(ours[0], theirs[0])
    real = theirs[0] > -torch.inf  # of the impossible ones, any will do
    for here, there in zip(ours[1:], theirs[1:], strict=True):
        assert torch.equal(here[real], there[real])


@pytest.mark.parametrize("place", ["first", "last of a block", "rest"])
def test_the_best_is_found_wherever_it_is(place):
    types = 10 * BLOCK + 5
    index = {"first": 0, "last of a block": 4 * BLOCK - 1, "rest": types - 1}[place]
    lprobs = torch.randn(2, 3, types)
    lprobs[1, 2, index] = 9.0
    totals, words, beams = BeamSearch().step(1, lprobs, torch.zeros(2, 3, 1))
    assert (totals[1, 0], words[1, 0], beams[1, 0]) == (9.0, index, 2)


@settings(deadline=None, max_examples=100)
@given(
    sentences=st.integers(1, 3),
    beams=st.integers(1, 4),
    step=st.integers(0, 2),
    topk=st.sampled_from([-1, 1, 5, 36]),
    topp=st.sampled_from([-1.0, 0.01, 0.6, 0.99, 1.0]),
    allowed=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_the_same_draws_as_fairseq_s(sentences, beams, step, topk, topp, allowed, seed):
    torch.manual_seed(seed)
    lprobs = torch.randn(sentences, beams, 36).mul_(3).log_softmax(2)
    lprobs[torch.rand(lprobs.shape) > allowed] = -torch.inf
    lprobs[:, :, 7] = -1.0
    if step == 0:
        lprobs = lprobs[:, :1].repeat(1, beams, 1)
    scores = torch.randn(sentences, beams, step)
    torch.manual_seed(seed)
    theirs = search.Sampling(small_dictionary(), topk, topp).step(step, lprobs.clone(), scores)
    torch.manual_seed(seed)
    ours = Sampling(2, topk, topp).step(step, lprobs, scores)
    for here, there in zip(ours, theirs, strict=True):
        assert torch.equal(here, there)
