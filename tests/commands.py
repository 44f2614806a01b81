"""fairseq's real commands, and ours, on a small text and small pairs, started as a user starts them."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from fairseq_pmlm.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
USER_DIR = ["--user-dir", str(ROOT / "fairseq_pmlm")]
WORDS = [f"w{i}" for i in range(40)]
SMALL = [
    *("--encoder-layers", 2, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64),
    *("--encoder-attention-heads", 2, "--max-positions", 64),
]
OPTIMIZER = [
    *("--optimizer", "adam", "--lr", 0.003, "--lr-scheduler", "polynomial_decay", "--total-num-update", 100),
    *("--warmup-updates", 5, "--cpu", "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", 10),
    *("--validate-interval", 100, "--save-interval", 100),  # epochs are short here; the last update does both
]
SEQ2SEQ = ["--task", "pmlm_seq2seq", "--criterion", "pmlm_seq2seq", "--arch", "pmlm_tiny", *SMALL]
PRETRAIN = ["--task", "pmlm", "--criterion", "pmlm", "--arch", "pmlm_tiny", *SMALL, "--tokens-per-sample", "32"]


def command(name, *args, cwd=None, check=True, stdin=None):
    """Run fairseq-NAME with *args* in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"fairseq_cli.{name}", *map(str, args)],
        cwd=cwd, input=stdin, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def pmlm(name, *args, stdin=None, check=True):
    """Run ``pmlm NAME`` with *args* in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_pmlm", *name.split(), *map(str, args)],
        cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def call(name, *args):
    """Run ``pmlm NAME`` in this process, since a start takes seconds; raises what the command raises."""
    importlib.import_module(f"fairseq_pmlm.cli.{COMMANDS[name][0]}").main([str(arg) for arg in args])


def sentences(count, seed, low=4, high=14):
    """Text with some structure: each word is mostly followed by the next one."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        word, line = int(rng.integers(40)), []
        for _ in range(int(rng.integers(low, high))):
            line.append(WORDS[word])
            word = (word + 1) % 40 if rng.random() < 0.8 else int(rng.integers(40))
        yield " ".join(line)


def pretrain(work, save_dir, *options, updates=100, check=True):
    size = ["--max-tokens", 600, "--max-update", updates, "--save-dir", save_dir]
    return command("train", work / "text", *USER_DIR, *PRETRAIN, *OPTIMIZER, *size, *options, check=check)


def finetune(work, save_dir, *options, updates=60, check=True):
    size = ["--max-tokens", 1000, "--max-update", updates, "--save-dir", save_dir]
    return command("train", work / "pairs", *USER_DIR, *SEQ2SEQ, *OPTIMIZER, *size, *options, check=check)


def load(path):
    """A checkpoint's model and task, for direct calls."""
    from fairseq import checkpoint_utils

    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    return models[0].eval(), task


def logged(stdout, tag):
    """The JSON objects that fairseq logged under *tag*."""
    found = re.findall(rf"\| INFO \| {tag} \| (\{{.*\}})$", stdout, re.MULTILINE)
    return [json.loads(line) for line in found]


def hypotheses(stdout, kind="H"):
    """{id: [(score, text)]} of fairseq-generate's or -interactive's output."""
    found = {}
    for number, score, text in re.findall(rf"^{kind}-(\d+)\t(\S+)\t(.*)$", stdout, re.MULTILINE):
        found.setdefault(int(number), []).append((float(score), text))
    return found


def generate(work, path, *options, subset="test"):
    return command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        path,
        "--gen-subset",
        subset,
        "--cpu",
        *options,
    ).stdout


def interactive(work, path, source, *options, check=True):
    options = ["--task", "pmlm_seq2seq", "--path", path, "--cpu", "--buffer-size", 37, "--batch-size", 10, *options]
    return command("interactive", work / "pairs", *USER_DIR, *options, stdin=source, check=check)


def refused(done, *parts):
    """The command failed, and its last line on stderr is one clear line that holds all of *parts*."""
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "error" in last, done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    for part in parts:
        assert part in last, last
