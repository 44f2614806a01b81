"""``pmlm COMMAND``: finds the subcommand in one table, runs it, and ends as a Unix command should.

Only the standard library is imported here, and the module of a subcommand when that runs, so that ``pmlm --help``
answers at once.
"""

import difflib
import importlib
import io
import os
import select
import sys
from collections.abc import Sequence

from .._version import __version__
from ..utils.errors import PMLMError, install_excepthook
from ..utils.io import write_output
from ..utils.optional import missing

# What a user types: the module here whose main(argv) it runs, and what it does.
COMMANDS = {
    "prepare text": ("prepare_text", "raw text to data for pre-training"),
    "prepare pairs": ("prepare_pairs", "sources and targets to data for seq2seq fine-tuning"),
    "prepare glue": ("prepare_glue", "labelled texts to data for classification"),
    "prepare squad": ("prepare_squad", "SQuAD's JSON to data for question answering"),
    "import": ("import_checkpoint", "a BERT, RoBERTa, UniLM, ... checkpoint to one of ours"),
    "export": ("export_checkpoint", "a checkpoint of ours to a Hugging Face folder"),
    "infill": ("infill", "fill gaps in texts, or score what stands in them"),
    "predict": ("predict", "classes, numbers, or answers to SQuAD's questions"),
    "score": ("score", "ROUGE, BLEU, chrF, METEOR, SQuAD's exact match and F1"),
    "hypotheses": ("hypotheses", "fairseq-generate's output as text or JSON lines"),
    "loss-by-step": ("loss_by_step", "pre-training losses by step of the factorization order"),
    "show-mask": ("show_mask", "draw who sees whom in an example"),
    "report": ("report", "draw logs of training as a page of HTML"),
    "seeds": ("seeds", "mean and standard deviation over trainings"),
}
# What a shell reports of a command that ended by these signals.
INTERRUPTED, PIPE_CLOSED = 128 + 2, 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status.

    Args:
        argv: what follows ``pmlm`` (default: the arguments of this process).

    Raises:
        PMLMError: bad input, which :func:`~fairseq_pmlm.utils.errors.install_excepthook` prints as one line.
        SystemExit: argparse found a wrong option, or was asked for help.
    """
    install_excepthook()
    prepare_streams()
    try:
        status = run(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        print("pmlm: interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:
        if not output_closed():
            raise
        status = PIPE_CLOSED
    except OSError as error:
        if error.filename is not None:
            raise PMLMError(f"{error.filename}: {error.strerror}") from error
        write_output(None, "\n")  # was it print() to a stream that is not buffered? Then this is refused, too
        raise
    except UnicodeEncodeError as error:
        if sys.stdout.encoding.lower().startswith("utf"):
            raise
        character = error.object[error.start]
        raise PMLMError(
            f"standard output: its encoding, {error.encoding}, has no {character!a}; set PYTHONIOENCODING=utf-8"
        ) from error
    except BaseException as end:
        closed = not flush_output() or output_closed()  # argparse, which prints --help, keeps silent about it
        if closed and isinstance(end, SystemExit) and not end.code:
            return PIPE_CLOSED
        raise
    return status if flush_output() or status else PIPE_CLOSED


def run(argv: list[str]) -> int:
    """Find the subcommand that *argv* begins with, and run it with the rest; returns the exit status."""
    words = 2 if argv[:1] == ["prepare"] else 1
    name, rest = " ".join(argv[:words]), argv[words:]
    if name in COMMANDS:
        module = COMMANDS[name][0]
        try:
            importlib.import_module(f"{__package__}.{module}").main(rest)
        except ModuleNotFoundError as error:
            if (to_install := missing(error, f"pmlm {name}")) is None:
                raise
            raise to_install from error
        return 0
    if name in ("-h", "--help", "prepare -h", "prepare --help"):
        print(usage(name.startswith("prepare")))
        return 0
    if name == "--version":
        print(f"pmlm {__version__}")
        return 0
    if name in ("", "prepare"):
        print(usage(bool(name)), file=sys.stderr)
        return 2
    group = "prepare " if words == 2 else ""
    known = {command.removeprefix(group): command for command in COMMANDS if command.startswith(group)}
    near = difflib.get_close_matches(name.removeprefix(group).replace("_", "-"), known)
    hint = f"did you mean {' or '.join(known[close] for close in near)}?" if near else "see pmlm --help"
    print(f"pmlm: error: unknown command {name!r}; {hint}", file=sys.stderr)
    return 2


def usage(prepare: bool = False) -> str:
    """The commands, or those of ``prepare``, a line each."""
    rows = [(name, says) for name, (_, says) in COMMANDS.items() if name.startswith("prepare") or not prepare]
    lines = [f"  {name:<14} {says}" for name, says in rows]
    first = "usage: pmlm prepare COMMAND ..." if prepare else "usage: pmlm COMMAND ... | pmlm --version"
    return "\n".join([first, "", *lines, "", "pmlm COMMAND --help says what a command takes."])


def prepare_streams() -> None:
    """Make sure that there are standard streams: else the next file that is opened takes the place of a closed one, and
    what a library prints ends up in it.

    Raises:
        PMLMError: standard output is closed, so that results would be lost.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise PMLMError("standard output is closed; if it is not wanted, send it to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are not UTF-8 are printed as they are


def output_closed() -> bool:
    """Whether standard output is a pipe whose reader has gone, rather than some other pipe that broke."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # standard output is closed, or not a file
        return False


def flush_output() -> bool:
    """Write what is left of the output, before Python does so at its end; returns whether anybody reads it.

    Raises:
        PMLMError: it cannot be written for another reason, such as a full disk.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return True
    except OSError as error:
        # what is left in the buffer is not written again, and refused again, when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return False
        raise PMLMError(f"standard output: cannot be written: {error.strerror or error}") from error
