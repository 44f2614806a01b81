#!/usr/bin/env python
"""What each thing that makes pre-training fast is worth: the same training step with one of them switched off.

    python benchmarks/ablations.py --size 6x384
    python benchmarks/ablations.py --size 12x768 --rounds 3 --only linear loss

In place of what is switched off stands the plain way to compute the same. All share one model, optimizer and batch.
Before each step without something comes one with everything on, and the ratio is that of the two, as machines drift;
what is printed are medians over rounds. On a machine that others use, --threads 1 --cpu-time disturbs least.

linear             oneDNN's matrix products: torch's own
dropout            dropout by 16 random bits a value: torch's own
attention-dropout  dropout on attention a few heads at a time: torch's scaled_dot_product_attention with dropout_p
mask               context rows without a mask: one dense mask over all slots
masks              masks and relative position bias once for a batch: once for a layer
last-layer         the last layer for predicting slots alone: for all slots
predictions        scores of the vocabulary for predicting slots alone: for all slots
loss               projection and cross-entropy as one, in chunks: scores, then F.cross_entropy
"""

import argparse
import contextlib
import statistics
import sys
import time
from unittest import mock

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import torch
import torch.nn.functional as F
from peers import describe_machine, dictionary, draw_ratios, print_ratios
from torch import nn
from training import blocks_of_text, build_pmlm, densely, pmlm_losses, training

from fairseq_pmlm.model import attention, transformer
from fairseq_pmlm.model.kernels import linear, projection_loss
from fairseq_pmlm.model.kernels.dropout import Dropout


def no_onednn(model):
    return replace((linear, "has_onednn", lambda weight: False), (projection_loss, "has_onednn", lambda weight: False))


def plain_dropout(model):
    return replace((Dropout, "forward", nn.Dropout.forward))


def plain_attention_dropout(model):
    return replace((attention, "dropout_attention", F.scaled_dot_product_attention))


def dense_mask(model):
    return replace((model.backbone, "forward", densely(model)))


def masks_for_each_layer(model):
    net = model.backbone

    def forward(tokens, positions, segments, steps, context_length, queries, context_queries):
        x = net.embed(tokens, positions, segments)
        for layer in net.layers:
            seen = transformer.visibility(
                tokens.eq(net.padding_idx), positions, steps, context_length, net.relative_bias, x.dtype
            )
            last = (queries, context_queries) if layer is net.layers[-1] else ()
            x = layer(x, seen, context_length, *last)
        return x

    return replace((net, "forward", forward))


def whole_last_layer(model):
    original = model.backbone.forward

    def forward(tokens, positions, segments, steps, context_length, queries, context_queries):
        x = original(tokens, positions, segments, steps, context_length)
        return attention.select_slots(x, queries)

    return replace((model.backbone, "forward", forward))


def scores_of_all_slots(model):
    """All slots go through the output layer, and the predicting ones are taken afterwards."""
    original = model.backbone.forward
    selected = []

    def forward(tokens, positions, segments, steps, context_length, queries, context_queries):
        first = torch.arange(len(queries))[:, None] * tokens.size(1)
        selected[:] = [(first + queries).flatten()]
        x = original(tokens, positions, segments, steps, context_length)
        selected.append(x.flatten(0, 1))
        return attention.select_slots(x, queries)

    def loss(x, target, distribution, chunk):
        rows, everything = selected
        scores = model.output_layer(everything)[rows[wanted[0]]]
        return losses(scores, target)

    wanted = []
    call = model.forward

    def remember(predict, **net_input):
        wanted[:] = [net_input["select"]]
        return call(predict, **net_input)

    return replace(
        (model.backbone, "forward", forward), (model.output_layer, "loss", loss), (model, "forward", remember)
    )


def plain_loss(model):
    def loss(x, target, distribution, chunk):
        return losses(model.output_layer(x), target)

    return replace((model.output_layer, "loss", loss))


def losses(scores, target):
    """What :func:`projection_loss` returns, from scores (predictions, types)."""
    rows = F.cross_entropy(scores, target, reduction="none")
    return projection_loss.Losses(rows.sum(), rows.detach(), rows.detach(), scores.argmax(-1).eq(target))


SWITCHES = {
    "linear": no_onednn,
    "dropout": plain_dropout,
    "attention-dropout": plain_attention_dropout,
    "mask": dense_mask,
    "masks": masks_for_each_layer,
    "last-layer": whole_last_layer,
    "predictions": scores_of_all_slots,
    "loss": plain_loss,
}


@contextlib.contextmanager
def replace(*what):
    """Other attributes, for a while: (object, name, value) each."""
    with contextlib.ExitStack() as stack:
        for thing, name, value in what:
            stack.enter_context(mock.patch.object(thing, name, value))
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="6x384", help="layers x width (default: %(default)s)")
    parser.add_argument("--types", type=int, default=30000, help="vocabulary, in types (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a block (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=4, help="blocks in a batch (default: %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.1, help="of embeddings and sublayers (default: %(default)s)")
    parser.add_argument("--attention-dropout", type=float, default=0.1, help="default: %(default)s")
    parser.add_argument("--relative-positions", action="store_true", help="with relative position bias")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time")
    parser.add_argument("--only", nargs="+", choices=SWITCHES, default=list(SWITCHES), help="what to switch off")
    parser.add_argument("--chart", metavar="FILE", help="draw the table (PNG, SVG or PDF)")
    args = parser.parse_args()
    args.layers, args.width = map(int, args.size.split("x"))
    args.data, args.device, args.bf16, args.batches = None, "cpu", False, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    symbols = dictionary(args.types)
    model = build_pmlm(args, symbols)
    step = training(model, pmlm_losses(model, blocks_of_text(args, symbols), args, symbols), args)

    def without(name):
        def run():
            with SWITCHES[name](model):
                step()

        return run

    step()  # the first one allocates
    clock = time.process_time if args.cpu_time else time.perf_counter
    ratios, seconds = {}, []
    for name in args.only:
        with SWITCHES[name](model):
            step()
        ratios[name] = []
    for _ in range(args.rounds):
        for name in args.only:
            start = clock()
            step()
            middle = clock()
            with SWITCHES[name](model):
                step()
            ratios[name].append((clock() - middle) / (middle - start))
            seconds.append(middle - start)
    title = (
        f"{args.size}, {len(symbols)} types, {args.sentences} x {args.tokens} tokens, dropout {args.dropout}, of "
        f"attention {args.attention_dropout}{', relative positions' if args.relative_positions else ''}"
    )
    print(f"{title}; {describe_machine()}, {args.rounds} rounds{', processor time' if args.cpu_time else ''}")
    print(f"everything on: {args.sentences * args.tokens / statistics.median(seconds):,.0f} tokens/s\n")
    print_ratios(ratios, "without", "everything on")
    if args.chart:
        draw_ratios(ratios, "everything on", title, args.chart)


if __name__ == "__main__":
    sys.exit(main())
