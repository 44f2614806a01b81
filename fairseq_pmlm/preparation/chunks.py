"""Raw text cut into chunks that workers read: where a chunk lies is decided once, and found again without a copy.

Chunks end between documents wherever these are not too long, so that what a worker needs of a document is in one chunk.
A table of 50 bytes a chunk says where each lies, how many documents end in it, and what its bytes add up to.
"""

import re
import zlib
from typing import Iterable, Iterator, NamedTuple

import numpy as np

from ..utils.errors import PMLMError
from ..utils.io import BYTE_ORDER_MARK, Counts, clean_line, decode_line, mark_documents, read_line, reading

SIZE = 1 << 18  # bytes of text that go to a worker at a time
LONG = 1 << 21  # bytes after which a document is cut between two lines
VISIBLE = re.compile(rb"[\x21-\x7e]")
ROW = np.dtype(
    [
        ("file", np.int32),
        ("crc", np.uint32),
        ("offset", np.int64),
        ("size", np.int64),
        ("line", np.int64),
        ("documents", np.int64),
        ("inside", np.bool_),
        ("ends", np.bool_),
    ]
)


class Chunk(NamedTuple):
    """Lines of one file that follow one another."""

    file: int  # its number among all files
    path: str
    offset: int  # bytes of the file before it, decompressed
    line: int  # lines before it
    inside: bool  # whether its first line goes on with a document
    ends: bool  # whether the file ends with it
    documents: str  # what separates documents: see text.mark_documents
    raw: bytes

    def lines(self, counts: Counts) -> Iterator[str]:
        """Clean lines, and an empty string where a document ends; *counts* grows.

        Raises:
            PMLMError: a line is not UTF-8.
        """
        return (line for _, line in self.numbered_lines(counts))

    def numbered_lines(self, counts: Counts) -> Iterator[tuple[int, str]]:
        """The same, each with its number in the file."""
        number = self.line

        def decoded():
            nonlocal number
            raws = self.raw.split(b"\n")
            if not raws[-1]:
                raws.pop()
            for raw in raws:
                number += 1
                yield decode_line(raw, self.path, number)

        counts.bytes += len(self.raw)
        for line in mark_documents(decoded(), self.documents, counts, self.inside, self.ends):
            yield number, line

    def row(self, documents: int) -> tuple:
        """The chunk's row in the table, if *documents* end in it."""
        crc = zlib.crc32(self.raw)
        return (self.file, crc, self.offset, len(self.raw), self.line, documents, self.inside, self.ends)


def is_blank(raw: bytes) -> bool:
    """Whether lines have nothing that :func:`~fairseq_pmlm.utils.io.mark_documents` takes for text."""
    return not VISIBLE.search(raw) and not clean_line(raw.decode("utf-8", "replace")).strip()


def cut(paths: list[str], documents: str) -> Iterator[Chunk]:
    """The text of *paths* in chunks of about :data:`SIZE` bytes that end between documents, or between lines of one
    that is longer than :data:`LONG`.

    Args:
        paths: files, plain or ``.gz``.
        documents: ``blocks`` or ``files``; see :func:`~fairseq_pmlm.utils.io.mark_documents`.

    Raises:
        PMLMError: see :func:`~fairseq_pmlm.utils.io.reading` and :func:`~fairseq_pmlm.utils.io.read_line`.
    """
    for file, path in enumerate(paths):
        offset = line = 0
        inside = False
        with reading(path) as stream:
            while raw := stream.read(SIZE):
                number = line + raw.count(b"\n")  # of the line that was read last
                if not raw.endswith(b"\n"):
                    number += 1
                    raw += read_line(stream, path, number)
                parts, size, blank = [raw], len(raw), False
                while documents == "blocks" and not blank and size < LONG:
                    number += 1
                    raw = read_line(stream, path, number)
                    if not raw:
                        break
                    parts.append(raw)
                    size += len(raw)
                    blank = is_blank(raw)
                raw = b"".join(parts)
                ends = not stream.peek(1)  # type: ignore[attr-defined]  # plain and gzip files have it, BinaryIO lacks it
                yield Chunk(file, path, offset, line, inside, ends, documents, raw)
                if documents == "blocks":
                    last = raw[raw.rfind(b"\n", 0, -1) + 1 :]
                    inside = not is_blank(last.removeprefix(BYTE_ORDER_MARK) if offset == 0 else last)
                else:
                    inside = inside or not is_blank(raw.removeprefix(BYTE_ORDER_MARK) if offset == 0 else raw)
                offset += len(raw)
                line += raw.count(b"\n")


def read(paths: list[str], documents: str, table: np.ndarray, wanted: Iterable[int]) -> Iterator[Chunk]:
    """The chunks with the numbers *wanted*, ascending, of a table of :meth:`Chunk.row`\\s.

    Compressed files are read from their start, whatever is wanted of them.

    Raises:
        PMLMError: a file is not any more what it was when the table was made; or see
            :func:`~fairseq_pmlm.utils.io.reading`.
    """
    wanted = np.fromiter(wanted, np.int64)
    files = table["file"][wanted]
    for file in np.unique(files):
        path = paths[file]
        with reading(path) as stream:
            for index in wanted[files == file]:
                row = table[index]
                stream.seek(int(row["offset"]))
                raw = stream.read(int(row["size"]))
                if zlib.crc32(raw) != row["crc"]:
                    raise PMLMError(
                        f"{path}: the text at byte {row['offset']} is not what it was when the preparation began; "
                        "start again with --overwrite"
                    )
                inside, ends = bool(row["inside"]), bool(row["ends"])
                yield Chunk(int(file), path, int(row["offset"]), int(row["line"]), inside, ends, documents, raw)
