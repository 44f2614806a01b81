"""SQuAD's JSON to a directory that ``fairseq-train --task pmlm_squad`` and ``pmlm predict`` read.

    pmlm prepare squad --train train-v2.0.json --valid dev-v2.0.json \\
        --vocab-from data-bin/corpus --destdir data-bin/squad

Files are SQuAD's JSON of version 1.1 or 2.0, plain or .gz; all of one version. Each question makes one or more windows
``<s> question </s> passage </s>``: of a passage that is longer than the window, each holds a part, and parts overlap.

An answer must stand where the file says. It is pointed at in pieces of the tokenizer; where no run of them spells it
(the answer is "1990", and the piece "1990s"), its id is listed in DIR/train.unmapped.txt. Such questions are left out
of --train; those of --valid and --test are answered and scored, but have no loss.

The tokenizer and the dictionary are those of a directory that ``pmlm prepare text`` or ``pmlm import`` wrote.
Predictions are cut out of the passages as they are in the JSON, so DIR also holds the texts, and where in them each
piece stands (fairseq_pmlm.squad.files).
"""

import argparse
import os
import re

from ..preparation import binarize
from ..preparation.squad import Prepared, prepare
from ..squad import windows
from ..squad.files import OURS
from ..utils import directories
from ..utils.io import check_input
from . import arguments

PARTS = ("train", "valid", "test")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("prepare squad", __doc__)
    for name, text in zip(PARTS, ("to train on", "for validation", "to predict; answers may be missing"), strict=True):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"SQuAD's JSON {text}")
    arguments.add_vocab_from_argument(parser)
    windows.add_arguments(parser)
    arguments.add_output_arguments(parser)
    args = parser.parse_args(argv)
    if not any(getattr(args, name) for name in PARTS):
        parser.error("give --train, --valid or --test")
    return args


def report(name: str, prepared: Prepared, destdir: str) -> None:
    """Print what became of one file."""
    p, questions = prepared, prepared.questions + prepared.left_out
    print(
        f"{name}: {p.questions:,} of {questions:,} questions ({p.impossible:,} without an answer), {p.passages:,} "
        f"passages, {p.windows:,} windows, {p.windows / p.questions:.2f} a question"
    )
    print(
        f"  {p.pieces:,} tokens, {p.pieces / p.passages:.1f} a passage; unknown: {p.unknown:,}; questions cut to "
        f"--max-question-positions: {p.cut:,}"
    )
    if p.unmapped:
        print(
            f"  answers that no run of pieces spells: {len(p.unmapped):,} of {questions:,}"
            + (", left out" if p.left_out else "")
            + f"; their ids are in {os.path.join(destdir, f'{name}.unmapped.txt')}"
        )
    if p.answers_elsewhere:
        print(f"  answers that lie in no window as a whole: {p.answers_elsewhere:,}; their windows have no answer")


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    paths = {name: getattr(args, name) for name in PARTS if getattr(args, name)}
    for name, path in paths.items():
        check_input(path, f"--{name}")
    limits = windows.Limits(*(getattr(args, name) for name in windows.Limits._fields))
    windows.check(limits)
    ours = re.compile(f"{binarize.OURS.pattern}|{OURS}")
    with directories.building(args.destdir, args.overwrite, ours) as folder:
        done = prepare(paths, args.vocab_from, limits, folder)
    for name, prepared in done.items():
        report(name, prepared, args.destdir)
    hint = "" if {"train", "valid"} <= done.keys() else "; fairseq-train needs --train and --valid"
    print(f"{args.destdir} is ready for --task pmlm_squad{hint}")
