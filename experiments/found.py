"""What the jobs of experiments/objectives.py have found, by kind, system and seed."""

import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from fairseq_pmlm.utils.errors import PMLMError, first_line

ALL, FIRST, LATER = (1, 1 << 15), (1, 1), (2, 1 << 15)  # steps of a factorization order, from and to


class Results:
    """What the jobs have found, by kind, system and seed."""

    def __init__(self, out: Path, results: Sequence[dict]):
        self.out = out
        text = next((result for result in results if result["kind"] == "text"), {})
        self.words, self.entropy = text.get("words", 0), text.get("entropy")
        self.trained: dict[str, dict[int, dict]] = {}
        self.files: dict[str, dict[int, Path]] = {}
        self.scores: dict[str, dict[str, dict[int, np.ndarray]]] = {}
        for result in results:
            facts = result["facts"]
            if result["kind"] == "pretraining":
                self.trained.setdefault(facts["system"], {})[facts["seed"]] = result
            elif result["kind"] == "measures":
                self.files.setdefault(facts["system"], {})[facts["seed"]] = out / result["file"]
            elif result["kind"] == "task":
                systems = self.scores.setdefault(facts["task"], {})
                systems.setdefault(facts["system"], {})[facts["seed"]] = np.array(result["items"])

    def seeds(self, *systems: str) -> list[int]:
        """Seeds with which all of these systems have been measured."""
        return sorted(set.intersection(*(set(self.files.get(system, {})) for system in systems)))

    def minutes(self, system: str, seeds: Sequence[int]) -> list[float]:
        """What pre-training took with each of these seeds."""
        return [self.trained[system][seed]["seconds"] / 60 for seed in seeds]

    def measures(self, system: str, seed: int) -> dict[str, np.ndarray]:
        return load(self.files[system][seed])

    def losses(self, system: str, name: str, steps=ALL, shown=True) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Seed -> for each block of the validation text the sum of the losses *name* at these steps, and how many.

        They are of the places whose [M] slot shows [M]; or, not *shown*, of those where it shows a token.
        """
        found = {}
        for seed in self.seeds(system):
            m = self.measures(system, seed)
            if name in m:
                chosen = (m["shown"] == shown) & (m["step"] >= steps[0]) & (m["step"] <= steps[1])
                blocks = int(m["block"].max()) + 1
                sums = np.bincount(m["block"][chosen], m[name][chosen], blocks)
                found[seed] = sums, np.bincount(m["block"][chosen], minlength=blocks)
        return found


@lru_cache(maxsize=64)
def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of measure.py.

    Raises:
        PMLMError: they cannot be read.
    """
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        made = [path.parent.with_name(f"{path.parent.name}.measure")]
        if not (path.parent / "model").is_dir():
            made.append(path.parent)  # to be trained anew, too
        raise PMLMError(
            f"{path}: cannot be read: {first_line(error)}; remove {' and '.join(map(str, made))}, and run again"
        ) from error
