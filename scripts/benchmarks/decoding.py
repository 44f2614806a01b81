#!/usr/bin/env python
"""Decoding speed: this package beside the authors' scheme and fairseq's encoder-decoder, in one run.

    python scripts/benchmarks/decoding.py --size 6x384 --rounds 3

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
import statistics
import time
from argparse import Namespace

import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel, base_architecture
from fairseq.sequence_generator import SequenceGenerator

import fairseq_pmlm  # noqa: F401
from fairseq_pmlm.generator import Generator
from fairseq_pmlm.model import PMLMConfig, PMLMModel


def dictionary(types: int) -> Dictionary:
    found = Dictionary()
    for i in range(types - 6):
        found.add_symbol(f"w{i}")
    found.add_symbol("<mask>")
    found.add_symbol("<pseudo>")
    return found


def end_when_allowed(model, eos: int):
    """</s> is the likeliest token at every step; --min-len keeps it away until the output is as long as wanted."""
    original = model.get_normalized_probs

    def patched(*args, **kwargs):
        lprobs = original(*args, **kwargs)
        lprobs[..., eos] += 1000.0
        return lprobs

    model.get_normalized_probs = patched
    return model.eval()


def prepared(model):
    """*model* as fairseq-generate prepares it."""
    model.make_generation_fast_()
    return model


def build_ours(layers, width, symbols, args):
    cfg = PMLMConfig(
        encoder_layers=layers,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=width // 64,
        max_positions=512,
        max_target_positions=args.limit + 1,
        relative_positions=args.relative_positions,
    )
    return end_when_allowed(PMLMModel(cfg, symbols, None), symbols.eos())


def build_fairseq(layers, width, symbols, args):
    options = Namespace(
        encoder_layers=layers // 2,
        decoder_layers=layers // 2,
        encoder_embed_dim=width,
        decoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        decoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        share_all_embeddings=True,
        max_source_positions=512,
        max_target_positions=512,
    )
    base_architecture(options)
    task = Namespace(source_dictionary=symbols, target_dictionary=symbols)
    return end_when_allowed(TransformerModel.build_model(options, task), symbols.eos())


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
            k, v = attention.keys_values(seen)
            x = layer.feed_forward(x, attention.out_proj(attention.attend(attention.queries(x), k, v, mask)))
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
    parser.add_argument("--json", metavar="FILE", help="write all times here, in seconds")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    layers, width = map(int, args.size.split("x"))
    torch.manual_seed(1)
    symbols = dictionary(args.types)
    tokens = torch.randint(4, args.types - 2, (args.sentences, args.source))
    tokens[:, 0], tokens[:, -1] = symbols.bos(), symbols.eos()
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": torch.full((args.sentences,), args.source)}}
    options = {"beam_size": args.beam, "max_len_b": args.limit, "min_len": args.output - 1}

    def searched(search, model):
        found = search.generate([model], sample)
        assert len(found) == args.sentences, "every sentence has hypotheses"
        assert all(len(h["tokens"]) == args.output for hypotheses in found for h in hypotheses), "of the wanted length"

    systems = {}
    if "authors" in args.systems:
        plain = build_ours(layers, width, symbols, args)
        systems["authors"] = lambda: generate_as_authors(plain, tokens, args.beam, args.limit)
    if "ours" in args.systems:
        ours = prepared(build_ours(layers, width, symbols, args))
        search = Generator([ours], symbols, tokens_to_suppress=("<s>", "<mask>", "<pseudo>"), **options)
        systems["ours"] = lambda: searched(search, ours)
    if "fairseq" in args.systems:
        peer = prepared(build_fairseq(layers, width, symbols, args))
        peer_search = SequenceGenerator([peer], symbols, **options)
        systems["fairseq"] = lambda: searched(peer_search, peer)
    systems["bound"] = lambda: multiply(layers, width, args.types, args.sentences, args.beam, args.source, args.output)
    systems = {name: systems[name] for name in args.systems}

    times = {name: [] for name in systems}
    for _ in range(args.rounds):
        for name, run in systems.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    print(
        f"{args.size}, {args.types} types, {args.sentences} sentences of {args.source} tokens, beam {args.beam}, "
        f"{args.output} tokens out of at most {args.limit}; {torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    print("| system | sentences/s | ours is faster by |\n|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(other / own for other, own in zip(seconds, times.get("ours", seconds), strict=True))
        print(f"| {name} | {args.sentences / statistics.median(seconds):.2f} | {ratio:.2f}x |")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"options": vars(args), "seconds": times}, f, indent=1)


if __name__ == "__main__":
    main()
