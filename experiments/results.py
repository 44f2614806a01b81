"""RESULTS.md and the charts of experiments/objectives.py, from its results alone."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from curves import draw_curves, draw_infilling, draw_scores
from found import ALL, FIRST, LATER, Results
from measure import LENGTHS, METHODS
from paired import Difference, difference
from settings import LONGER

from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import write_text

NAMES = {
    "none": "random weights",
    "ae": "AE",
    "par": "PAR",
    "ae+par": "AE+PAR",
    "ar": "AR",
    "ae+ar": "AE+AR",
    "ae+par-relative": "AE+PAR, relative positions",
    "ae-longer": "AE, as long as AE+PAR takes",
    "par-longer": "PAR, as long as AE+PAR takes",
    "corrupted": "AE+PAR, [P] corrupted",
    "par-corrupted": "PAR, [P] corrupted",
}
COLOURS = {name: f"C{number}" for number, name in enumerate(NAMES.values())}  # the same in all charts
ASKED = {
    "corrupted": "[P] slots corrupted 80/10/10 with the draw of [M]",
    "par-corrupted": "PAR, [P] slots corrupted 80/10/10",
    "hidden-kept": "[M] slots that show no [M] hidden from [P]",
    "one-symbol": "one embedding for [P] and [M]",
    "blind-originals": "originals of one step do not see each other",
    "no-placeholders": "PAR without [M] placeholders",
}
# Table 6 of the paper, where a task is one of its own: models of base size, Wikipedia and BookCorpus
PAPER = {"sst2": {"ae+par-relative": 93.2, "ae+par": 93.0, "ae+ar": 92.6, "ae": 92.4, "par": 92.5, "ar": 92.3}}
LIMITS = """\
* {seeds} and one size, {layers} layers of width {width}, on {words} of text: far from the paper's 12 layers of 768 and
  16 GB. Differences of the paper's size (0.5 points of accuracy) are smaller than most intervals here.
* Intervals are 95 % for new items and new trainings (paired t, crossed random effects); with one seed they
  are about these trainings alone. No correction for the number of comparisons.
* Losses are in bits a masked token, where the [M] slot shows [M], unless it is said: elsewhere both objectives see what
  the slot shows. Learning curves, and the differences by updates, are of all masked tokens.
* The vocabulary, the learning rate and the schedule are the same for all systems, and not the best for each: PAR alone
  without corrupted [P] slots starts the later the higher the rate is. A longer training has a longer schedule, so its
  curve lies above or below another one's halfway.
* Times are those of the processor in training steps, without validation; of the clock, on a GPU."""


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return ""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def compare_losses(
    results: Results, first: tuple[str, str], second: tuple[str, str], steps=ALL, shown=True
) -> Difference | None:
    """Loss of (system, name) minus that of another, with the seeds that both have; None without any, or any token."""
    a, b = (results.losses(*which, steps, shown) for which in (first, second))
    seeds = sorted(a.keys() & b.keys())
    if not seeds or not a[seeds[0]][1].any():
        return None
    if not all(np.array_equal(x[seed][1], a[seeds[0]][1]) for x in (a, b) for seed in seeds):
        raise PMLMError(
            f"{first[0]} and {second[0]} were measured on different texts; give each text an --out of its own"
        )
    return difference([a[s][0] for s in seeds], [b[s][0] for s in seeds], a[seeds[0]][1])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]] + [""]


def loss_section(results: Results, systems: Sequence[str]) -> list[str]:
    """Validation losses of each system, and the two comparisons of "one pass, two objectives"."""
    rows = []
    if results.entropy is not None:
        rows.append(["frequencies of the tokens alone", "", "", "", *[f"{results.entropy:.2f}"] * 6])
    for system in systems:
        if not (seeds := results.seeds(system)):
            continue
        trained = [results.trained[system][seed] for seed in seeds]
        tokens = statistics.mean(t["tokens"] / 1e6 for t in trained)  # differ where time is what is equal
        cells = [NAMES[system], str(len(seeds)), f"{tokens:.1f}", spread(results.minutes(system, seeds))]
        for name, steps, shown in (
            ("ae", ALL, True),
            ("ae", ALL, False),
            ("par", FIRST, True),
            ("par", LATER, True),
            ("par", ALL, True),
            ("ar", ALL, True),
        ):
            losses = results.losses(system, name, steps, shown).values()
            cells.append(spread([sums.sum() / counts.sum() for sums, counts in losses if counts.any()]))
        rows.append(cells)
    header = ["", "seeds", "M tokens", "minutes", "AE", "AE, slot shows a token"]
    header += ["PAR, first step", "PAR, later steps", "PAR, all", "AR, all"]
    lines = ["## Validation losses", "", *table(header, rows), "![learning curves](charts/curves.png)", ""]
    pairs = [
        ("AE loss, equal tokens", ("ae+par", "ae"), ("ae", "ae")),
        ("AE loss, equal time", ("ae+par", "ae"), ("ae-longer", "ae")),
        ("PAR loss, equal tokens", ("ae+par", "par"), ("par", "par")),
        ("PAR loss, equal time", ("ae+par", "par"), ("par-longer", "par")),
        ("PAR loss, equal tokens", ("ae+par", "par"), ("par-corrupted", "par")),
        ("PAR loss, equal tokens", ("corrupted", "par"), ("par-corrupted", "par")),
        ("AE loss", ("ae+ar", "ae"), ("ae", "ae")),
        ("AR loss", ("ae+ar", "ar"), ("ar", "ar")),
        ("AE loss", ("ae+par-relative", "ae"), ("ae+par", "ae")),
        ("PAR loss", ("ae+par-relative", "par"), ("ae+par", "par")),
    ]
    rows = []
    for what, first, second in pairs:
        if cells := compared_cells(results, first, second):
            if "time" in what:
                seeds = results.seeds(first[0], second[0])
                minutes = [f"{statistics.mean(results.minutes(which[0], seeds)):.1f}" for which in (first, second)]
                what += f" ({' and '.join(minutes)} minutes)"
            rows.append([what, f"{NAMES[first[0]]} − {NAMES[second[0]]}", *cells])
    for steps, said in ((FIRST, "first step"), (LATER, "later steps")):
        if cells := compared_cells(results, ("ae+par", "par"), ("ae+par", "ae"), steps):
            rows.append([f"{said}, one model", "PAR − AE of AE+PAR", *cells])
    if rows:
        header = ["loss, bits", "difference", "where [M] shows [95 %]", "where a token shows", "seeds"]
        lines += table([*header, "where [M] shows, the first is"], rows)
    return lines


def compared_cells(results: Results, first: tuple[str, str], second: tuple[str, str], steps=ALL) -> list[str]:
    """What two losses differ by, at slots that show [M] and at those that show a token, the seeds, and the verdict."""
    found = compare_losses(results, first, second, steps)
    if not found:
        return []
    elsewhere = compare_losses(results, first, second, steps, shown=False)
    return [str(found), str(elsewhere or ""), str(found.seeds), found.verdict(True)]


def curve_section(results: Results) -> list[str]:
    """How the differences went during training, at equal tokens."""
    both, header, rows = results.trained.get("ae+par", {}), [], []
    for system, name in (("ae", "ae"), ("par", "par")):
        single = results.trained.get(system, {})
        gaps: dict[int, list[float]] = {}
        for seed in sorted(both.keys() & single.keys()):
            theirs = {point["updates"]: point[name] for point in single[seed]["curve"]}
            for point in both[seed]["curve"]:
                if point["updates"] in theirs:
                    gaps.setdefault(point["updates"], []).append(point[name] - theirs[point["updates"]])
        if gaps:
            header = header or ["bits, all masked tokens, after updates", *map(str, gaps)]
            rows.append([f"{name.upper()} loss, AE+PAR − {NAMES[system]}", *map(spread, gaps.values())])
    return table(header, rows) if rows else []


def infilling_section(results: Results, systems: Sequence[str]) -> list[str]:
    """Spans of held-out text, by length, and what the steps are worth."""
    rows, drawn = [], {}
    for system in systems:
        for method in METHODS:
            per_seed = [m for s in results.seeds(system) if f"right.{method}" in (m := results.measures(system, s))]
            if not per_seed:
                continue
            cells, accuracies = [], []
            for lengths in [*([n] for n in LENGTHS), list(LENGTHS)]:
                exact, right = [], []
                for m in per_seed:
                    chosen = np.isin(m["length"], lengths)
                    exact.append(100 * m[f"exact.{method}"][chosen].mean())
                    right.append(100 * m[f"right.{method}"][chosen].sum() / m["length"][chosen].sum())
                cells.append(f"{statistics.mean(exact):.1f} / {statistics.mean(right):.1f}")
                accuracies.append(statistics.mean(right))
            bits = spread([np.average(m[f"bits.{method}"], weights=m["length"]) for m in per_seed])
            rows.append([NAMES[system], method, *cells, bits])
            by_length = [
                statistics.mean(m[f"bits.{method}"][m["length"] == n].mean() for m in per_seed) for n in LENGTHS
            ]
            drawn[NAMES[system], method] = accuracies[:-1], by_length
    if not rows:
        return []
    draw_infilling(results.out / "charts" / "infilling.png", list(LENGTHS), drawn, COLOURS)
    header = ["", "filled", *(f"{n}" for n in LENGTHS), "all", "bits of the truth"]
    lines = [
        "## Infilling of held-out text",
        "",
        "Spans of 1 to 6 tokens: whole span right / tokens right, in percent; and the loss of what really stands "
        "there, in bits a token. A span of one token takes one step: all orders are one.",
        "",
        *table(header, rows),
        "![infilling](charts/infilling.png)",
        "",
    ]
    at_once, right, left = "at once, [M]", "left to right", "right to left"
    pairs = [(("ae+par", m), ("ae+par", at_once)) for m in METHODS if m != at_once]
    pairs += [(("ae+par", m), ("ae+par", right)) for m in (left, "random order")]
    pairs += [(("ae+par", m), ("ae", at_once)) for m in (at_once, right)]
    pairs += [(("ae+par", right), ("par", right)), (("par", right), ("ae", at_once))]
    rows = []
    for first, second in pairs:
        a, b = (
            {s: m for s in results.seeds(system) if f"right.{method}" in (m := results.measures(system, s))}
            for system, method in (first, second)
        )
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            continue
        several = a[seeds[0]]["length"] > 1
        lengths = a[seeds[0]]["length"][several].astype(float)
        cells = []
        for name, scale, weights in (("exact", 100, None), ("right", 100, lengths), ("bits", lengths, lengths)):
            values = [
                [m[f"{name}.{w[1]}"][several] * scale for m in (x[s] for s in seeds)]
                for x, w in ((a, first), (b, second))
            ]
            cells.append(difference(*values, weights))
        label = [f"{NAMES[system]}, {method}" for system, method in (first, second)]
        rows.append([" − ".join(label), *map(str, cells), str(len(seeds)), cells[2].verdict(True)])
    if rows:
        header = ["spans of 2 to 6 tokens", "whole span", "tokens", "bits of the truth", "seeds"]
        lines += table([*header, "bits: the first is"], rows)
        lines += [
            "At once, every token is the most probable one by itself, which is best for single tokens and ignores "
            "whether they go together; step by step, beam search looks for the most probable span. So even of a "
            "perfect model single tokens are right more often at once. What a model knows of the span is the loss of "
            "the truth.",
            "",
        ]
    return lines


def task_section(results: Results, tasks: Mapping, systems: Sequence[str], paper: Mapping) -> list[str]:
    """Scores of each task with mean and deviation, and paired differences; *paper* as :data:`PAPER`."""
    lines = []
    for task, found in results.scores.items():
        lines += [f"## {tasks[task].title}: {tasks[task].metric}", ""]
        rows, means = [], {}
        for system in ("none", *systems):
            if system not in found:
                continue
            means[NAMES[system]] = [float(items.mean()) for _, items in sorted(found[system].items())]
            row = [
                NAMES[system],
                spread(means[NAMES[system]]),
                ", ".join(f"{value:.2f}" for value in means[NAMES[system]]),
            ]
            for first, second in ((system, "none"), ("ae+par", system)):
                seeds = sorted(found.get(first, {}).keys() & found.get(second, {}).keys())
                if first == second or not seeds:
                    row += ["", ""]
                    continue
                gap = difference([found[first][s] for s in seeds], [found[second][s] for s in seeds])
                row += [str(gap), gap.verdict()]
            rows.append([*row, str(paper[task].get(system, ""))] if task in paper else row)
        count = len(next(iter(next(iter(found.values())).values())))
        header = [f"{count:,} test items", "mean ± deviation", "each seed", "this − random weights [95 %]", "this is"]
        header += ["AE+PAR − this [95 %]", "AE+PAR is"] + ["the paper's model"] * (task in paper)
        draw_scores(
            results.out / "charts" / f"{task}.png", means, f"{tasks[task].title}: {tasks[task].metric}", COLOURS
        )
        lines += [*table(header, rows), f"![{tasks[task].title}](charts/{task}.png)", ""]
    return lines


def question_section(results: Results, questions: Mapping) -> list[str]:
    """The open questions, each beside the default."""
    rows = []
    for name, (_, _, default) in questions.items():
        for loss in ("ae", "par"):
            if cells := compared_cells(results, (name, loss), (default, loss)):
                rows.append([ASKED[name], f"{loss.upper()} loss", NAMES[default], *cells])
    if not rows:
        return []
    header = ["changed", "bits", "default", "changed − default where [M] shows", "where a token shows", "seeds"]
    header.append("where [M] shows, the change is")
    return ["## What the paper leaves open", "", *table(header, rows)]


def write_report(
    out: Path, setting, systems: Mapping, questions: Mapping, tasks: Mapping, results: Sequence[dict], command: str
):
    """Write ``OUT/RESULTS.md`` and ``OUT/charts`` anew.

    Args:
        out: directory of the experiment.
        setting: its scale.
        systems, questions, tasks: all there are, by name.
        results: of the jobs that are done.
        command: how it was started last.
    """
    found = Results(out, results)
    (out / "charts").mkdir(exist_ok=True)
    compared = [name for name in (*systems, "par-corrupted") if found.trained.get(name)]
    shown = [*compared, *(name for name in LONGER if found.trained.get(name))]
    if found.trained:
        curves = {NAMES[name]: [r["curve"] for _, r in sorted(found.trained[name].items())] for name in shown}
        draw_curves(out / "charts" / "curves.png", curves, setting.batch * (setting.block - 3), COLOURS)
    seeds = max((len(found.seeds(name)) for name in shown), default=0)
    relative = "--relative-positions" in setting.model  # then the paper's table has but one of its systems
    lines = [
        "# Results",
        "",
        "The paper's objectives, compared at a scale that a small machine carries, and the questions that it leaves "
        "open. This page and its charts are written by the command below; run it again to go on.",
        "",
        "```bash",
        "bash experiments/text.sh TEXT [MORE_TEXT ...]",
        command,
        "```",
        "",
        f"{len(results)} jobs are done. Text: {found.words:,} words. Models: {setting.layers} "
        f"layers of width {setting.width}{', with relative positions' * relative}; "
        f"{setting.updates:,} updates of {setting.batch} blocks of {setting.block} "
        "tokens. A mean stands beside its standard deviation over seeds.",
        "",
        *(loss_section(found, shown) if found.files else ["No model has been measured yet.", ""]),
        *curve_section(found),
        *infilling_section(found, compared),
        *task_section(found, tasks, shown, {} if relative else PAPER),
        *question_section(found, questions),
        "## Limits",
        "",
        LIMITS.format(
            seeds={0: "No seed so far", 1: "One seed"}.get(seeds, f"At most {seeds} seeds"),
            layers=setting.layers,
            width=setting.width,
            words=f"{found.words / 1e6:.1f} million words",
        ),
    ]
    write_text(out / "RESULTS.md", "\n".join(lines).rstrip() + "\n")
