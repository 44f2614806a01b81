"""Chunks of a surveyed corpus to fairseq's memory-mapped data sets, encoded by many processes, written by one."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Iterable, Iterator

import numpy as np
from fairseq.data.indexed_dataset import best_fitting_int_dtype

from ..data.mmap_writer import MMapWriter
from ..tokenizers import files as tokenizer_files
from ..tokenizers.symbols import FAIRSEQ_SYMBOLS, UNK, all_symbols
from ..utils.io import Counts
from ..utils.workers import in_order
from . import chunks
from .survey import DUPLICATE, Survey

EOS_ID, UNK_ID = FAIRSEQ_SYMBOLS.index("</s>"), FAIRSEQ_SYMBOLS.index(UNK)


@dataclass
class Written:
    """What became of documents of one fate."""

    documents: int = 0
    lines: int = 0  # as fairseq counts them, with the empty ones between documents
    tokens: int = 0  # without </s>
    unknown: int = 0
    longest: int = 0  # line, in tokens
    vanished: int = 0  # lines that the tokenizer's normalization left nothing of
    duplicate_lines: int = 0  # of documents that are left out

    def add(self, other: "Written") -> None:
        """Add the numbers of *other*."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name == "longest" else mine + value)


@dataclass
class Part:
    """Encoded lines of a chunk."""

    tokens: np.ndarray | None = None
    sizes: np.ndarray | None = None
    before: bool = False  # a document ends before the first of them
    after: bool = False  # one ends after the last of them
    texts: list[str] = field(default_factory=list)  # symbols of each, if asked for
    written: Written = field(default_factory=Written)


class Encoder:
    """Lines to numbers of a dictionary that was made from a tokenizer file."""

    def __init__(self, model: str):
        self.bpe = tokenizer_files.load(model)
        symbols = all_symbols(self.bpe.symbols)
        ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.end = len(self.bpe.id_to_symbol)  # stands for </s> among the tokenizer's own numbers
        width = best_fitting_int_dtype(len(symbols))  # as in the file: half of what travels between processes
        self.table = np.array([*(ids[symbol] for symbol in self.bpe.id_to_symbol), EOS_ID], width)

    def encode(self, item: tuple[chunks.Chunk, bytes, int, bool]) -> Part:
        """Encode the documents of a chunk that have a certain fate, with an empty line between two that have tokens."""
        chunk, fates, wanted, with_text = item
        part, lines, document = Part(), [], 0
        for line in chunk.lines(Counts()):
            fate = fates[document]
            document += not line
            if fate == wanted:
                part.written.documents += not line
                lines.append(line)
            else:
                part.written.duplicate_lines += bool(line) and fate == DUPLICATE
        numbers, sizes = [], []
        for line, found in zip(lines, self.bpe.encode_lines(lines), strict=True):
            if not line:
                part.after = bool(sizes)
                part.before |= not sizes
            elif not found:
                part.written.vanished += 1
            else:
                if part.after:
                    numbers.append(self.end)
                    sizes.append(1)
                    part.texts.append("")
                    part.after = False
                numbers += found
                numbers.append(self.end)
                sizes.append(len(found) + 1)
                if with_text:
                    part.texts.append(self.bpe.encode(line))
        part.tokens, part.sizes = self.table[np.array(numbers, np.int64)], np.array(sizes, np.int32)
        part.written.lines = len(sizes)
        part.written.tokens = len(numbers) - len(sizes)
        part.written.unknown = int((part.tokens == UNK_ID).sum())
        part.written.longest = max(sizes, default=1) - 1
        return part


_encoder: Encoder | None = None  # of this worker process


def _start(model: str) -> None:
    global _encoder
    _encoder = Encoder(model)


def _encode(item: tuple[chunks.Chunk, bytes, int, bool]) -> Part:
    return _encoder.encode(item)


def encode(
    survey: Survey, rows: list[int], fate: int, model: str, workers: int, with_text: bool = False
) -> Iterator[Part]:
    """Encoded lines of one chunk after the other.

    Args:
        survey: of the corpus.
        rows: numbers of the chunks to encode, ascending.
        fate: which documents of them to encode.
        model: tokenizer file.
        workers: number of processes.
        with_text: keep the symbols as well.

    Raises:
        PMLMError: a file was changed or cannot be read, or a worker process was killed.
    """
    found = zip(rows, chunks.read(survey.paths, survey.documents, survey.table, rows), strict=True)
    items = ((chunk, survey.fates_in(row), fate, with_text) for row, chunk in found)
    for _, part in in_order(_encode, items, workers, _start, (model,)):
        yield part


def write(
    parts: Iterable[Part], prefix: str, types: int, counts: np.ndarray | None = None, text: str | None = None
) -> Written:
    """Write encoded lines to PREFIX.bin and PREFIX.idx.

    Args:
        parts: of :func:`encode`, in order.
        prefix: path without ending.
        types: size of the dictionary.
        counts: int64 (types,): how often each type occurs is added here, </s> apart.
        text: file for the symbols, a line per line.
    """
    written, between = Written(), False
    separator = Part(np.array([EOS_ID]), np.array([1]), texts=[""], written=Written(lines=1))
    with ExitStack() as stack:
        data = stack.enter_context(MMapWriter(prefix, types))
        file = stack.enter_context(open(text, "w", encoding="utf-8", newline="\n")) if text else None
        for part in parts:
            between |= part.before
            written.add(part.written)
            if not len(part.sizes):
                continue
            for piece in (separator, part) if between and data.lines else (part,):
                data.add(piece.tokens, piece.sizes)
                if file:
                    file.writelines(f"{line}\n" for line in piece.texts)
                written.lines += piece is separator
            if counts is not None:
                counts += np.bincount(part.tokens, minlength=len(counts))
            between = part.after
    return written
