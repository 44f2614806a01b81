"""Scores as a table, and as JSON."""

from collections.abc import Mapping, Sequence

from .base import Scores
from .compare import Difference


def format_table(*scores: Scores, differences: Mapping[str, Difference] = {}, notes: Sequence[str] = ()) -> str:
    """A table of one or several :class:`Scores` over the same hypotheses: name, score and interval.

    Below it stand the number of segments and of empty hypotheses, *notes*, and one signature per argument; then a
    second table of *differences* to another system, if there are any.
    """
    bootstrapped = any(value.low is not None for part in scores for value in part.values.values())
    width = max(10, *(len(name) for part in scores for name in part.values))
    lines = [f"{'metric':<{width}} {'score':>6}"]
    if bootstrapped:
        lines[0] += f"   {100 * scores[0].confidence:g} % interval"
    for part in scores:
        for name, value in part.values.items():
            bounds = "" if value.low is None else f"   {value.low:6.2f} .. {value.high:6.2f}"
            lines.append(f"{name:<{width}} {value.mean:6.2f}{bounds}")
    empty = f", {scores[0].empty} of them with an empty hypothesis" if scores[0].empty else ""
    lines.append(f"{scores[0].segments} segments{empty}")
    lines += [*notes, *(part.signature for part in scores)]
    if differences:
        lines += ["", f"{'difference':<10} {'':>6}   {100 * scores[0].confidence:g} % interval   p (paired bootstrap)"]
        for name, by in differences.items():
            lines.append(f"{name:<10} {by.mean:+6.2f}   {by.low:+6.2f} .. {by.high:+6.2f}   {by.p:.4f}")
    return "\n".join(lines)


def as_json(
    scores: Mapping[str, Scores], differences: Mapping[str, Difference] = {}, notes: Sequence[str] = ()
) -> dict:
    """What :func:`format_table` shows, by name; *scores* by the metric that was asked for."""
    first = next(iter(scores.values()))
    values = {name: value for part in scores.values() for name, value in part.values.items()}
    result = {
        "scores": {name: {"score": value.mean, "low": value.low, "high": value.high} for name, value in values.items()},
        "signatures": {metric: part.signature for metric, part in scores.items()},
        "confidence": first.confidence,
        "segments": first.segments,
        "empty": first.empty,
    }
    if differences:
        result["differences"] = {
            name: {"difference": value.mean, "low": value.low, "high": value.high, "p": value.p}
            for name, value in differences.items()
        }
    if notes:
        result["notes"] = list(notes)
    return result
