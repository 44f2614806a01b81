"""Raw text to a directory that ``fairseq-train --task pmlm`` reads.

    pmlm prepare text --text corpus/ more.txt.gz --vocab-size 8000 --destdir data-bin/corpus

Text is UTF-8, plain or .gz, in files or directories (searched recursively). Blank lines separate documents; within a
document every line stays a line (fairseq's ``--sample-break-mode`` decides what becomes of them). The command looks at
all text once, trains a sentencepiece model on the training part, or takes a tokenizer (--sentencepiece-model FILE,
--wordpiece-vocab FILE, or --vocab-from DIR for that of an imported checkpoint or of another corpus), encodes, and
writes what ``fairseq-preprocess`` would write. DIR then holds dict.txt, the tokenizer file, train.bin, train.idx,
valid.bin, valid.idx, and report.json. The same input gives the same bytes for any number of workers. Memory and
temporary files do not grow with the text, except for some bytes a document.

With --shard-size, DIR holds such directories, shard00 with the validation set, shard01, ..., which fairseq-train takes
separated by colons, and visits one an epoch. After a run that was stopped, the same command makes what is missing. Or
make a plan first, and then its shards by any number of jobs on any machines:

    pmlm prepare text ... --shard-size 2G --only-plan
    sbatch --array=0-31 --wrap 'pmlm prepare text ... --shard-size 2G --job $SLURM_ARRAY_TASK_ID/32'
"""

import argparse
import re

from ..preparation.pretraining import Preparation
from . import arguments


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("prepare text", __doc__)
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        metavar="PATH",
        help="text files or directories to train on, UTF-8, plain or .gz; hidden files in directories are left out",
    )
    parser.add_argument(
        "--documents",
        choices=["blocks", "files"],
        default="blocks",
        help="blocks: blank lines separate documents; files: one document per file (default: %(default)s)",
    )
    parser.add_argument(
        "--valid", nargs="+", metavar="PATH", help="validation text, instead of taking documents out of --text"
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="part of the documents, at least one, to draw for validation; 0: no validation set (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the draw of validation documents and of lines (default: %(default)s)"
    )
    tokenizer = parser.add_mutually_exclusive_group(required=True)
    tokenizer.add_argument(
        "--vocab-size",
        type=arguments.positive,
        metavar="N",
        help="train a sentencepiece model of N pieces, its 3 special ones included; the dictionary has N + 3 symbols",
    )
    tokenizer.add_argument("--sentencepiece-model", metavar="FILE", help="use this sentencepiece model")
    tokenizer.add_argument(
        "--wordpiece-vocab",
        metavar="FILE",
        help="use WordPiece with this vocab.txt; see --bpe pmlm_wordpiece for upper and lower case",
    )
    tokenizer.add_argument(
        "--vocab-from",
        metavar="DIR",
        help="use the dict.txt and the tokenizer file in this directory: those of the model to train on",
    )
    parser.add_argument(
        "--character-coverage",
        type=float,
        default=0.9995,
        metavar="F",
        help="part of all characters that the model knows, the rarest being left out; 1 for all (default: %(default)s)",
    )
    parser.add_argument(
        "--byte-fallback",
        action="store_true",
        help="spell characters that the model does not know as bytes: 256 more pieces, and nothing is unknown",
    )
    parser.add_argument(
        "--sentencepiece-lines",
        type=arguments.positive,
        default=2_000_000,
        metavar="N",
        help="lines drawn at random to train the sentencepiece model on; bounds its memory (default: %(default)s)",
    )
    parser.add_argument(
        "--deduplicate",
        action="store_true",
        help="of documents that are the same but for white space, keep the first (those of --valid come before all "
        "others); takes 32 bytes of memory a document, and two different ones are taken for the same with probability "
        "7e-5 among 50 million",
    )
    parser.add_argument(
        "--shard-size",
        type=size,
        metavar="BYTES",
        help="write shards of about so many bytes of text each, such as 500M or 2G: DIR/shard00, ...; documents are "
        "not cut, and all shards are about equal. English has 4 to 5 bytes a token, and a token takes 2 bytes",
    )
    parser.add_argument(
        "--only-plan",
        action="store_true",
        help="with --shard-size: look at the text, make the vocabulary and the validation set, and stop",
    )
    parser.add_argument(
        "--job",
        type=job,
        metavar="I/N",
        help="with --shard-size, once there is a plan: make the Ith part, from 0, of N parts of the shards, for "
        "example $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT; all options that change the output as for the plan",
    )
    arguments.add_common_arguments(parser)
    args = parser.parse_args(argv)
    if (args.only_plan or args.job) and not args.shard_size:
        parser.error("--only-plan and --job go with --shard-size")
    if args.job and (args.only_plan or args.overwrite):
        parser.error("--job makes shards of a plan that is there; --only-plan and --overwrite do not go with it")
    if not 0 <= args.valid_fraction < 1:
        parser.error(f"--valid-fraction {args.valid_fraction}: must be at least 0 and less than 1")
    if not 0.9 <= args.character_coverage <= 1:
        parser.error(f"--character-coverage {args.character_coverage}: must be between 0.9 and 1")
    if not 0 <= args.seed < 2**32:  # what sentencepiece takes
        parser.error(f"--seed {args.seed}: must be from 0 to {2**32 - 1}")
    if args.vocab_size and not 4 <= args.vocab_size < 2**31:  # 3 special pieces, and one more
        parser.error(f"--vocab-size {args.vocab_size}: must be from 4 to {2**31 - 1}")
    return args


def size(text: str) -> int:
    """An argparse type: a number of bytes, with K, M, G or T for thousands, millions, ..."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text, re.IGNORECASE)
    number = float(match.group(1)) * 1000 ** " KMGT".index(match.group(2).upper() or " ") if match else 0
    if not 1 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is not a number of bytes, such as 500M or 2G")
    return int(number)


def job(text: str) -> tuple[int, int]:
    """An argparse type: I/N, with I from 0 to N - 1."""
    index, number = map(int, text.split("/"))
    if not 0 <= index < number:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return index, number


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    preparation = Preparation(args)
    if args.shard_size:
        preparation.make_shards()
    else:
        preparation.make_directory()
