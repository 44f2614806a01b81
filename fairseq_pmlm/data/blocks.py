"""A binarized corpus as lines and blocks of text, read from memory-mapped files with nothing held of each line."""

import logging
from bisect import bisect_right

import numpy as np
import torch
from fairseq.data import FairseqDataset, TokenBlockDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset

from ..utils.errors import PMLMError
from .indexed import check_tokens

logger = logging.getLogger(__name__)

NO_END = "line {line} of {name} does not end in </s>; binarize the text again, with </s> at the end of each line"


class Lines(FairseqDataset):
    """The lines of a binarized text without the </s> at their ends, long ones cut into pieces.

    Args:
        dataset: binarized lines, each ending in </s>, with ``sizes``.
        eos: index of </s>.
        max_length: longest piece in tokens, or None to cut nothing.
        keep_empty: keep empty lines, which separate documents.
        types: symbols in the dictionary; tokens beyond are an error where they are read. None: not looked at.

    Raises:
        PMLMError: a line is empty without </s>.
    """

    def __init__(self, dataset, eos: int, max_length: int | None, keep_empty: bool, types: int | None = None):
        self.dataset = dataset
        self.name = f"{getattr(dataset, '_path', 'the binarized text')}"
        self.eos = eos
        self.types = types
        self.max_length = max_length
        with_end = np.asarray(dataset.sizes)
        if len(with_end) and with_end.min() < 1:
            raise PMLMError(NO_END.format(name=self.name, line=int(np.argmin(with_end)) + 1))
        self.tokens = int(with_end.sum(dtype=np.int64)) - len(with_end)
        self.cut_lines = 0 if max_length is None else int((with_end > max_length + 1).sum())
        # Where every line is one piece, nothing is held of each: a corpus has hundreds of millions of lines.
        self.line = None
        if self.cut_lines or (not keep_empty and (with_end == 1).any()):
            lengths = with_end.astype(np.int64) - 1
            pieces = np.ones_like(lengths) if max_length is None else np.maximum(1, -(-lengths // max_length))
            if not keep_empty:
                pieces[lengths == 0] = 0
            self.line = np.repeat(np.arange(len(lengths)), pieces)
            number = np.arange(len(self.line)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
            self.start = number * (max_length or 0)
            self.lengths = lengths[self.line] - self.start
            if max_length is not None:
                self.lengths = np.minimum(self.lengths, max_length)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each piece."""
        return np.asarray(self.dataset.sizes) - 1 if self.line is None else self.lengths

    def __len__(self):
        return len(self.dataset) if self.line is None else len(self.line)

    def __getitem__(self, index):
        return torch.from_numpy(self.span(index, index)[0])

    def span(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The pieces *first* to *last*, one after the other: int64 (tokens,), and where each ends, int64 (pieces,)."""
        if self.line is None:
            return self.read(first, last)
        ends = np.cumsum(self.lengths[first : last + 1])
        tokens, _ = self.read(int(self.line[first]), int(self.line[last]))
        start = int(self.start[first])
        return tokens[start : start + int(ends[-1])], ends

    def line_of(self, token: int) -> tuple[int, int]:
        """The line of the text's *token* and how many tokens stand before it, where every line is one piece."""
        lines = range(len(self))
        if is_memory_mapped(self.dataset):  # where lines start stands in the index file, in bytes, and with each </s>
            pointers, width = self.dataset._index._pointers, np.dtype(self.dataset._index.dtype).itemsize
            line = bisect_right(lines, token, key=lambda line: pointers[line] // width - line) - 1
            return line, int(pointers[line]) // width - line
        if not hasattr(self, "_first_tokens"):
            self._first_tokens = np.cumsum(self.sizes, dtype=np.int64) - self.sizes
        line = int(np.searchsorted(self._first_tokens, token, side="right")) - 1
        return line, int(self._first_tokens[line])

    def read(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`span`, of lines.

        Raises:
            PMLMError: one of them does not end in </s>, or holds what is no token.
        """
        tokens = contiguous_tokens(self.dataset, first, last)
        if self.types is not None:
            check_tokens(tokens, self.types, f"{self.name}.bin, lines {first + 1} to {last + 1},")
        ends = np.cumsum(self.dataset.sizes[first : last + 1], dtype=np.int64) - 1
        ended = tokens[ends] == self.eos
        if not ended.all():
            raise PMLMError(NO_END.format(name=self.name, line=first + int(np.argmin(ended)) + 1))
        text = np.ones(len(tokens), bool)
        text[ends] = False
        return tokens[text].astype(np.int64), ends - np.arange(len(ends))


def is_memory_mapped(dataset) -> bool:
    """Whether *dataset* is one of fairseq's memory-mapped files, as we know them."""
    return isinstance(dataset, MMapIndexedDataset) and hasattr(dataset, "_bin_buffer")


def contiguous_tokens(dataset, first: int, last: int) -> np.ndarray:
    """The items *first* to *last* of a binarized text, one after the other, as integers of any type.

    fairseq's memory-mapped files hold them so; reading item by item takes ten times as long.
    """
    if is_memory_mapped(dataset):
        pointer, size = dataset._index[last]
        start = int(dataset._index[first][0])
        width = np.dtype(dataset._index.dtype).itemsize
        count = (int(pointer) - start) // width + int(size)
        return np.frombuffer(dataset._bin_buffer, dataset._index.dtype, count, start)
    return torch.cat([dataset[i] for i in range(first, last + 1)]).numpy()


class TextBlocks:
    """Contiguous blocks of text: ``blocks[i]`` is ``(tokens int64 (length,), line ends int64 (ends,))``.

    Line ends are the places strictly inside the block where a line stops. Blocks are those of fairseq's
    ``TokenBlockDataset`` over lines without </s>; lines longer than a block are cut first where a break mode would
    otherwise exceed the block size. In mode ``none``, where they are found by counting, nothing is held of lines.

    Args:
        dataset: binarized lines, each ending in </s>; empty lines separate documents.
        block_size: longest block, in tokens.
        pad, eos: indices of <pad> and </s>.
        break_mode: ``none``, ``complete``, ``complete_doc`` or ``eos``, as fairseq has them.
        types: symbols in the dictionary; see :class:`Lines`.
    """

    def __init__(
        self, dataset, block_size: int, pad: int, eos: int, break_mode: str = "none", types: int | None = None
    ):
        break_mode = str(break_mode)
        self.lines = Lines(
            dataset,
            eos,
            max_length=None if break_mode == "none" else block_size,
            keep_empty=break_mode in ("none", "complete_doc"),  # where they do not matter, and where they do
            types=types,
        )
        if not self.lines.tokens:
            raise PMLMError("the binarized text holds no tokens; every line is empty")
        self.blocks = None
        self.block_size = block_size
        if break_mode == "none":
            count = -(-self.lines.tokens // block_size)
            self.sizes = np.full(count, block_size, np.int32)
            self.sizes[-1] = self.lines.tokens - (count - 1) * block_size
        elif break_mode == "eos":  # a block a line; fairseq's code for this case does not run on numpy >= 2
            self.sizes = self.lines.sizes
        else:
            self.blocks = TokenBlockDataset(
                self.lines, self.lines.sizes, block_size, pad=pad, eos=eos, break_mode=break_mode, document_sep_len=0
            )
            self.sizes = np.asarray(self.blocks.sizes, np.int64)
        self.break_mode = break_mode
        self.dropped_tokens = self.lines.tokens - int(self.sizes.sum(dtype=np.int64))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        first, offset, last = self.where(index)
        length = int(self.sizes[index])
        tokens, ends = self.lines.span(first, last)
        ends = ends - offset
        return tokens[offset : offset + length], np.unique(ends[(ends > 0) & (ends < length)])

    def where(self, index: int) -> tuple[int, int, int]:
        """The first piece of a block, how many of its tokens stand before the block, and the last piece."""
        if self.break_mode == "eos":
            return index, 0, index
        if self.blocks is not None:
            first, offset, last = (int(x) for x in self.blocks.block_to_dataset_index[index])
            return first, offset, last
        start = int(index) * self.block_size
        first, before = self.lines.line_of(start)
        last, _ = self.lines.line_of(start + int(self.sizes[index]) - 1)
        return first, start - before, last
