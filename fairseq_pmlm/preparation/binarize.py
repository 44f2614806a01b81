"""What the prepare scripts share: encode in parallel, and call fairseq's preprocessing."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Iterable, Iterator

from fairseq.data import indexed_dataset
from tqdm import tqdm

from ..tokenizers import files as tokenizer_files
from ..tokenizers.symbols import UNK
from ..tokenizers.wordpiece import CONFIG
from ..utils.errors import PMLMError
from ..utils.io import read_lines
from ..utils.workers import in_order

ENCODED = "encoded"  # folder of the text files that fairseq's preprocessing reads
CHUNK = 1 << 16  # characters that go to a worker at a time; no part of the output depends on it
# Whatever the prepare scripts write: --overwrite replaces a directory of these and nothing else.
OURS = re.compile(
    "|".join(map(re.escape, (*tokenizer_files.KINDS, CONFIG)))
    + rf"|dict(\.\w+)?\.txt|{ENCODED}|(train|valid|test)(\.src-tgt\.(src|tgt))?\.(bin|idx)"
    + r"|(train|valid|test)\.(src|tgt|ref\d+)\.txt|report\.json|plan|shard\d+"
)


@dataclass
class Encoded:
    """What became of one text file."""

    lines: int = 0
    tokens: int = 0  # without </s>
    unknown: int = 0
    longest: int = 0  # line, in tokens

    def describe_unknown(self) -> str:
        """For example ``2 (0.31%)``."""
        return f"{self.unknown} ({self.unknown / max(self.tokens, 1):.2%})"


VISIBLE = re.compile("[0-9A-Za-z가-힣]")  # no tokenizer loses these


def is_empty(text: str, bpe) -> bool:
    """Whether there is nothing to binarize: no text, or only what the tokenizer's normalization removes."""
    return not VISIBLE.search(text) and not bpe.encode(text)


_bpe = None  # of this worker process


def _load(model: str) -> None:
    global _bpe
    _bpe = tokenizer_files.load(model)


def _encode_chunk(lines: list[str]) -> tuple[list[str], Counter]:
    encoded = [_bpe.encode(line) for line in lines]
    return encoded, Counter(symbol for line in encoded for symbol in line.split())


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    chunk, size = [], 0
    for line in lines:
        chunk.append(line)
        size += len(line) + 1
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def encode_file(source: str, target: str, model: str, workers: int, total: int, label: str) -> Encoded:
    """Encode a file of clean lines, one line per line.

    Args:
        source: text file of clean lines; none of them :func:`is_empty`.
        target: file to write: symbols separated by spaces.
        model: tokenizer file.
        workers: number of processes.
        total: lines in *source*, for the progress bar.
        label: what the progress bar says.

    Raises:
        PMLMError: the model cannot be loaded, or a worker process was killed.
    """
    table = set(tokenizer_files.load(model).pieces)
    count, symbols = Encoded(), Counter()
    lines = (line for _, line in read_lines(source))
    with (
        open(target, "w", encoding="utf-8", newline="\n") as out,
        tqdm(total=total, desc=label, unit=" lines", unit_scale=True, disable=None) as bar,
        contextlib.closing(in_order(_encode_chunk, _chunks(lines), workers, _load, (model,))) as chunks,
    ):
        for _, (encoded, found) in chunks:
            out.writelines(f"{line}\n" for line in encoded)
            count.lines += len(encoded)
            count.longest = max(count.longest, *(line.count(" ") + 1 for line in encoded))
            symbols.update(found)
            bar.update(len(encoded))
    count.tokens = symbols.total()
    count.unknown = sum(n for symbol, n in symbols.items() if symbol == UNK or symbol not in table)
    return count


def preprocess_options(options: list[str], workers: int) -> list[str]:
    """*options* of fairseq-preprocess, to be run in the directory that it writes, with that many processes."""
    # fairseq's first "worker" is the parent, which starts on its share only when all others are done.
    return [*options, "--destdir", ".", "--workers", str(workers + 1 if workers > 1 else 1)]


def preprocess_command(destdir: str, options: list[str], workers: int) -> str:
    """The same as a person types it."""
    return f"cd {shlex.quote(destdir)} && {shlex.join(['fairseq-preprocess', *preprocess_options(options, workers)])}"


def run_preprocess(folder: str, destdir: str, options: list[str], workers: int, expected: dict[str, Encoded]) -> None:
    """Run ``fairseq-preprocess`` in *folder*, and compare what it wrote with what was encoded.

    Args:
        folder: working directory; ``options`` are relative to it.
        destdir: what *folder* will be called, for the command that is printed.
        options: options of fairseq-preprocess; destination and number of workers are added.
        workers: number of processes.
        expected: for each prefix of a binarized data set (``train``, ``train.src-tgt.src``), what it should hold.

    Raises:
        PMLMError: it failed, or a data set holds other numbers of lines or tokens than were encoded.
    """
    command = [sys.executable, "-m", "fairseq_cli.preprocess", *preprocess_options(options, workers)]
    shown = preprocess_command(destdir, options, workers)
    print(f"running fairseq-preprocess (to run it again by hand, add --keep-encoded):\n  {shown}", flush=True)
    ran = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if ran.returncode:
        print(ran.stdout, file=sys.stderr)
        last = (ran.stdout.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        raise PMLMError(f"fairseq-preprocess failed: {last}")
    os.remove(os.path.join(folder, "preprocess.log"))  # dates and the temporary directory's name, nothing else
    for prefix, count in expected.items():
        data = indexed_dataset.make_dataset(os.path.join(folder, prefix), impl="mmap")
        found = (len(data), int(data.sizes.sum())) if data is not None else (0, 0)
        if found != (count.lines, count.tokens + count.lines):
            raise PMLMError(
                f"fairseq-preprocess wrote {found[0]} lines and {found[1]} tokens to {prefix}.bin instead of "
                f"{count.lines} and {count.tokens + count.lines}; please try --workers 1"
            )
