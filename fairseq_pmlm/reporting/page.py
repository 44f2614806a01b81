"""What runs of ``fairseq-train`` have logged as one page of HTML, which needs no network and runs no script."""

import html
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import matplotlib
import numpy as np

from ..scoring import hypotheses
from ..utils.errors import PMLMError
from . import logs as training_logs

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

POINTS = 1500  # of a curve; more are averaged
MOST_SCORES = 200  # of a run; more are nothing to look at
# title, what is logged, unit
CHARTS = [
    ("Loss", ("loss",), "bits"),
    ("AE and PAR", ("ae_loss", "par_loss", "ar_loss"), "bits per masked token"),
    ("Loss of the target", ("nll_loss",), "bits per token"),
    ("Accuracy", ("ae_accuracy", "par_accuracy", "ar_accuracy", "accuracy"), "%"),
    ("Speed", ("wps", "slots_per_second"), "tokens, slots per second"),
    ("Masked tokens", ("masked_per_second",), "per second"),
    ("Learning rate", ("lr",), ""),
    ("Gradient norm", ("gnorm",), ""),
    ("Padding", ("padding",), "% of the slots"),
    ("Loss scale", ("loss_scale",), ""),
]
OF_TRAINING = {"wps", "slots_per_second", "masked_per_second", "padding"}  # what validation says of these misleads
# of validation, whatever else is logged and no speed, count or perplexity
NO_SCORES = re.compile(r"(.*_)?(loss|wps|wpb|bsz|ups|wall|ppl|nmasked|padding|lr|gnorm|epoch|update|.*_per_second)")
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1240px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #8886; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 1rem; }
figure { margin: 0; background: #fff; border-radius: 6px; } figure svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; margin: .8rem 0; }
td, th { padding: .25rem .7rem; text-align: left; vertical-align: top; }
tr + tr { border-top: 1px solid #8884; } .n { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } .text td { overflow-wrap: anywhere; } .muted { opacity: .7; }
"""


@dataclass
class Run:
    """One log of training, and what lies beside it."""

    name: str
    log: training_logs.Log
    samples: list[hypotheses.Record] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)


def find_runs(paths: list[str]) -> list[Run]:
    """The runs in directories and logs.

    Raises:
        PMLMError: there is no such file, or nothing logged in it.
    """
    runs = []
    for path in paths:
        if not os.path.exists(path):
            raise PMLMError(f"{path}: no such file or directory")
        folders = [path, os.path.join(path, "logs")] if os.path.isdir(path) else []
        files = [os.path.join(folder, file) for folder in folders if os.path.isdir(folder)
                 for file in sorted(os.listdir(folder))] or [path]  # fmt: skip
        files = [f for f in files if os.path.isfile(f)]  # what waits for a writer would be waited for
        texts = [f for f in files if f.endswith((".log", ".txt", ".out", ".jsonl")) or (f == path and not folders)]
        found: dict[str, training_logs.Log] = {}  # by what they say: --log-file and the output say the same
        for log in map(training_logs.read, texts):
            if log.train or log.parts:
                # as text, in which NaN is equal to itself; only the output says what is a warning
                found.setdefault(repr((log.train, log.parts)), log).trouble |= log.trouble
        logs = list(found.values())
        if not logs:
            raise PMLMError(
                f"{path}: nothing logged by fairseq-train --log-format json"
                + (" in any file that ends in .log, .txt, .out or .jsonl" if folders else "")
            )
        samples, scores = read_samples(texts), read_scores([f for f in files if f.endswith(".json")])
        for log in logs:
            within = os.path.relpath(log.path, path) if len(logs) > 1 and folders else ""
            runs.append(Run(os.path.join(os.path.basename(os.path.normpath(path)), within).rstrip("/"), log))
        runs[-len(logs)].samples, runs[-len(logs)].scores = samples, scores
    return runs


def read_samples(files: list[str]) -> list[hypotheses.Record]:
    """The texts in the first file that is the whole output of fairseq-generate."""
    for file in files:
        with open(file, encoding="utf-8", errors="replace") as f:
            if not any(line.startswith("D-") for line in f):
                continue
        try:
            return hypotheses.read_generate(file)
        except PMLMError as error:
            print(f"note: {error}")
    return []


def read_scores(files: list[str]) -> dict[str, float]:
    """The first ``MOST_SCORES`` numbers in JSON files, under names of file and keys: ``scores.json rouge1 mean``."""
    found: dict[str, float] = {}

    def visit(name, value, depth):
        if isinstance(value, dict) and depth < 4:
            for key, part in value.items():
                visit(f"{name} {key}", part, depth + 1)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name[:200]] = value

    for file in files:
        try:
            with open(file, encoding="utf-8") as f:
                visit(os.path.basename(file), json.load(f), 0)
        except (OSError, ValueError, RecursionError) as error:
            print(f"note: {file} is left out ({type(error).__name__})")
    if len(found) > MOST_SCORES:
        print(f"note: {len(found):,} numbers in {' '.join(files)}; the first {MOST_SCORES} are shown")
    return dict(itertools.islice(found.items(), MOST_SCORES))


def thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most :data:`POINTS` points, each the mean of its neighbours."""
    width = -(-len(points) // POINTS)
    groups = (points[i : i + width] for i in range(0, len(points), max(width, 1)))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def draw(runs: list[Run], title: str, keys: tuple[str, ...], unit: str, parts: tuple[str, ...]) -> str:
    """A chart as SVG: curves of training, dots of *parts*; empty if nothing of it was logged."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False, "font.size": 9}):
        figure, axes = plt.subplots(figsize=(5, 2.9), layout="constrained")
        drawn, finite = 0, []
        over_tokens = all(run.log.tokens() for run in runs)
        for i, run in enumerate(runs):
            at = tokens_after(run.log.tokens()) if over_tokens else float
            parts = () if OF_TRAINING.issuperset(keys) else parts
            shown = [key for key in keys if run.log.curve(key) or any(run.log.curve(key, part) for part in parts)]
            for j, key in enumerate(shown):
                color = f"C{(i * max(2, len(shown)) + j) % 10}"
                name = " ".join(filter(None, (run.name if len(runs) > 1 else "", key if len(shown) > 1 else "")))
                name = re.sub("^_", " _", name)  # matplotlib hides a label that begins with "_"
                curve = [(at(updates), y) for updates, y in run.log.curve(key)]
                axes.plot(*columns(thin(curve)), color=color, linewidth=1.1, label=name or None)
                finite += [y for _, y in curve if math.isfinite(y)]
                for part in parts:
                    dots = [(at(updates), y) for updates, y in run.log.curve(key, part)]
                    label = f"{name} {part}".strip() if dots else None
                    axes.plot(*columns(dots), "o", markersize=3.5, color=color, label=label)
                    drawn += len(dots)
                drawn += len(curve)
        if drawn:
            axes.set(title=title, xlabel="tokens" if over_tokens else "updates", ylabel=unit)
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            if max(map(abs, finite), default=0) >= 1e4:
                axes.yaxis.set_major_formatter(EngFormatter(sep=""))
            axes.spines[["top", "right"]].set_visible(False)
            if finite and min(finite) > 0 and max(finite) > 50 * sorted(finite)[len(finite) // 2]:
                axes.set_yscale("log")  # one outlier would flatten the rest
            if any(str(line.get_label())[0] != "_" for line in axes.lines):
                axes.legend(frameon=False, fontsize=7)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return out.getvalue()[out.getvalue().index("<svg") :] if drawn else ""


def tokens_after(tokens: dict[int, float]) -> Callable[[int], float]:
    """A function of updates: the tokens seen by then, in proportion between the entries of the log."""
    updates, seen = [0, *tokens], [0.0, *tokens.values()]
    return lambda number: float(np.interp(number, updates, seen))


def columns(points):
    """Points as a list of x and a list of y."""
    return [x for x, _ in points], [y for _, y in points]


def table(header: list[str], rows: list[list[str]], kind: str = "") -> str:
    """An HTML table; all cells are text, and escaped. Numbers are set to the right."""

    def cell(text, tag="td"):
        number = re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?", text)
        return f"<{tag}{' class=n' if number else ''}>{html.escape(text)}</{tag}>"

    head = "".join(cell(text, "th") for text in header)
    body = "".join(f"<tr>{''.join(cell(text) for text in row)}</tr>" for row in rows)
    return f'<div class=wide><table class="{kind}"><tr>{head}</tr>{body}</table></div>'


def summary(runs: list[Run]) -> str:
    """A table with what each run came to."""
    rows = []
    for run in runs:
        tokens, entries = run.log.tokens(), run.log.train
        last = entries[max(entries)] if entries else {}
        best = min((y for _, y in run.log.curve("loss", "valid") if math.isfinite(y)), default=None)
        speeds = sorted(y for _, y in run.log.curve("wps"))
        cells = {
            "run": run.name,
            "updates": number(max([*entries, *(updates for part in run.log.parts.values() for updates in part)])),
            "tokens": f"{max(tokens.values()):,.0f}" if tokens else "",
            **{key: number(last.get(key)) for key in ("loss", "ae_loss", "par_loss")},
            "best validation loss": number(best),
            "tokens/s": f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "",
            "warnings": number(sum(run.log.trouble.values())),
            "broken lines": number(run.log.unreadable),
        }
        rows.append(list(cells.values()))
    return table(list(cells), rows)


def number(value) -> str:
    """A number for a table; empty for None."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def page(runs: list[Run], shown: int) -> str:
    """The whole page."""
    parts = tuple(dict.fromkeys(part for run in runs for part in run.log.parts if part != "train"))
    charts = [draw(runs, title, keys, unit, parts) for title, keys, unit in CHARTS]
    keys = {key for run in runs for part in parts for values in run.log.parts.get(part, {}).values() for key in values}
    known = {key for _, names, _ in CHARTS for key in names}
    scores = sorted(key for key in keys - known if not NO_SCORES.fullmatch(key))
    charts += [draw(runs, f"Validation: {key}", (key,), "", parts) for key in scores[:12]]
    body = [f"<h1>{html.escape(', '.join(run.name for run in runs))}</h1>", summary(runs)]
    body += ["<h2>Training</h2><div class=charts>", *(f"<figure>{svg}</figure>" for svg in charts if svg), "</div>"]
    names = sorted({name for run in runs for name in run.scores})
    if names:
        rows = [[name, *(number(run.scores.get(name)) for run in runs)] for name in names]
        body += ["<h2>Scores</h2>", table(["", *(run.name for run in runs)], rows)]
    sampled: dict[tuple, list[Run]] = {}  # by their data
    for run in runs:
        if run.samples:
            sampled.setdefault(tuple(record.source for record in run.samples), []).append(run)
    if sampled:
        body += ["<h2>Samples</h2>", *(sample_table(alike, shown) for alike in sampled.values())]
    trouble = [[run.name, text, str(count)] for run in runs for text, count in run.log.trouble.most_common(20)]
    if trouble:
        body += ["<h2>Warnings and errors</h2>", table(["run", "message", "times"], trouble, "text")]
    # the policy is a second lock: all text is escaped, and there is no script to begin with
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(runs[0].name)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join([*body, "</body></html>\n"])
    )


def sample_table(runs: list[Run], shown: int) -> str:
    """Inputs, references and the best hypothesis of each run, spread evenly over their common data."""
    count = len(runs[0].samples)
    rows = []
    for i in np.linspace(0, count, min(shown, count), endpoint=False, dtype=int).tolist():
        record = runs[0].samples[i]
        outputs = [run.samples[i].hypotheses[0] for run in runs]
        texts = [record.source or "", record.reference or "", *(f"{text} ({score:.2f})" for text, score in outputs)]
        rows.append([str(record.id), *(text if len(text) <= 1200 else text[:1200] + " ..." for text in texts)])
    note = f"<p class=muted>{len(rows)} of {count}; the best hypothesis, and its score in bits.</p>"
    return note + table(["", "source", "reference", *(run.name for run in runs)], rows, "text")
