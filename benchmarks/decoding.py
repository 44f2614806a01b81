#!/usr/bin/env python
"""Decoding speed: this package beside the authors' scheme and fairseq's encoder-decoder, in one run.

    python benchmarks/decoding.py --size 6x384 --rounds 3

All models have random weights and say what they are made to say: every hypothesis ends after --output tokens. Sentences
per second are medians over rounds, in which the systems take turns. The systems:

ours      one stack of L layers, two slots a step, cached keys and values, sources kept once for all beams
fairseq   fairseq's Transformer, L/2 encoder and L/2 decoder layers of the same width, fairseq's SequenceGenerator
authors   the scheme of the authors' decoder, written anew: the same stack, but each step projects the keys and values
          of the whole history anew, holds a copy of the source for each beam, and goes on to the limit
bound     the matrix products that two slots a step in every layer make (layers, attention, vocabulary), by torch.mm
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import torch
from fairseq.sequence_generator import SequenceGenerator
from peers import build_fairseq, build_ours, describe_machine, dictionary, print_table, take_turns

from fairseq_pmlm.tasks.generator import Generator


def end_when_allowed(model, method: str, eos: int):
    """</s> is the likeliest token at every step; --min-len keeps it away until the output is as long as wanted."""
    original = getattr(model, method)

    def patched(*args, **kwargs):
        lprobs = original(*args, **kwargs)
        lprobs[..., eos] += 1000.0
        return lprobs

    setattr(model, method, patched)


@torch.no_grad()
def generate_as_authors(model, tokens, beam, limit):
    """The authors' decoder: hidden states are the cache, and every step projects them all anew."""
    backbone, layers = model.backbone, model.backbone.layers
    sentences, source = tokens.shape
    rows = sentences * beam

    def run(x, history, mask):
        hidden = [x]
        for i, layer in enumerate(layers):
            attention = layer.self_attn
            seen = x if history is None else torch.cat([history[i], x], dim=1)
            k, v = attention.project(seen, 1, 2)
            (q,) = attention.project(x, 0, 0)
            x = layer.feed_forward(x, attention.out_proj(attention.attend(q, k, v, mask)))
            hidden.append(x)
        return hidden

    def embed(words, first):
        positions = torch.arange(first, first + words.size(1)).expand_as(words)
        return backbone.embed(words, positions, torch.zeros_like(words))

    hidden = run(embed(tokens, 0), None, None)
    history = [h.repeat_interleave(beam, dim=0) for h in hidden[:-1]]
    totals = torch.zeros(sentences, beam)
    last = None
    for step in range(limit):
        pseudo = torch.full((rows, 1), model.pseudo_index)
        words = pseudo if last is None else torch.cat([last, pseudo], dim=1)
        new = words.size(1)
        hidden = run(embed(words, source + step - new + 1), history, None)
        lprobs = model.output_layer(hidden[-1][:, -1]).log_softmax(dim=-1)
        totals, chosen = (totals[:, :, None] + lprobs.view(sentences, beam, -1)).flatten(1).topk(beam, dim=1)
        parents = (chosen // lprobs.size(1) + torch.arange(sentences)[:, None] * beam).flatten()
        last = (chosen % lprobs.size(1)).view(rows, 1)
        history = [torch.cat([h, x[:, : new - 1]], dim=1)[parents] for h, x in zip(history, hidden[:-1], strict=True)]


@torch.no_grad()
def multiply(layers, width, types, sentences, beam, source, output):
    """The matrix products of "ours", and nothing else."""
    heads, head = width // 64, 64

    def products(count, times):
        x, wide = torch.randn(count, width), torch.randn(count, 4 * width)
        weights = [torch.randn(width, 3 * width), torch.randn(width, width), torch.randn(width, 4 * width)]
        down = torch.randn(4 * width, width)
        for _ in range(times):
            for weight in weights:
                x @ weight
            wide @ down

    products(sentences * source, layers)
    q, k = torch.randn(sentences * heads, source, head), torch.randn(sentences * heads, head, source)
    for _ in range(2 * layers):  # scores, and weighted values of the same size
        q @ k
    products(2 * sentences * beam, layers * output)
    q = torch.randn(sentences * heads, 2 * beam, head)
    for _ in range(2 * layers * output):
        q @ k
    x, vocabulary = torch.randn(sentences * beam, width), torch.randn(width, types)
    for _ in range(output):
        x @ vocabulary


def setting(args, source, output, limit, beam):
    """Symbols, ours with its search, and a batch: every hypothesis ends after *output* tokens."""
    layers, width = map(int, args.size.split("x"))
    symbols = dictionary(args.types)
    model = build_ours(
        layers,
        width,
        symbols,
        max_positions=source + limit + 2,
        max_target_positions=limit + 1,
        relative_positions=args.relative_positions,
    )
    model.make_generation_fast_()  # as fairseq-generate does
    tokens = torch.randint(4, args.types - 2, (args.sentences, source))
    tokens[:, 0], tokens[:, -1] = symbols.bos(), symbols.eos()
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": torch.full((args.sentences,), source)}}
    options = {"beam_size": beam, "max_len_b": limit, "min_len": output - 1}
    search = Generator([model], symbols, tokens_to_suppress=("<s>", "<mask>", "<pseudo>"), **options)
    end_when_allowed(search.generator, "log_probabilities", symbols.eos())

    def run(search=search, model=model):
        found = search.generate([model], sample)
        assert len(found) == args.sentences, "every sentence has hypotheses"
        assert all(len(h["tokens"]) == output for hypotheses in found for h in hypotheses), "of the wanted length"

    return symbols, model, sample, options, run


def compare(args):
    """Sentences per second of all systems."""
    symbols, _, sample, options, run = setting(args, args.source, args.output, args.limit, args.beam)
    layers, width = map(int, args.size.split("x"))
    systems = {"ours": run}
    if "fairseq" in args.systems:
        peer = build_fairseq(layers, width, symbols)
        peer.make_generation_fast_()
        end_when_allowed(peer, "get_normalized_probs", symbols.eos())
        peer_search = SequenceGenerator([peer], symbols, **options)
        systems["fairseq"] = lambda: run(peer_search, peer)
    if "authors" in args.systems:
        plain = build_ours(layers, width, symbols, max_positions=args.source + args.limit + 2).eval()
        tokens = sample["net_input"]["src_tokens"]
        systems["authors"] = lambda: generate_as_authors(plain, tokens, args.beam, args.limit)
    systems["bound"] = lambda: multiply(layers, width, args.types, args.sentences, args.beam, args.source, args.output)
    times = take_turns({name: systems[name] for name in args.systems}, args.rounds)
    print(
        f"{args.size}, {args.types} types, {args.sentences} sentences of {args.source} tokens, beam {args.beam}, "
        f"{args.output} tokens out of at most {args.limit}; {describe_machine()}, {args.rounds} rounds"
    )
    print_table(times, args.sentences, "sentences")
    return times


def time_steps(args):
    """Milliseconds of the last steps of outputs of 10, 100 and 400 tokens: what a step costs as an output grows."""
    print(f"{args.size}, one step of {args.sentences} x {args.beam} beams, sources of {args.source} tokens")
    print("| tokens so far | ms a step |\n|---|---|")
    found = {}
    for output in args.steps:
        _, model, _, _, run = setting(args, args.source, output, output + 10, args.beam)
        seconds, decode = [], model.decoder.forward
        ends = []

        def timed(*inputs, decode=decode, ends=ends, **named):
            ends.append(time.perf_counter())
            return decode(*inputs, **named)

        model.decoder.forward = timed
        for _ in range(args.rounds):
            ends.clear()
            run()
            seconds += [b - a for a, b in zip(ends[-9:-1], ends[-8:], strict=True)]
        found[output] = seconds
        print(f"| {output} | {1000 * statistics.median(seconds):.1f} |", flush=True)
    return found


def peak_of_one(args, beam):
    """Most bytes that this process has held at once beyond what the model takes, and all of them."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    *_, run = setting(args, args.memory, args.output, args.limit, beam)
    with open("/proc/self/statm", encoding="ascii") as f:
        before = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak - before, peak


def measure_memory(args):
    """Peak memory of a batch at beam 1 and 8, each in a process of its own."""
    found = {}
    print(f"{args.size}, {args.sentences} sentences of {args.memory} tokens, {args.output} out")
    print("| beam | peak beyond the model, MB | peak of the process, MB |\n|---|---|---|")
    for beam in (1, 8):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[beam] = pool.apply(peak_of_one, (args, beam))
        print(f"| {beam} | {found[beam][0] / 1e6:.0f} | {found[beam][1] / 1e6:.0f} |", flush=True)
    print(f"beam 8 / beam 1: {found[8][0] / found[1][0]:.2f} beyond the model, {found[8][1] / found[1][1]:.2f} in all")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="6x384", help="layers x width (default: %(default)s)")
    parser.add_argument("--types", type=int, default=30000, help="vocabulary, in types (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=16, help="sentences in the batch (default: %(default)s)")
    parser.add_argument("--source", type=int, default=200, help="tokens of each source (default: %(default)s)")
    parser.add_argument("--output", type=int, default=30, help="tokens of each output (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=48, help="longest output, in tokens (default: %(default)s)")
    parser.add_argument("--beam", type=int, default=5, help="beam size (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all systems (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--systems", nargs="+", default=["ours", "fairseq", "authors", "bound"], help="which to run")
    parser.add_argument("--relative-positions", action="store_true", help="ours: with relative position bias")
    parser.add_argument(
        "--steps", type=int, nargs="+", metavar="TOKENS", help="instead: time of a step after outputs of so many tokens"
    )
    parser.add_argument(
        "--memory", type=int, metavar="TOKENS", help="instead: peak memory at beam 1 and 8, sources of so many tokens"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured here, in seconds or bytes")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    measure = time_steps if args.steps else measure_memory if args.memory else compare
    found = measure(args)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"options": vars(args), "measured": found}, f, indent=1)


if __name__ == "__main__":
    main()
