"""Writing fairseq's memory-mapped data sets as they come, with nothing held of them.

The bytes are those of fairseq's ``MMapIndexedDatasetBuilder``, which holds a Python integer for each line, and whose
offsets overflow at 2 GiB where ``fairseq-preprocess`` has more than one worker and numpy is 2 or later.
"""

import os

import numpy as np
from fairseq.data.indexed_dataset import (
    MMapIndexedDataset,
    _dtype_header_code,
    best_fitting_int_dtype,
    data_file_path,
    index_file_path,
)

from .indexed import HEADER

BLOCK = 1 << 20  # lines whose offsets are made at a time


class MMapWriter:
    """Writes PREFIX.bin and, when it is closed, PREFIX.idx.

    Args:
        prefix: path without ending.
        types: size of the dictionary, which decides the width of a token.
    """

    def __init__(self, prefix: str, types: int):
        self.prefix, self.dtype = prefix, best_fitting_int_dtype(types)
        self.lines = 0
        self.data = open(data_file_path(prefix), "wb")  # noqa: SIM115
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

    def add(self, tokens: np.ndarray, sizes: np.ndarray) -> None:
        """Append lines, one after the other in *tokens*, with *sizes* tokens each."""
        self.data.write(np.ascontiguousarray(tokens, self.dtype))
        self.sizes.write(np.ascontiguousarray(sizes, np.int32))
        self.lines += len(sizes)

    def _finish(self) -> None:
        _sync(self.data)
        with open(index_file_path(self.prefix), "wb") as index:
            code = _dtype_header_code(self.dtype)
            index.write(HEADER.pack(MMapIndexedDataset.Index._HDR_MAGIC, 1, code, self.lines))
            for sizes in self._blocks():
                index.write(sizes)
            offset, width = 0, np.dtype(self.dtype).itemsize
            for sizes in self._blocks():
                ends = offset + np.cumsum(sizes, dtype=np.int64) * width
                index.write(ends - sizes.astype(np.int64) * width)
                offset = int(ends[-1])
            _sync(index)

    def _blocks(self):
        self.sizes.seek(0)
        while raw := self.sizes.read(BLOCK * 4):
            yield np.frombuffer(raw, np.int32)


def _sync(file) -> None:
    """Let the file survive a power cut before its directory gets its final name."""
    file.flush()
    os.fsync(file.fileno())
