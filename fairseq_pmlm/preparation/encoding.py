"""Text to fairseq's memory-mapped data sets: encoded by many processes, written by one.

A corpus comes in chunks that were surveyed, with documents; anything else in lines, of one part or more.
"""

import functools
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Generator, Iterable

import numpy as np

from ..data.indexed import MMapWriter, best_fitting_int_dtype
from ..tokenizers import files as tokenizer_files
from ..tokenizers.symbols import FAIRSEQ_SYMBOLS, UNK, all_symbols
from ..utils.io import Counts
from ..utils.workers import in_order
from . import chunks
from .survey import DUPLICATE, Survey

EOS = "</s>"
EOS_ID, UNK_ID = FAIRSEQ_SYMBOLS.index(EOS), FAIRSEQ_SYMBOLS.index(UNK)


@dataclass
class Written:
    """What became of documents of one fate, or of lines."""

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

    def describe_unknown(self) -> str:
        """For example ``2 (0.31%)``."""
        return f"{self.unknown} ({self.unknown / max(self.tokens, 1):.2%})"


@dataclass
class Part:
    """Encoded lines, one after the other.

    tokens: numbers of the dictionary, each line with its </s>. sizes: int32 (lines,), how many each has.
    """

    tokens: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    sizes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
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
        numbers: list[int] = []
        sizes: list[int] = []
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
        return self.fill(part, numbers, sizes)

    def encode_lines(self, lines: list[tuple[str, ...]], with_text: bool = False) -> Part:
        """Encode clean lines of equally many parts each, with ``</s>`` between the parts of a line."""
        part, count = Part(), len(lines[0])
        numbers: list[int] = []
        sizes: list[int] = []
        found = self.bpe.encode_lines([text for line in lines for text in line])
        for pieces in zip(*[iter(found)] * count, strict=True):
            for piece in pieces:
                numbers += piece
                numbers.append(self.end)
            sizes.append(sum(map(len, pieces)) + count)
        if with_text:
            part.texts = [f" {EOS} ".join(map(self.bpe.encode, line)) for line in lines]
        return self.fill(part, numbers, sizes)

    def fill(self, part: Part, numbers: list[int], sizes: list[int]) -> Part:
        """Give *part* its tokens, and count them; *numbers* are the tokenizer's own."""
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
    assert _encoder is not None
    return _encoder.encode(item)


def _encode_lines(lines: list[tuple[str, ...]], with_text: bool) -> Part:
    assert _encoder is not None
    return _encoder.encode_lines(lines, with_text)


def encode(
    survey: Survey, rows: list[int], fate: int, model: str, workers: int, with_text: bool = False
) -> Generator[Part, None, None]:
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


def encode_lines(
    batches: Iterable[list[tuple[str, ...]]], model: str, workers: int, with_text: bool = False
) -> Generator[Part, None, None]:
    """Encoded lines of one batch after the other; see :meth:`Encoder.encode_lines`.

    Args:
        batches: clean lines, in their parts; no batch is empty.
        model: tokenizer file.
        workers: number of processes.
        with_text: keep the symbols as well.

    Raises:
        PMLMError: the tokenizer is broken, or a worker process was killed.
    """
    work = functools.partial(_encode_lines, with_text=with_text)
    for _, part in in_order(work, batches, workers, _start, (model,)):
        yield part


def write(
    parts: Iterable[Part], prefix: str, types: int, counts: np.ndarray | None = None, text: str | None = None
) -> Written:
    """Write encoded lines to PREFIX.bin and PREFIX.idx.

    Args:
        parts: of :func:`encode` or :func:`encode_lines`, in order.
        prefix: path without ending.
        types: size of the dictionary.
        counts: int64 (types,): how often each type occurs is added here, </s> apart.
        text: file for the symbols, a line per line.
    """
    written, between = Written(), False
    separator = Part(np.array([EOS_ID]), np.array([1]), texts=[""], written=Written(lines=1))
    with ExitStack() as stack:
        data = stack.enter_context(MMapWriter(prefix, best_fitting_int_dtype(types)))
        file = stack.enter_context(open(text, "w", encoding="utf-8", newline="\n")) if text else None
        for part in parts:
            between |= part.before
            written.add(part.written)
            if not len(part.sizes):
                continue
            for piece in (separator, part) if between and data.items else (part,):
                data.add(piece.tokens, piece.sizes)
                if file:
                    file.writelines(f"{line}\n" for line in piece.texts)
                written.lines += piece is separator
            if counts is not None:
                counts += np.bincount(part.tokens, minlength=len(counts))
            between = part.after
    return written
