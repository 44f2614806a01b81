"""Pairs of source and target in the formats that data sets are published in.

Each reader yields the texts of a record as they are, and where they stand: cleaning, joining and what to do about empty
ones is for ``pmlm prepare pairs``.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..squad.reader import SquadFile
from ..utils.errors import PMLMError
from ..utils.io import Counts, read_lines, read_records


class Record(NamedTuple):
    """The parts of one source, and its references: (where it stands, value) of each. A value should be text, which
    nobody has checked yet."""

    source: list[tuple[str, Any]]
    references: list[tuple[str, Any]]


def read_json_lines(path: str, source_keys: Sequence[str], target_key: str, counts: Counts) -> Iterator[Record]:
    """Records of a JSON-lines file.

    A list under a source key is a text in parts (SciTLDR's sentences), joined by spaces; one under *target_key* is a
    list of references.

    Raises:
        PMLMError: see :func:`~fairseq_pmlm.utils.io.read_records`; an empty list of references.
    """
    for number, values in read_records(path, [*source_keys, target_key], counts):
        where = f"{path}, line {number}"
        *source, target = values
        for i, value in enumerate(source):
            if isinstance(value, list) and all(isinstance(part, str) for part in value):
                source[i] = " ".join(value)
        references = target if isinstance(target, list) else [target]
        if not references:
            raise PMLMError(f"{where}, key '{target_key}': an empty list of references")
        places = [f"{where}, key '{key}'" for key in source_keys]
        named = [(f"{where}, key '{target_key}'", text) for text in references]
        yield Record([*zip(places, source, strict=True)], named)


def read_parallel(paths: Sequence[str], counts: Counts) -> Iterator[Record]:
    """Records of text files with a line each: the sources, and one or more files of targets.

    Raises:
        PMLMError: the files differ in length, naming both counts; see :func:`~fairseq_pmlm.utils.io.read_lines`.
    """
    counts.files += len(paths)
    files = [read_lines(path, counts) for path in paths]
    for number, first in files[0]:
        texts = [first]
        for path, file in zip(paths[1:], files[1:], strict=True):
            _, text = next(file, (0, None))
            if text is None:
                total = number + sum(1 for _ in files[0])
                raise PMLMError(f"{paths[0]} has {total:,} lines but {path} has {number - 1:,}")
            texts.append(text)
        counts.lines += 1
        named = [(f"{path}, line {number}", text) for path, text in zip(paths, texts, strict=True)]
        yield Record(named[:1], named[1:])
    for path, file in zip(paths[1:], files[1:], strict=True):
        more = sum(1 for _ in file)
        if more:
            raise PMLMError(f"{paths[0]} has {counts.lines:,} lines but {path} has {counts.lines + more:,}")


class Squad:
    """Question generation from a SQuAD file, version 1.1 or 2.0: answer and passage -> question.

    The first answer counts where there are several. Questions of version 2.0 that have none are left out, and counted
    in ``impossible``.
    """

    def __init__(self, path: str, counts: Counts):
        self.path, self.counts = path, counts
        self.impossible = 0

    def read(self) -> Iterator[Record]:
        """Records in the order of the file.

        Raises:
            PMLMError: see :class:`~fairseq_pmlm.squad.reader.SquadFile`.
        """
        for paragraph in SquadFile(self.path, self.counts).paragraphs():
            for question in paragraph.questions:
                if not question.answers:
                    self.impossible += 1
                    continue
                where = question.where
                source = [(f"{where}, answer", question.answers[0].text), (f"{where}, context", paragraph.passage)]
                yield Record(source, [(f"{where}, question", question.text)])
