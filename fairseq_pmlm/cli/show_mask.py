"""Draw who sees whom: the slots of one real example and its attention mask, like figure 5 of the paper.

    pmlm show-mask data-bin/corpus --out mask.png                  # a block of the validation text
    pmlm show-mask data-bin/corpus --sentence "A sentence." --out mask.svg
    pmlm show-mask data-bin/pairs --index 3 --out pair.png         # a source and its target

The example is laid out by the code that lays out the training data. Rows are queries and columns are keys; a coloured
cell means that the row's slot attends the column's.
"""

import argparse
import os

import fairseq_pmlm.tasks  # noqa: F401  registers with fairseq; before fairseq, whose imports it keeps quiet

# isort: split
import matplotlib
import numpy as np
from fairseq.data import ListDataset, data_utils

from ..data import layout
from ..data.blocks import TextBlocks
from ..data.collate import OBJECTIVES
from ..data.pretraining_dataset import PMLMDataset
from ..tasks.base import load_dictionary
from ..tokenizers import files as tokenizer_files
from ..utils.errors import PMLMError
from ..utils.io import check_output, replacing
from . import arguments

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

KINDS = {  # name of the slot kind: colour of the cells whose key is of this kind
    "hidden": "#f4f4f4",
    "context": "#8fb8de",
    "[M] in the context": "#3b6ea5",
    "original token": "#e8a33d",
    "[P]": "#c4453c",
}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("show-mask", __doc__)
    parser.add_argument("data", metavar="DATA", help="directory made by pmlm prepare text or pmlm prepare pairs")
    parser.add_argument(
        "--out", default="mask.png", metavar="FILE", help="picture to write, .png or .svg (default: %(default)s)"
    )
    arguments.add_split_argument(parser, "part of the data that the example comes from")
    parser.add_argument(
        "--index", type=int, help="number of the example in the split, from 0 (default: one with several steps)"
    )
    parser.add_argument(
        "--sentence", metavar="TEXT", help="draw this one instead, with the tokenizer of the data directory"
    )
    parser.add_argument("--objective", default="ae+par", choices=list(OBJECTIVES), help="pre-training objective")
    parser.add_argument("--tokens", type=int, default=28, help="longest text to draw, in tokens; more is hard to read")
    parser.add_argument("--seed", type=int, default=1, help="of the mask (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    if os.path.splitext(args.out)[1] not in (".png", ".svg"):
        raise PMLMError(f"--out {args.out} is neither a .png nor a .svg file")
    check_output(args.out)
    for option, value, least in (("index", args.index or 0, 0), ("tokens", args.tokens, 4), ("seed", args.seed, 0)):
        if value < least:
            raise PMLMError(f"--{option} {value}: give {least} or more")
    pairs = None if args.sentence else find_pairs(args.data, args.split)
    dictionary = load_dictionary(args.data, f"dict.{pairs[0]}.txt" if pairs else "dict.txt")
    slots, title = pair(args, dictionary, *pairs) if pairs else block(args, dictionary)
    draw(slots, dictionary, title, args.out)
    print(f"{len(slots.tokens)} slots, {slots.context_length} of them context: wrote {args.out}")


def find_pairs(data, split):
    """(source, target) suffixes where *data* holds binarized pairs, else None."""
    for name in sorted(os.listdir(data)) if os.path.isdir(data) else []:
        parts = name.split(".")
        if len(parts) == 4 and parts[0] == split and parts[3] == "idx" and parts[1].split("-")[0] == parts[2]:
            return parts[1].split("-")
    return None


def load(prefix, dictionary, index):
    """The binarized lines at *prefix*; refused if there are none, or fewer than *index* asks for."""
    dataset = data_utils.load_indexed_dataset(prefix, dictionary)
    if dataset is None:
        raise PMLMError(f"{prefix}.bin does not exist")
    if index >= len(dataset):
        raise PMLMError(f"--index {index}: {prefix} holds {len(dataset):,} lines")
    return dataset


def block(args, dictionary):
    """Slots of a block of text."""
    if args.sentence:
        tokenizer = tokenizer_files.find(args.data)
        if tokenizer is None:
            raise PMLMError(f"{args.data} holds no tokenizer for --sentence")
        encoded = tokenizer_files.load(tokenizer).encode(args.sentence)
        if not encoded:
            raise PMLMError(f"--sentence {args.sentence!r}: holds no token")
        line = dictionary.encode_line(encoded, add_if_not_exist=False).long()
        text, args.index = ListDataset([line], np.array([len(line)])), 0
    else:
        text = load(os.path.join(args.data, args.split), dictionary, 0)
    blocks = TextBlocks(text, args.tokens - 3, dictionary.pad(), dictionary.eos(), "complete_doc")
    if (args.index or 0) >= len(blocks):
        raise PMLMError(f"--index {args.index}: there are {len(blocks):,} blocks of at most {args.tokens} tokens")
    data = PMLMDataset(blocks, dictionary, objective=args.objective, seed=args.seed)
    candidates = [data[i]["slots"] for i in ([args.index] if args.index is not None else range(min(200, len(blocks))))]
    # three steps show the rule and stay readable
    slots = min(candidates, key=lambda s: (abs(s.steps.min() + 3), -len(s.tokens)))
    return slots, f"Pre-training, --objective {args.objective}"


def pair(args, dictionary, source_lang, target_lang):
    """Slots of a source and its target."""
    prefix = os.path.join(args.data, f"{args.split}.{source_lang}-{target_lang}.")
    index = args.index or 0
    source, target = (load(prefix + side, dictionary, index)[index] for side in (source_lang, target_lang))
    source = np.concatenate([[dictionary.bos()], source[: args.tokens - 2], [dictionary.eos()]])
    target = target[: args.tokens].numpy()
    pseudo = np.full(len(target), dictionary.index("<pseudo>"))
    return layout.seq2seq_layout(source, target, pseudo), "Fine-tuning: source and target"


def draw(slots, dictionary, title, out):
    """Write the picture of *slots* to *out*: by a temporary name, so that no half of it is ever there."""
    names = [label(dictionary, *slot) for slot in zip(slots.tokens, slots.positions, slots.steps, strict=True)]
    kinds = np.where(slots.steps < 0, 4, np.where(slots.steps > 0, 3, 1))
    masked = slots.queries[: slots.context_queries]
    kinds[masked] = 2
    cells = np.where(layout.visible(slots.steps, slots.steps), kinds[None, :], 0)

    n, c = len(names), slots.context_length
    size = max(5.0, 0.24 * n)
    figure, axes = plt.subplots(figsize=(size + 1.5, size + 1.2))
    axes.imshow(cells, cmap=ListedColormap(list(KINDS.values())), vmin=0, vmax=len(KINDS) - 1)
    axes.set_xticks(range(n), names, rotation=90, fontsize=8)
    axes.set_yticks(range(n), names, fontsize=8)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(-0.5, n), minor=True)
    axes.set_yticks(np.arange(-0.5, n), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, kind in zip(ticks, kinds, strict=True):
            tick.set_color("black" if kind == 1 else list(KINDS.values())[kind])
    for line in (axes.axhline, axes.axvline):
        line(c - 0.5, color="black", linewidth=1)
    axes.set_xlabel("key (attended)")
    axes.set_ylabel("query (attends)")
    present = [kind for i, kind in enumerate(KINDS) if i == 0 or (kinds == i).any()]
    figure.legend(
        [Patch(facecolor=KINDS[kind], edgecolor="#999999") for kind in present],
        present,
        loc="lower center",
        ncol=len(present),
        frameon=False,
        fontsize=9,
    )
    axes.set_title(f"{title}\n(numbers: position in the text; w: signed step, 0 for context)", fontsize=10, pad=12)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def label(dictionary, token, position, step):
    """The name of a slot: its token; and, where it is not context, the place it stands for and its step."""
    name = {"<mask>": "[M]", "<pseudo>": "[P]"}.get(dictionary[token], dictionary[token]).replace("$", r"\$")
    return f"{position} {name}" + (f"  w={step:+d}" if step else "")
