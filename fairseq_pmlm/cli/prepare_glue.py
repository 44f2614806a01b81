"""Labelled texts to a directory that ``fairseq-train --task sentence_prediction`` reads.

    pmlm prepare glue --task RTE --data glue_data/RTE --vocab-from data-bin/corpus --destdir data-bin/RTE
    pmlm prepare glue --train train.tsv --valid valid.tsv --texts premise hypothesis --label gold ...
    pmlm prepare glue --train train.tsv --valid valid.tsv --no-header --texts 1 --label 2 ...
    pmlm prepare glue --train train.jsonl --valid valid.jsonl --texts a b --label score --regression ...

--task takes the files of a GLUE task as they are published: CoLA, SST-2, MRPC (in GLUE's form or in Microsoft's own),
STS-B, QQP, MNLI (matched as valid and test, mismatched as valid1 and test1), QNLI, RTE, WNLI. Anything else is a table
with columns between tabs, or JSON lines; --texts and --label name its columns, or number them from 1. Files are UTF-8,
plain or .gz.

Tokenizer and dictionary are those of a directory that ``pmlm prepare text`` or ``pmlm import`` wrote. DIR then
holds dict.txt, the tokenizer file, and the binarized input0, input1 (of pairs) and label. Every split but train is
also kept as text, DIR/valid.jsonl and so on, for ``pmlm predict``; a test set without labels as nothing else.
"""

import argparse
import json
import os
import re
import shutil
from collections import Counter

from ..preparation import binarize, glue
from ..tokenizers.dictionary import load_vocabulary
from ..tokenizers.symbols import FAIRSEQ_SYMBOLS, MADE_UP
from ..utils import directories
from ..utils.errors import PMLMError
from ..utils.io import Counts, check_input, write_text
from . import arguments

SPLITS = ("train", "valid", "test")
OURS = re.compile(rf"{binarize.OURS.pattern}|input[01]|label|(valid|test)1?\.jsonl")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("prepare glue", __doc__)
    names = {name.lower(): name for name in glue.TASKS}
    parser.add_argument(
        "--task", metavar="NAME", type=lambda name: names.get(name.lower(), name), help=", ".join(glue.TASKS)
    )
    parser.add_argument("--data", metavar="DIR", help="with --task: directory of its files, as published")
    for split in SPLITS:
        parser.add_argument(f"--{split}", metavar="FILE", help=f"{split} split, a table or JSON lines")
    parser.add_argument("--texts", nargs="+", metavar="COLUMN", help="columns of the text, or of the two texts, there")
    parser.add_argument("--label", metavar="COLUMN", help="column of the label; --test may lack it")
    parser.add_argument("--no-header", action="store_true", help="the first line is a record, too")
    parser.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="classes in their order (default: those of --train, sorted)"
    )
    parser.add_argument("--regression", action="store_true", help="labels are numbers, to be predicted as such")
    arguments.add_vocab_from_argument(parser)
    parser.add_argument(
        "--skip-empty",
        action="store_true",
        help="leave out labelled records with an empty text, and count them, instead of stopping at the first",
    )
    parser.add_argument(
        "--skip-malformed",
        action="store_true",
        help="leave out lines with another number of columns, and count them, instead of stopping at the first",
    )
    arguments.add_common_arguments(parser)
    args = parser.parse_args(argv)
    own = [name for name in (*SPLITS, "texts", "label", "no_header", "labels", "regression") if getattr(args, name)]
    if args.task:
        if args.task not in glue.TASKS:
            parser.error(f"--task {args.task}: known are {', '.join(glue.TASKS)}")
        if own or not args.data:
            parser.error(f"--task takes --data DIR{' and not --' + own[0].replace('_', '-') if own else ''}")
    else:
        if args.data or not (args.train and args.texts and args.label):
            parser.error("give --task and --data, or --train, --texts and --label")
        if len(args.texts) > 2:
            parser.error(f"--texts {' '.join(args.texts)}: one or two")
        if len({*args.texts, args.label}) <= len(args.texts):
            parser.error(f"--texts {' '.join(args.texts)} and --label {args.label} name a column twice")
        if args.regression and args.labels:
            parser.error("--labels and --regression contradict each other")
    return args


def find_inputs(args: argparse.Namespace) -> dict[str, tuple[str, glue.Table]]:
    """Split -> (path, table) of what is to be read."""
    if args.task:
        return glue.find_files(args.task, args.data)
    table = glue.Table(tuple(args.texts), args.label, not args.no_header)
    inputs = {split: (getattr(args, split), table) for split in SPLITS if getattr(args, split)}
    for split, (path, _) in inputs.items():
        check_input(path, f"--{split}")
    if "test" in inputs and not glue.has_column(args.test, table, args.label):
        inputs["test"] = args.test, table._replace(label=None)
    return inputs


class Reader:
    """Reads one split; *counts* and the attributes say what was met."""

    def __init__(self, split: str, path: str, table: glue.Table, args: argparse.Namespace, bpe):
        self.split, self.path, self.table, self.bpe = split, path, table, bpe
        self.skip_empty, self.skip_malformed = args.skip_empty, args.skip_malformed
        self.counts = Counts()
        self.labels: Counter[str | None] = Counter()
        self.records = self.skipped = 0

    @property
    def labelled(self) -> bool:
        return self.table.label is not None

    def read(self):
        """Records that are to be kept: all of a split without labels, else those with text."""
        hint = "; --skip-malformed leaves such lines out"
        for record in glue.read(self.path, self.table, self.counts, self.skip_malformed, hint):
            if self.labelled and any(binarize.is_empty(text, self.bpe) for text in record.texts):
                if not self.skip_empty:
                    raise PMLMError(f"{record.where}: empty text; --skip-empty leaves such records out")
                self.skipped += 1
                continue
            self.records += 1
            self.labels[record.label] += 1
            yield record

    def write(self, folder: str, labels: tuple[str, ...]) -> None:
        """Write FOLDER/encoded/SPLIT.input0 and so on, as clean text, and SPLIT.jsonl.

        Raises:
            PMLMError: see :func:`glue.read` and :func:`glue.check_label`; no records at all.
        """
        names = [f"input{i}" for i in range(len(self.table.texts))]
        sides: dict[str, list[str]] = {name: [] for name in names}
        rows, found = [], []
        for record in self.read():
            for name, text in zip(names, record.texts, strict=True):
                sides[name].append(text)
            if self.labelled:
                glue.check_label(record, labels)
                found.append(record.label)
            row = dict(zip(names, record.texts, strict=True))
            rows.append(json.dumps(row | ({"label": record.label} if self.labelled else {}), ensure_ascii=False))
        if not self.records:
            raise PMLMError(f"{self.path}: no records" + (" with text" if self.labelled else ""))
        if self.split != "train":
            write_text(os.path.join(folder, f"{self.split}.jsonl"), "".join(f"{row}\n" for row in rows))
        if self.labelled:
            for name, texts in {**sides, "label": found}.items():
                write_text(os.path.join(folder, f"{self.split}.{name}.txt"), "".join(f"{text}\n" for text in texts))


def find_labels(args: argparse.Namespace, inputs: dict[str, tuple[str, glue.Table]], bpe) -> tuple[str, ...]:
    """The classes in their order; none for regression.

    Raises:
        PMLMError: fewer than two, or one that no dictionary can hold.
    """
    if args.task or args.regression:
        return glue.TASKS[args.task].labels if args.task else ()
    labels = tuple(args.labels or ())
    if not labels:
        path, table = inputs["train"]
        reader = Reader("train", path, table, args, bpe)
        labels = tuple(sorted({record.label for record in reader.read()}))
        if not reader.records:
            raise PMLMError(f"{args.train}: no records with text")
    for label in labels:
        if not label or re.search(r"\s", label) or label in (*FAIRSEQ_SYMBOLS, "<mask>") or MADE_UP.fullmatch(label):
            raise PMLMError(f"{args.train}: the label {label!r} is no word that fairseq's label dictionary can hold")
    if len(set(labels)) < 2:
        raise PMLMError(f"{args.train}: one class ({', '.join(labels)}) is nothing to choose from; is it --regression?")
    return labels


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    dictionary, bpe = load_vocabulary(args.vocab_from)
    inputs = find_inputs(args)
    if args.overwrite:
        directories.check_inputs(args.destdir, [path for path, _ in inputs.values()])
    labels = find_labels(args, inputs, bpe)
    readers = {split: Reader(split, path, table, args, bpe) for split, (path, table) in inputs.items()}
    pairs = len(inputs["train"][1].texts) > 1
    with directories.building(args.destdir, args.overwrite, OURS) as folder:
        shutil.copyfile(dictionary, os.path.join(folder, "dict.txt"))
        model = bpe.save(folder)
        for reader in readers.values():  # all of them before the long part, so that errors come early
            reader.write(folder, labels)
        labelled = {split: reader for split, reader in readers.items() if reader.labelled}
        results = binarize_sides(args, folder, model, labelled, labels, ("input0", "input1") if pairs else ("input0",))

    for split, reader in readers.items():
        counts = reader.counts
        print(
            f"{split}: {reader.records} records of {counts.lines} (left out: {reader.skipped} empty, "
            f"{counts.malformed} malformed; {counts.blank_lines} blank lines); replaced characters: "
            + counts.describe_replaced()
        )
        if not reader.labelled:
            print(f"  without labels: kept as text, {args.destdir}/{split}.jsonl, for pmlm predict")
            continue
        if labels:
            print("  " + ", ".join(f"{label}: {reader.labels[label]}" for label in labels))
        for side in [side for name, side in results if name == split]:
            result = results[split, side]
            print(
                f"  {side}: {result.tokens} tokens, {result.tokens / result.lines:.1f} a record, longest "
                f"{result.longest}; unknown: {result.describe_unknown()}"
            )
    valid = ",".join(split for split in labelled if split.startswith("valid"))
    metrics = (
        glue.TASKS[args.task].metrics if args.task else ("pearson", "spearman") if args.regression else ("accuracy",)
    )
    print(
        f"{args.destdir} is ready for fairseq-train --task sentence_prediction --init-token 0 --num-classes "
        f"{len(labels) or 1} --criterion pmlm_sentence_prediction --metrics {','.join(metrics)}"
        + (" --regression-target" if not labels else "")
        + (f" --valid-subset {valid}" if valid else " --disable-validation")
    )


def binarize_sides(args, folder: str, model: str, readers, labels: tuple[str, ...], sides: tuple[str, ...]):
    """Binarize what the readers have written in *folder*; {(split, side): what became of it}."""
    results = {}
    for side in (*sides, "label"):
        target = os.path.join(folder, side)
        encoded = os.path.join(target, binarize.ENCODED)
        binarized = side != "label" or labels  # else numbers, which fairseq reads as text
        os.makedirs(encoded if args.keep_encoded and binarized else target)
        symbols = os.path.join(target, "dict.txt")
        if side != "label":
            binarize.copy_dictionary(os.path.join(folder, "dict.txt"), symbols)
        elif labels:
            write_text(symbols, "".join(f"{label} {readers['train'].labels[label]}\n" for label in labels))
        for split, reader in readers.items():
            source, prefix = os.path.join(folder, f"{split}.{side}.txt"), os.path.join(target, split)
            text = os.path.join(encoded, split) if args.keep_encoded else None
            if not binarized:
                shutil.move(source, f"{prefix}.label")
                continue
            if side != "label":
                results[split, side] = binarize.write_lines(
                    [source], prefix, model, args.workers, reader.records, f"encoding {split}.{side}", text
                )
            else:
                binarize.write_labels(source, prefix, labels, reader.records, text)
            os.remove(source)
        if binarized:
            options = ["--only-source", "--srcdict", "dict.txt", f"--trainpref={binarize.ENCODED}/train"]
            for name in ("valid", "test"):
                there = ",".join(f"{binarize.ENCODED}/{split}" for split in readers if split.startswith(name))
                options += [f"--{name}pref={there}"] if there else []
            binarize.print_command(os.path.join(args.destdir, side), options, args.workers, args.keep_encoded)
    return results
