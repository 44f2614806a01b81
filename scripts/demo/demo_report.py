#!/usr/bin/env python
"""Score the demo's models beside what needs no model, draw its losses, and show examples.

    python scripts/demo/demo_report.py demo-output

Writes report.txt (table and examples), scores.json, losses.png, and the hypotheses of each system as NAME.hyp.txt.
"""

import argparse
import json
import os
import random

import matplotlib
from baselines import shuffled

from fairseq_pmlm.reporting import logs as training_logs
from fairseq_pmlm.scoring.hypotheses import read_generate_output, read_segments
from fairseq_pmlm.scoring.rouge import score_rouge
from fairseq_pmlm.scoring.tokenizers import suggest_tokenizer
from fairseq_pmlm.utils.io import replacing, write_text

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SYSTEMS = {  # name of the hypotheses: what they are
    "finetune": "pre-trained and fine-tuned",
    "scratch": "fine-tuned only, for the same updates",
    "shuffled": "the first, sources shuffled among the items",
    "nearest": "summary of the nearest training source (TF-IDF)",
    "constant": "best constant output, chosen on train",
    "first12": "first 12 words of the source",
    "lead": "first sentence of the source",
}
METRICS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", help="the demo's output directory")
    out = parser.parse_args().out
    data = os.path.join(out, "data", "pairs")
    sources, references = (read_segments(os.path.join(data, f"test.{side}.txt")) for side in ("src", "tgt"))
    hypotheses = {
        name: read_generate_output(os.path.join(out, f"{name}.generate.txt")) for name in ("finetune", "scratch")
    }
    hypotheses["shuffled"] = shuffled(hypotheses["finetune"], seed=1)
    for name in ("nearest", "constant", "first12", "lead"):
        hypotheses[name] = read_segments(os.path.join(out, "baselines", f"{name}.txt"))
    tokenizer = suggest_tokenizer(references)
    scores = {name: score_rouge(hypotheses[name], [references], tokenizer=tokenizer) for name in SYSTEMS}
    report = [table(scores), "", scores["finetune"].signature, "", verdict(scores), ""]
    report += examples(sources, references, hypotheses)
    for name in ("finetune", "scratch", "shuffled"):
        write_text(os.path.join(out, f"{name}.hyp.txt"), "\n".join(hypotheses[name]) + "\n")
    draw_losses(out)
    write_text(os.path.join(out, "report.txt"), "\n".join(report) + "\n")
    values = {name: {m: vars_of(scores[name].values[m]) for m in METRICS} for name in SYSTEMS}
    everything = {"signature": scores["finetune"].signature, **values}
    write_text(os.path.join(out, "scores.json"), json.dumps(everything, indent=1))


def vars_of(score):
    return {"mean": score.mean, "low": score.low, "high": score.high}


def table(scores):
    width = max(map(len, SYSTEMS.values()))
    lines = [f"{'':{width}}" + "".join(f"{title:>22}" for title in METRICS.values())]
    for name, what in SYSTEMS.items():
        cells = (scores[name].values[metric] for metric in METRICS)
        lines.append(f"{what:{width}}" + "".join(f"{s.mean:8.2f} [{s.low:5.2f}, {s.high:5.2f}]" for s in cells))
    return "\n".join(lines)


def verdict(scores):
    """Which systems the model beats on ROUGE-1 and ROUGE-L with intervals that do not overlap."""
    ours = scores["finetune"].values
    beaten = [
        name for name in SYSTEMS if name != "finetune"
        and all(ours[m].low > scores[name].values[m].high for m in ("rouge1", "rougeL"))
    ]  # fmt: skip
    rest = [name for name in SYSTEMS if name not in (*beaten, "finetune")]
    text = f"Above, with 95 % intervals that do not overlap on ROUGE-1 and ROUGE-L: {', '.join(beaten) or 'nothing'}."
    return text + (f"\nNot above: {', '.join(rest)}." if rest else "")


def examples(sources, references, hypotheses, count=5):
    for i in random.Random(7).sample(range(len(sources)), min(count, len(sources))):
        words = sources[i].split()
        yield f"source     {' '.join(words[:60])}{' ...' if len(words) > 60 else ''}"
        yield f"reference  {references[i]}"
        yield f"model      {hypotheses['finetune'][i]}"
        yield ""


def columns(points):
    """Points as a list of x and a list of y."""
    return [x for x, _ in points], [y for _, y in points]


def draw_losses(out):
    """losses.png: pre-training by objective, with the unigram entropy; fine-tuning with and without pre-training."""
    logs = os.path.join(out, "logs")
    with open(os.path.join(out, "loss_by_step.json"), encoding="utf-8") as f:
        entropy = json.load(f)["unigram_entropy"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    curves = [  # axes, log, what is logged, label, colour
        (left, "pretrain", "ae_loss", "AE", "C0"),
        (left, "pretrain", "par_loss", "PAR", "C3"),
        (right, "finetune", "nll_loss", "after pre-training", "C2"),
        (right, "scratch", "nll_loss", "from scratch", "C1"),
    ]
    for axes, log, key, label, color in curves:
        found = training_logs.read(os.path.join(logs, f"{log}.log"))
        axes.plot(*columns(found.curve(key)), color=color, alpha=0.8, label=label)
        axes.plot(*columns(found.curve(key, "valid")), "o", color=color, label=f"{label}, validation")
    left.axhline(entropy, color="gray", linestyle=":", label="unigram entropy of the text")
    left.set(title="Pre-training", xlabel="updates", ylabel="bits per masked token")
    right.set(title="Fine-tuning", xlabel="updates", ylabel="bits per target token")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    with replacing(os.path.join(out, "losses.png")) as temporary:
        figure.savefig(temporary, dpi=130)


if __name__ == "__main__":
    main()
