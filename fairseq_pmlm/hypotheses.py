"""Files of hypotheses and references: one text a line, or the output of ``fairseq-generate``."""

import re
from typing import NamedTuple, Optional

from .errors import PMLMError


def read_segments(path: str) -> list[str]:
    r"""The lines of a UTF-8 text file, split at ``"\n"`` and nowhere else.

    ``str.splitlines`` also splits at U+2028, U+0085 and others that do occur inside the texts of a corpus, and shifts
    all lines after them. A byte order mark and the ``"\r"`` of a Windows line end are dropped.

    Raises:
        PMLMError: the file cannot be read, is empty, or is not UTF-8 (naming the line).
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise PMLMError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise PMLMError(f"{path}: is empty")
    lines = []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise PMLMError(f"{path}, line {number}: not UTF-8 (byte {error.start + 1}: {error.reason})") from error
    lines[0] = lines[0].removeprefix("\ufeff")
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

    Reads the lines ``S-<id>``, ``T-<id>`` and ``D-<id>`` (id, score, detokenized text) and ignores all others.

    Raises:
        PMLMError: as :func:`read_segments`; no hypothesis at all, a line with too few fields, or an id that is missing
            (of a sentence that was skipped, or where the output is cut).
    """
    sides: dict[str, dict[int, str]] = {"S": {}, "T": {}}
    hypotheses: dict[int, list[tuple[str, float]]] = {}
    for number, line in enumerate(read_segments(path), 1):
        match = re.match(r"([STD])-([0-9]+)\t", line)
        if match is None:
            continue
        kind, index = match[1], int(match[2])
        if kind != "D":
            sides[kind].setdefault(index, line[match.end() :])
            continue
        fields = line.split("\t", 2)
        try:
            hypotheses.setdefault(index, []).append((fields[2], float(fields[1])))
        except (IndexError, ValueError):
            raise PMLMError(
                f"{path}, line {number}: expected D-<id>, score and text between tabs, found {line!r}"
            ) from None
    if not hypotheses:
        raise PMLMError(f"{path}: no line D-<id>\\t<score>\\t<text>; is this the output of fairseq-generate?")
    missing = next((i for i in range(len(hypotheses)) if i not in hypotheses), None)
    if missing is not None:
        raise PMLMError(
            f"{path}: no hypothesis D-{missing}, but ids up to {max(hypotheses)}: "
            "is the output cut, or were sentences skipped?"
        )
    return [Record(i, sides["S"].get(i), sides["T"].get(i), hypotheses[i]) for i in range(len(hypotheses))]


def read_generate_output(path: str) -> list[str]:
    """The best hypothesis of each input in what ``fairseq-generate`` printed, as :func:`read_generate` reads it."""
    return [record.hypotheses[0][0] for record in read_generate(path)]
