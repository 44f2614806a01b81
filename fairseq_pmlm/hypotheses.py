"""Files of hypotheses and references: one text a line, or the output of ``fairseq-generate``."""

import re

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


def read_generate_output(path: str) -> list[str]:
    """The hypotheses in what ``fairseq-generate`` printed, by id (0, 1, ...), which is the order of the data.

    Reads the lines ``D-<id>\\t<score>\\t<text>`` (detokenized) and ignores all others. The first line of an id is its
    best hypothesis; with ``--nbest`` the others are left out.

    Raises:
        PMLMError: as :func:`read_segments`; no such line, a line with fewer than 3 fields, or an id that is missing (a
            sentence that is too long is skipped under ``--skip-invalid-size-inputs-valid-test``).
    """
    hypotheses = {}
    for number, line in enumerate(read_segments(path), 1):
        match = re.match(r"D-([0-9]+)\t", line)
        if match is None:
            continue
        fields = line.split("\t", 2)
        if len(fields) < 3:
            raise PMLMError(f"{path}, line {number}: expected D-<id>, score and text between tabs, found {line!r}")
        hypotheses.setdefault(int(match[1]), fields[2])
    if not hypotheses:
        raise PMLMError(f"{path}: no line D-<id>\\t<score>\\t<text>; is this the output of fairseq-generate?")
    missing = next((i for i in range(len(hypotheses)) if i not in hypotheses), None)
    if missing is not None:
        raise PMLMError(
            f"{path}: no hypothesis D-{missing}, but ids up to {max(hypotheses)}: "
            "is the output cut, or were sentences skipped?"
        )
    return [hypotheses[i] for i in range(len(hypotheses))]
