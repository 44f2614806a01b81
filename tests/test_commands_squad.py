"""From SQuAD's JSON to predictions through our commands and fairseq's, as a user types them."""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import OPTIMIZER, SMALL, USER_DIR, WORDS, call, command, load, logged

from fairseq_pmlm.tokenizers.symbols import write_dictionary
from fairseq_pmlm.tokenizers.wordpiece import SPECIAL_PIECES, Settings, WordPiece
from fairseq_pmlm.utils.errors import PMLMError

TASK = ["--task", "pmlm_squad", "--criterion", "pmlm_squad", "--arch", "pmlm_tiny", *SMALL]
LIMITS = ["--max-source-positions", "40", "--doc-stride", "16", "--max-question-positions", "8"]


def questions(count, seed, answers=True):
    """Version 2.0: what follows a word in a passage of 10 to 70 words; every fourth asks for what is not there."""
    rng, paragraphs = np.random.default_rng(seed), []
    for number in range(count):
        words = [WORDS[i] for i in rng.permutation(len(WORDS))[: int(rng.integers(10, 40))]]
        passage, place = "  ".join(words), int(rng.integers(len(words) - 1))
        question = {"id": f"q{number}", "question": f"{words[place]} ?"}
        if answers:
            text = words[place + 1]
            answer = {"text": text, "answer_start": f"  {passage}  ".index(f"  {text}  ")}
            question |= {"answers": [] if number % 4 == 3 else [answer], "is_impossible": number % 4 == 3}
        paragraphs.append({"context": passage, "qas": [question]})
    return json.dumps({"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, work):
    """A vocabulary like that of the pre-trained model, and prepared questions: 37 for validation."""
    folder = tmp_path_factory.mktemp("squad")
    (folder / "vocabulary").mkdir()
    WordPiece([*SPECIAL_PIECES, *WORDS], Settings(True)).save(str(folder / "vocabulary"))
    write_dictionary(str(folder / "vocabulary" / "dict.txt"), WORDS)
    for name, count in (("train", 120), ("valid", 37)):
        (folder / f"{name}.json").write_text(questions(count, len(name)))
    prepare(folder, folder / "data", f"--train={folder}/train.json", f"--valid={folder}/valid.json", *LIMITS)
    return folder


@pytest.fixture(scope="module")
def trained(folder, pretrained):
    options = ["--finetune-from-model", pretrained[0], "--max-update", 20, "--save-dir", folder / "model"]
    best = ["--best-checkpoint-metric", "f1", "--maximize-best-checkpoint-metric", "--batch-size", 16]
    done = command("train", folder / "data", *USER_DIR, *TASK, *OPTIMIZER, *options, *best)
    return folder / "model" / "checkpoint_best.pt", logged(done.stdout, "valid")[-1]


def predict(folder, path, *options, source=None):
    """What ``pmlm predict`` writes for the validation questions, or those of the file *source*."""
    out = folder / "answers"
    questions = [source, "--data", folder / "data"] if source else [folder / "data"]
    call("predict", *questions, "--path", path, "--destdir", out, "--overwrite", "--cpu", "--max-tokens", 280, *options)
    return {file.stem: json.loads(file.read_text()) for file in out.iterdir()}


@pytest.mark.slow
def test_training_validation_and_prediction_agree(folder, trained, capsys):
    path, valid = trained
    done = command(
        "validate", folder / "data", *USER_DIR, "--task", "pmlm_squad", "--path", path, "--cpu", "--batch-size", 5
    )
    found = predict(folder, path)
    printed = capsys.readouterr().out
    assert list(found["predictions"]) == [f"q{i}" for i in range(37)]  # no question is lost, whatever the batches
    assert f"best_f1 {valid['valid_best_f1']}".rstrip("0") in done.stdout + done.stderr
    scores = {name: value["score"] for name, value in found["scores"]["scores"].items()}
    for name in ("best_exact", "best_f1"):
        assert float(valid[f"valid_{name}"]) == pytest.approx(scores[name], abs=0.006)
    even = predict(folder, path, "--threshold", "0.5")
    scores = {name: value["score"] for name, value in even["scores"]["scores"].items()}
    for name in ("exact", "f1"):
        assert float(valid[f"valid_{name}"]) == pytest.approx(scores[name], abs=0.006)
    assert "37 questions" in printed
    assert "(best F1 on these very questions)" in printed

    files = [f"--hyp={folder}/answers/spans.json", f"--na-probs={folder}/answers/na_probs.json"]
    call("score", "--metric", "squad", f"--ref={folder}/valid.json", *files, "--threshold=0.5", "--json")
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["scores"] == even["scores"]["scores"]


@pytest.mark.slow
def test_the_span_head_reads_what_the_backbone_says(folder, trained):
    model, task = load(trained[0])
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    batch = dataset.collater([dataset[i] for i in range(5)])
    tokens = batch["net_input"]["src_tokens"]
    with torch.no_grad():
        logits, _ = model(**batch["net_input"], spans=True)
        for row in range(5):
            alone = dataset[row]["tokens"][None]
            ends = alone[0].eq(task.dictionary.eos()).nonzero().flatten()
            segments = (torch.arange(alone.size(1)) > ends[0]).long()[None]
            features = model.backbone(
                alone, torch.arange(alone.size(1))[None], segments, torch.zeros_like(alone), alone.size(1)
            )
            expected = features @ model.span_head.weight.T + model.span_head.bias
            assert torch.allclose(logits[row, : alone.size(1)], expected[0], atol=1e-5)
    assert tokens.size(1) == 40


@pytest.mark.slow
def test_raw_questions_without_answers(folder, trained, pretrained, capsys):
    path, _ = trained
    (folder / "new.json").write_text(questions(5, 9, answers=False))
    predict(folder, path)
    threshold = json.loads((folder / "answers" / "threshold.json").read_text())["threshold"]
    (folder / "answers").rename(folder / "before")
    found = predict(folder, path, "--threshold-from", folder / "before", source=folder / "new.json")
    assert "scores" not in found
    assert found["threshold"] == {"threshold": threshold, "tuned": False}
    assert list(found["predictions"]) == [f"q{i}" for i in range(5)]
    passages = [p["context"] for p in json.loads((folder / "new.json").read_text())["data"][0]["paragraphs"]]
    for passage, rows in zip(passages, found["nbest"].values(), strict=True):
        for row in rows:
            assert row["text"] == "" or passage[row["start"] :].startswith(row["text"])
    assert "(not tuned)" not in capsys.readouterr().out
    for options, message in [
        (["--split", "test"], "--split test: .* has the parts train, valid"),
        (["--threshold", "2"], "--threshold 2.0: expected a probability from 0 to 1"),
        (["--threshold-from", str(folder)], r"cannot read .*threshold\.json"),
    ]:
        with pytest.raises(PMLMError, match=message):
            predict(folder, path, *options)
    with pytest.raises(PMLMError, match="was trained for --task pmlm, not for --task pmlm_squad"):
        predict(folder, pretrained[0])
    # what is asked for follows from the data directory
    shutil.copytree(folder / "vocabulary", folder / "bare")
    for arguments, message in [
        ([folder / "data", "--path", path], "give --destdir DIR, for the answers"),
        (
            [folder / "data", "--path", path, "--out", "x"],
            f"--out: is for classes and numbers, but {folder}/data",
        ),
        ([folder / "data", "--path", path, "--data", folder], f"{folder}/data is a data directory; leave --data out"),
        (
            [folder / "new.json", "--path", path, "--split", "valid"],
            "--split valid: .*json is not a data directory",
        ),
        ([folder / "new.json", "--path", path, "--destdir", "x"], "--destdir: is for answers, but .* give --data DIR"),
        (
            [folder / "new.json", "--path", path, "--data", folder / "bare"],
            "was trained for --task pmlm_squad, but",
        ),
    ]:
        with pytest.raises(PMLMError, match=message):
            call("predict", *arguments)


def prepare(folder, out, *options):
    call("prepare squad", "--vocab-from", folder / "vocabulary", "--destdir", out, *options)


def test_prepare_names_what_is_wrong_and_leaves_nothing(folder, tmp_path):
    one = json.loads(questions(3, 1))
    first = one["data"][0]["paragraphs"][0]
    bad = tmp_path / "bad.json"
    out = tmp_path / "out"
    for change, message in [
        ({"context": "x"}, "id q0: the answer .* should stand at"),
        ({"qas": [first["qas"][0] | {"question": " "}]}, "id q0: the question is empty"),
        ({"qas": [], "context": "w1"}, None),
    ]:
        content = {"version": "2.0", "data": [{"paragraphs": [first | change]}]}
        bad.write_text(json.dumps(content))
        with pytest.raises(PMLMError, match=message or "no questions"):
            prepare(folder, out, f"--train={bad}")
        assert not out.exists()
    bad.write_text(json.dumps({"version": "1.1", "data": []}))
    with pytest.raises(PMLMError, match=r"train\.json is of version 2\.0; .*bad\.json is of version 1\.1"):
        prepare(folder, out, f"--train={folder}/train.json", f"--valid={bad}")
    with pytest.raises(PMLMError, match=r"--train .*none: no such file"):
        prepare(folder, out, f"--train={tmp_path}/none")
    with pytest.raises(PMLMError, match="--doc-stride 400 is more than"):
        prepare(folder, out, f"--train={folder}/train.json", "--doc-stride", "400")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json"]
