"""Exact match and F1 of answers: hand-made cases of the official rules, and numbers that the official scripts gave."""

import json
import random

import numpy as np
import pytest
from commands import call

from fairseq_pmlm.scoring.base import Bootstrap
from fairseq_pmlm.scoring.report import format_table
from fairseq_pmlm.scoring.squad import best_threshold, exact_and_f1, normalize, score_squad
from fairseq_pmlm.utils.errors import PMLMError

NONE = Bootstrap(0)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("The Cat", "cat"),
        ("a  cat\tand\u00a0an owl ", "cat and owl"),
        ("theatre, another, Anna", "theatre another anna"),  # no articles inside words
        ("U.S.A.", "usa"),
        ("don't-stop", "dontstop"),  # punctuation goes without leaving a space
        ("A-bomb", "abomb"),  # ... and before articles are looked for
        ("“the” §5 – é", "“ ” §5 – é"),  # only ASCII punctuation, articles at any word boundary
        ("The", ""),
        ("$3.50!", "350"),
        ("ß STRASSE İ", "ß strasse i̇"),
    ],
)
def test_normalization(text, seen):
    assert normalize(text) == seen


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("the cat", ["Cat!"], 1, 1),
        ("black cat", ["the cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),  # a word counts as often as both have it
        ("dog", ["cat"], 0, 0),
        ("cat", ["a small cat", "cat", "dog"], 1, 1),  # the best of several references
        ("very small cat", ["big cat", "small dog here"], 0, 0.4),
        ("small cat house", ["cat house red", "small"], 0, 2 / 3),
    ],
)
def test_scores_of_both_versions(prediction, answers, exact, f1):
    for version in ("1.1", "2.0"):
        assert exact_and_f1(prediction, answers, version) == pytest.approx((exact, f1))


def test_nothing_left_of_a_text():
    # version 1.1: equal texts, but no common word; version 2.0: two empty answers agree
    assert exact_and_f1("the", ["a"], "1.1") == (1.0, 0.0)
    assert exact_and_f1("the", ["a"], "2.0") == (1.0, 1.0)
    assert exact_and_f1("", ["cat"], "2.0") == (0.0, 0.0)
    assert exact_and_f1("", [], "2.0") == (1.0, 1.0)
    assert exact_and_f1("cat", [], "2.0") == (0.0, 0.0)
    assert exact_and_f1("cat", ["the", "cat"], "2.0") == (1.0, 1.0)  # references of which nothing is left do not count
    assert exact_and_f1("the", ["the", "cat"], "2.0") == (0.0, 0.0)
    assert exact_and_f1("the", ["the", "cat"], "1.1") == (1.0, 0.0)


def draw(seed, questions=60):
    rng = random.Random(seed)
    words = ["the", "a", "cat", "Cat", "dog,", "red", "house", "!", "1990"]

    def text(low):
        return " ".join(rng.choice(words) for _ in range(rng.randint(low, 4)))

    answers = {f"q{i}": [text(1) for _ in range(rng.randint(0, 3))] for i in range(questions)}
    predictions = {
        i: rng.choice([*(golds or [""]), text(0), text(0)]) if rng.random() < 0.9 else ""
        for i, golds in answers.items()
    }
    probabilities = {i: rng.random() for i in answers}
    return predictions, answers, probabilities


NAMES = ["exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1"]
# what the official evaluation of version 2.0 gives for draw(seed) with a threshold, its best thresholds at the end
OFFICIAL = {
    (0, 1.0): "56.666667 61.222222 54.761905 61.269841 61.111111 61.111111 51.666667 56.222222 0.978893 0.978893",
    (0, 0.5): "40.0 44.555556 28.571429 35.079365 66.666667 66.666667 51.666667 56.222222 0.978893 0.978893",
    (1, 1.0): "46.666667 51.888889 45.238095 52.698413 50.0 50.0 48.333333 52.444444 0.898762 0.898762",
    (1, 0.5): "40.0 42.222222 21.428571 24.603175 83.333333 83.333333 48.333333 52.444444 0.898762 0.898762",
    (2, 1.0): "38.333333 45.111111 43.243243 54.234234 30.434783 30.434783 41.666667 48.444444 0.428614 0.795015",
    (2, 0.5): "40.0 45.444444 24.324324 33.153153 65.217391 65.217391 41.666667 48.444444 0.428614 0.795015",
}
# and of version 1.1, where each question without an answer has the reference "x"
OFFICIAL_1 = {0: (45.0, 37.888889), 1: (33.333333, 35.222222), 2: (30.0, 31.777778)}


@pytest.mark.parametrize(("seed", "threshold"), OFFICIAL)
def test_version_2_equals_the_official_script(seed, threshold):
    predictions, answers, probabilities = draw(seed)
    *values, exact, f1 = map(float, OFFICIAL[seed, threshold].split())
    ours = score_squad(predictions, answers, "2.0", probabilities, threshold, NONE)
    assert [*ours.scores.values] == NAMES
    assert [value.mean for value in ours.scores.values.values()] == pytest.approx(values)
    assert ours.thresholds == pytest.approx({"exact": exact, "f1": f1}, abs=1e-6)
    assert ours.scores.per_segment["f1"].mean() == pytest.approx(values[1])
    if threshold == 1.0:  # as without probabilities
        bare = score_squad(predictions, answers, "2.0", bootstrap=NONE).scores.values
        assert [*bare] == NAMES[:6]
        assert [value.mean for value in bare.values()] == pytest.approx(values[:6])


@pytest.mark.parametrize("seed", OFFICIAL_1)
def test_version_1_equals_the_official_script(seed):
    predictions, answers, _ = draw(seed)
    values = score_squad(predictions, {i: golds or ["x"] for i, golds in answers.items()}, "1.1", bootstrap=NONE)
    assert tuple(value.mean for value in values.scores.values.values()) == pytest.approx(OFFICIAL_1[seed])


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        has, answered = rng.random(12) < 0.5, rng.random(12) < 0.8
        scores = np.where(has, rng.random(12).round(1), ~answered)
        probabilities = rng.permutation(12) / 12 + 0.01
        best, threshold = best_threshold(scores, probabilities, has, answered)
        every = {t: np.where(probabilities > t, ~has, scores).mean() * 100 for t in [0, *probabilities]}
        assert best == pytest.approx(max(every.values()))
        assert every[threshold] == pytest.approx(best)


def test_intervals_and_signature():
    predictions, answers, probabilities = draw(1, 200)
    scores = score_squad(predictions, answers, "2.0", probabilities, 0.5).scores
    for name in ("exact", "f1", "HasAns_f1", "NoAns_f1"):
        mean, low, high = scores.values[name]
        assert low < mean < high
    assert scores.values["best_f1"].low is None
    assert scores.signature.startswith("squad|version:2.0|multiref:max|threshold:0.5|bootstrap:1000|seed:12345|pmlm:")
    table = format_table(scores).splitlines()
    assert len({line.index(".") for line in table[1:9]}) == 1  # the columns stand below each other
    only = score_squad({"q": "cat"}, {"q": ["cat"]}, "1.1", bootstrap=NONE).scores
    assert {name: value.mean for name, value in only.values.items()} == {"exact": 100, "f1": 100}


def test_what_is_missing_is_named():
    with pytest.raises(PMLMError, match="1 of 2 questions have no prediction; the first: b"):
        score_squad({"a": ""}, {"a": [], "b": ["x"]}, "2.0")
    with pytest.raises(PMLMError, match="2 of 2 questions have no probability of no answer; the first: a"):
        score_squad({"a": "", "b": ""}, {"a": [], "b": ["x"]}, "2.0", {})
    with pytest.raises(PMLMError, match="there are no questions"):
        score_squad({}, {}, "1.1")


def test_resamples_without_questions_of_a_kind_say_nothing_of_it():
    answers = {f"q{i}": ["x"] for i in range(30)} | {"n": []}
    scores = score_squad({i: "x" if golds else "" for i, golds in answers.items()}, answers, "2.0").scores.values
    assert scores["NoAns_f1"] == scores["HasAns_f1"] == (100, 100, 100)


@pytest.fixture
def files(tmp_path):
    answers = [{"text": "fox", "answer_start": 2}]
    qas = [
        {"id": "q1", "question": "Who ran?", "answers": answers, "is_impossible": False},
        {"id": "q2", "question": "Who sat?", "answers": [], "is_impossible": True},
    ]
    content = {"version": "v2.0", "data": [{"paragraphs": [{"context": "A fox ran.", "qas": qas}]}]}
    texts = {"data": content, "predictions": {"q1": "A fox", "q2": "fox", "q9": ""}, "na": {"q1": 0.1, "q2": 0.9}}
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(text))
    return tmp_path


def run(files, *options):
    call("score", "--metric", "squad", "--hyp", files / "predictions.json", "--ref", files / "data.json", *options)


def test_script(files, capsys):
    run(files, "--na-probs", str(files / "na.json"), "--threshold", "0.5", "--json", "--bootstrap", "0")
    result = json.loads(capsys.readouterr().out)
    assert {name: value["score"] for name, value in result["scores"].items()} == dict.fromkeys(NAMES, 100)
    assert result["notes"][1:] == [
        "best threshold for f1: 0.1",
        f"1 predictions are for no question of {files}/data.json",
    ]
    run(files, "--save-json", str(files / "scores.json"))
    assert "exact         50.00" in capsys.readouterr().out
    assert json.loads((files / "scores.json").read_text())["scores"]["exact"]["score"] == 50


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("predictions", '{"q1": 3}', [], "predictions.json, id q1: expected text, found a number"),
        ("predictions", "[]", [], "predictions.json: not a JSON object"),
        ("predictions", "{", [], "predictions.json: broken JSON"),
        ("predictions", '{"q1": ""}', [], "1 of 2 questions have no prediction; the first: q2"),
        ("na", '{"q1": "x"}', ["--na-probs", "na.json"], "na.json, id q1: expected a number, found a string"),
        ("na", '{"q1": NaN}', ["--na-probs", "na.json"], "na.json, id q1: expected a number, found nan"),
        ("na", "{}", ["--threshold", "0.5"], "--threshold: needs --na-probs"),
        ("na", "{}", ["--na-probs", "na.json", "--threshold", "nan"], "--threshold nan: expected a number"),
        ("data", '{"version": "3"}', [], "SQuAD version '3'; known are 1.1, v1.1, 2.0, v2.0"),
        ("data", '{"version": "1.1", "data": []}', ["--na-probs", "na.json"], "is of version 1.1"),
    ],
)
def test_bad_files(files, monkeypatch, name, content, options, message):
    monkeypatch.chdir(files)
    (files / f"{name}.json").write_text(content)
    with pytest.raises(PMLMError) as error:
        run(files, *options)
    assert message in str(error.value)
