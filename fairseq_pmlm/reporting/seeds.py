"""Results of trainings that differ in their seeds alone."""

import statistics

from ..preparation.glue import METRICS
from ..utils.errors import PMLMError
from ..utils.io import read_json
from . import logs as training_logs

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
