"""From raw text to what ``fairseq-train`` reads, in steps that are done once: what ``pmlm prepare text`` does."""

import os
import shutil
import time
from argparse import Namespace
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Any, Generator, Iterable

import numpy as np
from tqdm import tqdm

from ..tokenizers import files as tokenizer_files
from ..tokenizers.base import Tokenizer
from ..tokenizers.dictionary import load_vocabulary
from ..tokenizers.symbols import all_symbols, write_dictionary
from ..utils import directories
from ..utils.errors import PMLMError
from ..utils.io import Counts, list_files, read_lines, write_json, write_output
from . import binarize, encoding, sentencepiece_training, shards
from .encoding import Part
from .survey import DUPLICATE, OUTSIDE, TRAIN, VALID, Survey, survey

NO_VALID = " --disable-validation, as there is no validation set"


class Preparation:
    """The steps; each makes a folder below the root, or finds that it is there already.

    Args:
        args: options of ``pmlm prepare text``.

    Raises:
        PMLMError: a file is missing, or the tokenizer is broken.
    """

    def __init__(self, args: Namespace):
        self.args, self.root = args, args.destdir
        self.files = {"train": list_files(args.text), "valid": list_files(args.valid or [])}
        both = {os.path.realpath(f) for f in self.files["train"]} & {os.path.realpath(f) for f in self.files["valid"]}
        if both:
            raise PMLMError(f"{min(both)} is both in --text and in --valid")
        if args.overwrite:
            replaced = [args.vocab_from] if args.shard_size else []  # without shards, it is copied before
            directories.check_inputs(args.destdir, [*self.files["train"], *self.files["valid"], *replaced])
        self.dictionary: str | None = None
        self.given: Tokenizer | None = None  # read before the long part, so that errors come early
        self.model_name = "vocab.txt" if args.wordpiece_vocab else "sentencepiece.model"
        if args.vocab_from:
            self.dictionary, self.given = load_vocabulary(args.vocab_from)
            self.model_name = self.given.file_name
        elif given := args.sentencepiece_model or args.wordpiece_vocab:
            self.given = tokenizer_files.load(given, self.model_name)

    def folder(self, step: str) -> str:
        """Where a step of the plan is kept."""
        return os.path.join(self.root, shards.PLAN, step)

    def look(self) -> Survey:
        """Look at the text."""
        args, folder = self.args, self.folder("text")
        sample_size = 0 if self.given else args.sentencepiece_lines
        options = {
            shards.FILES: shards.describe_files([*self.files["valid"], *self.files["train"]]),
            "--valid": [os.path.abspath(path) for path in self.files["valid"]],
            "--documents": args.documents,
            "--valid-fraction": args.valid_fraction,
            "--seed": args.seed,
            "--deduplicate": args.deduplicate,
            "--shard-size": args.shard_size,
            "lines to train sentencepiece on": sample_size,
        }
        if not self.is_done(folder, options):
            with directories.building(folder, False, binarize.OURS, shared=True) as temporary:
                found, lines = survey(
                    self.files["train"],
                    self.files["valid"],
                    args.documents,
                    args.workers,
                    args.seed,
                    args.valid_fraction,
                    args.shard_size,
                    args.deduplicate,
                    sample_size,
                )
                found.save(temporary)
                with open(os.path.join(temporary, "sample.txt"), "w", encoding="utf-8", newline="\n") as f:
                    f.writelines(f"{line}\n" for line in lines)
                shards.record_options(temporary, options)
            self.is_done(folder, options)  # another process may have been first, with other options
        return Survey.load(folder)

    def vocabulary(self) -> str:
        """Train or copy the tokenizer, make a dictionary; returns the path of the tokenizer file."""
        args, folder = self.args, self.folder("vocabulary")
        options = {
            "--vocab-size": args.vocab_size,
            "--character-coverage": args.character_coverage,
            "--byte-fallback": args.byte_fallback,
            "a tokenizer with SHA-256": self.given and self.given.fingerprint(),
        }
        if not self.is_done(folder, options):
            with directories.building(folder, False, binarize.OURS, shared=True) as temporary:
                if self.given:
                    model = self.given.save(temporary)
                else:
                    model = os.path.join(temporary, self.model_name)
                    write_output(None, f"training sentencepiece, {args.vocab_size} pieces ...\n")
                    sample = read_lines(os.path.join(self.folder("text"), "sample.txt"))
                    sentencepiece_training.train(
                        (line for _, line in sample),
                        model,
                        args.vocab_size,
                        args.sentencepiece_lines,
                        args.seed,
                        args.character_coverage,
                        args.byte_fallback,
                    )
                dictionary = os.path.join(temporary, "dict.txt")
                if self.dictionary:
                    shutil.copyfile(self.dictionary, dictionary)
                else:
                    write_dictionary(dictionary, tokenizer_files.load(model).symbols)
                shards.record_options(temporary, options)
            self.is_done(folder, options)
        return os.path.join(folder, self.model_name)

    def is_done(self, folder: str, options: dict[str, Any]) -> bool:
        """As :func:`fairseq_pmlm.preparation.shards.is_done`; a job does not make what is not there."""
        done = shards.is_done(folder, options)
        if not done and self.args.job:
            raise PMLMError(f"--job: there is no plan in {self.root}; run the same command with --only-plan first")
        return done

    def encode(self, found: Survey, rows: np.ndarray, fate: int, model: str, label: str) -> Generator[Part, None, None]:
        """Encoded chunks, with a progress bar; see :func:`fairseq_pmlm.preparation.encoding.encode`."""
        sizes = found.table["size"][rows].tolist()
        parts = encoding.encode(found, rows.tolist(), fate, model, self.args.workers, self.args.keep_encoded)
        with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc=label, disable=None) as bar:
            for size, part in zip(sizes, parts, strict=True):
                bar.update(size)
                yield part

    def write(self, parts: Iterable[Part], folder: str, name: str, types: int, counts=None) -> None:
        """Write NAME.bin, NAME.idx, a report, and what --keep-encoded asks for, to *folder*.

        Raises:
            PMLMError: there are no tokens.
        """
        text = None
        if self.args.keep_encoded:
            text = os.path.join(folder, binarize.ENCODED, name)
            os.makedirs(os.path.dirname(text), exist_ok=True)
        started = time.monotonic()
        written = encoding.write(parts, os.path.join(folder, name), types, counts, text)
        if not written.tokens:
            raise PMLMError(f"the {name} text is empty once the tokenizer has normalized it")
        shards.write_report(folder, {name: asdict(written) | {"seconds": round(time.monotonic() - started, 3)}})

    def valid(self, found: Survey, model: str, types: int) -> str | None:
        """Make the validation set, if there is any; returns its folder."""
        folder = self.folder("valid")
        if not found.number_of(VALID):
            return None
        if not self.is_done(folder, {}):
            # of files to validate on, all: what is only duplicates is to be counted
            rows = np.flatnonzero(found.shards == OUTSIDE) if self.files["valid"] else found.chunks_with(VALID)
            with (
                directories.building(folder, False, binarize.OURS, shared=True) as temporary,
                closing(self.encode(found, rows, VALID, model, "encoding valid")) as parts,
            ):
                self.write(parts, temporary, "valid", types)
                shards.record_options(temporary, {})
        return folder

    def add_vocabulary(self, folder: str) -> None:
        """Copy the vocabulary to a directory that ``fairseq-train`` is to read."""
        source = self.folder("vocabulary")
        for name in os.listdir(source):
            if name != shards.OPTIONS:
                shutil.copyfile(os.path.join(source, name), os.path.join(folder, name))

    def add_valid(self, valid: str | None, folder: str) -> None:
        """Copy the validation set, if there is one, there too."""
        if valid is None:
            return
        for name in ("valid.bin", "valid.idx", os.path.join(binarize.ENCODED, "valid")):
            if os.path.exists(os.path.join(valid, name)):
                shutil.copyfile(os.path.join(valid, name), os.path.join(folder, name))
        shards.write_report(folder, {"valid": shards.read_report(valid)["valid"]})

    def make_directory(self) -> None:
        """Make one directory; it appears when it is complete."""
        args = self.args
        with directories.building(args.destdir, args.overwrite, binarize.OURS) as folder:
            self.root = folder
            found, model = self.look(), self.vocabulary()
            symbols = tokenizer_files.load(model).symbols
            types = all_symbols(symbols)
            valid = self.valid(found, model, len(types))
            self.add_vocabulary(folder)
            counts = np.zeros(len(types), np.int64)
            rows = np.flatnonzero(found.shards != OUTSIDE)
            with closing(self.encode(found, rows, TRAIN, model, "encoding train")) as parts:
                self.write(parts, folder, "train", len(types), counts)
            if not self.dictionary:
                counted = Counter(dict(zip(types, counts.tolist(), strict=True)))
                write_dictionary(os.path.join(folder, "dict.txt"), symbols, counted)
            self.add_valid(valid, folder)
            report = self.total(found, [folder])
            shutil.rmtree(os.path.join(folder, shards.PLAN))
            write_json(os.path.join(folder, shards.REPORT), report)
        self.print_report(report)
        if args.keep_encoded:
            options = ["--only-source", "--srcdict", "dict.txt"]
            options += [f"--{name}pref={binarize.ENCODED}/{name}" for name in report["wrote"]]
            binarize.print_command(args.destdir, options, args.workers, kept=True)
        print(f"{args.destdir} is ready for fairseq-train{'' if valid else NO_VALID}")

    def make_shards(self) -> None:
        """Make shards, or those of a job, or the plan alone; what is there already stays."""
        args = self.args
        shards.open_directory(args.destdir, args.overwrite)
        found, model = self.look(), self.vocabulary()
        types = len(all_symbols(tokenizer_files.load(model).symbols))
        valid = self.valid(found, model, types)
        names = shards.names(int(found.shards.max()) + 1)
        folders = [os.path.join(args.destdir, name) for name in names]
        if args.only_plan:
            print(
                f"the plan is ready, {len(names)} shards; make them by the same command with, instead of --only-plan, "
                f"--job 0/N to --job N-1/N for any N up to {len(names)}"
            )
            return
        wanted = shards.share(args.job or (0, 1), len(names))
        missing = [i for i in wanted if not os.path.isdir(folders[i])]
        if len(missing) < len(wanted):
            print(f"{len(wanted) - len(missing)} of {len(wanted)} shards are there already", flush=True)
        rows = np.flatnonzero(np.isin(found.shards, missing))
        shard_of = found.shards[rows].tolist()
        with closing(self.encode(found, rows, TRAIN, model, "encoding shards")) as parts:
            for i, group in groupby(zip(shard_of, parts, strict=True), itemgetter(0)):
                with directories.building(folders[i], False, binarize.OURS, shared=True) as folder:
                    self.write((part for _, part in group), folder, "train", types)
                    self.add_vocabulary(folder)
                    if i == 0:
                        self.add_valid(valid, folder)
                write_output(None, f"\n{names[i]}: {describe(shards.read_report(folders[i])['train'])}\n")
        left = [name for name, folder in zip(names, folders, strict=True) if not os.path.isdir(folder)]
        if left:
            print(f"{len(left)} shards are left to other jobs: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}")
            return
        report = self.total(found, folders) | {"shards": names}
        write_json(os.path.join(args.destdir, shards.REPORT), report)
        self.print_report(report)
        print(f"ready for fairseq-train{'' if valid else NO_VALID}:\n{os.pathsep.join(folders)}")

    def total(self, found: Survey, folders: list[str]) -> dict[str, Any]:
        """What was read, written, and left out, of all *folders*."""
        wrote: dict[str, dict[str, Any]] = {}
        for folder in folders:
            for name, numbers in shards.read_report(folder).items():
                total = wrote.setdefault(name, dict.fromkeys(numbers, 0))
                for key, value in numbers.items():
                    total[key] = max(total[key], value) if key == "longest" else total[key] + value
        for numbers in wrote.values():
            numbers["tokens_per_second"] = round(numbers["tokens"] / max(numbers["seconds"], 1e-3))
        # of the duplicates among --text, the pass that makes the validation set may have seen some, too
        duplicate_lines = [numbers.pop("duplicate_lines") for numbers in wrote.values()]
        return {
            "read": {name: counts.as_json() for name, counts in found.counts.items()},
            "wrote": wrote,
            "dropped_documents": {"duplicate": found.number_of(DUPLICATE)},
            "dropped_lines": {
                "blank": sum(counts.blank_lines for counts in found.counts.values()),
                "without_any_token": sum(numbers["vanished"] for numbers in wrote.values()),
                "of_duplicate_documents": sum(duplicate_lines if self.files["valid"] else duplicate_lines[:1]),
            },
        }

    def print_report(self, report: dict[str, Any]) -> None:
        """The same for people."""
        for name, counts in report["read"].items():
            print(
                f"read {name}: {counts['files']} files ({counts['empty_files']} empty), {counts['bytes']} bytes, "
                f"{counts['documents']} documents, {counts['lines']} lines; replaced characters: "
                f"{Counts(replaced=Counter(counts['replaced'])).describe_replaced()}"
            )
        for name, numbers in report["wrote"].items():
            print(f"wrote {name}: {describe(numbers)}")
        lines = report["dropped_lines"]
        print(
            f"left out: {report['dropped_documents']['duplicate']} duplicate documents with "
            f"{lines['of_duplicate_documents']} lines, {lines['without_any_token']} lines without any token, "
            f"{lines['blank']} blank lines"
        )


def describe(numbers: dict[str, Any]) -> str:
    """What :class:`~fairseq_pmlm.preparation.encoding.Written` has become, for people."""
    return (
        f"{numbers['documents']} documents, {numbers['lines']} lines (with those between documents), "
        f"{numbers['tokens']} tokens, {numbers['tokens'] / max(numbers['seconds'], 1e-3):.0f} tokens/s, longest line "
        f"{numbers['longest']}; unknown: {numbers['unknown']} ({numbers['unknown'] / max(numbers['tokens'], 1):.2%}); "
        f"lines without any token, left out: {numbers['vanished']}"
    )
