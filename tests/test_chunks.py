"""Text in chunks is the text, however it is cut, and a chunk is found again."""

import gzip
import random

import numpy as np
import pytest

from fairseq_pmlm.preparation import chunks
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import Counts, clean_line

LINES = ["", "  ", "\u3000", "\t", "a b", "ccc  d", "한글 텍스트", "\u2028", "\u200b", "x" * 33, "\x00"]
ENDS = ["\n", "\n", "\r\n", "\n\n"]


def documents_of(path, mode):
    """Documents of a file as lists of lines, read as a whole."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    documents = [[]]
    for line in raw.decode("utf-8-sig").split("\n"):
        line = clean_line(line.removesuffix("\r"))
        if line.strip():
            documents[-1].append(line)
        elif mode == "blocks":
            documents.append([])
    return [document for document in documents if document]


@pytest.mark.parametrize("mode", ["blocks", "files"])
def test_however_it_is_cut(tmp_path, monkeypatch, mode):
    draw = random.Random(mode)
    for trial in range(150):
        paths = []
        for i in range(draw.randint(1, 3)):
            text = "".join(draw.choice(LINES) + draw.choice(ENDS) for _ in range(draw.randint(0, 30)))
            text = ("\ufeff" if draw.random() < 0.2 else "") + (text if draw.random() < 0.7 else text.rstrip("\n"))
            path = tmp_path / (f"{trial}.{i}.gz" if draw.random() < 0.3 else f"{trial}.{i}.txt")
            path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
            paths.append(path)
        monkeypatch.setattr(chunks, "SIZE", draw.choice([1, 3, 10, 50, 1000]))
        monkeypatch.setattr(chunks, "LONG", draw.choice([5, 20, 60, 5000]))
        documents = [document for path in paths for document in documents_of(path, mode)]
        names = [str(path) for path in paths]
        cut, found, rows, counts = list(chunks.cut(names, mode)), [], [], Counts()
        for chunk in cut:
            count = Counts()
            found += chunk.lines(count)
            rows.append(chunk.row(count.documents))
            counts.add(count)
        assert found == [line for document in documents for line in (*document, "")]
        assert counts.documents == len(documents)
        assert counts.lines == sum(map(len, documents))
        table = np.array(rows, chunks.ROW)
        wanted = [i for i in range(len(table)) if draw.random() < 0.6]
        assert list(chunks.read(names, mode, table, wanted)) == [cut[i] for i in wanted]


def test_documents_are_whole_where_they_are_not_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 10)
    monkeypatch.setattr(chunks, "LONG", 40)
    path = tmp_path / "a.txt"
    path.write_text("a\n\n" + "b" * 9 + "\n" + "c" * 19 + "\n\n" + "d" * 29 + "\n" + "e" * 29 + "\nf\n\ng\n")
    cut = list(chunks.cut([str(path)], "blocks"))
    assert [(chunk.line, chunk.inside, chunk.ends) for chunk in cut] == [
        (0, False, False), (5, False, False), (7, True, True),
    ]  # fmt: skip


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_bad_line_is_named_whatever_chunk_it_is_in(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(chunks, "SIZE", 20)
    path = tmp_path / ("a.gz" if compress is gzip.compress else "a.txt")
    path.write_bytes(compress(b"good\n\n" * 50 + b"b\xffad\n"))
    with pytest.raises(PMLMError, match=rf"{path}, line 101: not UTF-8 \(byte 0xff at column 2\)"):
        [list(chunk.lines(Counts())) for chunk in chunks.cut([str(path)], "blocks")]


@pytest.mark.parametrize("mode", ["blocks", "files"])
@pytest.mark.parametrize("size", [2, 3, 20])
def test_a_line_that_fills_the_memory_is_refused(tmp_path, monkeypatch, mode, size):
    monkeypatch.setattr(chunks, "SIZE", size)
    monkeypatch.setattr("fairseq_pmlm.utils.io.LONGEST_LINE", 1000)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"a\nb\n" + bytes(10**6)))
    with pytest.raises(PMLMError, match=r"a\.gz, line 3: longer than 1,000 bytes; is this a text file"):
        list(chunks.cut([str(path)], mode))


def test_changed_text_is_noticed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a b\n")
    table = np.array([chunk.row(1) for chunk in chunks.cut([str(path)], "blocks")], chunks.ROW)
    for text in ("a c\n", "a"):
        path.write_text(text)
        with pytest.raises(PMLMError, match=r"a\.txt: the text at byte 0 is not what it was"):
            list(chunks.read([str(path)], "blocks", table, [0]))
