#!/usr/bin/env python
"""Speed of a fine-tuning step: this package beside the authors' scheme and fairseq's encoder-decoder, in one run.

    python benchmarks/finetuning.py --size 12x768 --rounds 3

All systems see the same pairs: training pairs of --data (a directory of pmlm prepare pairs), or random tokens
with lengths drawn once, sources of half the limit to the limit, targets of a quarter to all of it. A step is forward,
label-smoothed loss, backward and Adam, with dropout of 0.1 everywhere. The systems take turns on the same batches;
times are medians over rounds:

ours      batches as the task makes them: padded to their longest pair, masks for appended slots alone, the last layer
          and the vocabulary for the tokens to be predicted alone
authors   the scheme of the authors' fine-tuning code, written anew: the same stack, every pair padded to the limits,
          one dense mask over all slots, all of them through all layers, the vocabulary for every target place
fairseq   fairseq's Transformer, L/2 encoder and L/2 decoder layers of the same width, its own loss
"""

import argparse
import json
import math
import os
from types import SimpleNamespace

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import numpy as np
import torch
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    label_smoothed_nll_loss,
)
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset, PrependTokenDataset, data_utils
from peers import build_fairseq, build_ours, describe_machine, dictionary, print_table, take_turns

from fairseq_pmlm.criterions.pmlm_seq2seq import PMLMSeq2SeqCriterion
from fairseq_pmlm.data.layout import visible
from fairseq_pmlm.data.pair_dataset import Corruption, CutDataset, PseudoMaskedPairDataset
from fairseq_pmlm.model.attention import Visibility
from fairseq_pmlm.model.batch_layout import seq2seq_slots

SMOOTHING = 0.1


def real_pairs(args, symbols):
    """Sources and targets: pairs drawn from --data, cut to the limits, in the order of their lengths."""
    prefix = os.path.join(args.data, "train.src-tgt.")
    sides = [data_utils.load_indexed_dataset(prefix + side, symbols) for side in ("src", "tgt")]
    limits = (args.source - 1, args.target)
    sides = [CutDataset(x, limit, "head", symbols.eos(), prefix) for x, limit in zip(sides, limits, strict=True)]
    drawn = np.random.default_rng(1).choice(len(sides[0]), args.sentences * args.batches, replace=False)
    drawn = drawn[np.lexsort((sides[1].sizes[drawn], sides[0].sizes[drawn]))].tolist()
    source, target = (ListDataset([x[i] for i in drawn], x.sizes[drawn]) for x in sides)
    return PrependTokenDataset(source, symbols.bos()), target


def draw_pairs(args, symbols):
    """Sources and targets, datasets of sequences that end in </s>; in the order of their lengths."""
    rng = np.random.default_rng(1)
    count = args.sentences * args.batches
    sources = rng.integers(args.source // 2, args.source, count, endpoint=True)
    targets = rng.integers(args.target // 4, args.target, count, endpoint=True)
    order = np.lexsort((targets, sources))

    def lines(lengths):
        made = [np.append(rng.integers(4, args.types - 2, n - 1), symbols.eos()) for n in lengths]
        return ListDataset([torch.from_numpy(line) for line in made], lengths)

    return PrependTokenDataset(lines(sources[order] - 1), symbols.bos()), lines(targets[order])


def batches_of(dataset, size):
    return [dataset.collater([dataset[i + k] for k in range(size)]) for i in range(0, len(dataset), size)]


def authors_loss(model, sample, args, symbols):
    """The loss of the authors' scheme: everything at the limits, one dense mask."""
    pad = symbols.pad()

    def widen(tokens, width):
        wide = tokens.new_full((len(tokens), width), pad)
        wide[:, : tokens.size(1)] = tokens
        return wide

    net_input = sample["net_input"]
    source, previous, pseudo = (
        widen(net_input[name], width)
        for name, width in (
            ("src_tokens", args.source),
            ("prev_output_tokens", args.target),
            ("pseudo_tokens", args.target),
        )
    )
    slots = seq2seq_slots(source, net_input["src_lengths"], previous, pad, model.pseudo_index, (0, 1), pseudo)
    tokens, steps = slots["tokens"], slots["steps"]
    hidden = ~visible(steps, steps) | tokens.eq(pad)[:, None]
    mask = torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)[:, None]
    backbone = model.backbone
    x = backbone.embed(tokens, slots["positions"], slots["segments"])
    for layer in backbone.layers:
        x = layer(x, Visibility(None, mask), 0)
    logits = model.output_layer(x[:, args.source : args.source + args.target])
    target = widen(sample["target"], args.target)
    lprobs = model.get_normalized_probs((logits,), log_probs=True)
    return label_smoothed_nll_loss(lprobs.flatten(0, 1), target.flatten(), SMOOTHING, ignore_index=pad)[0]


def training(model, losses):
    """A function that takes one step for each of *losses*, functions of the model."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-5, foreach=True)

    def run():
        for loss in losses:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="6x384", help="layers x width (default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", help="prepared pairs (default: random tokens)")
    parser.add_argument("--types", type=int, default=30000, help="vocabulary, in types (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=8, help="pairs in a batch (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="batches in a round (default: %(default)s)")
    parser.add_argument("--source", type=int, default=200, help="limit of sources, in tokens (default: %(default)s)")
    parser.add_argument("--target", type=int, default=48, help="limit of targets, in tokens (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all systems (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--systems", nargs="+", default=["ours", "authors", "fairseq"], help="which to run")
    parser.add_argument("--relative-positions", action="store_true", help="ours, authors: with relative position bias")
    parser.add_argument("--json", metavar="FILE", help="write all times here, in seconds")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    layers, width = map(int, args.size.split("x"))
    torch.manual_seed(1)
    symbols = Dictionary.load(os.path.join(args.data, "dict.txt")) if args.data else dictionary(args.types)
    args.types = len(symbols)
    source, target = real_pairs(args, symbols) if args.data else draw_pairs(args, symbols)
    print(f"sources of {np.mean(source.sizes):.0f} tokens on average, targets of {np.mean(target.sizes):.0f}")
    described = (source, source.sizes, symbols, target, target.sizes, symbols)
    task = SimpleNamespace(target_dictionary=symbols)
    systems = {}
    if "ours" in args.systems or "authors" in args.systems:
        options = {"max_positions": args.source + args.target, "relative_positions": args.relative_positions}
        batches = batches_of(PseudoMaskedPairDataset(*described, corruption=Corruption(1)), args.sentences)
        criterion = PMLMSeq2SeqCriterion(task, False, SMOOTHING)
        ours, theirs = (build_ours(layers, width, symbols, **options) for _ in range(2))
        systems["ours"] = training(ours, [lambda b=b: criterion(ours, b)[0] for b in batches])
        systems["authors"] = training(theirs, [lambda b=b: authors_loss(theirs, b, args, symbols) for b in batches])
    if "fairseq" in args.systems:
        pairs = batches_of(LanguagePairDataset(*described, left_pad_source=False), args.sentences)
        peer_criterion = LabelSmoothedCrossEntropyCriterion(task, False, SMOOTHING)
        peer = build_fairseq(layers, width, symbols)
        systems["fairseq"] = training(peer, [lambda b=b: peer_criterion(peer, b)[0] for b in pairs])
    systems = {name: systems[name] for name in args.systems}
    take_turns(systems, 1)  # the first steps allocate
    times = take_turns(systems, args.rounds)
    print(
        f"{args.size}, {args.types} types, batches of {args.sentences} pairs up to {args.source} + {args.target}; "
        f"{describe_machine()}, {args.rounds} rounds of {args.batches} steps"
    )
    print_table(times, args.batches * args.sentences, "pairs")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"options": vars(args), "seconds": times}, f, indent=1)


if __name__ == "__main__":
    main()
