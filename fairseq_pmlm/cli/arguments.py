"""Options that several scripts have."""

import os
from argparse import ArgumentParser


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def add_output_arguments(parser: ArgumentParser) -> None:
    """Options that all prepare scripts have."""
    parser.add_argument("--destdir", required=True, metavar="DIR", help="directory to write; appears when complete")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the corpus in --destdir (refused if it holds other files)"
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """Those, and what comes with calling ``fairseq-preprocess``."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add_output_arguments(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        default=cpus,
        metavar="N",
        help="processes that encode and binarize; the output is the same for any N (default: CPU cores, %(default)s)",
    )
    parser.add_argument(
        "--keep-encoded",
        action="store_true",
        help="keep the encoded text in DIR/encoded, so that the fairseq-preprocess command printed can be run again",
    )
