"""fairseq's own translation on toy pairs, started as by its console scripts: the warnings are those that users see."""

import os
import shlex
import subprocess
import sys

import numpy as np
import torch
from commands import ROOT
from fairseq.data import Dictionary, indexed_dataset

SENTENCES = 37
MODEL = shlex.split(
    "--task translation --arch transformer_iwslt_de_en --encoder-layers 1 --decoder-layers 1 "
    "--encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 2 "
    "--decoder-embed-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2 "
    "--optimizer adam --lr 0.01 --max-tokens 64 --cpu --num-workers 0"
)

# a second user module: shows what each process trains, and gives warnings of its own, where the user's code would
SPY = """
import os, warnings
{imports}
from fairseq.trainer import Trainer

train_step = Trainer.train_step

def spy(self, samples, *args, **kwargs):
    result = train_step(self, samples, *args, **kwargs)
    weights = sum(p.detach().double().abs().sum().item() for p in self.model.parameters())
    ids = [int(i) for sample in samples if sample for i in sample["id"]]
    print("SPY", self.get_num_updates(), repr(weights), ids, flush=True)
    return result

Trainer.train_step = spy
warnings.warn("a user's own UserWarning")
warnings.warn("a user's own FutureWarning", FutureWarning)
warnings.warn("a user's own DeprecationWarning: shown in __main__ only, unless asked for", DeprecationWarning)
"""


def fairseq(command, *args, check=True, **env):
    """Run one of fairseq's commands as its console script does."""
    return finish(start(command, *args, **env), check)


def start(command, *args, **env):
    code = f"import sys; from fairseq_cli.{command} import cli_main; sys.exit(cli_main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], env=environment, stdout=-1, stderr=-1, text=True
    )


def finish(process, check=True):
    stdout, stderr = process.communicate(timeout=600)
    assert not check or process.returncode == 0, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def train_toy(toy):
    """Make a data set of 37 sentence pairs, three user modules, and the checkpoint of a real fairseq-train."""
    random = np.random.default_rng(0)
    dictionary = Dictionary()
    for symbol in "abcdefgh":
        dictionary.add_symbol(symbol, 10)
    (toy / "bin").mkdir()
    for language in ("s", "t"):
        dictionary.save(str(toy / f"bin/dict.{language}.txt"))
        for split in ("train", "valid", "test"):
            path = str(toy / f"bin/{split}.s-t.{language}")
            builder = indexed_dataset.make_builder(path + ".bin", "mmap", vocab_size=len(dictionary))
            for _ in range(SENTENCES):
                sentence = random.integers(dictionary.nspecial, len(dictionary), random.integers(1, 8))
                builder.add_item(torch.tensor([*sentence, dictionary.eos()]))
            builder.finalize(path + ".idx")
    for name, imports in ("spy", "import fairseq_pmlm"), ("bare", ""), ("half", "HALF"):
        # "half" mends the first of the two places that load, as a user would: by allowing the options
        half = "import argparse, torch; torch.serialization.add_safe_globals([argparse.Namespace])"
        (toy / name).mkdir()
        (toy / name / "__init__.py").write_text(SPY.format(imports=half if imports == "HALF" else imports))
    options = [toy / "bin", *MODEL, "--max-epoch", 1, "--save-dir", toy / "ck", "--disable-validation"]
    toy_run = fairseq("train", *options, "--user-dir", toy / "spy")
    assert "num_updates" in toy_run.stdout
    (toy / "train.stdout").write_text(toy_run.stdout)
    (toy / "train.stderr").write_text(toy_run.stderr)


def noise(stderr):
    """Lines of warnings that are not the user's own, and log lines for developers."""
    lines = [line for line in stderr.splitlines() if "Warning" in line or "DEBUG" in line]
    return [line for line in lines if "a user's own" not in line]
