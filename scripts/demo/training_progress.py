#!/usr/bin/env python
"""Show how a training goes: reads what ``fairseq-train --log-format json`` prints and keeps one line of it up to date.

    fairseq-train ... --log-format json 2>&1 | python scripts/demo/training_progress.py

Losses, speed and what is left on a terminal, a line now and then elsewhere; validation results, warnings and errors
always. Exits with status 1 if the training did not say that it was done.
"""

import json
import re
import sys
import time

LOGGED = re.compile(r"\| (INFO|WARNING|ERROR) \| (\S+) \| (.*)$")
SHOWN = ("loss", "ae_loss", "par_loss", "nll_loss", "ae_accuracy", "par_accuracy", "accuracy", "score")
SHOWN += ("exact", "f1", "best_f1", "lr", "wps")


def main():
    done, updates, shown_at = False, None, 0.0
    terminal = sys.stdout.isatty()
    for line in sys.stdin:
        line = line.rstrip("\n")
        match = LOGGED.search(line)
        if match is None:
            if line.startswith(("fairseq_pmlm: error", "Traceback")) or "Error" in line:
                print(line, file=sys.stderr)
            continue
        level, source, text = match.groups()
        done = done or text.startswith("done training")
        found = re.search(r"'max_update': (\d+)", text)
        updates = int(found.group(1)) if found and updates is None else updates
        if source in ("train_inner", "valid") and text.startswith("{"):
            values = json.loads(text)
            if source == "train_inner" and not terminal and time.monotonic() - shown_at < 15:
                continue
            shown_at = time.monotonic()
            end = "\r" if terminal and source == "train_inner" else "\n"
            print(f"{summary(source, values, updates):<{110 if terminal else 1}}", end=end, flush=True)
        elif level != "INFO":
            print(f"{level.lower()}: {text}")
    if not done:
        sys.exit(1)


def summary(source, values, updates):
    """One line of the values that matter."""
    plain = {key.removeprefix(f"{source}_"): value for key, value in values.items()}
    parts = [f"{key} {plain[key]}" for key in SHOWN if key in plain]
    name = "training" if source == "train_inner" else "validation"
    return f"  {name}  {plain.get('num_updates', '?')}/{updates or '?'} updates  " + "  ".join(parts)


if __name__ == "__main__":
    main()
