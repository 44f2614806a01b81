"""Lines and labels to data-bin, as ``fairseq-preprocess`` would write them: what pairs and labelled texts share."""

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from ..data import indexed
from ..tokenizers import files as tokenizer_files
from ..tokenizers.symbols import FAIRSEQ_SYMBOLS, all_symbols
from ..tokenizers.wordpiece import CONFIG
from ..utils.errors import PMLMError
from ..utils.io import read_lines, write_text
from . import encoding
from .encoding import EOS_ID, Part, Written

ENCODED = "encoded"  # folder of the symbols as text, which fairseq-preprocess could read
CHUNK = 1 << 16  # characters that go to a worker at a time; no part of the output depends on it
# Whatever `pmlm prepare` writes: --overwrite replaces a directory of these and nothing else.
OURS = re.compile(
    "|".join(map(re.escape, (*tokenizer_files.KINDS, CONFIG)))
    + rf"|dict(\.\w+)?\.txt|{ENCODED}|(train|valid|test)(\.src-tgt\.(src|tgt))?\.(bin|idx)"
    + r"|(train|valid|test)\.(src|tgt|ref\d+)\.txt|report\.json|plan|shard\d+"
)
VISIBLE = re.compile("[0-9A-Za-z가-힣]")  # no tokenizer loses these


def is_empty(text: str, bpe) -> bool:
    """Whether there is nothing to binarize: no text, or only what the tokenizer's normalization removes."""
    return not VISIBLE.search(text) and not bpe.encode(text)


def _batches(lines: Iterable[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    batch, size = [], 0
    for line in lines:
        batch.append(line)
        size += sum(map(len, line)) + 1
        if size >= CHUNK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_lines(
    sources: Sequence[str], prefix: str, model: str, workers: int, total: int, label: str, text: str | None = None
) -> Written:
    """Encode files of clean lines, and write PREFIX.bin and PREFIX.idx.

    Args:
        sources: files of equally many lines, none of them :func:`is_empty`. Of several, the lines that stand side by
            side become one, with ``</s>`` between them.
        prefix: path without ending.
        model: tokenizer file.
        workers: number of processes.
        total: lines in each file.
        label: what the progress bar says.
        text: file for the symbols, separated by spaces, a line per line.

    Raises:
        PMLMError: the model cannot be loaded, a worker process was killed, or lines were lost.
    """
    files = [(line for _, line in read_lines(source)) for source in sources]
    types = len(all_symbols(tokenizer_files.load(model).symbols))
    batches = _batches(zip(*files, strict=True))
    with (
        tqdm(total=total, desc=label, unit=" lines", unit_scale=True, disable=None) as bar,
        contextlib.closing(encoding.encode_lines(batches, model, workers, text is not None)) as parts,
    ):
        written = encoding.write(_counted(parts, bar), prefix, types, text=text)
    check_written(prefix, written, total)
    return written


def _counted(parts: Iterable[Part], bar: tqdm) -> Iterator[Part]:
    for part in parts:
        yield part
        bar.update(len(part.sizes))


def write_labels(source: str, prefix: str, labels: Sequence[str], total: int, text: str | None = None) -> Written:
    """Write the labels in a file, one a line, to PREFIX.bin and PREFIX.idx: each is its number and ``</s>``.

    Args:
        source: text file with one of *labels* in each line.
        prefix: path without ending.
        labels: classes in their order, as in the dict.txt of labels.
        total: lines in *source*.
        text: file for the labels, as in *source*.

    Raises:
        PMLMError: a class is there twice, or lines were lost.
    """
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise PMLMError(f"the label {label!r} is there twice among {', '.join(labels)}")
    numbers = {label: i for i, label in enumerate(labels, start=len(FAIRSEQ_SYMBOLS))}
    found = [line for _, line in read_lines(source)]
    tokens = np.full((len(found), 2), EOS_ID)
    tokens[:, 0] = [numbers[label] for label in found]
    count = Written(lines=len(found), tokens=len(found), longest=1)
    part = Part(tokens.ravel(), np.full(len(found), 2, np.int32), texts=found, written=count)
    written = encoding.write([part], prefix, len(FAIRSEQ_SYMBOLS) + len(labels), text=text)
    check_written(prefix, written, total)
    return written


def check_written(prefix: str, written: Written, total: int) -> None:
    """Compare what was written to PREFIX.bin with the *total* lines that were to be.

    Raises:
        PMLMError: it is something else.
    """
    if written.lines != total:
        raise PMLMError(f"{prefix}.bin: {written.lines:,} lines were encoded instead of {total:,}")
    indexed.check(prefix)


def copy_dictionary(source: str, *targets: str) -> None:
    """Copy a dict.txt as ``fairseq-preprocess`` does: read, and written as ``symbol count`` in each line."""
    lines = (line.rpartition(" ") for _, line in read_lines(source))
    text = "".join(f"{symbol} {int(count)}\n" for symbol, _, count in lines)
    for target in targets:
        write_text(target, text)


def preprocess_command(destdir: str, options: list[str], workers: int) -> str:
    """The command that writes the same from encoded text, as a person types it.

    Args:
        destdir: the directory that holds :data:`ENCODED`; *options* are relative to it.
        options: options of fairseq-preprocess, without destination and number of workers.
        workers: number of processes.
    """
    # fairseq's first "worker" is the parent, which starts on its share only when all others are done.
    options = [*options, "--destdir", ".", "--workers", str(workers + 1 if workers > 1 else 1)]
    return f"cd {shlex.quote(destdir)} && {shlex.join(['fairseq-preprocess', *options])}"


def print_command(destdir: str, options: list[str], workers: int, kept: bool) -> None:
    """Print :func:`preprocess_command`, and what it takes where the encoded text was not *kept*."""
    hint = "" if kept else " (with the text that --keep-encoded leaves)"
    print(f"the same by fairseq's own command{hint}:\n  {preprocess_command(destdir, options, workers)}")
