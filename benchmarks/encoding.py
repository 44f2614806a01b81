#!/usr/bin/env python
"""Speed of encoding texts: this package beside fairseq's RoBERTa of the same size, in one run.

    python benchmarks/encoding.py --size 6x384 --rounds 5

Features of the last layer, in inference mode, with random weights. Both systems get the very same batches: random
tokens, lengths drawn once between --shortest and --longest, texts of any length in a batch, padded to its longest;
with --sort texts of similar length share a batch, for both. The systems take turns; times are medians over rounds,
and tokens are those of texts, without padding:

ours      ``extract_features`` of ``PMLMModel.from_pretrained``, whose linear layers are packed
plain     the same model before its layers are packed
fairseq   ``extract_features`` of fairseq's RoBERTa after ``make_generation_fast_``
"""

import argparse
import copy
from argparse import Namespace

import fairseq_pmlm.tasks  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import numpy as np
import torch
from fairseq.models.roberta.model import RobertaModel, base_architecture
from peers import build_ours, describe_machine, dictionary, print_table, take_turns

from fairseq_pmlm.model.kernels.linear import PackableLinear


def build_roberta(layers: int, width: int, symbols, positions: int) -> RobertaModel:
    """fairseq's RoBERTa."""
    options = Namespace(
        encoder_layers=layers,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=width // 64,
        max_positions=positions,
        tokens_per_sample=positions,
    )
    base_architecture(options)
    return RobertaModel.build_model(options, Namespace(source_dictionary=symbols))


def draw_batches(args, symbols) -> tuple[list[torch.Tensor], int]:
    """Padded batches, int64 (texts, longest), and the number of tokens in all of them without padding."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(args.shortest, args.longest, args.texts * args.batches, endpoint=True)
    if args.sort:
        lengths = np.sort(lengths)
    batches = []
    for part in lengths.reshape(args.batches, args.texts):
        batch = rng.integers(4, args.types - 2, (args.texts, part.max()))
        batch[:, 0] = symbols.bos()
        batch[np.arange(args.texts), part - 1] = symbols.eos()
        batch[np.arange(part.max()) >= part[:, None]] = symbols.pad()
        batches.append(torch.from_numpy(batch))
    return batches, int(lengths.sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="6x384", help="layers x width (default: %(default)s)")
    parser.add_argument("--types", type=int, default=30000, help="size of the vocabulary")
    parser.add_argument("--texts", type=int, default=16, help="texts in a batch")
    parser.add_argument("--batches", type=int, default=8, help="batches in a round")
    parser.add_argument("--shortest", type=int, default=8, help="tokens of the shortest text")
    parser.add_argument("--longest", type=int, default=128, help="tokens of the longest text")
    parser.add_argument("--sort", action="store_true", help="texts of similar length share a batch, for all systems")
    parser.add_argument("--relative", action="store_true", help="ours with relative positions; RoBERTa has none")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take turns in, after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layers, width = map(int, args.size.split("x"))
    symbols = dictionary(args.types)
    plain = build_ours(layers, width, symbols, relative_positions=args.relative).eval()
    ours = copy.deepcopy(plain)
    for module in ours.modules():
        if isinstance(module, PackableLinear):
            module.make_generation_fast_()
    roberta = build_roberta(layers, width, symbols, 512).eval()
    roberta.make_generation_fast_()
    batches, tokens = draw_batches(args, symbols)

    def encode(model):
        def run():
            with torch.inference_mode():
                for batch in batches:
                    model(src_tokens=batch, features_only=True)

        return run

    systems = {"ours": encode(ours), "plain": encode(plain), "fairseq": encode(roberta)}
    take_turns(systems, 1)
    times = take_turns(systems, args.rounds)
    padded = sum(batch.numel() for batch in batches)
    print(
        f"{args.size}, {args.batches} batches of {args.texts} texts of {args.shortest} to {args.longest} tokens, "
        f"{tokens:,} in all, {padded:,} with padding; {args.rounds} rounds; {describe_machine()}\n"
    )
    print_table(times, tokens, "tokens")


if __name__ == "__main__":
    main()
