#!/usr/bin/env python
"""Scores of systems beside answers that need no model, as a Markdown table with 95 % intervals.

    python experiments/quality_table.py DATA --preset xsum --out table.md NAME=HYPOTHESES [NAME=HYPOTHESES ...]

DATA is a directory of pmlm prepare pairs with the splits train and test. Beside the systems stand the outputs
of the first one in another order (what its style alone is worth), the first sentence of the source, the target of the
training source most like it, and the one string that scores best on training targets.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts/demo"))  # baselines.py

from baselines import best_constant, lead, nearest, shuffled

from fairseq_pmlm.scoring.bleu import score_bleu
from fairseq_pmlm.scoring.hypotheses import read_segments
from fairseq_pmlm.scoring.presets import PRESETS, find_preset, prepare
from fairseq_pmlm.scoring.rouge import score_rouge
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import write_text


def references_of(data: Path) -> list[list[str]]:
    """All references of the test split, a list of lines each."""
    several = sorted(data.glob("test.ref*.txt"))
    return [read_segments(path) for path in several or [data / "test.tgt.txt"]]


def score(preset: str, hypotheses: list[str], references: list[list[str]]) -> dict:
    """{column: Score}: ROUGE-1, -2 and -L; BLEU-4 where the preset has it."""
    texts = prepare(preset, hypotheses, references)
    rouge = score_rouge(*texts.pair, **texts.preset.rouge, origin=texts.origin).values
    columns = {"ROUGE-1": rouge["rouge1"], "ROUGE-2": rouge["rouge2"], "ROUGE-L": rouge["rougeL"]}
    if "bleu" in find_preset(preset).metrics:
        columns["BLEU-4"] = score_bleu(*texts.pair, **texts.preset.bleu, origin=texts.origin).values["bleu"]
    return columns


def main(argv=None):
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="prepared pairs")
    parser.add_argument("systems", nargs="+", metavar="NAME=FILE", help="hypotheses for the test split, one a line")
    parser.add_argument("--preset", choices=list(PRESETS), required=True, help="how to score")
    parser.add_argument("--out", required=True, metavar="FILE", help="write the table here")
    args = parser.parse_args(argv)
    systems = {}
    for system in args.systems:
        name, separator, path = system.rpartition("=")
        if not separator:
            raise PMLMError(f"{system}: expected NAME=FILE")
        systems[name] = read_segments(path)
    train = [read_segments(args.data / f"train.{side}.txt") for side in ("src", "tgt")]
    sources, references = read_segments(args.data / "test.src.txt"), references_of(args.data)
    first = next(iter(systems))
    systems[f"{first}, in another order"] = shuffled(systems[first], seed=1)
    systems["first sentence of the source"] = [lead(source) for source in sources]
    systems["target of the nearest training source"] = nearest(list(zip(*train, strict=True)), sources)
    systems["best constant"] = [best_constant(train[1], sample=1000, seed=0)] * len(sources)
    rows = {name: score(args.preset, hypotheses, references) for name, hypotheses in systems.items()}
    columns = list(rows[first])
    lines = [f"| {len(sources):,} test items | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, scores in rows.items():
        cells = (f"{scores[c].mean:.1f} [{scores[c].low:.1f}, {scores[c].high:.1f}]" for c in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    write_text(args.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
