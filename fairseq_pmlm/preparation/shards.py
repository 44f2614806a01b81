"""A corpus in shards: what lies where, what is done already, and whether it was begun with the same options and text.

DIR/plan/text         what the look at the text has found (:mod:`~fairseq_pmlm.preparation.survey`)
DIR/plan/vocabulary   dictionary and tokenizer file
DIR/plan/valid        the validation set, which the first shard gets a copy of
DIR/shard00, ...      what ``fairseq-train`` reads
DIR/report.json       numbers of all shards

Each folder appears when it is complete, so that whatever is there need not be made again. Nobody has to wait for
anybody but for the plan, and two processes that make the same shard make the same bytes.
"""

import json
import os
import re
import shutil
from typing import Any

from ..utils.errors import PMLMError
from ..utils.io import read_json, write_json
from . import binarize

PLAN, OPTIONS, REPORT = "plan", "options.json", "report.json"
LAID_OUT = re.compile(rf"{PLAN}|shard\d+|{re.escape(REPORT)}|\..*\.building-.*")
FILES = "files"  # the key of the input files among the options: path to size and time of the last change


def describe_files(paths: list[str]) -> dict[str, list[int]]:
    """Size and time of the last change of each file, for :func:`is_done`.

    Raises:
        PMLMError: one cannot be read.
    """
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise PMLMError(f"cannot read {path}: {error.strerror}") from None
        found[os.path.abspath(path)] = [status.st_size, status.st_mtime_ns]
    return found


def open_directory(destdir: str, overwrite: bool) -> None:
    """Make sure that *destdir* is new, or holds shards; with *overwrite*, empty it.

    Raises:
        PMLMError: it holds something else.
    """
    present = sorted(os.listdir(destdir)) if os.path.isdir(destdir) else []
    for entry in present:
        if not LAID_OUT.fullmatch(entry) and not binarize.OURS.fullmatch(entry):
            raise PMLMError(f"--destdir {destdir} holds other files ({entry}); choose a new directory")
        if not LAID_OUT.fullmatch(entry) and not overwrite:
            raise PMLMError(
                f"--destdir {destdir} already holds a corpus without shards; choose another or add --overwrite"
            )
    if overwrite:
        for entry in sorted(present, key=lambda name: name != PLAN):  # the plan first: without it, nothing goes on
            path = os.path.join(destdir, entry)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def is_done(folder: str, options: dict[str, Any]) -> bool:
    """Whether a step of the plan, written to *folder*, is done, with these options.

    Raises:
        PMLMError: it was done with others, or with other input files.
    """
    if not os.path.isdir(folder):
        return False
    before = read_json(os.path.join(folder, OPTIONS))
    advice = "give the same, choose another --destdir, or add --overwrite to start again"
    for name, value in json.loads(json.dumps(options)).items():
        old: Any = before.get(name)
        if name == FILES and old != value:
            changed = sorted(path for path in {*old, *value} if old.get(path) != value.get(path))
            what = (
                "changed"
                if changed[0] in old and changed[0] in value
                else "added"
                if changed[0] in value
                else "left out"
            )
            raise PMLMError(f"{changed[0]} was {what} since the preparation in {folder} began; {advice}")
        if old != value:
            raise PMLMError(f"the preparation in {folder} was begun with {name} {old}, not {value}; {advice}")
    return True


def record_options(folder: str, options: dict[str, Any]) -> None:
    """Write what :func:`is_done` compares."""
    write_json(os.path.join(folder, OPTIONS), options)


def names(number: int) -> list[str]:
    """Names of that many shards, in order."""
    width = max(2, len(str(number - 1)))
    return [f"shard{i:0{width}}" for i in range(number)]


def share(job: tuple[int, int], number: int) -> range:
    """The shards that job I of N makes, of that many: neighbours, which may lie in one compressed file."""
    index, jobs = job
    return range(index * number // jobs, (index + 1) * number // jobs)


def write_report(folder: str, content: dict[str, Any]) -> None:
    """Add *content* to the report in *folder*."""
    path = os.path.join(folder, REPORT)
    before = read_json(path) if os.path.exists(path) else {}
    write_json(path, before | content)


def read_report(folder: str) -> dict[str, Any]:
    """The report in *folder*."""
    return read_json(os.path.join(folder, REPORT))
