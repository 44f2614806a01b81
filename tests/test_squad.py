"""Questions as data sets, the loss, and whole-set metrics beside slow code; damaged data is named."""

import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics
from test_squad_windows import Words

from fairseq_pmlm.criterions.pmlm_squad import PMLMSquadCriterion, span_loss
from fairseq_pmlm.model.pmlm import Predict
from fairseq_pmlm.preparation.squad import Part, write_meta
from fairseq_pmlm.scoring.squad import score_squad
from fairseq_pmlm.squad import windows
from fairseq_pmlm.squad.prediction import combine, write
from fairseq_pmlm.squad.reader import SquadFile
from fairseq_pmlm.squad.validation import Judged
from fairseq_pmlm.tasks.pmlm_squad import PMLMSquadTask
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import Counts


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
    prepared = Part(str(folder), name, Words(), dictionary.indices, LIMITS, training).write(SquadFile(path, Counts()))
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

    def forward(self, predict, src_tokens, src_lengths):
        assert predict.head == "span_head"
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
        scores, _ = model(Predict(head="span_head"), item["tokens"][None], torch.tensor([len(item["tokens"])]))
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
        logits, _ = model(Predict(head="span_head"), **batch["net_input"])
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
