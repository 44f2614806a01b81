"""fairseq's binarized data sets (memory-mapped): written, checked before they are read, and what their tokens hold.

``PREFIX.idx`` holds the name of the format (9 bytes), its version (8), a code for the type of the numbers (1), how many
items there are (8), then the size of each (int32), and where in ``PREFIX.bin`` each begins, in bytes (int64).

Nothing here needs fairseq, but for :func:`unigram_entropy`. fairseq believes whatever an index says, so :func:`check`
looks first.
"""

import itertools
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..utils.errors import PMLMError

if TYPE_CHECKING:
    from fairseq.data import Dictionary

MAGIC = b"MMIDIDX\x00\x00"
OLD_MAGIC = b"TNTIDX\x00\x00"  # of the format before it
HUFFMAN_MAGIC = b"HUFFIDX\x00"  # fairseq's Huffman codes: the first 8 bytes
HEADER = struct.Struct("<9sQBQ")
OLD_HEADER = struct.Struct("<8sQQQQQ")  # version, code, bytes of a number, items, dimensions
TYPES = {  # the codes of the types of numbers
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.double,
    8: np.uint16,
    9: np.uint32,
    10: np.uint64,
}
CHUNK = 1 << 22  # items or tokens that are looked at together
BLOCK = 1 << 20  # items whose offsets are made at a time
AGAIN = "binarize the text again"


def best_fitting_int_dtype(types: int) -> type[np.integer]:
    """The type of number that fairseq stores tokens in, for a dictionary of so many *types*."""
    return np.uint16 if types < 65500 else np.uint32 if types < 2**32 - 1 else np.int64


class MMapWriter:
    """Writes PREFIX.bin and, when it is closed, PREFIX.idx, holding nothing of what it is given.

    The bytes are those of fairseq's ``MMapIndexedDatasetBuilder``, which holds a Python integer for each item, and
    whose offsets overflow at 2 GiB where ``fairseq-preprocess`` has more than one worker and numpy is 2 or later.

    Args:
        prefix: path without ending.
        dtype: of the numbers; for tokens, :func:`best_fitting_int_dtype` of the size of the dictionary.
    """

    def __init__(self, prefix: str, dtype: npt.DTypeLike):
        self.prefix, self.dtype = prefix, np.dtype(dtype)
        self.items = 0
        self.data = open(f"{prefix}.bin", "wb")  # noqa: SIM115
        self.sizes = open(f"{prefix}.sizes", "w+b")  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self._finish()
        finally:
            self.data.close()
            self.sizes.close()
            os.remove(self.sizes.name)

    def add(self, numbers: np.ndarray, sizes: np.ndarray) -> None:
        """Append items, one after the other in *numbers*, with *sizes* numbers each."""
        self.data.write(np.ascontiguousarray(numbers, self.dtype).data)
        self.sizes.write(np.ascontiguousarray(sizes, np.int32).data)
        self.items += len(sizes)

    def _finish(self) -> None:
        _sync(self.data)
        code = next(code for code, dtype in TYPES.items() if dtype == self.dtype)
        with open(f"{self.prefix}.idx", "wb") as index:
            index.write(HEADER.pack(MAGIC, 1, code, self.items))
            for sizes in self._blocks():
                index.write(sizes.data)
            offset, width = 0, self.dtype.itemsize
            for sizes in self._blocks():
                ends = offset + np.cumsum(sizes, dtype=np.int64) * width
                index.write((ends - sizes.astype(np.int64) * width).data)
                offset = int(ends[-1])
            _sync(index)

    def _blocks(self) -> Iterator[np.ndarray]:
        self.sizes.seek(0)
        while raw := self.sizes.read(BLOCK * 4):
            yield np.frombuffer(raw, np.int32)


def _sync(file) -> None:
    """Let the file survive a power cut before its directory gets its final name."""
    file.flush()
    os.fsync(file.fileno())


def check(prefix: str, types: int | None = None, combine: bool = False, labels: "Dictionary | None" = None) -> None:
    """Compare an index with the file it is of, and the tokens there with the dictionary.

    What does not exist, plain text, and fairseq's Huffman codes are left to fairseq.

    Args:
        prefix: the files' name, without .idx and .bin.
        types: symbols in the dictionary; None to look at no token.
        combine: check PREFIX1, PREFIX2, ... as well, as long as there are such.
        labels: of labels, their dictionary: each of them is one symbol of it and </s>.

    Raises:
        PMLMError: the two do not belong together, are cut short, or hold what is no token; naming file and place.
    """
    for number in itertools.count() if combine else (0,):
        part = f"{prefix}{number or ''}"
        if not os.path.isfile(f"{part}.idx") or not os.path.isfile(f"{part}.bin") or os.path.isfile(part):
            return
        try:
            _check_files(part, types, labels)
        except OSError as error:
            raise PMLMError(f"cannot read {part}.idx or .bin: {error.strerror or error}") from None


def _check_files(prefix: str, types: int | None, labels: "Dictionary | None") -> None:
    index, data = f"{prefix}.idx", f"{prefix}.bin"
    with open(index, "rb") as f:
        start = f.read(OLD_HEADER.size)
    old = start.startswith(OLD_MAGIC)
    if start.startswith(HUFFMAN_MAGIC):
        return
    header = OLD_HEADER if old else HEADER
    if len(start) < header.size:
        raise PMLMError(f"{index} is damaged: it ends after {len(start)} bytes, within its header; {AGAIN}")
    magic, version, code, *counts = header.unpack_from(start)
    dtype = np.dtype(TYPES.get(code, np.void))
    if not old and magic != MAGIC:
        raise PMLMError(f"{index} is no index: it begins with {magic!r}; {AGAIN}")
    if version != 1:
        raise PMLMError(f"{index} is damaged, or of a newer format: version {version} instead of 1; {AGAIN}")
    if dtype.kind not in "iu" or (old and counts[0] != dtype.itemsize):
        raise PMLMError(f"{index} is damaged: code {code} stands for no type of whole numbers; {AGAIN}")
    items = counts[1] if old else counts[0]
    expected = header.size + (8 * (2 * (items + 1) + counts[2]) if old else 12 * items)
    size, held = os.path.getsize(index), os.path.getsize(data)
    if size != expected:
        raise PMLMError(f"{index} is damaged: {items:,} items take {expected:,} bytes, and it has {size:,}; {AGAIN}")
    if not items or not held:
        raise PMLMError(f"{index if not items else data} holds nothing; {AGAIN}")
    if old:
        offsets = np.fromfile(index, np.int64, 2 * (items + 1), offset=header.size).reshape(2, -1)
        sound = (offsets[:, 0] == 0).all() and (np.diff(offsets) >= 0).all() and offsets[0, -1] == counts[2]
        promised = int(offsets[1, -1]) * dtype.itemsize
        if not sound or promised != held:
            raise PMLMError(f"{index} is damaged, or not that of {data}, which has {held:,} bytes; {AGAIN}")
        sizes = np.diff(offsets[1])
    else:
        promised = _check_places(index, items, dtype.itemsize)
        if promised != held:
            raise PMLMError(
                f"{data} has {held:,} bytes, and {index} is of {promised:,}: one is cut or another's; {AGAIN}"
            )
        sizes = np.memmap(index, np.int32, "r", HEADER.size, items)
    tokens = np.memmap(data, dtype, "r")  # the older format counts them from 1
    if labels is not None:
        _check_labels(tokens - 1 if old else tokens, sizes, labels, data)
    if types is not None:
        for first, last in _chunks(len(tokens)):
            some = tokens[first:last]
            check_tokens(some - 1 if old else some, types, data)


def _check_labels(tokens: np.ndarray, sizes: np.ndarray, labels: "Dictionary", data: str) -> None:
    """Each item is one symbol of *labels*, none of fairseq's own, and </s>."""
    if (sizes != 2).any() or ((tokens.reshape(-1, 2) == labels.eos()) != [False, True]).any():
        raise PMLMError(f"{data}: not every label is one token and </s>; {AGAIN}")
    unknown = tokens[::2] < labels.nspecial
    if unknown.any():
        raise PMLMError(
            f"{data}: label {int(np.argmax(unknown)) + 1} is not in the dictionary of labels; binarize it with that of "
            "the training data"
        )


def _check_places(index: str, items: int, width: int) -> int:
    """Bytes of all items, which must follow one another without a gap: blocks of text are read in one go."""
    sizes = np.memmap(index, np.int32, "r", HEADER.size, items)
    places = np.memmap(index, np.int64, "r", HEADER.size + 4 * items, items)
    end = 0
    for start, stop in _chunks(items):
        lengths = sizes[start:stop].astype(np.int64) * width
        ends = end + np.cumsum(lengths)
        wrong = (lengths < 0) | (places[start:stop] != ends - lengths)
        if wrong.any():
            item = start + int(np.argmax(wrong))
            # with numpy 2, the offsets of fairseq-preprocess's second worker and those after it are added up in 32 bits
            hint = " with --workers 1, as fairseq-preprocess overflows at 2 GiB with more" if places[item] < 0 else ""
            raise PMLMError(
                f"{index} is damaged: item {item + 1} has {sizes[item]} tokens and begins at byte {places[item]}, "
                f"where byte {int((ends - lengths)[item - start])} is due; {AGAIN}{hint}"
            )
        end = int(ends[-1])
    return end


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def check_tokens(tokens: np.ndarray, types: int, where: str) -> None:
    """Refuse tokens that no dictionary of *types* symbols has: an embedding would be read beyond its end.

    Args:
        tokens: (tokens,) whole numbers of any type.
        types: symbols in the dictionary.
        where: the file, for the message.

    Raises:
        PMLMError: naming the first one.
    """
    # negative numbers are large ones when the sign is not looked at
    unsigned = tokens.view(f"u{tokens.dtype.itemsize}")
    if len(tokens) and unsigned.max() >= types:
        found = tokens[int(np.argmax(unsigned >= types))]
        raise PMLMError(
            f"{where} holds token {found}, and the dictionary has {types:,} symbols, from 0; it is damaged, or was "
            "binarized with another dict.txt"
        )


def unigram_entropy(prefix: str, dictionary: "Dictionary") -> float:
    """Entropy, in bits, of the tokens of the binarized text at *prefix*, without </s>.

    Raises:
        PMLMError: there is no such text.
    """
    from fairseq.data import data_utils

    dataset = data_utils.load_indexed_dataset(prefix, dictionary)
    if dataset is None:
        raise PMLMError(f"{prefix}.bin does not exist")
    counts = np.zeros(len(dictionary), np.int64)
    for start in range(0, len(dataset), 10000):
        lines = np.concatenate([dataset[i].numpy() for i in range(start, min(start + 10000, len(dataset)))])
        counts += np.bincount(lines, minlength=len(dictionary))
    counts[dictionary.eos()] = 0
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())
