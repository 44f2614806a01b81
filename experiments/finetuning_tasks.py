"""The tasks that experiments/objectives.py fine-tunes on: how each is prepared, trained, answered and scored.

A task knows nothing of jobs: it says commands, as lists of words, and reads what they have written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts/demo"))  # baselines.py, for quality_table

from quality_table import references_of

from fairseq_pmlm.scoring.hypotheses import read_generate, read_segments
from fairseq_pmlm.scoring.rouge import score_rouge
from fairseq_pmlm.scoring.squad import score_squad
from fairseq_pmlm.squad.reader import SquadFile
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import Counts, read_json, read_records

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "fairseq_pmlm"
Command = list[str]


def script(name: str, *words) -> Command:
    return [sys.executable, str(HERE / name), *map(str, words)]


def pmlm(name: str, *words) -> Command:
    return [sys.executable, "-m", "fairseq_pmlm", *name.split(), *map(str, words)]


def fairseq(name: str, *words) -> Command:
    return [sys.executable, "-m", f"fairseq_cli.{name}", *map(str, words)]


def into(path: Path, command: Command) -> Command:
    """*command*, with its standard output in a file that is whole or not there; see :class:`runner.Job`."""
    return [">", str(path), *command]


@dataclass(frozen=True)
class Budget:
    """What a fine-tuning may take: updates of *batch* examples at the peak learning rate *lr*."""

    updates: int
    batch: int
    lr: float


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: on the command line.
        title: in tables.
        metric: what is reported, 0..100 for each test item.
        folder: of the data below ``--data``, or None for the pairs that text.sh writes.
        budget: what fine-tuning takes on a CPU, and on a GPU.
        source, target: longest source (or window) and target in tokens, on a CPU and on a GPU.
    """

    name: str
    title: str
    metric: str
    folder: str | None
    budget: tuple[Budget, Budget]
    source: tuple[int, int] = (0, 0)
    target: tuple[int, int] = (0, 0)

    def files(self, data: Path, *names: str) -> list[Path]:
        """The first of *names* ("a|b") that exists, of each.

        Raises:
            PMLMError: none does.
        """
        found = []
        for name in names:
            paths = [data / option for option in name.split("|")]
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                raise PMLMError(f"{self.name}: there is no {' or '.join(map(str, paths))}")
            found.append(path)
        return found


class Classification(Task):
    """SST-2 at sentence level: train.tsv, valid.tsv and test.tsv, a sentence and its label with a tab between them."""

    def prepare(self, data: Path, vocab: Path, out: Path, gpu: bool) -> list[Command]:
        train, valid, test = self.files(data, "train.tsv", "valid.tsv", "test.tsv")
        tables = ("--no-header", "--texts", 1, "--label", 2, "--vocab-from", vocab, "--destdir", out, "--overwrite")
        return [pmlm("prepare glue", "--train", train, "--valid", valid, "--test", test, *tables)]

    def train(self, data: Path, gpu: bool) -> Command:
        return fairseq(
            "train", data, "--user-dir", PACKAGE, "--task", "sentence_prediction", "--init-token", 0,
            "--num-classes", 2, "--criterion", "pmlm_sentence_prediction", "--pooler-dropout", 0.1,
            "--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric",
        )  # fmt: skip

    def answer(self, data: Path, checkpoint: Path, out: Path, machine: Sequence[str], gpu: bool) -> list[Command]:
        cpu = ("--cpu",) if "--cpu" in machine else ()
        return [
            pmlm("predict", data / "test.jsonl", "--path", checkpoint, "--data", data, "--format", "label",
                 "--shorten-method", "truncate", "--out", out / "answers.txt", *cpu)
        ]  # fmt: skip

    def score(self, data: Path, out: Path) -> np.ndarray:
        wanted = [str(label) for _, (label,) in read_records(str(data / "test.jsonl"), ["label"])]
        found = read_segments(str(out / "answers.txt"))
        return 100.0 * np.array([a == b for a, b in zip(found, wanted, strict=True)])


class Generation(Task):
    """Pairs in JSON lines; ROUGE-L with stemming, of the best reference."""

    KEYS = {"fairytaleqa-qg": ("--source-keys", "answer", "passage", "--target-key", "question")}

    def prepare(self, data: Path, vocab: Path, out: Path, gpu: bool) -> list[Command]:
        train, valid, test = self.files(
            data,
            "train.jsonl|pairs.train.jsonl",
            "valid.jsonl|pairs.valid.jsonl",
            "test.jsonl|pairs.test.jsonl|valid.jsonl",
        )
        return [
            pmlm("prepare pairs", "--train", train, "--valid", valid, "--test", test,
                 *self.KEYS.get(self.name, ()), "--vocab-from", vocab, "--destdir", out, "--overwrite")
        ]  # fmt: skip

    def train(self, data: Path, gpu: bool) -> Command:
        return fairseq(
            "train", data, "--user-dir", PACKAGE, "--task", "pmlm_seq2seq", "--criterion", "pmlm_seq2seq",
            "--label-smoothing", 0.1, "--cut-source", "head", "--cut-target", "head",
            "--max-source-positions", self.source[gpu], "--max-target-positions", self.target[gpu],
            "--disable-validation",
        )  # fmt: skip

    def answer(self, data: Path, checkpoint: Path, out: Path, machine: Sequence[str], gpu: bool) -> list[Command]:
        command = fairseq(
            "generate", data, "--user-dir", PACKAGE, "--task", "pmlm_seq2seq", "--path", checkpoint,
            "--gen-subset", "test", "--beam", 4, "--max-len-b", self.target[gpu] - 1, "--no-repeat-ngram-size", 3,
            "--batch-size", 64, "--num-workers", 0, *machine,
        )  # fmt: skip
        return [into(out / "answers.txt", command)]

    def score(self, data: Path, out: Path) -> np.ndarray:
        hypotheses = [record.hypotheses[0][0] for record in read_generate(str(out / "answers.txt"))]
        return score_rouge(hypotheses, references_of(data), tokenizer="default", stem=True).per_segment["rougeL"]


class Answers(Task):
    """Extractive question answering: the literal answers of FairytaleQA as SQuAD 1.1; F1."""

    def prepare(self, data: Path, vocab: Path, out: Path, gpu: bool) -> list[Command]:
        train, valid = self.files(data, "train.jsonl", "valid.jsonl")
        questions = out.with_name(out.name + ".squad")
        return [
            script("fairytaleqa_squad.py", "convert", "--train", train, "--valid", valid,
                   "--destdir", questions),
            pmlm("prepare squad", "--train", questions / "train.json", "--valid", questions / "valid.json",
                 "--vocab-from", vocab, "--max-source-positions", self.source[gpu],
                 "--doc-stride", self.source[gpu] * 3 // 8, "--max-question-positions", 32,
                 "--destdir", out, "--overwrite"),
        ]  # fmt: skip

    def train(self, data: Path, gpu: bool) -> Command:
        task = ("--task", "pmlm_squad", "--criterion", "pmlm_squad", "--disable-validation")
        return fairseq("train", data, "--user-dir", PACKAGE, *task)

    def answer(self, data: Path, checkpoint: Path, out: Path, machine: Sequence[str], gpu: bool) -> list[Command]:
        return [pmlm("predict", data, "--path", checkpoint, "--destdir", out / "answers")]

    def score(self, data: Path, out: Path) -> np.ndarray:
        file = SquadFile(str(data.with_name(data.name + ".squad") / "valid.json"), Counts())
        references = {q.id: [a.text for a in q.answers] for p in file.paragraphs() for q in p.questions}
        predictions = read_json(str(out / "answers" / "predictions.json"))
        return score_squad(predictions, references, "1.1").scores.per_segment["f1"]


TASKS = {
    task.name: task
    for task in (
        Classification("sst2", "SST-2", "accuracy", "sst2", (Budget(440, 32, 3e-4), Budget(660, 32, 1e-4))),
        Generation(
            "docstrings", "docstring to summary line", "ROUGE-L", None, (Budget(400, 32, 1e-3), Budget(1500, 64, 3e-4)),
            (80, 160), (32, 48),
        ),
        Answers("fairytaleqa", "FairytaleQA, literal answers", "F1", "fairytaleqa",
                (Budget(400, 16, 5e-4), Budget(600, 32, 2e-4)), (128, 384)),
        Generation(
            "scitldr", "SciTLDR", "ROUGE-L", "scitldr", (Budget(400, 16, 1e-3), Budget(500, 32, 2e-4)),
            (90, 400), (36, 64),
        ),
        Generation(
            "fairytaleqa-qg", "FairytaleQA, questions", "ROUGE-L", "fairytaleqa",
            (Budget(600, 32, 1e-3), Budget(1000, 32, 2e-4)), (96, 400), (32, 48),
        ),
    )
}  # fmt: skip
