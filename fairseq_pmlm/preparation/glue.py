"""Labelled texts, one or two a record, in the formats that data sets are published in; and what the GLUE tasks are.

A file is a table (text with a line a record, columns between tabs, no quoting: quotes are text, as GLUE has them) or
JSON lines. Columns have names where the first line gives them, else numbers from 1.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

from ..utils.errors import PMLMError
from ..utils.io import Counts, kind, read_lines, read_records, text_value

METRICS = ("accuracy", "f1", "mcc", "pearson", "spearman")


class Table(NamedTuple):
    """Where the texts and the label of a record stand.

    texts: names or numbers of one or two columns. label: that of the label; None where there is none. header: whether
    the first line names the columns. columns: how many there are, where no first line says so.
    """

    texts: tuple[str, ...]
    label: Optional[str] = None
    header: bool = True
    columns: Optional[int] = None


class Task(NamedTuple):
    """One of GLUE's tasks.

    labels: classes in the order of their indices, empty for regression. metrics: published for it. files: split ->
    candidates (file, table), of which the first that exists counts.
    """

    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    files: dict[str, list[tuple[str, Table]]]


def _three(table: Table, test: Optional[Table] = None, **more: list[tuple[str, Table]]) -> dict:
    """train.tsv, dev.tsv, and test.tsv, which has no labels."""
    return {
        "train": [("train.tsv", table)],
        "valid": [("dev.tsv", table)],
        "test": [("test.tsv", test or table._replace(label=None))],
        **more,
    }


_COLA = Table(("4",), "2", header=False, columns=4)
_MRPC = Table(("#1 String", "#2 String"), "Quality")
_MNLI = Table(("sentence1", "sentence2"), "gold_label")
_ENTAILMENT = Table(("sentence1", "sentence2"), "label")
_RTE = ("entailment", "not_entailment")
# The second class is the positive one for F1.
TASKS = {
    "CoLA": Task(("0", "1"), ("mcc",), _three(_COLA, Table(("sentence",)))),
    "SST-2": Task(("0", "1"), ("accuracy",), _three(Table(("sentence",), "label"))),
    "MRPC": Task(
        ("0", "1"),
        ("accuracy", "f1"),
        {
            # Microsoft's own files have no validation set; the labels of its test set are public.
            "train": [("train.tsv", _MRPC), ("msr_paraphrase_train.txt", _MRPC)],
            "valid": [("dev.tsv", _MRPC)],
            "test": [("msr_paraphrase_test.txt", _MRPC), ("test.tsv", _MRPC._replace(label=None))],
        },
    ),
    "STS-B": Task((), ("pearson", "spearman"), _three(Table(("sentence1", "sentence2"), "score"))),
    "QQP": Task(("0", "1"), ("accuracy", "f1"), _three(Table(("question1", "question2"), "is_duplicate"))),
    "MNLI": Task(
        ("contradiction", "neutral", "entailment"),
        ("accuracy",),
        {
            "train": [("train.tsv", _MNLI)],
            "valid": [("dev_matched.tsv", _MNLI)],
            "valid1": [("dev_mismatched.tsv", _MNLI)],
            "test": [("test_matched.tsv", _MNLI._replace(label=None))],
            "test1": [("test_mismatched.tsv", _MNLI._replace(label=None))],
        },
    ),
    "QNLI": Task(_RTE, ("accuracy",), _three(Table(("question", "sentence"), "label"))),
    "RTE": Task(_RTE, ("accuracy",), _three(_ENTAILMENT)),
    "WNLI": Task(("0", "1"), ("accuracy",), _three(_ENTAILMENT)),
}


def find_files(name: str, folder: str) -> dict[str, tuple[str, Table]]:
    """Split -> (path, table) of the files of a GLUE task in *folder*, plain or ``.gz``.

    Raises:
        PMLMError: there is no training set.
    """
    found = {}
    for split, candidates in TASKS[name].files.items():
        for file, table in candidates:
            paths = [os.path.join(folder, file), os.path.join(folder, f"{file}.gz")]
            path = next((path for path in paths if os.path.isfile(path)), None)
            if path and split not in found:
                found[split] = path, table
    if "train" not in found:
        names = " or ".join(file for file, _ in TASKS[name].files["train"])
        raise PMLMError(f"--data {folder}: there is no {names}, as {name} is published")
    return found


class Record(NamedTuple):
    """One or two clean texts, the label as it is written (None where the file has none), and where it stands."""

    where: str
    texts: tuple[str, ...]
    label: Optional[str]


def read(path: str, table: Table, counts: Counts, skip_malformed: bool = False, hint: str = "") -> Iterator[Record]:
    """The records of a file, JSON lines where its name says so (``.jsonl``, ``.json``, also with ``.gz``).

    Args:
        path: the file.
        table: where texts and label stand.
        counts: what was read is added here; lines left out are ``counts.malformed``.
        skip_malformed: leave out lines with another number of columns, instead of stopping at the first.
        hint: what to add to the message about such a line.

    Raises:
        PMLMError: no such column, another number of columns (naming the line), a value that is no text; see also
            :mod:`fairseq_pmlm.utils.io`.
    """
    wanted = [*table.texts, *([table.label] if table.label is not None else [])]
    if is_json(path):
        rows = ((f"{path}, line {number}", values) for number, values in read_records(path, wanted, counts))
    else:
        rows = _read_table(path, table, wanted, counts, skip_malformed, hint)
    for where, values in rows:
        named = [f"{where}, {column!r}" for column in wanted]
        size = len(table.texts)
        texts = tuple(text_value(value, at, counts) for value, at in zip(values[:size], named, strict=False))
        yield Record(where, texts, _label(values[size], named[size]) if table.label is not None else None)


def _read_table(path, table: Table, wanted: Sequence[str], counts: Counts, skip_malformed: bool, hint: str):
    counts.files += 1
    places: list[int] = []
    width = 0
    for number, line in read_lines(path, counts):
        cells = line.split("\t")
        if number == 1:
            width = len(cells) if table.columns is None else table.columns
            places = [_place(column, cells if table.header else None, width, path) for column in wanted]
            if table.header:
                continue
        if not line.strip() and width > 1 and table.label is not None:
            counts.blank_lines += 1
            continue
        counts.lines += 1
        if len(cells) != width:
            if skip_malformed:
                counts.malformed += 1
                continue
            raise PMLMError(f"{path}, line {number}: {len(cells)} columns between tabs instead of {width}{hint}")
        yield f"{path}, line {number}", [cells[place] for place in places]


def has_column(path: str, table: Table, column: str) -> bool:
    """Whether the first record of a file has the *column*; see :func:`read`."""
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    if is_json(path):
        try:
            return column in json.loads(first)
        except (ValueError, TypeError, RecursionError):
            return True  # reading it says what is wrong
    cells = first.split("\t")
    return (table.header and column in cells) or (column.isdigit() and 1 <= int(column) <= len(cells))


def is_json(path: str) -> bool:
    """Whether a file's name says that it holds JSON lines."""
    return path.removesuffix(".gz").endswith((".jsonl", ".json"))


def _place(column: str, names: Optional[list[str]], width: int, path: str) -> int:
    if names is not None and column in names:
        if names.count(column) > 1:
            raise PMLMError(f"{path}, line 1: {names.count(column)} columns are called {column!r}; say its number")
        return names.index(column)
    if column.isdigit():
        if not 1 <= int(column) <= width:
            raise PMLMError(f"{path}: there is no column {column}; a line has {width}")
        return int(column) - 1
    if names is None:
        raise PMLMError(f"{path}: there is no column {column!r}; without a header, columns are numbers from 1")
    raise PMLMError(f"{path}, line 1: there is no column {column!r}, but {', '.join(map(repr, names))}")


def _label(value: Any, where: str) -> str:
    """A label as it is written; JSON may have it as a number, and writes 1 and 1.0 for the same."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise PMLMError(f"{where}: a label is text or a number, not {kind(value)}")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def check_label(record: Record, labels: Sequence[str]) -> None:
    """Raise PMLMError unless the label of *record* is one of *labels*; without any, a finite number (regression)."""
    if not labels:
        try:
            label = record.label or ""
            finite = math.isfinite(float(label)) and "_" not in label  # which Python takes in numbers
        except ValueError:
            finite = False
        if not finite:
            raise PMLMError(f"{record.where}: the label {record.label!r} is not a number, which regression needs")
    elif record.label not in labels:
        raise PMLMError(f"{record.where}: the label {record.label!r} is none of {', '.join(labels)}")
