"""Files of hypotheses and references: one text a line, or the output of ``fairseq-generate``."""

import os
import re
from typing import NamedTuple, Optional

from ..utils.errors import PMLMError
from ..utils.io import read_lines

SPACE = "\u2581"  # how sentencepiece spells a space


def read_segments(path: str) -> list[str]:
    """The lines of a UTF-8 text file, plain or ``.gz``, as :func:`~fairseq_pmlm.utils.io.read_lines` has them.

    Raises:
        PMLMError: the file cannot be read, is empty, or is not UTF-8 (naming the line).
    """
    lines = [line for _, line in read_lines(os.fspath(path))]
    if not lines:
        raise PMLMError(f"{path}: is empty")
    return lines


class Record(NamedTuple):
    """What ``fairseq-generate`` said of one input: its id, the source and the reference (None where it printed none),
    and the detokenized hypotheses with their scores (base 2), the best one first."""

    id: int
    source: Optional[str]
    reference: Optional[str]
    hypotheses: list[tuple[str, float]]


def read_generate(path: str) -> list[Record]:
    """What ``fairseq-generate`` or ``fairseq-interactive`` printed, by id (0, 1, ...), which is the order of the data.

    Reads the lines ``S-<id>``, ``T-<id>`` and ``D-<id>`` (id, score, detokenized text), which follow each other for
    each id, and ignores all others. fairseq-interactive, known by its ``W-<id>`` lines, prints sources as dictionary
    symbols: those of sentencepiece are put together again.

    Raises:
        PMLMError: as :func:`read_segments`; no hypothesis at all, a line with too few fields, an id that is missing or
            comes twice, or an end in the middle of a line or of an input.
    """
    lines = read_segments(path)
    check_last_line(path)
    sides: dict[str, dict[int, str]] = {"S": {}, "T": {}}
    hypotheses: dict[int, list[tuple[str, float]]] = {}
    interactive, last = False, None
    for number, line in enumerate(lines, 1):
        match = re.match(r"([STDW])-([0-9]+)\t", line)
        if match is None:
            continue
        kind, index = match[1], int(match[2])
        begun = sides.get(kind, hypotheses if kind == "D" and index != last else ())
        if index in begun:
            raise PMLMError(f"{path}, line {number}: {kind}-{index} for the second time; are these two outputs?")
        last = index
        interactive = interactive or kind == "W"
        if kind in sides:
            sides[kind][index] = line[match.end() :]
        elif kind == "D":
            hypotheses.setdefault(index, []).append(read_hypothesis(line, f"{path}, line {number}"))
    if not hypotheses:
        raise PMLMError(f"{path}: no line D-<id>\\t<score>\\t<text>; is this the output of fairseq-generate?")
    known = hypotheses.keys() | sides["S"].keys()
    missing = next((i for i in range(max(known) + 1) if i not in hypotheses), None)
    if missing is not None:
        there = f"its source S-{missing}" if missing in sides["S"] else f"ids up to {max(known)}"
        raise PMLMError(
            f"{path}: no hypothesis D-{missing}, but {there}: is the output cut, or were sentences skipped?"
        )
    if interactive:
        sides["S"] = {index: join_pieces(source) for index, source in sides["S"].items()}
    return [Record(i, sides["S"].get(i), sides["T"].get(i), hypotheses[i]) for i in range(len(hypotheses))]


def read_hypothesis(line: str, where: str) -> tuple[str, float]:
    """Text and score of a line ``D-<id>``."""
    fields = line.split("\t", 2)
    try:
        return fields[2], float(fields[1])
    except (IndexError, ValueError):
        raise PMLMError(f"{where}: expected D-<id>, score and text between tabs, found {line!r}") from None


def check_last_line(path: str) -> None:
    """Raise PMLMError if a file, unless compressed, does not end with a newline: whatever wrote it was stopped."""
    if os.fspath(path).endswith(".gz") or not os.path.isfile(path):  # a pipe can be read only once
        return
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            raise PMLMError(f"{path}: the last line has no newline at its end; the output is cut")


def join_pieces(source: str) -> str:
    """The text of sentencepiece's pieces; anything else as it is."""
    return source.replace(" ", "").replace(SPACE, " ").strip(" ") if SPACE in source else source


def read_generate_output(path: str) -> list[str]:
    """The best hypothesis of each input in what ``fairseq-generate`` printed, as :func:`read_generate` reads it."""
    return [record.hypotheses[0][0] for record in read_generate(path)]
