"""The jobs of experiments/objectives.py: what is trained on what, and in which order."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curves import read_curve
from fairseq.data import Dictionary
from finetuning_tasks import TASKS, Task, fairseq, pmlm, script
from runner import Job
from settings import LONGER, QUESTIONS, SYSTEMS, Setting

from fairseq_pmlm.data.indexed import unigram_entropy
from fairseq_pmlm.utils.io import list_files, read_json, read_lines

HERE = Path(__file__).resolve().parent


def sizes(paths: Sequence[Path]) -> list:
    """Name and size of every file there: what tells one data set from another."""
    files = [Path(file) for file in list_files([str(path) for path in paths])]
    return [[file.name, file.stat().st_size] for file in files]


def count_words(file: str) -> int:
    return sum(len(line.split()) for _, line in read_lines(file))


@dataclass
class Plan:
    """All jobs of a setting, the most valuable first.

    Args:
        setting: the scale.
        out: directory of everything.
        text: what to pre-train on.
        data: folders of the tasks.
        questions: also the variants that answer the open questions.
    """

    setting: Setting
    out: Path
    text: Sequence[Path]
    data: dict[str, Path]
    questions: bool

    @property
    def corpus(self) -> Path:
        return self.out / "data" / "text"

    def folder(self, *name) -> Path:
        return self.out / "runs" / ".".join(map(str, name))

    def jobs(self) -> list[Job]:
        """The jobs, in the order of their value."""
        jobs = [self.prepare_text(), *(self.prepare_task(TASKS[name]) for name in self.data)]
        for seed in range(1, self.setting.seeds + 1):
            for system in self.setting.systems:
                jobs += self.pretrained(system, *SYSTEMS[system], seed)
            for task in self.data:
                jobs += [self.finetuned(TASKS[task], system, seed) for system in ("none", *self.setting.systems)]
            if seed == min(2, self.setting.seeds):
                jobs += self.longer(1) + self.asked(1)
        later = range(2, self.setting.seeds + 1)
        return jobs + [job for part in (self.asked, self.longer) for seed in later for job in part(seed)]

    def longer(self, seed: int) -> list[Job]:
        """AE and PAR for as long as AE+PAR takes."""
        names = [n for n, system in LONGER.items() if {system, "ae+par"} <= set(self.setting.systems)]
        return [job for n in names for job in self.pretrained(n, *SYSTEMS[LONGER[n]], seed, longer=LONGER[n])]

    def asked(self, seed: int) -> list[Job]:
        """The open questions."""
        asked = QUESTIONS.items() if self.questions else ()
        return [job for name, (*chosen, _) in asked for job in self.pretrained(name, *chosen, seed)]

    def prepare_text(self) -> Job:
        s = self.setting
        files = list_files([str(path) for path in self.text])
        return Job(
            "text",
            lambda: [
                pmlm("prepare text", "--text", *self.text, "--vocab-size", s.vocabulary, "--deduplicate",
                     "--sentencepiece-lines", 200_000, "--valid-fraction", s.valid, "--destdir", self.corpus,
                     *(("--character-coverage", 1) if s.vocabulary < 100 else ()), "--overwrite")
            ],
            lambda: {
                "kind": "text",
                "words": sum(count_words(file) for file in files),
                "entropy": unigram_entropy(str(self.corpus / "train"), Dictionary.load(str(self.corpus / "dict.txt"))),
            },
            facts={"files": sizes(self.text), "vocabulary": s.vocabulary,
                   "valid": s.valid},
        )  # fmt: skip

    def prepare_task(self, task: Task) -> Job:
        commands = task.prepare(  # now, so that a file that is missing is said before anything runs
            self.data[task.name], self.corpus, self.out / "data" / task.name, self.setting.gpu
        )
        return Job(
            f"data.{task.name}",
            lambda: commands,
            lambda: {"kind": "data"},
            needs=["text"],
            facts={"files": sizes([self.data[task.name]])},
        )

    def architecture(self) -> list:
        s = self.setting
        size = ("--encoder-layers", s.layers, "--encoder-embed-dim", s.width, "--encoder-attention-heads", s.heads)
        rest = ("--encoder-ffn-embed-dim", 4 * s.width, "--max-positions", s.positions)
        return ["--arch", "pmlm", *size, *rest, *s.model]

    def optimizer(self, lr: float, updates: int, warmup: int) -> list:
        return [
            *("--optimizer", "adam", "--adam-betas", "(0.9,0.98)", "--adam-eps", 1e-6, "--weight-decay", 0.01),
            *("--clip-norm", 1.0, "--lr", lr, "--lr-scheduler", "polynomial_decay", "--warmup-updates", warmup),
            *("--total-num-update", updates, "--max-update", updates, "--no-epoch-checkpoints", "--num-workers", 0),
            *("--required-batch-size-multiple", 1, "--log-format", "json"),
            *("--log-interval", min(50, self.setting.every)),
            *self.setting.machine,
            *(() if "--cpu" in self.setting.machine else ("--distributed-world-size", 1)),
        ]

    def pretrained(self, system: str, objective: str, options: Sequence[str], seed: int, longer=None) -> list[Job]:
        """Pre-training, and its measures. *longer*: for as long as AE+PAR takes, knowing what *longer* takes."""
        s = self.setting
        folder, model = self.folder(system, seed), self.folder(system, seed) / "model"
        chosen = [*self.architecture(), "--objective", objective, *options]

        def updates() -> int:
            if longer is None:
                return s.updates
            wall = [read_json(str(self.folder(name, seed) / "result.json"))["seconds"] for name in ("ae+par", longer)]
            return max(s.updates, round(s.updates * wall[0] / max(wall[1], 0.1)))

        def train() -> list:
            number = updates()
            if longer and number == s.updates:  # it would be that training again, to the last bit
                made = self.folder(longer, seed)
                return [["cp", "-R", str(made / "model"), str(made / "train.log"), str(folder)]]
            return [
                fairseq(
                    "train", self.corpus, "--user-dir", HERE / "variants", "--task", "pmlm_variants", "--criterion",
                    "pmlm", *chosen, "--tokens-per-sample", s.block, "--sample-break-mode", "none", "--batch-size",
                    s.share, "--update-freq", s.batch // s.share,
                    *self.optimizer(s.lr, number, round(s.warmup * number / s.updates)), "--seed", seed,
                    "--validate-interval-updates", s.every, "--validate-interval", 1000, "--save-interval-updates",
                    s.every, "--save-interval", 1000, "--keep-interval-updates", 1, "--log-file", folder / "train.log",
                    "--save-dir", model,
                )
            ]  # fmt: skip

        def result() -> dict:
            curve = read_curve(folder / "train.log")
            tokens = curve[-1]["updates"] * s.batch * (s.block - 3)
            return {"kind": "pretraining", "tokens": tokens, "seconds": curve[-1]["seconds"], "curve": curve}

        facts = {"system": system, "seed": seed, "options": [str(word) for word in chosen], "block": s.block,
                 "batch": s.batch, "updates": s.updates, "lr": s.lr, "warmup": s.warmup}  # fmt: skip
        needs = ["text"] if longer is None else ["text", f"{longer}.{seed}", f"ae+par.{seed}"]
        measures = folder / "measures.npz"
        measure = script(
            "measure.py", self.corpus, "--path", model / "checkpoint_last.pt", "--out", measures, "--spans",
            s.spans, *(("--cpu",) if "--cpu" in s.machine else ()),
        )  # fmt: skip
        return [
            Job(folder.name, train, result, needs, facts),
            Job(
                f"{folder.name}.measure",
                lambda: [measure],
                lambda: {"kind": "measures", "file": str(measures.relative_to(self.out))},
                [folder.name],
                {"system": system, "seed": seed, "spans": s.spans},
                remove=() if system in s.systems else [model],  # nothing is fine-tuned from it
            ),
        ]

    def finetuned(self, task: Task, system: str, seed: int) -> Job:
        """Fine-tuning of a pre-trained system, or of random weights ("none"), answers and scores."""
        s = self.setting
        folder = self.folder(system, seed, task.name)
        data, model = self.out / "data" / task.name, folder / "model"
        budget = s.budget or task.budget[s.gpu]
        before = self.folder(system, seed) / "model" / "checkpoint_last.pt"
        start = ["--arch", "pmlm", "--arch-from", before, "--finetune-from-model", before]
        if system == "none":
            start = self.architecture()
        train = task.train(data, s.gpu)
        best = "--best-checkpoint-metric" in train
        keep = ("--no-last-checkpoints",) if best else ()
        commands = [
            [*train, *start, *self.optimizer(budget.lr, budget.updates, budget.updates // 10 + 1),
             "--batch-size", budget.batch, "--seed", seed, *keep, "--log-file", folder / "train.log",
             "--save-dir", model],
            *task.answer(data, model / f"checkpoint_{'best' if best else 'last'}.pt", folder, s.machine, s.gpu),
        ]  # fmt: skip

        def result() -> dict:
            items = task.score(data, folder)
            return {"kind": "task", "score": float(items.mean()), "items": [round(float(x), 4) for x in items]}

        facts = {"system": system, "seed": seed, "task": task.name, "budget": dataclasses.asdict(budget)}
        needs = ["text", f"data.{task.name}"] + ([] if system == "none" else [f"{system}.{seed}"])
        return Job(folder.name, lambda: commands, result, needs, facts, remove=[model])
