"""Reading raw text: one record stays one line, and bad input is named."""

import contextlib
import gzip
import io
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import (
    Counts,
    clean_line,
    list_files,
    mark_documents,
    read_lines,
    read_records,
    replacing,
    text_value,
    write_output,
    write_text,
)

BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\t", "\x00", "\x1f"]


@pytest.mark.parametrize("character", BREAKS)
def test_each_break_becomes_one_counted_space(character):
    replaced = Counter()
    assert clean_line(f"a{character}b", replaced) == "a b"
    assert sum(replaced.values()) == 1


def test_half_surrogate_becomes_the_replacement_character():
    replaced = Counter()
    assert clean_line("a\ud800b", replaced) == "a\ufffdb"
    assert replaced == {"half surrogate": 1}


@given(st.text(st.characters(codec=None)))
def test_cleaned_text_is_one_line_of_utf8(text):
    clean = clean_line(text)
    assert len(clean.splitlines()) <= 1
    assert clean.encode().decode() == clean
    assert clean_line(clean) == clean


@pytest.mark.parametrize("text", ["plain", "안녕하세요 세계", "Tiếng Việt", "a\u3000b\u00a0c", "▁ 😀", "e\u0301"])
def test_ordinary_text_is_left_alone(text):
    replaced = Counter()
    assert clean_line(text, replaced) == text
    assert not replaced


def test_lines_end_at_line_feeds_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028two\r\nthree\rfour\n\nfive".encode())
    assert list(read_lines(str(path))) == [(1, "one\u2028two"), (2, "three\rfour"), (3, ""), (4, "five")]


def test_documents():
    texts = ["", "x\u2028y", "", " \t", "b", "c"]
    counts = Counts()
    assert list(mark_documents(texts, "blocks", counts)) == ["x y", "", "b", "c", ""]
    assert (counts.documents, counts.lines, counts.blank_lines) == (2, 3, 3)
    assert counts.describe_replaced() == "2 (U+2028 1, tab 1)"
    assert list(mark_documents(texts, "files", Counts())) == ["x y", "b", "c", ""]
    assert list(mark_documents(texts, "blocks", Counts(), inside=True, ends=False)) == ["", "x y", "", "b", "c"]
    assert list(mark_documents([""], "files", Counts(), inside=True)) == [""]


def test_files_of_a_directory(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("b.txt", "a/z.gz", "empty.txt", ".hidden"):
        (tmp_path / name).touch()
    files = list_files([str(tmp_path)])
    assert [file[len(str(tmp_path)) + 1 :] for file in files] == ["a/z.gz", "b.txt", "empty.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\nb\xffad\n", r"a\.txt, line 2: not UTF-8 \(byte 0xff at column 2\)"),
        ("a.txt", gzip.compress(b"text", mtime=0), r"line 1: not UTF-8.* ends in \.gz"),
        ("a.txt", "text".encode("utf-16"), "line 1: not UTF-8.*UTF-16"),
        ("a.gz", b"text", r"a\.gz: not a gzip file"),
        ("a.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "damaged or cut off"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PMLMError, match=message):
        list(read_lines(str(tmp_path / name)))


def test_a_line_that_fills_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fairseq_pmlm.utils.io.LONGEST_LINE", 1000)
    for size, end in ((1000, b""), (999, b"\n"), (1001, b""), (1000, b"\n"), (10**6, b"")):
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"x\n" + bytes(size) + end))
        if size + len(end) <= 1000:
            assert len(list(read_lines(str(tmp_path / "a.gz")))) == 2
            continue
        with pytest.raises(PMLMError, match=r"a\.gz, line 2: longer than 1,000 bytes; is this a text file"):
            list(read_lines(str(tmp_path / "a.gz")))


def test_a_directory_that_cannot_be_read(tmp_path, monkeypatch):
    """What is in it is not left out without a word."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PMLMError, match=r"cannot read .*inner: Permission denied"):
        list_files([str(tmp_path)])


def test_missing_paths(tmp_path):
    with pytest.raises(PMLMError, match=r"no such file or directory: .*nowhere"):
        list_files([str(tmp_path / "nowhere")])
    with pytest.raises(PMLMError, match="no files in the directory"):
        list_files([str(tmp_path)])
    with pytest.raises(PMLMError, match="cannot read"):
        list(read_lines(str(tmp_path)))


def records(tmp_path, *lines):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_records(str(path), ["src", "tgt"])


def test_records(tmp_path):
    good = json.dumps({"src": "a\nb\u2028c", "tgt": ["x"], "id": 3}, ensure_ascii=False)
    assert list(records(tmp_path, good, "", good)) == [(1, ["a\nb\u2028c", ["x"]]), (3, ["a\nb\u2028c", ["x"]])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"src": "a"', "line 2: broken JSON"),
        ("[" * 100_000, "line 2: broken JSON"),
        ('["a"]', "line 2: not a JSON object with src and tgt, but a list"),
        ('{"src": "a", "target": "b"}', "line 2: no key 'tgt' .there is 'src', 'target'"),
    ],
)
def test_bad_records(tmp_path, line, message):
    with pytest.raises(PMLMError, match=message):
        list(records(tmp_path, '{"src": "a", "tgt": "b"}', line))


def test_text_value():
    counts = Counts()
    assert text_value(" a\u2028b\n", "here", counts) == "a b"
    assert counts.replaced == {"U+2028": 1}
    assert text_value("\n\u3000 ", "here", counts) == ""
    for value, name in [(3, "a number"), (None, "null"), (True, "a truth value"), ({}, "an object")]:
        with pytest.raises(PMLMError, match=f"^here: not text, but {name}"):
            text_value(value, "here", counts)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")

    def killed():
        with replacing(path) as temporary:
            Path(temporary).write_text("half")
            assert temporary.endswith(".txt")  # matplotlib takes the format from the name
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_pipe_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through it")
    assert os.read(end, 99) == b"through it"
    os.close(end)
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(PMLMError, match=r"cannot be written: Is a directory"):
        write_text(tmp_path, "")
    with pytest.raises(PMLMError, match=r"none/x\.txt: cannot be written: No such file or directory"):
        write_text(tmp_path / "none" / "x.txt", "")


@pytest.mark.parametrize("buffered", [False, True])
def test_standard_output_whose_reader_goes(monkeypatch, buffered):
    reading, writing = os.pipe()
    raw = io.FileIO(writing, "w")
    stream = io.TextIOWrapper(io.BufferedWriter(raw) if buffered else raw, write_through=not buffered)
    monkeypatch.setattr(sys, "stdout", stream)

    def read_a_line():
        os.read(reading, 7)
        os.close(reading)

    reader = threading.Thread(target=read_a_line)
    reader.start()
    with pytest.raises(BrokenPipeError):
        write_output(None, "a line\n" * 100_000)  # more than a pipe holds
    reader.join()
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_standard_output_on_a_full_disk(monkeypatch):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(PMLMError, match=r"^standard output: cannot be written: No space left on device$"):
            write_output(None, "a line\n")
