"""Learning curves out of fairseq's logs, and the charts of experiments/objectives.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from fairseq_pmlm.reporting import logs
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import replacing

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LOSSES = ("ae", "par", "ar")


def read_curve(log: Path) -> list[dict]:
    """The validations of a pre-training: ``updates``, ``seconds`` of training until then, and the losses in bits.

    Seconds are those that ``--task pmlm_variants`` counts. What was trained again after an interruption counts once.

    Raises:
        PMLMError: the log has no validation.
    """
    curve, seconds = [], 0.0
    for updates, values in sorted(logs.read(str(log)).parts.get("valid", {}).items()):
        seconds += values["seconds"]
        losses = {name: values[f"{name}_loss"] for name in LOSSES if f"{name}_loss" in values}
        curve.append({"updates": updates, **losses, "seconds": round(seconds, 2)})
    if not curve:
        raise PMLMError(f"{log}: no validation; is this the log of a finished training?")
    return curve


def save(figure, path: Path) -> None:
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def draw_curves(
    path: Path, curves: Mapping[str, Sequence[Sequence[dict]]], tokens_per_update: int, colours: Mapping[str, str]
) -> None:
    """Validation losses of each system, a line for each seed, by original tokens and by time.

    Args:
        path: the picture.
        curves: system -> for each seed, its curve.
        tokens_per_update: original tokens.
        colours: of the systems.
    """
    shown = [name for name in ("ae", "par") if any(name in curve[0] for seeds in curves.values() for curve in seeds)]
    if not shown:
        return
    figure, axes = plt.subplots(len(shown), 2, figsize=(11, 3.6 * len(shown)), squeeze=False, sharey="row")
    for row, name in zip(axes, shown, strict=True):
        for system, seeds in curves.items():
            for number, curve in enumerate(curve for curve in seeds if name in curve[0]):
                label = system if number == 0 else None
                values = [point[name] for point in curve]
                style = {"color": colours[system], "marker": ".", "alpha": 0.8, "label": label}
                row[0].plot([point["updates"] * tokens_per_update / 1e6 for point in curve], values, **style)
                row[1].plot([point["seconds"] / 60 for point in curve], values, **style)
        row[0].set_ylabel(f"{name.upper()} loss, bits, all masked tokens")
        row[0].set_xlabel("original tokens, millions")
        row[1].set_xlabel("minutes of training")
        row[0].legend()
    save(figure, path)


def draw_infilling(
    path: Path,
    lengths: Sequence[int],
    rows: Mapping[tuple[str, str], tuple[Sequence[float], Sequence[float]]],
    colours: Mapping[str, str],
) -> None:
    """Tokens right, in percent, and bits of the truth by length of the span: a line style for each method."""
    methods = list(dict.fromkeys(method for _, method in rows))
    styles = list(zip(("-", "--", "-.", ":", "-"), "osv^x", strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(13, 5))
    for (system, method), parts in rows.items():
        line, marker = styles[methods.index(method) % len(styles)]
        style = {"color": colours[system], "linestyle": line, "marker": marker, "alpha": 0.8}
        for axis, values in zip(axes, parts, strict=True):
            axis.plot(lengths, values, label=f"{system}, {method}", **style)
    for axis, label in zip(axes, ("tokens right, %", "loss of the truth, bits a token"), strict=True):
        axis.set_xlabel("tokens of the span")
        axis.set_ylabel(label)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    save(figure, path)


def draw_scores(path: Path, scores: Mapping[str, Sequence[float]], title: str, colours: Mapping[str, str]) -> None:
    """A line for the mean of each system, and a dot for each seed."""
    figure, axes = plt.subplots(figsize=(1.5 + 1.2 * len(scores), 3.6))
    for i, (system, values) in enumerate(scores.items()):
        axes.plot([i - 0.25, i + 0.25], [sum(values) / len(values)] * 2, color=colours[system], linewidth=3, alpha=0.6)
        axes.plot([i] * len(values), values, "k.", alpha=0.8)
    axes.margins(x=0.1, y=0.15)
    axes.grid(axis="y", alpha=0.3)
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set_title(title, fontsize=10)
    save(figure, path)
