"""Windows, answers in pieces, the best spans, data sets, the loss and whole-set metrics, each beside slow code."""

import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_pmlm.criterions.pmlm_squad import PMLMSquadCriterion, span_loss
from fairseq_pmlm.errors import PMLMError
from fairseq_pmlm.extents import extents
from fairseq_pmlm.scoring.squad import exact_and_f1, score_squad
from fairseq_pmlm.squad import windows
from fairseq_pmlm.squad.prediction import combine, write
from fairseq_pmlm.squad.preparation import Part, write_meta
from fairseq_pmlm.squad.reader import Answer, SquadFile
from fairseq_pmlm.squad.spans import Span, best_spans, merge, no_answer_probability
from fairseq_pmlm.squad.validation import Judged
from fairseq_pmlm.tasks.pmlm_squad import PMLMSquadTask
from fairseq_pmlm.text import Counts


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


WORDS = ["The", "fox,", "1990s", "ran", "in", "(the)", "U.S.", "a"]


class Words:
    """A tokenizer whose pieces are words, or a word's letters and its other characters."""

    pieces = ()

    def encode_with_extents(self, text):
        spans, at = [], 0
        for word in text.split(" "):
            cut = len(word.rstrip(",.)"))
            spans += [(at + a, at + b) for a, b in ((0, cut), (cut, len(word))) if a < b]
            at += len(word) + 1
        return [text[a:b].lower() for a, b in spans], extents(text, spans, [False] * len(spans))

    def encode(self, text):
        return " ".join(self.encode_with_extents(text)[0])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.data())
def test_answers_are_found_wherever_a_run_of_pieces_spells_them(words, data):
    passage = " ".join(words)
    begin = data.draw(st.integers(0, len(passage) - 1))
    end = data.draw(st.integers(begin + 1, len(passage)))
    answer = Answer(passage[begin:end], begin)
    if not answer.text.strip():
        return
    _, places = Words().encode_with_extents(passage)
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
    _, places = Words().encode_with_extents(passage)
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


def squad_file(folder, version="2.0", name="part.json"):
    """Four passages of 1 to 30 words; questions with one, several, no and unmappable answers."""
    rng = np.random.default_rng(3)
    paragraphs = []
    for number, length in enumerate((1, 7, 30, 12)):
        passage = " ".join(f"w{i}" for i in rng.integers(9, size=length)) + " 1990s"
        qas = []
        for k in range(4):
            words = passage.split(" ")
            i = int(rng.integers(len(words) - 1))
            text = " ".join(words[i : min(i + 1 + k, len(words))])
            start = len(" ".join(words[:i])) + (i > 0)
            answers = [{"text": text, "answer_start": start}] * (1 + (k == 1))
            if k == 2:
                answers = [{"text": "1990", "answer_start": len(passage) - 5}]
            if k == 3 and version == "2.0":
                answers = []
            qas.append({"id": f"{number}-{k}", "question": "w1 w2 " * (1 + 3 * k), "answers": answers})
        paragraphs.append({"context": passage, "qas": qas})
    path = folder / name
    path.write_text(json.dumps({"version": version, "data": [{"paragraphs": paragraphs}]}))
    return str(path), paragraphs


LIMITS = windows.Limits(24, 5, 8)


def load(folder, version="2.0", training=False, name="valid"):
    dictionary = Dictionary()
    for i in range(9):
        dictionary.add_symbol(f"w{i}")
    for symbol in ("1990s", "<mask>", "<pseudo>"):
        dictionary.add_symbol(symbol)
    path, paragraphs = squad_file(folder, version)
    prepared = Part(str(folder), name, Words(), dictionary, LIMITS, training).write(SquadFile(path, Counts()))
    write_meta(str(folder), version, LIMITS, {name: prepared})
    dictionary.save(str(folder / "dict.txt"))
    task = PMLMSquadTask(Namespace(data=str(folder), max_answer_length=4, _name="pmlm_squad"), dictionary)
    task.load_dataset(name)
    return task.dataset(name), prepared, paragraphs, task


@pytest.mark.parametrize("training", [False, True])
def test_every_window_is_what_it_should_be(tmp_path, training):
    dataset, prepared, paragraphs, task = load(tmp_path, training=training)
    expected = []
    for paragraph in paragraphs:
        words = paragraph["context"].split(" ")
        for qa in paragraph["qas"]:
            unmapped = any(answer["text"] == "1990" for answer in qa["answers"])
            if unmapped and training:
                continue
            question = qa["question"].split()[:8]
            room, start = 24 - len(question) - 3, 0
            while True:
                part = words[start : start + room]
                target = [0, 0]
                if unmapped:
                    target = [-1, -1]
                elif qa["answers"]:
                    answer = qa["answers"][0]
                    first = paragraph["context"][: answer["answer_start"]].count(" ")
                    last = first + answer["text"].count(" ")
                    if start <= first and last < start + len(part):
                        target = [slot - start + len(question) + 2 for slot in (first, last)]
                expected.append((" ".join(["<s>", *question, "</s>", *part, "</s>"]), target))
                if start + room >= len(words):
                    break
                start += 5
    found = [
        (" ".join(task.dictionary[int(i)] for i in dataset[k]["tokens"]), dataset[k]["target"])
        for k in range(len(dataset))
    ]
    assert found == expected
    assert [len(text.split()) for text, _ in expected] == dataset.sizes.tolist()
    assert prepared.unmapped == ["0-2", "1-2", "2-2", "3-2"] == (tmp_path / "valid.unmapped.txt").read_text().split()
    assert (prepared.left_out, prepared.questions) == ((4, 12) if training else (0, 16))
    assert prepared.cut == len([1 for p in paragraphs for q in p["qas"] if len(q["question"].split()) > 8]) - (
        4 if training else 0
    )
    assert prepared.impossible == 4


def collate_all(dataset, size=3):
    order = np.random.default_rng(0).permutation(len(dataset))
    return [dataset.collater([dataset[int(i)] for i in order[k : k + size]]) for k in range(0, len(order), size)]


def test_batches(tmp_path):
    dataset, *_ = load(tmp_path)
    assert dataset.collater([]) == {}
    for batch in collate_all(dataset):
        tokens = batch["net_input"]["src_tokens"]
        for row, index in enumerate(batch["id"].tolist()):
            item = dataset[index]
            length = len(item["tokens"])
            assert tokens[row, :length].equal(item["tokens"])
            assert tokens[row, length:].eq(dataset.pad).all()
            allowed = [0, *range(item["offset"], length - 1)]
            assert batch["candidates"][row].nonzero().flatten().tolist() == allowed
            assert item["target"][0] in [*allowed, -1]


def test_loss_beside_a_loop():
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 2, requires_grad=True)
    candidates = torch.tensor([[1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0]]).bool()
    target = torch.tensor([[2, 3], [0, 0], [-1, -1]])
    loss, correct = span_loss(logits, candidates, target)
    expected = []
    for row in range(2):
        parts = []
        for side in range(2):
            allowed = [math.exp(logits[row, slot, side].item()) for slot in range(6) if candidates[row, slot]]
            parts.append(-math.log(math.exp(logits[row, target[row, side], side].item()) / sum(allowed)))
        expected.append(sum(parts) / 2)
    assert loss.tolist() == pytest.approx([*expected, 0.0])
    loss.sum().backward()
    assert logits.grad[~candidates].eq(0).all()
    assert logits.grad[2].eq(0).all()
    assert int(correct) <= 2


class Oracle(torch.nn.Module):
    """Scores of the slots from the tokens alone, the same for a window in any batch."""

    def __init__(self, seed=0):
        super().__init__()
        self.table = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))

    def forward(self, src_tokens, src_lengths, spans):
        drift = torch.arange(src_tokens.size(1))[:, None] * torch.tensor([0.3, -0.2])
        return (self.table[src_tokens] + torch.sin(drift + src_lengths[:, None, None])), None


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_whole_set_metrics_equal_predictions_scored(tmp_path, version):
    """Validation in batches of any order equals a slow decoder over whole questions, and the files of predictions."""
    dataset, _, paragraphs, task = load(tmp_path, version)
    model = Oracle().eval()
    criterion = PMLMSquadCriterion(task)
    logs = [criterion(model, batch)[2] for batch in collate_all(dataset)]
    with metrics.aggregate() as aggregator:
        for log in logs:  # one after the other, as the trainer does
            PMLMSquadCriterion.reduce_metrics([log])
        validated = aggregator.get_smoothed_values()

    spans, nulls, best = {}, {}, {}
    for index in range(len(dataset)):
        question, passage, first, *_ = dataset.rows[index].tolist()
        item = dataset[index]
        scores, _ = model(item["tokens"][None], torch.tensor([len(item["tokens"])]), spans=True)
        number = dataset.texts.ids[question]
        words = dataset.texts.passages[passage].split(" ")
        for i in range(item["offset"], len(item["tokens"]) - 1):
            for j in range(i, min(i + 4, len(item["tokens"]) - 1)):
                score = float(scores[0, i, 0].double() + scores[0, j, 1].double())
                if score > best.get(number, -math.inf):
                    text = words[first + i - item["offset"] : first + j - item["offset"] + 1]
                    best[number], spans[number] = score, " ".join(text)
        nulls[number] = min(nulls.get(number, math.inf), float(scores[0, 0].sum()))
    references = {qa["id"]: [a["text"] for a in qa["answers"]] for p in paragraphs for qa in p["qas"]}
    probabilities = {i: 1 / (1 + math.exp(best[i] - nulls[i])) for i in best} if version == "2.0" else None
    scored = score_squad(spans, references, version, probabilities, 0.5)
    names = ["exact", "f1"] + (["best_exact", "best_f1"] if version == "2.0" else [])
    assert {name for name in validated if name in scored.scores.values} == set(names)
    for name in names:
        assert validated[name] == pytest.approx(scored.scores.values[name].mean, abs=0.006)

    found = {}
    for batch in collate_all(dataset, 5):
        logits, _ = model(**batch["net_input"], spans=True)
        for window in dataset.decode(batch, logits, 4, 6):
            found.setdefault(window.question, []).append(window)
    predictions = [combine(dataset, question, found[question], 6) for question in range(len(references))]
    assert {p.id: p.text for p in predictions} == spans
    for p in predictions:
        passage = next(par["context"] for par in paragraphs for qa in par["qas"] if qa["id"] == p.id)
        assert all(passage[a : a + len(text)] == text for a, text in zip(p.starts, p.texts, strict=True))
        assert p.scores == sorted(p.scores, reverse=True)
        assert len(set(p.texts)) == len(p.texts)
    threshold, scores = write(str(tmp_path), predictions, dataset, 3, None)
    answers = json.loads((tmp_path / "predictions.json").read_text())
    nbest = json.loads((tmp_path / "nbest.json").read_text())
    assert [*answers] == [*nbest] == [*references]
    assert all(sum(row["probability"] for row in rows) == pytest.approx(1) for rows in nbest.values())
    if version == "2.0":
        assert threshold == pytest.approx(scored.thresholds["f1"])
        assert scores.scores.values["f1"].mean == pytest.approx(scored.scores.values["best_f1"].mean)
        assert answers == {i: "" if probabilities[i] > threshold + 1e-9 else text for i, text in spans.items()}
        assert json.loads((tmp_path / "na_probs.json").read_text()) == pytest.approx(probabilities)
        assert all(sum(row["text"] == "" for row in rows) == 1 for rows in nbest.values())
    else:
        assert threshold is None
        assert answers == spans


def test_what_is_judged_travels_as_a_number():
    import pickle

    judged = Judged.of([(0, 1.0, 2.0, 1.0, 1.0, True)] * 3)
    assert f"{judged:g}" == "3"
    again = pickle.loads(pickle.dumps(judged))  # to another process
    assert np.array_equal(again.rows, judged.rows)
    assert len(Judged.of([]).rows) == 0


def test_damaged_data_is_named(tmp_path):
    *_, task = load(tmp_path)
    path = tmp_path / "valid.windows.npy"
    rows = np.load(path)
    for content in (b"", b"x" * 99, path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(PMLMError, match=r"valid\.windows\.npy is missing or damaged"):
            task.load_dataset("valid")
    beyond = rows + np.array([0, 0, 5, 0, 0, 0])  # the end of the passage
    unseen = np.where(np.arange(6) == 4, 1, rows)  # an answer that starts in the question
    for wrong in (rows[:, :5], rows + np.array([99, 0, 0, 0, 0, 0]), rows.astype(np.float64), rows[:0], beyond, unseen):
        np.save(path, wrong)
        with pytest.raises(PMLMError, match="does not belong to the questions and passages"):
            task.load_dataset("valid")
    np.save(path, rows)
    task.load_dataset("valid")
    lines = (tmp_path / "valid.questions.jsonl").read_text().splitlines()
    (tmp_path / "valid.questions.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(PMLMError, match="has texts of 15 questions and 4 passages, but is of 16 and 4"):
        task.dataset("valid").texts  # noqa: B018
    with pytest.raises(PMLMError, match=r"test\.windows\.npy does not exist"):
        task.load_dataset("test")
    (tmp_path / "squad.json").write_text("{}")
    with pytest.raises(PMLMError, match=r"squad\.json is damaged \(KeyError: 'version'\)"):
        task.load_dataset("valid")


def test_a_window_longer_than_the_table_is_refused(tmp_path):
    *_, task = load(tmp_path)
    task.rows = 20
    with pytest.raises(
        PMLMError, match="windows of 24 tokens, and the model --max-positions 20; give --max-positions 24"
    ):
        task.load_dataset("valid")


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


def squad(version="1.1", context="A fox ran.", **changes):
    question = {"id": "q1", "question": "Who ran?", "answers": [{"text": "fox", "answer_start": 2}]} | changes
    return {"version": version, "data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}


def without(key, record):
    return {name: value for name, value in record.items() if name != key}


TWICE = squad()
TWICE["data"] *= 2
LACKING = squad()
LACKING["data"][0]["paragraphs"][0] = without("context", LACKING["data"][0]["paragraphs"][0])
NO_ID = squad()
NO_ID["data"][0]["paragraphs"][0]["qas"][0] = without("id", NO_ID["data"][0]["paragraphs"][0]["qas"][0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TWICE, "id q1: there is a question with this id already"),
        (LACKING, r"data\[0\]\.paragraphs\[0\]: no key 'context' \(there is 'qas'\)"),
        (NO_ID, r"data\[0\]\.paragraphs\[0\]\.qas\[0\]: no key 'id'"),
        (squad(context=" \n", answers=[], version="2.0"), r"id q1: the passage \(context\) is empty"),
        (squad(id=3), r"qas\[0\]: 'id' should be a string, but is a number"),
        (squad(question=None), "id q1: 'question' should be a string, but is null"),
        (squad(answers=None), "id q1: 'answers' should be a list, but is null"),
        (squad(answers=[{"text": "fox"}]), "id q1, answers: no key 'answer_start'"),
        (
            squad(answers=[{"text": "fox", "answer_start": True}]),
            "'answer_start' should be a whole number, but is a truth",
        ),
        (
            squad(answers=[{"text": "fox", "answer_start": 2}, {"text": "A", "answer_start": 1}]),
            "'A' should stand at 1",
        ),
        (squad(answers=[{"text": "fox", "answer_start": -8}]), "'fox' should stand at -8, where there is 'A f'"),
        (squad(answers=[]), "id q1: no answers; version 1.1 has one for every question"),
        (squad("v2.0", is_impossible=True), "id q1: is_impossible is true, but there are answers"),
        (squad("v2.0", is_impossible=False, answers=[]), "id q1: is_impossible is false, but there are no answers"),
        (squad("v2.0", is_impossible="no"), "id q1: 'is_impossible' should be true or false, but is a string"),
        (squad("3.0"), r"SQuAD version '3\.0'; known are 1\.1, v1\.1, 2\.0, v2\.0"),
        (squad(["1.1"]), r"SQuAD version \['1\.1'\]"),
        ([], "not a JSON object with version and data, but a list"),
        ("{", "broken JSON"),
    ],
)
def test_bad_files_are_named(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(PMLMError, match=message) as error:
        list(SquadFile(str(path), Counts()).paragraphs())
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_questions_alone_can_be_read(tmp_path):
    path = tmp_path / "a.json"
    for version, entry, answered in [
        ("1.1", {}, False),
        ("2.0", {}, False),
        ("1.1", {"answers": []}, False),
        ("2.0", {"answers": []}, True),
        ("2.0", {"answers": [], "is_impossible": False}, False),
    ]:
        data = squad(version)
        data["data"][0]["paragraphs"][0]["qas"] = [{"id": "q", "question": "Who?"} | entry]
        path.write_text(json.dumps(data))
        file = SquadFile(str(path), Counts(), answered=False)
        (paragraph,) = file.paragraphs()
        assert (paragraph.questions[0].answers, paragraph.questions[0].answered) == ([], answered)
        assert file.unanswered == (not answered)


def test_batches_of_an_epoch_are_the_same_after_a_restart(tmp_path):
    dataset, *_, task = load(tmp_path, training=True, name="train")

    def batches(*epochs):
        for epoch in epochs:
            iterator = task.get_batch_iterator(dataset, max_sentences=2, seed=1, epoch=epoch)
            found = [batch["id"].tolist() for batch in iterator.next_epoch_itr()]
        return found

    going_on = batches(1, 2)
    task.dataset_to_epoch_iter.clear()
    assert batches(2) == going_on
