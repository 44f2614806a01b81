#!/usr/bin/env python
"""Mean and standard deviation over trainings that differ in their seeds: a Markdown table of validation results.

    python scripts/seeds.py runs/RTE/logs/seed*.log [--out table.md]
    python scripts/seeds.py runs/squad/answers*/scores.json

Reads the logs of ``fairseq-train --criterion pmlm_sentence_prediction --log-format json --log-file``. Of each
training, the validation with the best ``score`` on its first validation set counts, as that is the checkpoint kept.
Or the scores.json that scripts/predict_squad.py and scripts/score.py write.
"""

import argparse
import statistics

from fairseq_pmlm.preparation.glue import METRICS
from fairseq_pmlm.reporting import logs as training_logs
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import read_json, write_text

Results = dict[tuple[str, str], float]


def best_results(path: str) -> tuple[int, Results]:
    """Update of the best validation in a log, and (validation set, metric) -> its results.

    Raises:
        PMLMError: the log has none.
    """
    log = training_logs.read(path)
    scored = [(score, update) for update, score in log.curve("score", "valid")]
    if not scored:
        raise PMLMError(f"{path}: no validation with a score; is this the log of a finished training?")
    _, best = max(scored)  # of equal ones the last, as fairseq does
    found = {part: entries[best] for part, entries in log.parts.items() if part != "train" and best in entries}
    metrics = (*METRICS, "score")
    return best, {(part, name): values[name] for part, values in found.items() for name in metrics if name in values}


def results_of(path: str) -> tuple[str, Results]:
    """Where the results in a log or in a scores.json come from, and the results.

    Raises:
        PMLMError: see :func:`best_results`; the file holds no scores.
    """
    if not path.endswith(".json"):
        update, results = best_results(path)
        return str(update), results
    try:
        scores = {("valid", name): float(value["score"]) for name, value in read_json(path)["scores"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        scores = {}
    if not scores:
        raise PMLMError(f"{path} holds no scores")
    return "", scores


def table(logs: list[str]) -> str:
    """A row for each metric: mean, standard deviation, and the value of each training."""
    found = [results_of(path) for path in logs]
    for path, (_, results) in zip(logs, found, strict=True):
        if results.keys() != found[0][1].keys():
            raise PMLMError(f"{path} has other metrics than {logs[0]}")
    seeds = " | ".join(f"seed {i + 1}" for i in range(len(logs)))
    rows = [
        f"| best of each training | mean | standard deviation | {seeds} |",
        "|---" * (3 + len(logs)) + "|",
    ]
    for split, metric in found[0][1]:
        values = [results[split, metric] for _, results in found]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "one seed"
        name = metric if split == "valid" else f"{metric} ({split})"
        rows.append(f"| {name} | {statistics.mean(values):.2f} | {spread} | {' | '.join(f'{v:.2f}' for v in values)} |")
    if found[0][0]:
        rows.append(f"| at update | | | {' | '.join(update for update, _ in found)} |")
    return "\n".join(rows) + "\n"


def main(argv=None) -> None:
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", help="logs of trainings, or their scores, in the order of their seeds")
    parser.add_argument("--out", metavar="FILE", help="write the table here instead of to standard output")
    args = parser.parse_args(argv)
    text = table(args.logs)
    if args.out:
        write_text(args.out, text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
