"""One look at all of a corpus, before anything is encoded: its documents, and what becomes of each.

The look goes over raw text once, on all cores, and holds nothing of it but a sample of lines to train a tokenizer on.
Afterwards every document is one to train on, one to validate on, or a duplicate; every chunk of text belongs to a
shard; and any shard can be made by itself, in any order, on any machine, from the original files.
"""

import functools
import hashlib
import os
import random
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Iterator

import numpy as np
from tqdm import tqdm

from ..utils.errors import PMLMError
from ..utils.io import Counts, read_json, write_json
from ..utils.workers import in_order
from . import chunks
from .sentencepiece_training import training_lines

TRAIN, VALID, DUPLICATE = range(3)  # what becomes of a document
EVERYTHING = 2**64 - 1
OUTSIDE = -1  # the shard of validation files


@dataclass
class Look:
    """What a worker finds in a chunk."""

    counts: Counts
    keys: np.ndarray | None = None  # uint64, of the documents that begin and end in it
    head: bytes = b""  # normalized text of the document that it goes on with
    tail: bytes = b""  # of one that goes on after it
    # lines for the sample: their random numbers, uint64, and which document of the chunk they are from
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    documents: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    texts: list[str] = field(default_factory=list)


def digest(hasher) -> int:
    """A document's key: 8 bytes, so that two of 50 million different documents share one with probability 7e-5."""
    return int.from_bytes(hasher.digest(), "little")


def new_hash(normalized: bytes):
    """A hasher that begins with *normalized* text and takes more of it by ``update``; for :func:`digest`."""
    return hashlib.blake2b(normalized, digest_size=8)


def random_numbers(seed: int, file: int, lines: list[int], pieces: list[int]) -> np.ndarray:
    """uint64 (lines,): a number for each piece of each line that depends on nothing else (splitmix64)."""
    x = np.full(len(lines), seed % 2**64, np.uint64)
    for part in (file, lines, pieces):
        x = (x + np.array(part, np.uint64)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x


def look(item: tuple[chunks.Chunk, int], seed: int, hashing: bool, sampling: bool) -> Look:
    """Count and hash the documents of a chunk, and draw lines of it: those whose number is at most *item*'s second."""
    chunk, limit = item
    found = Look(Counts())
    keys: list[int] = []
    words: list[str] = []
    lines: list[int] = []
    pieces: list[int] = []
    documents: list[int] = []
    texts: list[str] = []
    continues = chunk.inside
    for number, line in chunk.numbered_lines(found.counts):
        if not line:
            if hashing:
                normalized = " ".join(words).encode("utf-8")
                if continues:
                    found.head = normalized
                else:
                    keys.append(digest(new_hash(normalized)))
            words = []
            continues = False
            continue
        if hashing:
            words.append(" ".join(line.split()))
        if sampling:
            for piece, text in enumerate(training_lines(line)):
                lines.append(number)
                pieces.append(piece)
                documents.append(found.counts.documents)
                texts.append(text)
    if words:
        rest = " ".join(words).encode("utf-8")
        if continues:
            found.head = rest
        else:
            found.tail = rest
    found.keys = np.array(keys, np.uint64)
    if sampling and lines:
        numbers = random_numbers(seed, chunk.file, lines, pieces)
        drawn = np.flatnonzero(numbers <= np.uint64(limit))
        found.numbers, found.documents = numbers[drawn], np.array(documents, np.int64)[drawn]
        found.texts = [texts[i] for i in drawn]
    return found


class Sample:
    """*size* lines drawn at random from a stream of any length: those with the smallest numbers, in their order."""

    def __init__(self, size: int):
        self.size, self.limit = size, EVERYTHING
        self.numbers, self.documents = array("Q"), array("q")
        self.texts: list[str] = []

    def add(self, found: Look, first: int) -> None:
        """Add lines of a chunk whose first document is number *first* of all."""
        self.numbers.frombytes(found.numbers.tobytes())
        self.documents.frombytes((found.documents + first).tobytes())
        self.texts += found.texts
        if len(self.texts) > self.size + self.size // 4 + 1000:
            self.prune()

    def prune(self) -> None:
        """Drop what cannot be in the sample any more."""
        numbers = np.frombuffer(self.numbers, np.uint64)
        if len(numbers) <= self.size:
            return
        self.limit = int(np.partition(numbers, self.size - 1)[self.size - 1])
        kept = np.flatnonzero(numbers <= np.uint64(self.limit))
        documents = np.frombuffer(self.documents, np.int64)[kept]
        self.numbers, self.documents = array("Q", numbers[kept].tobytes()), array("q", documents.tobytes())
        self.texts = [self.texts[i] for i in kept]


@dataclass
class Survey:
    """Where all chunks lie, and what becomes of all documents."""

    paths: list[str]  # validation files first
    documents: str  # what separates them: "blocks" or "files"
    table: np.ndarray  # rows of chunks.ROW
    fates: np.ndarray  # uint8 (documents,): TRAIN, VALID or DUPLICATE
    shards: np.ndarray  # int32 (chunks,): the shard of each; OUTSIDE for validation files
    counts: dict[str, Counts]  # of "train" and, where there are files for it, "valid"

    def __post_init__(self):
        ended = np.cumsum(self.table["documents"], dtype=np.int64)
        self.first = ended - self.table["documents"]  # the document that goes on, or begins first, in each chunk

    def fates_in(self, index: int) -> bytes:
        """What becomes of the documents of chunk *index*, the one that goes on after it included."""
        first = int(self.first[index])
        return self.fates[first : first + int(self.table["documents"][index]) + 1].tobytes()

    def chunks_with(self, fate: int) -> np.ndarray:
        """Numbers of the chunks with documents of that fate."""
        before = np.concatenate([[0], np.cumsum(self.fates == fate, dtype=np.int64)])
        last = np.minimum(self.first + self.table["documents"] + 1, len(self.fates))
        return np.flatnonzero(before[last] > before[np.minimum(self.first, len(self.fates))])

    def number_of(self, fate: int) -> int:
        """Number of documents of that fate."""
        return int(np.count_nonzero(self.fates == fate))

    def save(self, folder: str) -> None:
        """Write it to *folder*, for :meth:`load`."""
        for name in ("table", "fates", "shards"):
            np.save(os.path.join(folder, f"{name}.npy"), getattr(self, name))
        counts = {name: count.as_json() for name, count in self.counts.items()}
        content = {"paths": self.paths, "documents": self.documents, "counts": counts}
        write_json(os.path.join(folder, "survey.json"), content)

    @classmethod
    def load(cls, folder: str) -> "Survey":
        """Read what :meth:`save` wrote; arrays stay in their files."""
        content = read_json(os.path.join(folder, "survey.json"))
        table, fates, shards = (
            np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r") for name in ("table", "fates", "shards")
        )
        counts = {
            name: Counts(**count | {"replaced": Counter(count["replaced"])})
            for name, count in content["counts"].items()
        }
        return cls(content["paths"], content["documents"], table, fates, shards, counts)


def survey(
    train: list[str],
    valid: list[str],
    documents: str,
    workers: int,
    seed: int,
    valid_fraction: float = 0.0,
    shard_size: int | None = None,
    deduplicate: bool = False,
    sample_size: int = 0,
) -> tuple[Survey, Iterator[str]]:
    """Look at all text; returns the survey, and the drawn lines to train a tokenizer on, in the order of the text.

    Args:
        train: files to train on.
        valid: files to validate on; without any, documents are drawn from *train*.
        documents: ``blocks`` or ``files``; see :func:`~fairseq_pmlm.utils.io.mark_documents`.
        workers: number of processes.
        seed: of both draws.
        valid_fraction: part of the documents to draw, at least one; 0 for none.
        shard_size: bytes of text in a shard, on average; None: all of it.
        deduplicate: drop documents that are, but for white space, one that came before.
        sample_size: lines to draw at most.

    Raises:
        PMLMError: a file cannot be read, there is no text, or there are too few documents to draw some.
    """
    paths = [*valid, *train]
    counts = {"train": Counts(), **({"valid": Counts()} if valid else {})}
    rows, lines_of_file = [], np.zeros(len(paths), np.int64)
    keys, sample, unfinished, first = array("Q"), Sample(sample_size), new_hash(b""), 0
    limited = ((chunk, sample.limit) for chunk in chunks.cut(paths, documents))
    work = functools.partial(look, seed=seed, hashing=deduplicate, sampling=sample_size > 0)
    size = sum(os.path.getsize(path) for path in paths if not path.endswith(".gz"))
    with tqdm(total=size or None, unit="B", unit_scale=True, desc="looking at the text", disable=None) as bar:
        for (chunk, _), found in in_order(work, limited, workers):
            rows.append(chunk.row(found.counts.documents))
            lines_of_file[chunk.file] += found.counts.lines
            is_train = chunk.file >= len(valid)
            counts["train" if is_train else "valid"].add(found.counts)
            if deduplicate:
                if found.head:
                    unfinished.update(b" " + found.head)
                if chunk.inside and found.counts.documents:
                    keys.append(digest(unfinished))
                keys.frombytes(found.keys.tobytes())
                if found.tail:
                    unfinished = new_hash(found.tail)
            if sample_size and is_train:
                sample.add(found, first)
            first += found.counts.documents
            bar.update(len(chunk.raw) if not chunk.path.endswith(".gz") else 0)
    for name, files in (("valid", range(len(valid))), ("train", range(len(valid), len(paths)))):
        if name in counts:
            counts[name].files = len(files)
            counts[name].empty_files = int((lines_of_file[files.start : files.stop] == 0).sum())
            if not counts[name].lines:
                shown = ", ".join(paths[i] for i in files[:3])
                raise PMLMError(f"no text in {shown}{' ...' if len(files) > 3 else ''}: the corpus is empty")
    table = np.array(rows, chunks.ROW)
    fates = np.full(first, TRAIN, np.uint8)
    fates[: counts["valid"].documents if valid else 0] = VALID
    if deduplicate:
        fates[duplicates(keys)] = DUPLICATE
    if not valid and valid_fraction:
        draw(fates, valid_fraction, seed)
    result = Survey(paths, documents, table, fates, np.zeros(0, np.int32), counts)
    result.shards = assign_shards(result, len(valid), shard_size)
    sample.prune()
    lines = (text for text, document in zip(sample.texts, sample.documents, strict=True) if fates[document] == TRAIN)
    return result, lines


def duplicates(keys: array) -> np.ndarray:
    """Places of the keys that have come before; sorting takes 32 bytes a key."""
    values = np.frombuffer(keys, np.uint64)
    order = np.argsort(values, kind="stable")
    values = values[order]
    return order[1:][values[1:] == values[:-1]]


def draw(fates: np.ndarray, fraction: float, seed: int) -> None:
    """Let a part of the documents to train on be validated on instead.

    Raises:
        PMLMError: nothing would be left.
    """
    kept = np.flatnonzero(fates == TRAIN)
    number = max(1, round(len(kept) * fraction))
    if number >= len(kept):
        raise PMLMError(
            f"the corpus is {len(kept)} document{'s' if len(kept) > 1 else ''}, too few to take {number} out for "
            "validation; put blank lines between documents, or use --documents files, --valid or --valid-fraction 0"
        )
    fates[kept[random.Random(seed).sample(range(len(kept)), number)]] = VALID


def assign_shards(survey: Survey, valid_files: int, shard_size: int | None) -> np.ndarray:
    """int32 (chunks,): shards of equal size, as near to *shard_size* bytes of text to train on as may be.

    A shard begins with a document. What a chunk holds of other documents does not count.
    """
    table, first = survey.table, survey.first
    before = np.concatenate([[0], np.cumsum(survey.fates == TRAIN, dtype=np.int64)])
    ended = table["documents"]
    kept = before[first + ended] - before[first]
    amid = ended == 0  # inside a long document
    kept[amid] = np.append(survey.fates == TRAIN, False)[first[amid]]
    sizes = table["size"] * kept // np.maximum(ended, 1)
    inside_train = table["file"] >= valid_files
    sizes[~inside_train] = 0
    total = max(int(sizes.sum()), 1)
    number = max(1, round(total / shard_size)) if shard_size else 1
    shards = np.minimum((np.cumsum(sizes) - sizes) / total * number, number - 1).astype(np.int64)
    starts = np.maximum.accumulate(np.where(table["inside"], -1, np.arange(len(table))))
    shards = shards[starts]
    shards[inside_train] = np.unique(shards[inside_train], return_inverse=True)[1]  # a long document may skip some
    shards[~inside_train] = OUTSIDE
    return shards.astype(np.int32)
