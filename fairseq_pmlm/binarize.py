"""What the prepare scripts share: encode in parallel, call fairseq's preprocessing, publish a directory at once."""

import contextlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from argparse import ArgumentParser
from collections import Counter
from dataclasses import dataclass
from typing import Iterable, Iterator

from fairseq.data import indexed_dataset
from tqdm import tqdm

from . import tokenizer_files
from .bpe import EXTRA_SYMBOLS, FAIRSEQ_SYMBOLS, UNK
from .errors import PMLMError
from .text import read_lines
from .wordpiece import CONFIG
from .workers import in_order

ENCODED = "encoded"  # folder of the text files that fairseq's preprocessing reads
CHUNK = 1 << 16  # characters that go to a worker at a time; no part of the output depends on it
# Whatever the prepare scripts write: --overwrite replaces a directory of these and nothing else.
OURS = re.compile(
    "|".join(map(re.escape, (*tokenizer_files.KINDS, CONFIG)))
    + rf"|dict(\.\w+)?\.txt|{ENCODED}|(train|valid|test)(\.src-tgt\.(src|tgt))?\.(bin|idx)"
    + r"|(train|valid|test)\.(src|tgt|ref\d+)\.txt|report\.json|plan|shard\d+"
)


def add_output_arguments(parser: ArgumentParser) -> None:
    """Options that all prepare scripts have."""
    parser.add_argument("--destdir", required=True, metavar="DIR", help="directory to write; appears when complete")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the corpus in --destdir (refused if it holds other files)"
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """Those, and what comes with calling ``fairseq-preprocess``."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add_output_arguments(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        default=cpus,
        metavar="N",
        help="processes that encode and binarize; the output is the same for any N (default: CPU cores, %(default)s)",
    )
    parser.add_argument(
        "--keep-encoded",
        action="store_true",
        help=f"keep the encoded text in DIR/{ENCODED}, so that the fairseq-preprocess command printed can be run again",
    )


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


@contextlib.contextmanager
def building(
    destdir: str, overwrite: bool, ours: re.Pattern = OURS, option: str = "--destdir", what: str = "a corpus"
) -> Iterator[str]:
    """A temporary directory beside *destdir* that becomes *destdir* when the block ends, and vanishes if it fails.

    Args:
        destdir: the directory to write.
        overwrite: whether to replace one that is there.
        ours: names of the files that such a directory may hold.
        option: what to call *destdir* in messages.
        what: what to call its contents.

    Raises:
        PMLMError: *destdir* holds the like and *overwrite* is false, holds other files, or cannot be written.
    """
    destdir = os.path.realpath(destdir)
    parent, name = os.path.split(destdir)
    if os.path.lexists(destdir) and not os.path.isdir(destdir):
        raise PMLMError(f"{option} {destdir} is not a directory")
    present = sorted(os.listdir(destdir)) if os.path.isdir(destdir) else []
    strangers = [entry for entry in present if not ours.fullmatch(entry)]
    if strangers:
        raise PMLMError(f"{option} {destdir} holds other files ({strangers[0]}); choose a new directory")
    if present and not overwrite:
        raise PMLMError(f"{option} {destdir} already holds {what}; choose another or add --overwrite")

    made = []  # parents that are not there yet, outermost last
    folder = parent
    while not os.path.isdir(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    prefix = f".{name}.building-{platform.node()}-"
    for entry in os.listdir(folder) if not made else ():
        number = entry.removeprefix(prefix) if entry.startswith(prefix) else ""
        path = os.path.join(parent, entry)
        # a number alone: what was there before, with -old behind the number, may be the only copy
        if number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)
            print(f"note: removed {path}, left from a run that was killed")
        elif entry.startswith(f".{name}.building-"):
            print(f"note: {path} is left from a run that was killed, unless one is going on")

    temporary = os.path.join(parent, f"{prefix}{os.getpid()}")
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit)  # clean up when asked to stop, as after Ctrl-C
    done = False
    try:
        os.makedirs(temporary)
        yield temporary
        old = None
        if os.path.isdir(destdir):
            old = f"{temporary}-old"
            os.rename(destdir, old)
        try:
            os.rename(temporary, destdir)
        except OSError:
            if old:
                os.rename(old, destdir)
            raise
        done = True
        if old:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise PMLMError(f"cannot write {option} {destdir}: {error.strerror or error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, previous)
        if not done:
            shutil.rmtree(temporary, ignore_errors=True)
            with contextlib.suppress(OSError):
                for folder in made:
                    os.rmdir(folder)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _exit(signum, frame):
    sys.exit(128 + signum)


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


def read_dictionary(path: str) -> list[str]:
    """The symbols of a ``dict.txt`` in the order of the file, without fairseq's own four.

    Raises:
        PMLMError: the file is missing, a line is not ``symbol count``, or a symbol is there twice.
    """
    symbols: dict[str, int] = {}
    for number, line in read_lines(path):
        symbol, _, count = line.rpartition(" ")
        if not symbol or not count.isdigit() or symbol in FAIRSEQ_SYMBOLS:
            raise PMLMError(
                f"{path}, line {number}: not 'symbol count' as fairseq's dictionaries have it, but {line[:100]!r}"
            )
        if symbol in symbols:
            raise PMLMError(
                f"{path}, line {number}: the symbol {symbol[:100]!r} stands in line {symbols[symbol]} already"
            )
        symbols[symbol] = number
    return list(symbols)


def find_vocabulary(folder: str) -> tuple[str, str]:
    """Paths of the dictionary and of the tokenizer file in the directory that ``--vocab-from`` names.

    Raises:
        PMLMError: one is missing or broken, or they do not belong together.
    """
    dictionary, model = os.path.join(folder, "dict.txt"), tokenizer_files.find(folder)
    if not os.path.isfile(dictionary):
        raise PMLMError(f"--vocab-from {folder}: there is no dict.txt")
    if model is None:
        raise PMLMError(f"--vocab-from {folder}: there is no {' or '.join(tokenizer_files.KINDS)}")
    if read_dictionary(dictionary) != [*tokenizer_files.symbols(model), *EXTRA_SYMBOLS]:
        raise PMLMError(f"--vocab-from {folder}: dict.txt was not made from the {os.path.basename(model)} beside it")
    return dictionary, model
