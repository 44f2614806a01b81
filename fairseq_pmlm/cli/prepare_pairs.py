"""Pairs of texts to a directory that ``fairseq-train --task pmlm_seq2seq`` and ``fairseq-generate`` read.

    pmlm prepare pairs --train train.jsonl --valid valid.jsonl --test test.jsonl \\
        --vocab-from data-bin/corpus --destdir data-bin/summaries
    pmlm prepare pairs --train train.source train.target --test test.source test.target ...
    pmlm prepare pairs --train train-v1.1.json --test dev-v1.1.json --format squad ...

Files are UTF-8, plain or .gz. One file holds JSON lines, objects with the texts ``src`` and ``tgt`` (--source-keys and
--target-key name others), or with --format squad SQuAD's JSON, which gives question generation: answer and passage to
question. Two or more are text with a line per record: the sources, then the targets, one file for each reference.

A source of several parts (--source-keys answer passage, SQuAD) is joined by --separator, plain text that
fairseq-interactive can be given, too. The first part, such as the answer, survives when a source is cut to its head.
With --separator '</s>' it is that symbol, which no text can spell; --cut-source then cuts the last parts alone,
whichever end it takes.

Several references (a list, several files) are that many pairs in --train. In --valid and --test the first one is
binarized, and all are written to DIR/test.ref0.txt, test.ref1.txt, ... for scoring. The tokenizer and the dictionary
are those of a directory that ``pmlm prepare text`` or ``pmlm import`` wrote. DIR then holds dict.txt,
dict.src.txt, dict.tgt.txt, the tokenizer file, train.src-tgt.src.bin and so on, and the plain text of each side as
train.src.txt and train.tgt.txt, one line per record.
"""

import argparse
import contextlib
import os
import shutil
from typing import Iterator

from ..preparation import binarize
from ..preparation.pairs import Record, Squad, read_json_lines, read_parallel
from ..tokenizers.dictionary import load_vocabulary
from ..utils import directories
from ..utils.errors import PMLMError
from ..utils.io import Counts, check_input, clean_line, text_value
from . import arguments

SPLITS = ("train", "valid", "test")
SIDES = ("src", "tgt")
SYMBOL = "</s>"


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("prepare pairs", __doc__)
    splits = {
        "train": "JSON lines, SQuAD's JSON, or sources and targets",
        "valid": "the same for validation",
        "test": "the same for generation",
    }
    for name, text in splits.items():
        parser.add_argument(f"--{name}", nargs="+", metavar="FILE", required=name == "train", help=text)
    parser.add_argument(
        "--format",
        choices=["lines", "squad"],
        default="lines",
        help="lines: JSON lines, or text where there are several files; squad: SQuAD 1.1 or 2.0 (default: %(default)s)",
    )
    parser.add_argument(
        "--source-keys",
        nargs="+",
        metavar="KEY",
        help="parts of the source in JSON lines, in this order (default: src)",
    )
    parser.add_argument("--target-key", metavar="KEY", help="the target, or list of references, there (default: tgt)")
    parser.add_argument(
        "--separator",
        default=":",
        metavar="TEXT",
        help="between the parts of a source, with spaces: text, or the symbol </s> (default: %(default)s)",
    )
    arguments.add_vocab_from_argument(parser)
    parser.add_argument(
        "--skip-empty",
        action="store_true",
        help="leave out records whose src or tgt is empty, and count them, instead of stopping at the first",
    )
    arguments.add_common_arguments(parser)
    args = parser.parse_args(argv)
    given = {name: getattr(args, name) for name in SPLITS if getattr(args, name)}
    for name, paths in given.items():
        if args.format == "squad" and len(paths) > 1:
            parser.error(f"--{name}: --format squad takes one file")
        if (args.source_keys or args.target_key) and (args.format == "squad" or len(paths) > 1):
            parser.error(f"--source-keys and --target-key are for JSON lines; --{name} is something else")
    return args


def count_parts(args: argparse.Namespace) -> int:
    """Of how many texts a source consists."""
    return 2 if args.format == "squad" else max(1, len(args.source_keys or ()))


def check_separator(args: argparse.Namespace, bpe) -> None:
    """Raise PMLMError if sources have parts, and the vocabulary cannot spell what stands between them."""
    if count_parts(args) < 2 or args.separator == SYMBOL:
        return
    if clean_line(args.separator) != args.separator:
        raise PMLMError(f"--separator {args.separator!r}: holds a line break or another control character")
    pieces = bpe.encode(args.separator).split()
    if not pieces or not all(piece in bpe.pieces for piece in pieces):
        raise PMLMError(
            f"--separator {args.separator!r}: nothing that the vocabulary in {args.vocab_from} can spell; "
            "--separator '</s>' always works"
        )


class Reader:
    """Reads one split and writes its plain text; *counts* says what was met."""

    def __init__(self, name: str, args: argparse.Namespace, bpe):
        self.name, self.paths, self.bpe = name, getattr(args, name), bpe
        self.skip_empty, self.separator = args.skip_empty, args.separator
        self.parts = count_parts(args) if args.separator == SYMBOL else 1  # that are encoded apart
        self.counts = Counts()
        self.squad = Squad(self.paths[0], self.counts) if args.format == "squad" else None
        self.keys = args.source_keys or ["src"], args.target_key or "tgt"
        self.records = self.pairs = self.skipped = self.references = 0

    def each_record(self) -> Iterator[Record]:
        """Records of whatever format this is."""
        if self.squad:
            return self.squad.read()
        if len(self.paths) > 1:
            return read_parallel(self.paths, self.counts)
        return read_json_lines(self.paths[0], *self.keys, self.counts)

    def read(self):
        """Parts of the source and references of each record, as clean lines."""
        for record in self.each_record():
            texts = [[(where, text_value(value, where, self.counts)) for where, value in side] for side in record]
            source, references = ([text for _, text in side] for side in texts)
            empty = [where for side in texts for where, text in side if binarize.is_empty(text, self.bpe)]
            if not empty:
                self.records += 1
                self.references = max(self.references, len(references))
                yield source, references
            elif self.skip_empty:
                self.skipped += 1
            else:
                raise PMLMError(f"{empty[0]}: empty; --skip-empty leaves such records out")

    def part_files(self, folder: str) -> list[str]:
        """Files of the parts that are encoded apart; none where a source is one text."""
        return [os.path.join(folder, f"{self.name}.src.part{i}") for i in range(self.parts if self.parts > 1 else 0)]

    def write(self, folder: str) -> None:
        """Write FOLDER/NAME.src.txt and .tgt.txt, and .ref0.txt, ... if a record has several references.

        Where parts of a source are to be encoded apart, each has a file NAME.src.part0, ... as well.

        Raises:
            PMLMError: see :mod:`fairseq_pmlm.preparation.pairs`; an empty or wrong value; no records at all.
        """
        paths = {side: os.path.join(folder, f"{self.name}.{side}.txt") for side in SIDES}
        # Every file of references has a line per record. Where a record has fewer than others, its first one stands
        # in: a repeated reference changes neither n-gram matches nor the closest length.
        lists = []
        with (
            contextlib.ExitStack() as stack,
            open(paths["src"], "w", encoding="utf-8", newline="\n") as src,
            open(paths["tgt"], "w", encoding="utf-8", newline="\n") as tgt,
        ):
            files = [
                stack.enter_context(open(path, "w", encoding="utf-8", newline="\n")) for path in self.part_files(folder)
            ]
            for source, references in self.read():
                for reference in references if self.name == "train" else references[:1]:
                    src.write(f" {self.separator} ".join(source) + "\n")
                    for file, text in zip(files, source, strict=bool(files)):
                        file.write(text + "\n")
                    tgt.write(reference + "\n")
                    self.pairs += 1
                if self.name != "train":
                    lists.append(references)
        if not self.records:
            raise PMLMError(f"{self.paths[0]}: no records with a source and a target")
        for i in range(self.references if lists and self.references > 1 else 0):
            with open(os.path.join(folder, f"{self.name}.ref{i}.txt"), "w", encoding="utf-8", newline="\n") as f:
                f.writelines((references[i] if i < len(references) else references[0]) + "\n" for references in lists)


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    given = {name: getattr(args, name) for name in SPLITS if getattr(args, name)}
    for name, paths in given.items():
        for path in paths:
            check_input(path, f"--{name}")
    if args.overwrite:
        directories.check_inputs(args.destdir, [path for paths in given.values() for path in paths])
    dictionary, bpe = load_vocabulary(args.vocab_from)
    check_separator(args, bpe)

    readers, results = {}, {}
    with directories.building(args.destdir, args.overwrite, binarize.OURS) as folder:
        shutil.copyfile(dictionary, os.path.join(folder, "dict.txt"))
        model = bpe.save(folder)
        binarize.copy_dictionary(dictionary, *(os.path.join(folder, f"dict.{side}.txt") for side in SIDES))
        encoded = os.path.join(folder, binarize.ENCODED)
        if args.keep_encoded:
            os.mkdir(encoded)
        for name in given:  # all of them before the long part, so that errors come early
            readers[name] = Reader(name, args, bpe)
            readers[name].write(folder)
        for name, reader in readers.items():
            for side in SIDES:
                parts = reader.part_files(folder) if side == "src" else []
                results[name, side] = binarize.write_lines(
                    parts or [os.path.join(folder, f"{name}.{side}.txt")],
                    os.path.join(folder, f"{name}.src-tgt.{side}"),
                    model,
                    args.workers,
                    reader.pairs,
                    f"encoding {name}.{side}",
                    os.path.join(encoded, f"{name}.{side}") if args.keep_encoded else None,
                )
                for part in parts:
                    os.remove(part)
    options = ["--source-lang", "src", "--target-lang", "tgt", "--srcdict", "dict.txt", "--tgtdict", "dict.txt"]
    options += [f"--{name}pref={binarize.ENCODED}/{name}" for name in given]
    binarize.print_command(args.destdir, options, args.workers, args.keep_encoded)

    for name, reader in readers.items():
        counts = reader.counts
        print(
            f"{name}: {reader.records} records of {counts.lines} ({reader.skipped} empty ones left out, "
            f"{counts.blank_lines} blank lines), up to {reader.references} references, {reader.pairs} pairs, "
            f"{counts.bytes} bytes; replaced characters: {counts.describe_replaced()}"
        )
        if reader.squad:
            print(f"  questions without an answer, left out: {reader.squad.impossible}")
        for side in SIDES:
            result = results[name, side]
            print(
                f"  {side}: {result.tokens} tokens, {result.tokens / result.lines:.1f} a record, longest "
                f"{result.longest}; unknown: {result.describe_unknown()}"
            )
    hint = "" if "valid" in readers else " --disable-validation, as there is no --valid"
    print(f"{args.destdir} is ready for fairseq-train{hint}")
