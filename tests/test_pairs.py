"""Pairs in the formats that data sets are published in, through the reader of pmlm prepare pairs."""

import gzip
import json

import pytest

from fairseq_pmlm.cli import prepare_pairs
from fairseq_pmlm.preparation.pairs import Squad
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import Counts


class Words:
    """A tokenizer that knows every word but ``|``."""

    pieces = {":": ":"}

    def encode(self, text):
        return text


@pytest.fixture
def read(tmp_path):
    """Run the reader of pmlm prepare pairs; returns it, and the lines of the files that it wrote by name."""

    def run(*arguments, split="train"):
        options = [*(() if split == "train" else ("--train", "unread")), f"--{split}", *map(str, arguments)]
        args = prepare_pairs.parse_arguments([*options, "--vocab-from", "v", "--destdir", "d"])
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        reader = prepare_pairs.Reader(split, args, Words())
        reader.write(str(folder))
        return reader, {path.name: path.read_text().splitlines() for path in folder.iterdir()}

    return run


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_keys_by_name(tmp_path, read):
    record = {"id": 1, "passage": "A fox ran.\nFast.", "answer": "a fox", "question": "Who ran?"}
    path = write(tmp_path / "a.jsonl", record)
    reader, files = read(path, "--source-keys", "answer", "passage", "--target-key", "question")
    assert files == {"train.src.txt": ["a fox : A fox ran. Fast."], "train.tgt.txt": ["Who ran?"]}
    assert (reader.records, reader.pairs) == (1, 1)
    with pytest.raises(PMLMError, match="line 1: no key 'document'"):
        read(path, "--source-keys", "document")
    write(path, record, {**record, "answer": " "})
    keys = ["--source-keys", "answer", "passage", "--target-key", "question"]
    with pytest.raises(PMLMError, match=r"a\.jsonl, line 2, key 'answer': empty"):
        read(path, *keys)
    assert read(path, *keys, "--skip-empty")[0].skipped == 1


def test_sentences_and_references_as_lists(tmp_path, read):
    path = write(
        tmp_path / "a", {"source": ["One.", "Two."], "target": ["x", "y"]}, {"source": "Three.", "target": "z"}
    )
    keys = ["--source-keys", "source", "--target-key", "target"]
    reader, files = read(path, *keys)
    assert files["train.src.txt"] == ["One. Two.", "One. Two.", "Three."]
    assert files["train.tgt.txt"] == ["x", "y", "z"]
    assert (reader.records, reader.pairs) == (2, 3)
    reader, files = read(path, *keys, split="test")
    assert files["test.tgt.txt"] == files["test.ref0.txt"] == ["x", "z"]
    assert files["test.ref1.txt"] == ["y", "z"]
    assert reader.pairs == 2


def test_parallel_text(tmp_path, read):
    source, first = write(tmp_path / "x.source", "a b", "c"), write(tmp_path / "x.target", "d", "e")
    with gzip.open(tmp_path / "y.gz", "wt") as f:
        f.write("f\ng\n")
    _, files = read(source, first, tmp_path / "y.gz", split="valid")
    assert files["valid.src.txt"] == ["a b", "c"]
    assert [files[f"valid.ref{i}.txt"] for i in (0, 1)] == [["d", "e"], ["f", "g"]]
    _, files = read(source, first)
    assert (files["train.src.txt"], files["train.tgt.txt"]) == (["a b", "c"], ["d", "e"])


@pytest.mark.parametrize(("sources", "targets"), [(3, 2), (2, 5), (4, 0)])
def test_parallel_text_of_different_lengths(tmp_path, read, sources, targets):
    files = [write(tmp_path / name, *["a"] * n) for name, n in (("source", sources), ("target", targets))]
    with pytest.raises(PMLMError, match=rf"source has {sources} lines but .*target has {targets}$"):
        read(*files)
    files = [write(tmp_path / name, "a", text) for name, text in (("source", "b"), ("target", ""))]
    with pytest.raises(PMLMError, match=r"target, line 2: empty"):
        read(*files)


def squad(version="1.1", **changes):
    question = {"id": "q1", "question": "Who ran?", "answers": [{"text": "fox", "answer_start": 2}] * 2} | changes
    paragraph = {"context": "A fox ran.\tIt did.", "qas": [question, {**question, "id": "q2", "question": "What ran?"}]}
    return {"version": version, "data": [{"title": "t", "paragraphs": [paragraph]}]}


def test_squad(tmp_path, read):
    path = write(tmp_path / "train.json", squad())
    reader, files = read(path, "--format", "squad")
    assert files["train.src.txt"] == ["fox : A fox ran. It did."] * 2
    assert files["train.tgt.txt"] == ["Who ran?", "What ran?"]
    assert (reader.squad.impossible, reader.counts.lines) == (0, 2)


def test_squad_without_answers(tmp_path):
    data = squad("v2.0", is_impossible=True, answers=[])
    answered = squad("v2.0", is_impossible=False)["data"][0]["paragraphs"]
    for question in answered[0]["qas"]:
        question["id"] += "b"
    data["data"][0]["paragraphs"] += answered
    reader = Squad(str(write(tmp_path / "dev.json", data)), Counts())
    assert len(list(reader.read())) == 2
    assert reader.impossible == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (squad("1.2"), r"SQuAD version '1\.2'; known are 1\.1, v1\.1, 2\.0, v2\.0"),
        ({"data": []}, "SQuAD version None"),
        ([], "not a JSON object with version and data, but a list"),
        ("{", "broken JSON"),
        ({"version": "1.1", "data": [{}]}, r"data\[0\]: no key 'paragraphs' \(there is no key at all\)"),
        ({"version": "1.1", "data": [[]]}, r"data\[0\]: not a JSON object, but a list"),
        ({"version": "1.1", "data": []}, "no records with a source and a target"),
        (squad(answers=[{"text": " ", "answer_start": 2}]), "id q1: the answer is empty"),
        (
            squad(answers=[{"text": "fox", "answer_start": 3}]),
            "id q1: the answer 'fox' should stand at 3, where there is 'ox '; it stands elsewhere",
        ),
        (
            squad(answers=[{"text": "dog", "answer_start": 99}]),
            "id q1: the answer 'dog' should stand at 99, where there is ''; it is nowhere in the passage",
        ),
        (squad(question="\n"), "id q1, question: empty"),
    ],
)
def test_bad_squad(tmp_path, read, data, message):
    path = write(tmp_path / "a.json", data)
    with pytest.raises(PMLMError, match=message) as error:
        read(path, "--format", "squad")
    assert str(path) in str(error.value)


def test_separator():
    def check(*options):
        args = ["--train", "x", "--vocab-from", "v", "--destdir", "d", *options]
        prepare_pairs.check_separator(prepare_pairs.parse_arguments(args), Words())

    check("--separator", "|")  # no parts, nothing to separate
    check("--source-keys", "a", "b")
    check("--source-keys", "a", "b", "--separator", "</s>")
    for bad in ("|", " "):
        with pytest.raises(PMLMError, match="nothing that the vocabulary in v can spell"):
            check("--source-keys", "a", "b", "--separator", bad)
    with pytest.raises(PMLMError, match=r"--separator 'a\\nb': holds a line break or another control character"):
        check("--source-keys", "a", "b", "--separator", "a\nb")  # which the tokenizer would take for a space


def test_a_split_that_is_a_directory(tmp_path):
    with pytest.raises(PMLMError, match=rf"--train {tmp_path}: is a directory; give a file"):
        prepare_pairs.main(["--train", str(tmp_path), "--vocab-from", "v", "--destdir", "d"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a", "b", "--format", "squad"], "--train: --format squad takes one file"),
        (["a", "b", "--target-key", "x"], "are for JSON lines; --train is something else"),
    ],
)
def test_options_that_do_not_fit(read, options, message, capsys):
    with pytest.raises(SystemExit):
        read(*options)
    assert message in capsys.readouterr().err
