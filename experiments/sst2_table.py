#!/usr/bin/env python
"""The table of experiments/sst2.sh: accuracy on test, what each system is, what it took, and what differs.

python experiments/sst2_table.py OUT --seeds 3 --out OUT/table.md
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from paired import difference

from fairseq_pmlm.cli.arguments import positive
from fairseq_pmlm.interface import from_pretrained
from fairseq_pmlm.reporting import logs
from fairseq_pmlm.scoring.hypotheses import read_segments
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import read_records, write_text

SYSTEMS = {
    "pretrained": "pre-trained here",
    "scratch": "from random weights",
    "imported": "imported",
}


def cost(log: Path) -> tuple[int, float]:
    """Updates of a training and the minutes they took, from its log.

    Not fairseq's ``wall``, which says 0 ever after in a training that has gone on after an interruption.

    Raises:
        PMLMError: it does not say.
    """
    epochs = logs.read(str(log)).curve("train_wall", "train")
    if not epochs:
        raise PMLMError(f"{log}: no end of an epoch; is this the log of a finished training?")
    return epochs[-1][0], sum(seconds for _, seconds in epochs) / 60


def main(argv=None) -> None:
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="OUT", help="output directory of sst2.sh")
    parser.add_argument("--seeds", type=positive, required=True, help="trainings of each system")
    parser.add_argument("--out", required=True, metavar="FILE", help="write the table here")
    args = parser.parse_args(argv)
    correct, rows = {}, []
    for system, name in SYSTEMS.items():
        data = args.folder / f"data.{system.replace('scratch', 'pretrained')}"
        wanted = [label for _, (label,) in read_records(str(data / "test.jsonl"), ["label"])]
        runs = [f"{system}.{seed}" for seed in range(1, args.seeds + 1)]
        found = [read_segments(str(args.folder / f"labels.{run}")) for run in runs]
        correct[system] = [100.0 * np.array([a == b for a, b in zip(labels, wanted, strict=True)]) for labels in found]
        scores = [float(items.mean()) for items in correct[system]]
        costs = [cost(args.folder / "logs" / f"{run}.log") for run in runs]
        model = from_pretrained(str(args.folder / runs[0]), "checkpoint_best.pt", str(data)).model
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        spread = f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "one seed"
        minutes = statistics.mean(spent for _, spent in costs)
        rows.append(
            f"| {name} | {size:.1f} M | {statistics.mean(scores):.2f} | {spread} | {costs[0][0]:,} | {minutes:.1f} |"
        )
    most = max(wanted.count(label) for label in set(wanted)) / len(wanted)
    gained = difference(correct["pretrained"], correct["scratch"])
    lines = [
        f"| {len(wanted):,} test sentences | parameters | accuracy, mean of {args.seeds} seeds | standard deviation | "
        "updates | minutes a training |",
        "|---" * 6 + "|",
        *rows,
        f"| the most frequent class | | {100 * most:.2f} | | | |",
        "",
        f"Pre-trained minus from random weights, paired, with its 95 % interval: {gained} ({gained.verdict()}).",
    ]
    write_text(args.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
