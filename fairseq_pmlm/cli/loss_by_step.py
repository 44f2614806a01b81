"""What a pre-trained model has learned: its losses by step of the factorization order, and the unigram entropy.

    pmlm loss-by-step data-bin/corpus --path checkpoints/checkpoint_best.pt

Losses are in bits per masked token of the validation text, at the places whose [M] slot shows [M]: where it shows the
original or a random token, both objectives see that token alike. At the first step the two objectives see the same; at
later steps the partially autoregressive one also sees the original tokens of the steps before.
"""

import argparse
import math
import os

import fairseq_pmlm.tasks  # noqa: F401  registers with fairseq; before fairseq, whose imports it keeps quiet

# isort: split
import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from tqdm import tqdm

from ..data.collate import OBJECTIVES
from ..data.indexed import unigram_entropy
from ..model.pmlm import Predict
from ..tasks.pmlm import PMLMTask
from ..utils.errors import PMLMError
from ..utils.io import check_output, write_json
from . import arguments

GROUPS = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 10**9)]  # first and last step


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("loss-by-step", __doc__)
    parser.add_argument("data", metavar="DATA", help="directory made by pmlm prepare text")
    arguments.add_checkpoint_arguments(parser, "pmlm")
    parser.add_argument("--user-dir", metavar="DIR", help="where the task of the checkpoint is, if not fairseq_pmlm")
    arguments.add_split_argument(parser, "part of the data to measure on")
    arguments.add_max_tokens_argument(parser, 8000, "slots of a batch")
    arguments.add_save_json_argument(parser, "the numbers, as JSON,")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    check_output(args.save_json, args.path, option="--save-json")
    try:
        utils.import_user_module(args)
    except FileNotFoundError as error:
        raise PMLMError(f"--user-dir {args.user_dir}: no such directory") from error
    try:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([args.path], arg_overrides={"data": args.data})
    except AssertionError as error:  # fairseq's, with all tasks that there are
        if "task" not in str(error):
            raise
        raise PMLMError(f"--path {args.path} was trained for a --task that is unknown; give its --user-dir") from error
    if not isinstance(task, PMLMTask):
        raise PMLMError(f"--path {args.path} was trained for {task.__class__.__name__}, not for --task pmlm")
    trained, task.cfg.objective = OBJECTIVES[str(task.cfg.objective)], "ae+par"  # every step is measured in both ways
    model = models[0].eval()
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    model.to(device)
    task.load_dataset(args.split)
    rows = np.concatenate(list(losses(model, task, task.dataset(args.split), args.max_tokens, device)))
    entropy = unigram_entropy(os.path.join(args.data, "train"), task.dictionary)
    table = [
        summary(rows, f"{a}" if a == b else f"{a} and later" if b > 10**6 else f"{a}-{b}", a, b) for a, b in GROUPS
    ]
    table = [row for row in table if row["tokens"]] + [summary(rows, "all", 1, 10**9)]
    print(f"{'step':>12} {'tokens':>9} {'AE bits':>9} {'PAR bits':>9}")
    for row in table:
        print(f"{row['step']:>12} {row['tokens']:>9,} {row['ae']:>9.3f} {row['par']:>9.3f}")
    print(f"unigram entropy of the training text: {entropy:.3f} bits")
    if trained != ("ae", "par"):
        print(f"note: this checkpoint was trained with --objective {'+'.join(trained)}; it has not learned the rest")
    if args.save_json:
        write_json(args.save_json, {"unigram_entropy": entropy, "steps": table})


@torch.no_grad()
def losses(model, task, dataset, max_tokens, device):
    """Batches of float64 (tokens, 3): step, AE loss and PAR loss in bits, where the [M] slot shows [M]."""
    iterator = task.get_batch_iterator(dataset, max_tokens=max_tokens).next_epoch_itr(shuffle=False)
    for sample in tqdm(iterator, desc="measuring", unit="batch", leave=False):
        sample = utils.move_to_cuda(sample) if device == "cuda" else sample
        net_input = sample["net_input"]
        masked, pseudo = net_input["queries"].flatten()[net_input["select"]].chunk(2)
        rows = net_input["select"].chunk(2)[0] // net_input["queries"].size(1)
        ae, par = (model(Predict(target=sample["target"]), **net_input).nll / math.log(2)).chunk(2)
        shown = net_input["tokens"][rows, masked].eq(task.dictionary.index("<mask>"))
        steps = -net_input["steps"][rows, pseudo]
        yield torch.stack([steps[shown].double(), ae[shown].double(), par[shown].double()], dim=1).cpu().numpy()


def summary(rows, name, first, last):
    """Mean losses, in bits, over the steps *first* to *last*; *rows* (tokens, 3): step, AE loss, PAR loss."""
    chosen = rows[(rows[:, 0] >= first) & (rows[:, 0] <= last)]
    means = chosen[:, 1:].mean(axis=0) if len(chosen) else (math.nan, math.nan)
    return {"step": name, "tokens": len(chosen), "ae": float(means[0]), "par": float(means[1])}
