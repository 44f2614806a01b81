"""Labelled texts to data-bin: what is written, and what is refused before anything is."""

import json
import os

import pytest
from commands import call
from fairseq.data import Dictionary
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from test_hub import write_vocabulary
from test_prepare import ids, run

from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.utils.errors import PMLMError


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(folder)
    return folder


def write(path, *rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


RTE = ["index", "sentence1", "sentence2", "label"]


@pytest.mark.slow
def test_a_task_of_glue_becomes_what_sentence_prediction_reads(tmp_path, vocabulary):
    write(tmp_path / "train.tsv", RTE, ["0", "a film", "i liked it", "not_entailment"], ["1", "bad", "a", "entailment"])
    write(tmp_path / "dev.tsv", RTE, ["0", "a good film", "it", "entailment"])
    write(tmp_path / "test.tsv", RTE[:3], ["0", "a", "b"], ["1", "", "c"])
    out = tmp_path / "bin"
    options = ["--vocab-from", vocabulary, "--destdir", out, "--workers", 1]
    status, printed, errors = run("prepare glue", "--task", "rte", "--data", tmp_path, *options)
    assert (status, errors) == (0, [])
    assert "entailment: 1, not_entailment: 1" in printed
    assert "--num-classes 2 --criterion pmlm_sentence_prediction --metrics accuracy --valid-subset valid" in printed
    assert sorted(os.listdir(out)) == [
        "dict.txt", "input0", "input1", "label", "test.jsonl", "valid.jsonl", "vocab.txt",
    ]  # fmt: skip
    # an unlabelled test set keeps all of its records, in their order
    rows = [json.loads(line) for line in (out / "test.jsonl").read_text().splitlines()]
    assert rows == [{"input0": "a", "input1": "b"}, {"input0": "", "input1": "c"}]
    assert (out / "label" / "dict.txt").read_text() == "entailment 1\nnot_entailment 1\n"
    settings = {"num_classes": 2, "init_token": 0, "seed": 1, "regression_target": False, "no_shuffle": True}
    task = SentencePredictionTask.setup_task(SentencePredictionConfig(data=str(out), **settings))
    dataset = task.load_dataset("train")
    symbols, bpe = task.source_dictionary, tokenizer_files.load(str(out / "vocab.txt"))
    for sample, texts, target in zip(dataset, (("a film", "i liked it"), ("bad", "a")), (1, 0), strict=True):
        words = [symbols[t] for t in sample["net_input.src_tokens"]]
        assert words == ["<s>", *bpe.encode(texts[0]).split(), "</s>", *bpe.encode(texts[1]).split(), "</s>"]
        assert sample["target"].tolist() == [target]
    # once more over it; a stranger's file is never replaced
    (out / "mine.txt").touch()
    status, _, errors = run("prepare glue", "--task", "RTE", "--data", tmp_path, *options, "--overwrite")
    assert status == 1
    assert "holds other files (mine.txt)" in errors[-1]


@pytest.mark.slow
def test_regression_with_json_lines(tmp_path, vocabulary):
    rows = [{"text": "a good film", "stars": 4.5}, {"text": " bad ", "stars": "1"}, {"text": "", "stars": 2}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text('{"text": "it"}\n')
    options = ["--texts", "text", "--label", "stars", "--regression", "--skip-empty", "--vocab-from", vocabulary]
    status, printed, errors = run(
        "prepare glue", "--train", tmp_path / "train.jsonl", "--test", tmp_path / "test.jsonl", *options,
        "--destdir", tmp_path / "bin", "--workers", 1,
    )  # fmt: skip
    assert (status, errors) == (0, [])
    assert "train: 2 records of 3 (left out: 1 empty, 0 malformed" in printed
    assert "--num-classes 1" in printed
    assert "--regression-target --disable-validation" in printed
    assert (tmp_path / "bin" / "label" / "train.label").read_text() == "4.5\n1\n"
    symbols = Dictionary.load(str(tmp_path / "bin" / "dict.txt"))
    assert [[symbols[t] for t in line] for line in ids(tmp_path / "bin" / "input0", "train")] == [
        ["a", "good", "film", "</s>"],
        ["bad", "</s>"],
    ]


@pytest.mark.parametrize(
    ("train", "valid", "options", "message"),
    [
        ([["a", "1"], ["b", "0"]], [["c", "2"]], [], r"valid\.tsv, line 1: the label '2' is none of 0, 1"),
        ([["a", "1"], ["b", "0"]], [["c"]], [], r"there is no column 2; a line has 1"),
        ([["a", "1"], ["b", "0", "?"]], [["c", "1"]], [], r"train\.tsv, line 2: 3 columns between tabs instead of 2"),
        ([["a", "1"], ["", "0"]], [["c", "1"]], [], r"train\.tsv, line 2: empty text; --skip-empty"),
        ([["a", "1"], ["b", "1"]], [["c", "1"]], [], r"one class \(1\) is nothing to choose from"),
        ([["a", "1"], ["b", "a b"]], [["c", "1"]], [], "the label 'a b' is no word"),
        ([["a", "1"], ["b", "madeupword0001"]], [["c", "1"]], [], "the label 'madeupword0001' is no word"),
        (
            [["a", "1"], ["b", "x"]],
            [["c", "1"]],
            ["--regression"],
            r"train\.tsv, line 2: the label 'x' is not a number",
        ),
        ([["a", "1"], ["b", "0"]], [["c", "1"]], ["--labels", "1", "2"], r"line 2: the label '0' is none of 1, 2"),
        ([], [["c", "1"]], [], r"train\.tsv: no records with text"),
        ([["a", "1"], ["b", "0"]], [], [], r"valid\.tsv: no records with text"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, vocabulary, train, valid, options, message):
    files = {"train": write(tmp_path / "train.tsv", *train), "valid": write(tmp_path / "valid.tsv", *valid)}
    arguments = [part for name, path in files.items() for part in (f"--{name}", path)]
    columns = ["--no-header", "--texts", "1", "--label", "2", *options]
    with pytest.raises(PMLMError, match=message):
        call("prepare glue", *arguments, *columns, "--vocab-from", vocabulary, "--destdir", tmp_path / "bin")
    assert sorted(os.listdir(tmp_path)) == ["train.tsv", "valid.tsv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "AX", "--data", "."], "--task AX: known are CoLA"),
        (["--task", "RTE"], "--task takes --data DIR"),
        (["--task", "RTE", "--data", ".", "--labels", "a"], "and not --labels"),
        (["--train", "x"], "give --task and --data, or --train, --texts and --label"),
        (["--train", "x", "--label", "l", "--texts", "a", "b", "c"], "--texts a b c: one or two"),
        (["--train", "x", "--label", "l", "--texts", "a", "--regression", "--labels", "0"], "contradict each other"),
        (["--train", "x", "--label", "l", "--texts", "a", "a"], "--texts a a and --label l name a column twice"),
        (["--train", "x", "--label", "a", "--texts", "a"], "--texts a and --label a name a column twice"),
    ],
)
def test_options_that_do_not_fit(arguments, message, capsys):
    with pytest.raises(SystemExit):
        call("prepare glue", *arguments, "--vocab-from", "x", "--destdir", "y")
    assert message in capsys.readouterr().err
