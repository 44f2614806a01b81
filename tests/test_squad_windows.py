"""Windows of passages, answers in pieces and the best spans, each beside slow code."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_pmlm.scoring.squad import exact_and_f1
from fairseq_pmlm.squad import windows
from fairseq_pmlm.squad.reader import Answer
from fairseq_pmlm.squad.spans import Span, best_spans, merge, no_answer_probability
from fairseq_pmlm.tokenizers.offsets import original_offsets
from fairseq_pmlm.utils.errors import PMLMError


def test_windows_are_those_of_bert():
    for pieces in range(1, 60):
        for room in range(1, 12):
            for stride in range(1, room + 1):
                expected, start = [], 0
                while True:  # one window after the other, until one reaches the end
                    length = min(room, pieces - start)
                    expected.append((start, length))
                    if start + length == pieces:
                        break
                    start += stride
                assert windows.cut(pieces, room, stride) == expected


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((20, 128, 64), "--doc-stride 128 is more than what a window of --max-source-positions 20 holds"),
        ((384, 318, 64), "of --max-question-positions 64, 317 tokens: the rest would never be read"),
        ((384, 0, 64), "--doc-stride 0: expected 1 or more"),
        ((384, 128, 0), "--max-question-positions 0: expected 1 or more"),
    ],
)
def test_limits(limits, message):
    with pytest.raises(PMLMError, match=message):
        windows.check(windows.Limits(*limits))
    windows.check(windows.Limits(384, 317, 64))


WORDS = ["The", "fox,", "1990s", "ran", "in", "(the)", "U.S.", "a"]


class Words:
    """A tokenizer whose pieces are words, or a word's letters and its other characters."""

    pieces = ()

    def encode_with_offsets(self, text):
        spans, at = [], 0
        for word in text.split(" "):
            cut = len(word.rstrip(",.)"))
            spans += [(at + a, at + b) for a, b in ((0, cut), (cut, len(word))) if a < b]
            at += len(word) + 1
        return [text[a:b].lower() for a, b in spans], original_offsets(text, spans, [False] * len(spans))

    def encode(self, text):
        return " ".join(self.encode_with_offsets(text)[0])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.data())
def test_answers_are_found_wherever_a_run_of_pieces_spells_them(words, data):
    passage = " ".join(words)
    begin = data.draw(st.integers(0, len(passage) - 1))
    end = data.draw(st.integers(begin + 1, len(passage)))
    answer = Answer(passage[begin:end], begin)
    if not answer.text.strip():
        return
    _, places = Words().encode_with_offsets(passage)
    found = windows.find_answer(passage, places, answer)
    begin += len(answer.text) - len(answer.text.lstrip())
    end -= len(answer.text) - len(answer.text.rstrip())
    exact = [
        (i, j)
        for i in range(len(places))
        for j in range(i, len(places))
        if (places[i, 0], places[j, 1]) == (begin, end)
    ]
    if exact:
        assert found == exact[0]
    elif found is not None:  # a piece sticks out by what no score sees
        text = passage[places[found[0], 0] : places[found[1], 1]]
        assert exact_and_f1(text, [answer.text], "1.1") == (1.0, 1.0)


def test_answers_that_no_pieces_spell():
    passage = "The fox ran in the 1990s (the)"
    _, places = Words().encode_with_offsets(passage)
    find = lambda text, start: windows.find_answer(passage, places, Answer(text, start))  # noqa: E731
    assert find("1990", 19) is None
    assert find("fox", 4) == (1, 1)
    assert find(" fox ", 3) == (1, 1)
    assert find("the", 26) is None  # the piece is "(the", and both are nothing to the scores
    assert find("(the", 25) == (6, 6)
    assert windows.in_window((3, 4), 2, 3, 10) == (11, 12)
    for span in (None, (1, 3), (4, 5)):  # none, begins before, ends behind
        assert windows.in_window(span, 2, 3, 10) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(1, 30), st.integers(0, 10**6))
def test_best_spans_are_the_best_of_all(pieces, longest, count, seed):
    rng = np.random.default_rng(seed)
    start, end = rng.integers(-3, 4, (2, pieces)).astype(np.float32)  # with equal sums
    usable = rng.random(pieces) < 0.8
    every = [
        (-(start[i] + end[j]), i, j)
        for i in range(pieces)
        for j in range(i, min(i + longest, pieces))
        if usable[i] and usable[j]
    ]
    expected = [Span(float(-score), i, j) for score, i, j in sorted(every)[:count]]
    assert best_spans(start, end, usable, longest, count) == expected


def test_windows_of_a_question_are_merged():
    several = [[Span(3.0, 4, 5), Span(1.0, 0, 0)], [Span(2.0, 4, 5), Span(3.0, 2, 2)], []]
    assert merge(several, 10) == [Span(3.0, 2, 2), Span(3.0, 4, 5), Span(1.0, 0, 0)]
    assert merge(several, 1) == [Span(3.0, 2, 2)]
    assert merge([], 3) == []


def test_probability_of_no_answer():
    assert no_answer_probability(1.0, 1.0) == 0.5
    assert no_answer_probability(2.0, 1.0) == pytest.approx(1 / (1 + math.exp(-1)))
    assert no_answer_probability(0.0, -np.inf) == 1.0
