"""Options that several commands have: each is defined here, once, so that it has the same name and meaning in all."""

import os
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from argparse import _ActionsContainer as ArgumentGroup  # a parser, or a group of its options


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"{text[:100]!r} is not a whole number of at least 1")
    return number


def destination(text: str) -> str:
    """An argparse type: a directory to write that fairseq can be given as data."""
    if not text or os.pathsep in text:
        raise ArgumentTypeError(f"{text!r} will not do: fairseq takes {os.pathsep!r} for the end of a directory's name")
    return text


def command_parser(name: str, description: str | None) -> ArgumentParser:
    """The parser of ``pmlm NAME``; *description*, the docstring of its module, stands in ``--help`` as it is."""
    return ArgumentParser(
        f"pmlm {name}", description=description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )


# What a command reads


def add_checkpoint_arguments(parser: ArgumentParser, task: str = "") -> None:
    """``--path``, a checkpoint (of --task *task*), and ``--cpu``."""
    parser.add_argument(
        "--path", required=True, metavar="FILE", help=f"checkpoint of --task {task}" if task else "checkpoint"
    )
    parser.add_argument("--cpu", action="store_true", help="use no GPU")


def add_data_argument(parser: ArgumentParser) -> None:
    """``--data``, where a command that takes a file with texts finds the rest."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="the model's data directory, with its dict.txt and tokenizer file (default: that of the checkpoint)",
    )


def add_vocab_from_argument(parser: ArgumentParser) -> None:
    """``--vocab-from`` of the commands that prepare data for fine-tuning."""
    parser.add_argument(
        "--vocab-from",
        required=True,
        metavar="DIR",
        help="directory whose dict.txt and tokenizer file to use: those of the model to fine-tune, as pmlm prepare "
        "text or pmlm import wrote them",
    )


def add_split_argument(parser: ArgumentParser, what: str, default: str | None = "valid") -> None:
    """``--split``, the part of a data directory that is read; *what*: what for."""
    parser.add_argument("--split", default=default, metavar="NAME", help=f"{what} (default: valid)")


def add_max_tokens_argument(parser: ArgumentParser, default: int | None, what: str) -> None:
    """``--max-tokens``, the size of a batch; *what*: what it counts."""
    stated = "" if default is None else " (default: %(default)s)"
    parser.add_argument("--max-tokens", type=positive, default=default, metavar="N", help=f"{what}{stated}")


# What a command writes


def add_out_argument(parser: ArgumentGroup) -> None:
    """``--out`` of the commands that otherwise write to standard output."""
    parser.add_argument("--out", metavar="FILE", help="write here instead of to standard output")


def add_save_json_argument(parser: ArgumentParser, what: str) -> None:
    """``--save-json``: the same as JSON, for programs."""
    parser.add_argument("--save-json", metavar="FILE", help=f"also write {what} to this file")


def add_save_dir_arguments(parser: ArgumentParser, what: str) -> None:
    """``--save-dir``, a directory for a checkpoint, and ``--overwrite``; *what*: what may be there already."""
    parser.add_argument("--save-dir", required=True, metavar="DIR", help="directory to write; appears when complete")
    parser.add_argument("--overwrite", action="store_true", help=f"replace what an earlier {what} wrote to --save-dir")


def add_output_arguments(parser: ArgumentGroup, required: bool = True) -> None:
    """``--destdir``, a directory for data, and ``--overwrite``."""
    parser.add_argument(
        "--destdir",
        type=destination,
        required=required,
        metavar="DIR",
        help="directory to write; appears when complete",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what an earlier run wrote to --destdir (refused if it holds other files)",
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """Those, and ``--workers`` and ``--keep-encoded`` of all commands that encode text."""
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
        help="write the encoded text to DIR/encoded as well, for the fairseq-preprocess command that is printed",
    )
