"""What a run of ``fairseq-train --log-format json`` has logged, from its output or from its ``--log-file``."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field

from ..utils.errors import PMLMError

# {"epoch": 1, ...} alone, as --log-file has it; behind date, level and name, as the output has it; or as hydra has it
STATISTICS = re.compile(r'(?:^|\| INFO \| [\w.]+ \| |\]\[[\w.]+\]\[INFO\] - )(\{"[^\n]*\})\s*$')
TROUBLE = re.compile(
    r"(?:\| (?P<level>WARNING|ERROR|CRITICAL) \| [^|]* \| |\]\[(?P<hydra>WARNING|ERROR|CRITICAL)\] - "
    r"|^fairseq_pmlm: (?P<ours>error): )(?P<text>.*)$"
)
NAME = re.compile(r"[A-Za-z0-9_.@/-]{1,80}")
LONGEST = 1 << 20  # characters of a line; nothing that fairseq logs of a training comes near

Curve = dict[int, dict[str, float]]


@dataclass
class Log:
    """Numbers by the update that they were logged after; of one that was logged twice, as after a crash, the last.

    train: means since the entry before. parts: of whole parts of the data, by their names: "valid", "valid1", and
    "train" at the end of an epoch. trouble: warnings and errors. unreadable: lines of numbers that are broken.
    """

    path: str
    train: Curve = field(default_factory=dict)
    parts: dict[str, Curve] = field(default_factory=dict)
    trouble: Counter = field(default_factory=Counter)
    unreadable: int = 0

    def curve(self, key: str, part: str = "") -> list[tuple[int, float]]:
        """(updates, value) of *key* in training, or in a *part*, in the order of the updates."""
        entries = self.parts.get(part, {}) if part else self.train
        return sorted((updates, values[key]) for updates, values in entries.items() if key in values)

    def tokens(self) -> dict[int, float]:
        """Tokens seen by each entry of training: tokens of an update times updates, added up."""
        total, before, seen = 0.0, 0, {}
        for updates, per_update in self.curve("wpb"):
            total += per_update * (updates - before)
            seen[updates], before = total, updates
        return seen


def read(path: str) -> Log:
    """The log in the file *path*.

    Raises:
        PMLMError: it cannot be read.
    """
    log = Log(path)
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in iter(lambda: f.readline(LONGEST), ""):
                found = STATISTICS.search(line)
                trouble = None if found else TROUBLE.search(line)
                if found:
                    log.unreadable += not _add(log, found[1])
                elif trouble:
                    level = trouble["level"] or trouble["hydra"] or trouble["ours"]
                    log.trouble[f"{level.lower()}: {trouble['text'][:500]}"] += 1
    except OSError as error:
        raise PMLMError(f"cannot read {path}: {error.strerror or error}") from None
    return log


def _add(log: Log, text: str) -> bool:
    """Add one entry; whether it is one."""
    try:
        content = json.loads(text)
        values = {
            key: float(value) for key, value in content.items() if not isinstance(value, (dict, list, type(None)))
        }
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False
    values = {key: value for key, value in values.items() if NAME.fullmatch(key)}
    counter = next((key for key in values if key == "num_updates" or key.endswith("_num_updates")), None)
    if counter is None:
        return False
    updates = values[counter]
    if not (math.isfinite(updates) and 0 <= updates < 2**53):
        return False
    part = counter.removesuffix("num_updates")
    entries = log.parts.setdefault(part.rstrip("_"), {}) if part else log.train
    entries[int(updates)] = {key.removeprefix(part): value for key, value in values.items() if key != counter}
    return True
