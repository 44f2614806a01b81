"""Fill gaps in the middle of texts, in any order, by beam search; or score what stands there under any order.

    pmlm infill texts.txt --path checkpoints/pretrained/checkpoint_best.pt --data data-bin/corpus
    pmlm infill texts.jsonl --path ... --data ... --steps span --order right-to-left --beam 10 --nbest 3
    pmlm infill spans.jsonl --path ... --data ... --score --order random --seed 7

The input holds a text a line, or, named .jsonl, JSON lines with "text". In it, <mask> is a gap of one token and
<mask:3> one of three; gaps with nothing but white space between them are one. To --score, JSON lines also have "spans",
a list of what stands in the gaps, however many tokens that is. The checkpoint is one of --task pmlm.

What makes a step of the factorization order: --steps token, span (all tokens of a gap at once, each independently of
the others), all (one step), or ae: all at once, at the [M] slots, which is what BERT does. --order is left-to-right,
right-to-left, random, or a file with an order a line: "2 1,3" fills the second of three tokens first, then the others
at once.

The output is JSON lines: {"id": line of the input, "rank": 1 is best, "text", "spans", "logprob": sum over all
tokens in nats, "tokens", "logprobs": of each token}, tokens in the order of the text; with --score without rank, and
with "span_logprobs".
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping

import numpy as np
import torch

from ..data.collate import OBJECTIVES
from ..generation import gaps, infilling
from ..interface import from_pretrained
from ..utils.errors import PMLMError
from ..utils.io import Counts, check_output, clean_line, kind, read_lines, read_records, write_output
from . import arguments

WIDEST = 1000  # beams: each keeps as many candidates


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("infill", __doc__)
    parser.add_argument("input", metavar="INPUT", help="a text a line, or JSON lines (.jsonl), plain or .gz")
    arguments.add_checkpoint_arguments(parser, "pmlm")
    arguments.add_data_argument(parser)
    parser.add_argument(
        "--steps",
        choices=[*gaps.UNITS, "ae"],
        help="what is predicted at once (default: token; with an --order FILE, the file says it)",
    )
    parser.add_argument("--order", metavar="ORDER|FILE", help="order of the steps (default: left-to-right)")
    parser.add_argument("--score", action="store_true", help='score the "spans" of the input instead of filling gaps')
    parser.add_argument(
        "--beam", type=arguments.positive, default=5, metavar="N", help="width of the search (default: 5)"
    )
    parser.add_argument(
        "--nbest", type=arguments.positive, default=1, metavar="N", help="fillings to write of each text (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of --order random (default: %(default)s)")
    arguments.add_out_argument(parser)
    arguments.add_max_tokens_argument(parser, infilling.MAX_TOKENS, "slots of a batch, those of all beams counted")
    args = parser.parse_args(argv)
    if args.beam > WIDEST:
        raise PMLMError(f"--beam {args.beam}: give 1 to {WIDEST:,}; the memory of a step grows with its square")
    if args.nbest > args.beam:
        raise PMLMError(f"--nbest {args.nbest} is more than --beam {args.beam}")
    if not os.path.exists(args.path):
        raise PMLMError(f"--path {args.path}: no such file")
    if args.seed < 0:
        raise PMLMError(f"--seed {args.seed}: give 0 or more")
    if args.order and args.steps in ("all", "ae"):
        raise PMLMError(f"--order {args.order}: with --steps {args.steps} there is only one step; leave --order out")
    args.order = args.order or "left-to-right"
    if args.order not in gaps.ORDERS and not os.path.isfile(args.order):
        raise PMLMError(f"--order {args.order} is none of {', '.join(gaps.ORDERS)}, and no file")
    if args.order not in gaps.ORDERS and args.steps:
        raise PMLMError(f"--steps {args.steps}: --order {args.order} says what the steps are; give one of them")
    check_output(args.out, args.input, args.order, args.path)
    return args


def read(args: argparse.Namespace) -> list[tuple[int, str, list[str] | None]]:
    """Line number, text and, to be scored, spans.

    Raises:
        PMLMError: there are none; something is no text.
    """
    if args.input.removesuffix(".gz").endswith(".jsonl"):
        rows = list(read_records(args.input, ["text", "spans"] if args.score else ["text"]))
    elif args.score:
        raise PMLMError(f'{args.input}: --score reads JSON lines (.jsonl) with "text" and "spans"')
    else:
        rows = [(number, [line]) for number, line in read_lines(args.input) if line.strip()]
    texts, counts = [], Counts()
    for number, (text, *spans) in rows:
        if not isinstance(text, str):
            raise PMLMError(f"{args.input}, line {number}, key 'text': not text, but {kind(text)}")
        fillers = None
        if args.score:
            (fillers,) = spans
            if not (isinstance(fillers, list) and all(isinstance(filler, str) for filler in fillers)):
                raise PMLMError(f"{args.input}, line {number}, key 'spans': not a list of texts")
            fillers = [clean_line(filler, counts.replaced) for filler in fillers]
        texts.append((number, clean_line(text, counts.replaced), fillers))
    if not texts:
        raise PMLMError(f"{args.input}: no texts")
    if counts.replaced:
        print(f"{args.input}: replaced by spaces or U+FFFD: {counts.describe_replaced()}", file=sys.stderr)
    return texts


def check_checkpoint(args: argparse.Namespace, options: Mapping) -> None:
    """Refuse a checkpoint that has not learned what it is asked for; *options* are those of the task it comes from."""
    task, variant = str(options.get("_name")), str(options.get("variant", "none"))
    if task not in ("pmlm", "pmlm_variants"):  # the latter is that of experiments/variants
        raise PMLMError(f"--path {args.path} was trained for --task {task}; gaps are filled by one of --task pmlm")
    if variant != "none":
        raise PMLMError(f"--path {args.path} was trained with --variant {variant}; gaps are filled by one without")
    objective = str(options.get("objective", "ae+par"))
    parts = OBJECTIVES.get(objective, ())
    if args.steps == "ae" and "ae" not in parts:
        raise PMLMError(
            f"--steps ae: --path {args.path} was trained with --objective {objective}; its [M] predict nothing"
        )
    if args.steps != "ae" and parts == ("ae",):
        raise PMLMError(f"--path {args.path} was trained with --objective ae; it has no trained [P]: give --steps ae")


def lay_out(args: argparse.Namespace, model) -> tuple[list[int], list[infilling.Gapped], list[list[range]]]:
    """Line numbers, texts with their factorization order, and the places of each gap.

    Raises:
        PMLMError: see :mod:`gaps`; a text is too long; the file of orders has another number of lines.
    """
    rows = read(args)
    orders = None
    if args.order not in gaps.ORDERS:
        orders = [(number, line) for number, line in read_lines(args.order) if line.strip()]
        if len(orders) != len(rows):
            raise PMLMError(f"{args.order}: {len(orders):,} orders for {len(rows):,} texts in {args.input}")
    rng = np.random.default_rng(args.seed)
    limit = model.model.cfg.max_positions
    texts, places = [], []
    for i, (number, text, spans) in enumerate(rows):
        where = f"{args.input}, line {number}"
        if spans is None:
            tokens, ranges = gaps.encode(text, model.bpe, model.dictionary, where)
        else:
            tokens, ranges = gaps.encode_filled(text, spans, model.bpe, model.dictionary, where)
        if len(tokens) > limit:
            raise PMLMError(f"{where}: {len(tokens)} tokens, with <s> and </s>; the model has {limit} positions")
        if orders:
            mask = gaps.read_order(orders[i][1], ranges, f"{args.order}, line {orders[i][0]}")
        else:
            unit = "all" if args.steps == "ae" else args.steps or "token"
            mask = gaps.factorize(ranges, unit, args.order, rng)
        texts.append(infilling.Gapped(tokens, np.zeros_like(tokens), mask))
        places.append(ranges)
    count_unknown(texts, model.dictionary)
    return [number for number, _, _ in rows], texts, places


def count_unknown(texts: list[infilling.Gapped], dictionary) -> None:
    """Say on stderr how many tokens the dictionary does not have: <unk> stands for them, and is scored for them."""
    around = sum(int((np.delete(t.tokens, t.mask.positions) == dictionary.unk()).sum()) for t in texts)
    inside = sum(int((t.tokens[t.mask.positions] == dictionary.unk()).sum()) for t in texts)
    if around:
        print(f"{around:,} tokens around the gaps are not in the dictionary: read as <unk>", file=sys.stderr)
    if inside:
        print(f"{inside:,} tokens of the spans are not in the dictionary: scored as <unk>", file=sys.stderr)


def describe(model, text: infilling.Gapped, ranges: list[range], filling: infilling.Filling) -> dict:
    """What is said of one filling, its tokens in the order of the text."""
    tokens, logprobs = text.tokens.copy(), np.zeros(len(text.tokens))
    tokens[text.mask.positions] = filling.tokens
    logprobs[text.mask.positions] = filling.logprobs
    symbols = [model.dictionary[token] for token in tokens.tolist()]
    places = [place for gap in ranges for place in gap]
    return {
        "text": model.bpe.decode(" ".join(symbols[1:-1])),
        "spans": [model.bpe.decode(" ".join(symbols[gap.start : gap.stop])).strip() for gap in ranges],
        "logprob": round(float(filling.logprobs.sum()), 6),
        "tokens": [symbols[place] for place in places],
        "logprobs": [round(float(logprobs[place]), 6) for place in places],
    }


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    folder, name = os.path.split(args.path)
    model = from_pretrained(folder or ".", name, args.data)
    check_checkpoint(args, model.trained_for)
    if torch.cuda.is_available() and not args.cpu:
        model.cuda()
    numbers, texts, places = lay_out(args, model)
    autoencoding = args.steps == "ae"
    lines = []
    if args.score:
        for number, text, ranges, logprobs in zip(
            numbers, texts, places, infilling.score(model.model, texts, autoencoding, args.max_tokens), strict=True
        ):
            filling = infilling.Filling(text.tokens[text.mask.positions], logprobs)
            said = describe(model, text, ranges, filling)
            ends = np.cumsum([len(gap) for gap in ranges])[:-1]
            said["span_logprobs"] = [round(float(part.sum()), 6) for part in np.split(said["logprobs"], ends)]
            lines.append({"id": number, **said})
    else:
        found = infilling.infill(model.model, texts, args.beam, autoencoding, args.max_tokens)
        for number, text, ranges, fillings in zip(numbers, texts, places, found, strict=True):
            for rank, filling in enumerate(fillings[: args.nbest], start=1):
                lines.append({"id": number, "rank": rank, **describe(model, text, ranges, filling)})
    output = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_output(args.out, output)
