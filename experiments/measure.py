#!/usr/bin/env python
"""Validation losses and infilling of one pre-trained checkpoint, token by token and text by text, into an .npz file.

    python experiments/measure.py data-bin/corpus --path checkpoint_last.pt --out measures.npz

The masks of the validation text and the spans to fill depend on nothing but the text, so files of different checkpoints
can be compared entry by entry:

block, step, shown       of each masked token of the validation text: its block, its step, whether its [M] shows [M]
ae, par                  its losses in bits, where the checkpoint has learned them
length                   of each infilled span, in tokens
exact.M, right.M, bits.M for each method M: whether the whole span is right, how many of its tokens are, and the loss of
                         what really stands there, in bits a token
"""

import argparse
import copy
import math
import sys
from pathlib import Path

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))  # variants

import variants

from fairseq_pmlm.cli.arguments import positive
from fairseq_pmlm.data.collate import OBJECTIVES
from fairseq_pmlm.data.pretraining_dataset import PMLMDataset
from fairseq_pmlm.generation import infilling
from fairseq_pmlm.generation.gaps import factorize
from fairseq_pmlm.model.pmlm import Predict
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import check_output, replacing

LENGTHS = range(1, 7)
# name: what makes a step, order of the steps, whether the [M] slots predict
METHODS = {
    "at once, [M]": ("all", "left-to-right", True),
    "at once, [P]": ("all", "left-to-right", False),
    "left to right": ("token", "left-to-right", False),
    "right to left": ("token", "right-to-left", False),
    "random order": ("token", "random", False),
}


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="directory made by pmlm prepare text")
    parser.add_argument("--path", required=True, help="checkpoint of --task pmlm or pmlm_variants")
    parser.add_argument("--out", required=True, metavar="FILE", help=".npz file to write")
    parser.add_argument("--spans", type=int, default=200, help="spans of each length to fill (default: %(default)s)")
    parser.add_argument("--beam", type=positive, default=4, help="of infilling (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=32, help="blocks at a time (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    args = parser.parse_args(argv)
    if args.spans < 0:
        raise PMLMError(f"--spans {args.spans}: give 0 (nothing is filled) or more")
    check_output(args.out, args.path)
    return args


def validation_losses(model, dataset: PMLMDataset, batch_size: int, device: str) -> dict[str, np.ndarray]:
    """``block, step, shown`` and the losses in bits of every masked token."""
    both = copy.copy(dataset)
    both.objectives = ("ae", "par")
    found: dict[str, list] = {name: [] for name in ("block", "step", "shown", *dataset.objectives)}
    for start in tqdm(range(0, len(dataset), batch_size), desc="validation", unit="batch", leave=False):
        indices = range(start, min(start + batch_size, len(dataset)))
        sample = dataset.collater([dataset[i] for i in indices])
        sample = utils.move_to_cuda(sample) if device == "cuda" else sample
        nll = model(Predict(target=sample["target"]), **sample["net_input"]).nll.double().cpu().numpy() / math.log(2)
        for name, part in zip(dataset.objectives, np.split(nll, len(dataset.objectives)), strict=True):
            found[name].append(part.astype(np.float32))
        for i in indices:  # what all variants have in common
            slots = PMLMDataset.__getitem__(both, i)["slots"]
            predicting = slots.steps < 0
            found["block"].append(np.full(predicting.sum(), i, np.int32))
            found["step"].append(-slots.steps[predicting].astype(np.int16))
            found["shown"].append(slots.tokens[slots.positions[predicting]] == dataset.mask_index)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def draw_spans(dataset: PMLMDataset, count: int) -> list[tuple[np.ndarray, np.ndarray, range]]:
    """Tokens and segments of *count* blocks for each of :data:`LENGTHS`, and the span to fill: within one segment.

    *dataset* is to have the objective ``ae``, which predicts at the masked places.

    Raises:
        PMLMError: no block has room for the longest span.
    """
    rng = np.random.default_rng(0)
    special = [dataset.bos, dataset.eos, dataset.pad]
    drawn = []
    candidates = np.flatnonzero(dataset.blocks.sizes > 2 * LENGTHS[-1])  # the longer part of them has room for any span
    if not len(candidates):
        raise PMLMError("the validation text has no block that is long enough to take a span out")
    for length in LENGTHS:
        for index in rng.choice(candidates, count):
            slots = PMLMDataset.__getitem__(dataset, index)["slots"]
            tokens, segments = slots.tokens.copy(), slots.segments
            tokens[slots.queries] = slots.targets
            inside = ~np.isin(tokens, special)
            starts = np.flatnonzero([inside[i : i + length].all() for i in range(len(tokens) - length + 1)])
            start = int(rng.choice(starts))
            drawn.append((tokens, segments, range(start, start + length)))
    return drawn


def fill(model, spans, objectives: tuple[str, ...], beam: int) -> dict[str, np.ndarray]:
    """``length``, and the outcome of every method that the objectives have taught."""
    found = {"length": np.array([len(span) for *_, span in spans], np.int16)}
    for name, (unit, order, autoencoding) in METHODS.items():
        if autoencoding:
            learned = "ae" in objectives
        else:  # AR has never predicted several tokens at once
            learned = "par" in objectives or ("ar" in objectives and unit != "all")
        if not learned:
            continue
        rng = np.random.default_rng(0)
        texts = [
            infilling.Gapped(tokens, segments, factorize([span], unit, order, rng)) for tokens, segments, span in spans
        ]
        best = [fillings[0].tokens for fillings in infilling.infill(model, texts, beam, autoencoding)]
        right = [(words == text.tokens[text.mask.positions]).sum() for words, text in zip(best, texts, strict=True)]
        bits = [-logprobs.mean() / math.log(2) for logprobs in infilling.score(model, texts, autoencoding)]
        found[f"exact.{name}"] = np.array(right) == found["length"]
        found[f"right.{name}"] = np.array(right, np.int16)
        found[f"bits.{name}"] = np.array(bits, np.float32)
    return found


@torch.no_grad()
def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([args.path], arg_overrides={"data": args.data})
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    model = models[0].eval().to(device)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    dataset.seed = variants.VALID_SEED
    found = validation_losses(model, dataset, args.batch_size, device)
    # without placeholders a context has places that no slot of it stands for, which infilling does not do
    if args.spans and getattr(task, "variant", "none") != "no-placeholders":
        plain = copy.copy(dataset)
        plain.objectives = ("ae",)  # spans are drawn alike for all
        found |= fill(model, draw_spans(plain, args.spans), OBJECTIVES[str(task.cfg.objective)], args.beam)
    with replacing(args.out) as temporary, open(temporary, "wb") as f:
        np.savez_compressed(f, **found)


if __name__ == "__main__":
    main()
