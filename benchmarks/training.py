#!/usr/bin/env python
"""Speed and memory of a pre-training step beside fairseq's masked language model, in one run.

    python benchmarks/training.py --size 12x768 --rounds 5
    python benchmarks/training.py --size 6x384 --attention-dropout 0
    python benchmarks/training.py --memory
    python benchmarks/training.py --data-rate
    python benchmarks/training.py --lengths 512 1024 2048 --systems ours dense

All systems see the same blocks of text with the same masks: blocks of --data (a directory of pmlm prepare text),
or random tokens. A step is forward, loss, backward and fairseq's Adam. The systems take turns on the same batches; what
is printed are medians over rounds:

ours      autoencoding and partially autoregressive loss in one pass
roberta   fairseq's own --arch roberta with --criterion masked_lm: autoencoding alone
ae, par   ours with one of the objectives
twice     both of these, one after the other: what one pass saves
dense     ours, but each layer attends by one dense mask over all slots
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import numpy as np
import torch
from fairseq.criterions.masked_lm import MaskedLmConfig, MaskedLmLoss
from fairseq.data import Dictionary, data_utils, indexed_dataset
from fairseq.models.roberta import RobertaModel
from fairseq.optim.adam import Adam
from peers import build_ours, describe_machine, dictionary, draw_ratios, print_table, ratios_of, take_turns

from fairseq_pmlm.criterions.pmlm import PMLMCriterion
from fairseq_pmlm.data.blocks import TextBlocks
from fairseq_pmlm.data.layout import visible
from fairseq_pmlm.data.pretraining_dataset import PMLMDataset
from fairseq_pmlm.model.attention import Visibility

OBJECTIVES = {"ours": ["ae+par"], "ae": ["ae"], "par": ["par"], "twice": ["ae", "par"], "dense": ["ae+par"]}


def blocks_of_text(args, symbols) -> TextBlocks:
    """Blocks of --data, or of random tokens in lines of 30."""
    if args.data:
        return TextBlocks(
            load_lines(args.data, symbols), args.tokens - 3, symbols.pad(), symbols.eos(), types=len(symbols)
        )
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as directory:
        prefix = os.path.join(directory, "train")
        builder = indexed_dataset.MMapIndexedDatasetBuilder(prefix + ".bin", dtype=np.uint16)
        for _ in range(args.tokens * args.sentences * args.batches // 30 + 100):
            builder.add_item(torch.from_numpy(np.append(rng.integers(4, len(symbols) - 2, 30), symbols.eos())))
        builder.finalize(prefix + ".idx")
        return TextBlocks(
            load_lines(directory, symbols), args.tokens - 3, symbols.pad(), symbols.eos(), types=len(symbols)
        )


def load_lines(directory, symbols):
    return data_utils.load_indexed_dataset(os.path.join(directory, "train"), symbols)


def batches_of(dataset, args) -> list[dict]:
    """The first batches, each of --sentences blocks, on the device."""
    samples = (
        [dataset[i] for i in range(start, start + args.sentences)]
        for start in range(0, args.batches * args.sentences, args.sentences)
    )
    return [to_device(dataset.collater(list(batch)), args.device) for batch in samples]


def to_device(value, device):
    if isinstance(value, dict):
        return {key: to_device(x, device) for key, x in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def masked_lm_batch(sample, symbols) -> dict:
    """What fairseq's masked_lm would be given: the same corrupted text, the same tokens to predict."""
    net_input = sample["net_input"]
    tokens = net_input["tokens"][:, : net_input["context_length"]]
    rows = net_input["select"] // net_input["queries"].size(1)
    target = torch.full_like(tokens, symbols.pad())
    target[rows, net_input["queries"].flatten()[net_input["select"]]] = sample["target"]
    return {"net_input": {"src_tokens": tokens}, "target": target, "ntokens": tokens.numel(), "nsentences": len(tokens)}


def build_roberta(args, symbols) -> RobertaModel:
    """fairseq's RoBERTa of the same size."""
    options = Namespace(
        encoder_layers=args.layers,
        encoder_embed_dim=args.width,
        encoder_ffn_embed_dim=4 * args.width,
        encoder_attention_heads=args.width // 64,
        dropout=args.dropout,
        attention_dropout=args.attention_dropout,
        max_positions=args.tokens,
        tokens_per_sample=args.tokens,
    )
    return RobertaModel.build_model(options, Namespace(source_dictionary=symbols))


def densely(model):
    """A forward pass of the backbone in which all layers attend by one dense mask, in place of the two products."""

    def mask(tokens, positions, steps):
        hidden = ~visible(steps, steps) | tokens.eq(model.dictionary.pad())[:, None]
        bias = model.backbone.relative_bias
        scores = torch.zeros((), device=hidden.device) if bias is None else bias(positions, positions)
        return Visibility(None, scores.masked_fill(hidden[:, None], -math.inf))

    def forward(tokens, positions, segments, steps, context_length, queries, context_queries):
        x = model.backbone.embed(tokens, positions, segments)
        seen = mask(tokens, positions, steps)
        for layer in model.backbone.layers[:-1]:
            x = layer(x, seen, 0)
        # the last layer as ours has it: queries of predicting slots alone
        return model.backbone.layers[-1](x, seen, 0, queries, 0)

    return forward


def training(model, losses, args):
    """A function that takes a step for each of *losses*, functions of the model's mode."""
    model = model.to(args.device).train()
    if args.bf16:
        model.bfloat16()
    optimizer = Adam(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)

    def run():
        for loss in losses:
            for parameter in model.parameters():
                parameter.grad = None
            loss().backward()
            optimizer.step()
        if args.device != "cpu":
            torch.cuda.synchronize()

    return run


def build(name, blocks, args, symbols):
    """The system *name*, ready to take --batches steps at each call."""
    torch.manual_seed(1)
    if name == "roberta":
        task = Namespace(source_dictionary=symbols, target_dictionary=symbols)
        batches = batches_of(PMLMDataset(blocks, symbols, "ae"), args)
        batches = [masked_lm_batch(batch, symbols) for batch in batches]
        model, criterion = build_roberta(args, symbols), MaskedLmLoss(MaskedLmConfig(tpu=False), task)
        return training(model, [lambda b=b: criterion(model, b)[0] for b in batches], args)
    model = build_pmlm(args, symbols)
    if name == "dense":
        model.backbone.forward = densely(model)
    return training(model, pmlm_losses(model, blocks, args, symbols, OBJECTIVES[name]), args)


def build_pmlm(args, symbols):
    """Our model."""
    options = {"dropout": args.dropout, "attention_dropout": args.attention_dropout, "max_positions": args.tokens}
    return build_ours(args.layers, args.width, symbols, relative_positions=args.relative_positions, **options)


def pmlm_losses(model, blocks, args, symbols, objectives=("ae+par",)):
    """The loss of each batch as a function, for all of *objectives* before the next batch."""
    criterion = PMLMCriterion(Namespace(source_dictionary=symbols, target_dictionary=symbols))
    batches = [batches_of(PMLMDataset(blocks, symbols, objective), args) for objective in objectives]
    return [lambda b=b: criterion(model, b)[0] for passes in zip(*batches, strict=True) for b in passes]


def compare(args, symbols):
    """Times of all systems, by turns; prints a table."""
    found = {}
    for length in args.lengths or [args.tokens]:
        args.tokens = length
        blocks = blocks_of_text(args, symbols)
        systems = {name: build(name, blocks, args, symbols) for name in args.systems}
        take_turns(systems, 1)  # the first steps allocate
        times = take_turns(systems, args.rounds, time.process_time if args.cpu_time else time.perf_counter)
        print(
            f"{args.size}, {len(symbols)} types, {args.sentences} x {length} tokens, dropout {args.dropout}, "
            f"of attention {args.attention_dropout}{', bf16' if args.bf16 else ''}; {describe_machine()}, "
            f"{args.rounds} rounds of {args.batches} steps"
        )
        print_table(times, args.batches * args.sentences * length, "tokens", args.reference)
        if args.chart:
            draw_ratios(
                ratios_of(times, args.reference),
                args.reference,
                f"{args.size}, {length} tokens",
                args.chart.format(length=length),
            )
        found[length] = times
    return found


def peak_of_one(args, symbols):
    """Print the peak memory of this process, before and after training steps of the one system."""
    blocks = blocks_of_text(args, symbols)
    run = build(args.systems[0], blocks, args, symbols)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    run()
    print(before * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure_memory(args):
    """Peak memory of training, each system in a process of its own."""
    options = [x for x in sys.argv[1:] if x != "--memory"]
    found = {}
    for name in args.systems:
        command = [sys.executable, __file__, *options, "--systems", name, "--peak-of-one"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = [int(x) for x in done.stdout.split()[-2:]]
    print(f"{args.size}, {args.types} types, {args.sentences} x {args.tokens} tokens\n")
    print("| system | peak memory, MB | of the step, MB | peak, as a multiple of roberta's |\n|---|---|---|---|")
    reference = found.get("roberta", next(iter(found.values())))[1]
    for name, (before, after) in found.items():
        print(f"| {name} | {after / 1e6:,.0f} | {(after - before) / 1e6:,.0f} | {after / reference:.2f} |")
    return found


def measure_data(args, symbols):
    """Tokens per second of masking, layout and collation in one process."""
    args.sentences, args.batches = 16, 40
    dataset = PMLMDataset(blocks_of_text(args, symbols), symbols)
    seconds = []
    clock = time.process_time if args.cpu_time else time.perf_counter
    for _ in range(args.rounds + 1):
        start = clock()
        for first in range(0, args.batches * args.sentences, args.sentences):
            dataset.collater([dataset[i] for i in range(first, first + args.sentences)])
        seconds.append(clock() - start)
    rate = args.batches * args.sentences * args.tokens / statistics.median(seconds[1:])
    print(f"masking, layout and collation in one process: {rate:,.0f} tokens/s, blocks of {args.tokens}")
    return {"tokens_per_second": rate}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="6x384", help="layers x width (default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", help="prepared text (default: random tokens)")
    parser.add_argument("--types", type=int, default=30000, help="vocabulary, in types (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a block (default: %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", help="measure at each of these --tokens")
    parser.add_argument("--sentences", type=int, default=4, help="blocks in a batch (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=1, help="batches in a round (default: %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.1, help="of embeddings and sublayers (default: %(default)s)")
    parser.add_argument("--attention-dropout", type=float, default=0.1, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all systems (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--systems", nargs="+", default=["ours", "roberta"], help="which to run (default: %(default)s)")
    parser.add_argument(
        "--reference", default="roberta", help="of which system to give multiples (default: %(default)s)"
    )
    parser.add_argument("--relative-positions", action="store_true", help="ours: with relative position bias")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="parameters and activations in bfloat16")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, for a machine that others use")
    parser.add_argument("--memory", action="store_true", help="instead: peak memory of each system")
    parser.add_argument("--peak-of-one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--data-rate", action="store_true", help="instead: speed of masking, layout and collation")
    parser.add_argument("--chart", metavar="FILE", help="draw the table: PNG, SVG or PDF; {length} is --tokens")
    parser.add_argument("--json", metavar="FILE", help="write everything measured here, in seconds or bytes")
    args = parser.parse_args()
    args.layers, args.width = map(int, args.size.split("x"))
    if args.threads:
        torch.set_num_threads(args.threads)
    symbols = Dictionary.load(os.path.join(args.data, "dict.txt")) if args.data else dictionary(args.types)
    args.types = len(symbols)
    if args.peak_of_one:
        peak_of_one(args, symbols)
        return
    if args.memory:
        found = measure_memory(args)
    elif args.data_rate:
        found = measure_data(args, symbols)
    else:
        found = compare(args, symbols)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"options": vars(args), "measured": found}, f, indent=1)


if __name__ == "__main__":
    main()
