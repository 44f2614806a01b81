"""Labelled texts in the formats that GLUE is published in."""

import gzip

import pytest

from fairseq_pmlm.preparation import glue
from fairseq_pmlm.preparation.glue import Table
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import Counts

# The first lines as published, and a record; fields are what the official files have.
PARSES = ["sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"]
MNLI = ["index", "promptID", "pairID", "genre", *PARSES, "sentence1", "sentence2"]
STSB = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"]
PUBLISHED = {
    "CoLA": {
        "train.tsv": ["gj04", "1", "", 'He said "hm".'],
        "dev.tsv": ["gj04", "0", "*", "Him said so."],
        "test.tsv": (["index", "sentence"], ["0", "Bill whistled."]),
    },
    "SST-2": {
        "train.tsv": (["sentence", "label"], ["a good film ", "1"]),
        "test.tsv": (["index", "sentence"], ["0", "a film"]),
    },
    "MRPC": {
        "train.tsv": (
            ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
            ["1", "7", "8", 'He said "hm', "He did ."],
        ),
        "test.tsv": (["index", "#1 ID", "#2 ID", "#1 String", "#2 String"], ["0", "1", "2", "a", "b"]),
    },
    "STS-B": {
        "train.tsv": (
            [
                "index",
                "genre",
                "filename",
                "year",
                "old_index",
                "source1",
                "source2",
                "sentence1",
                "sentence2",
                "score",
            ],
            ["0", "main", "MSRvid", "2012", "1", "none", "none", "A plane.", "An air plane.", "4.250"],
        ),
        "test.tsv": (
            STSB,
            ["0", "main", "MSRvid", "2012", "1", "none", "none", "A plane.", "An air plane."],
        ),
    },
    "QQP": {
        "train.tsv": (
            ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
            ["1", "2", "3", "Why?", "How?", "0"],
        ),
        "test.tsv": (["id", "question1", "question2"], ["0", "Why?", "Who?"]),
    },
    "MNLI": {
        "train.tsv": ([*MNLI, "label1", "gold_label"], [*"0abcdefg", "One.", "Two.", "neutral", "neutral"]),
        "dev_matched.tsv": (
            [*MNLI, "label1", "label2", "label3", "label4", "label5", "gold_label"],
            [*"0abcdefg", "One.", "Two.", *["neutral"] * 5, "entailment"],
        ),
        "dev_mismatched.tsv": (
            [*MNLI, "label1", "label2", "label3", "label4", "label5", "gold_label"],
            [*"0abcdefg", "Three.", "Four.", *["neutral"] * 5, "contradiction"],
        ),
        "test_matched.tsv": (MNLI, [*"0abcdefg", "One.", "Two."]),
        "test_mismatched.tsv": (MNLI, [*"0abcdefg", "Five.", "Six."]),
    },
    "QNLI": {"train.tsv": (["index", "question", "sentence", "label"], ["0", "Who?", "He.", "not_entailment"])},
    "RTE": {"train.tsv": (["index", "sentence1", "sentence2", "label"], ["0", "It.", "So.", "entailment"])},
    "WNLI": {"train.tsv": (["index", "sentence1", "sentence2", "label"], ["0", "It.", "So.", "1"])},
}
EXPECTED = {
    "CoLA": {
        "train": (('He said "hm".',), "1"),
        "valid": (("Him said so.",), "0"),
        "test": (("Bill whistled.",), None),
    },
    "SST-2": {"train": (("a good film",), "1"), "test": (("a film",), None)},
    "MRPC": {"train": (('He said "hm', "He did ."), "1"), "test": (("a", "b"), None)},
    "STS-B": {"train": (("A plane.", "An air plane."), "4.250"), "test": (("A plane.", "An air plane."), None)},
    "QQP": {"train": (("Why?", "How?"), "0"), "test": (("Why?", "Who?"), None)},
    "MNLI": {
        "train": (("One.", "Two."), "neutral"),
        "valid": (("One.", "Two."), "entailment"),
        "valid1": (("Three.", "Four."), "contradiction"),
        "test": (("One.", "Two."), None),
        "test1": (("Five.", "Six."), None),
    },
    "QNLI": {"train": (("Who?", "He."), "not_entailment")},
    "RTE": {"train": (("It.", "So."), "entailment")},
    "WNLI": {"train": (("It.", "So."), "1")},
}


def write(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(content):
    return content if isinstance(content, tuple) else [content]


def test_every_task_of_glue_is_here():
    assert glue.TASKS.keys() == PUBLISHED.keys() == EXPECTED.keys()


@pytest.mark.parametrize("task", list(glue.TASKS))
def test_files_as_published(tmp_path, task):
    for name, content in PUBLISHED[task].items():
        write(tmp_path / name, rows_of(content))
    found = glue.find_files(task, str(tmp_path))
    records = {split: list(glue.read(path, table, Counts())) for split, (path, table) in found.items()}
    assert {split: [tuple(record[1:]) for record in rows] for split, rows in records.items()} == {
        split: [expected] for split, expected in EXPECTED[task].items()
    }
    for rows in records.values():
        for record in rows:
            if record.label is not None:
                glue.check_label(record, glue.TASKS[task].labels)


def test_mrpc_as_microsoft_publishes_it(tmp_path):
    header, row = PUBLISHED["MRPC"]["train.tsv"]
    text = "\ufeff" + "\r\n".join("\t".join(cells) for cells in (header, row)) + "\r\n"  # with a byte order mark
    (tmp_path / "msr_paraphrase_train.txt").write_bytes(text.encode())
    with gzip.open(tmp_path / "msr_paraphrase_test.txt.gz", "wb") as file:
        file.write(text.encode())
    found = glue.find_files("MRPC", str(tmp_path))
    assert list(found) == ["train", "test"]
    for path, table in found.values():
        (record,) = glue.read(path, table, Counts())
        assert record[1:] == EXPECTED["MRPC"]["train"]


def test_columns_by_number_and_json_lines(tmp_path):
    table = write(tmp_path / "t.tsv", [["x", "a", "1"], ["y", "b", "2"]])
    assert [r[1:] for r in glue.read(table, Table(("2",), "3", header=False), Counts())] == [
        (("a",), "1"),
        (("b",), "2"),
    ]
    lines = tmp_path / "t.jsonl"
    lines.write_text('{"a": "x", "b": "y", "l": 3}\n\n{"a": "\\u2028x", "b": "", "l": "z"}\n')
    counts = Counts()
    assert [r[1:] for r in glue.read(str(lines), Table(("b", "a"), "l"), counts)] == [
        (("y", "x"), "3"),
        (("", "x"), "z"),
    ]
    assert counts.blank_lines == 1
    assert glue.has_column(str(lines), Table(()), "l")
    assert not glue.has_column(str(lines), Table(()), "m")
    assert glue.has_column(table, Table((), header=False), "3")
    assert not glue.has_column(table, Table((), header=False), "4")
    assert glue.has_column(table, Table(()), "x")


@pytest.mark.parametrize(
    ("rows", "table", "message"),
    [
        ([["a", "l"], ["x", "1", "?"]], Table(("a",), "l"), r"t\.tsv, line 2: 3 columns between tabs instead of 2"),
        ([["a", "l"], ["x"]], Table(("a",), "l"), r"t\.tsv, line 2: 1 columns between tabs instead of 2"),
        ([["a", "l"]], Table(("b",), "l"), r"t\.tsv, line 1: there is no column 'b', but 'a', 'l'"),
        ([["a", "l"]], Table(("3",), "2", header=False), "there is no column 3; a line has 2"),
        ([["a", "l"]], Table(("a",), "2", header=False), "without a header, columns are numbers from 1"),
        ([["a", "1"]], Table(("4",), "2", header=False, columns=4), "2 columns between tabs instead of 4"),
        ([["a", "l", "a"]], Table(("a",), "l"), r"t\.tsv, line 1: 2 columns are called 'a'; say its number"),
    ],
)
def test_tables_that_are_not_as_they_should_be(tmp_path, rows, table, message):
    path = write(tmp_path / "t.tsv", rows)
    with pytest.raises(PMLMError, match=message):
        list(glue.read(path, table, Counts()))


def test_malformed_lines_are_left_out_and_counted_where_that_is_wanted(tmp_path):
    path = write(tmp_path / "t.tsv", [["a", "l"], ["x", "1"], ["y"], ["z", "2", "3"], ["u", "4"]])
    counts = Counts()
    records = list(glue.read(path, Table(("a",), "l"), counts, skip_malformed=True))
    assert [record.texts for record in records] == [("x",), ("u",)]
    assert (counts.lines, counts.malformed) == (4, 2)


@pytest.mark.parametrize("label", ["", "x", "nan", "inf", "1,5", "1_000"])
def test_regression_wants_numbers(label):
    with pytest.raises(PMLMError, match=r"f, line 3: the label '.*' is not a number, which regression needs"):
        glue.check_label(glue.Record("f, line 3", ("a",), label), ())
    glue.check_label(glue.Record("f, line 3", ("a",), "-1.5e0"), ())


def test_labels_are_those_known():
    with pytest.raises(PMLMError, match=r"f, line 3: the label '-' is none of a, b"):
        glue.check_label(glue.Record("f, line 3", ("a",), "-"), ("a", "b"))


def test_json_labels_are_text_or_numbers(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": "x", "l": 1}\n{"a": "x", "l": 1.0}\n{"a": "x", "l": 1.5}\n{"a": "x", "l": " 1 "}\n')
    assert [record.label for record in glue.read(str(path), Table(("a",), "l"), Counts())] == ["1", "1", "1.5", "1"]
    path.write_text('{"a": "x", "l": null}\n')
    with pytest.raises(PMLMError, match=r"line 1, 'l': a label is text or a number, not null"):
        list(glue.read(str(path), Table(("a",), "l"), Counts()))


def test_a_folder_without_the_task(tmp_path):
    with pytest.raises(PMLMError, match=r"there is no train\.tsv or msr_paraphrase_train\.txt, as MRPC is published"):
        glue.find_files("MRPC", str(tmp_path))
