"""What experiments/objectives.py compares, and at which scales."""

from dataclasses import dataclass

from finetuning_tasks import TASKS, Budget

# name: objective, what it has beside the others
SYSTEMS = {
    "ae": ("ae", ()),
    "par": ("par", ()),
    "ae+par": ("ae+par", ()),
    "ar": ("ar", ()),
    "ae+ar": ("ae+ar", ()),
    "ae+par-relative": ("ae+par", ("--relative-positions",)),
}
# name: objective, the options, and what it is to be compared with
QUESTIONS = {
    "corrupted": ("ae+par", ("--corrupt-pseudo",), "ae+par"),
    "hidden-kept": ("ae+par", ("--variant", "hidden-kept"), "ae+par"),
    "one-symbol": ("ae+par", ("--variant", "one-symbol"), "ae+par"),
    "blind-originals": ("ae+par", ("--variant", "blind-originals"), "ae+par"),
    "no-placeholders": ("par", ("--variant", "no-placeholders"), "par"),
    "par-corrupted": ("par", ("--corrupt-pseudo",), "par"),
}
LONGER = {"ae-longer": "ae", "par-longer": "par"}  # for as long as AE+PAR takes


@dataclass(frozen=True)
class Setting:
    """A scale.

    Attributes:
        layers, width, heads: of the model.
        block: tokens of a block with its special symbols.
        batch: blocks of an update; *share* of them at a time.
        updates: of pre-training.
        lr, warmup: peak learning rate, and updates until then.
        vocabulary: pieces of the sentencepiece model.
        positions: rows of the position table.
        every: updates between validations.
        model: more options of the model; *machine*: of fairseq's commands.
        systems, tasks, seeds: what is run.
        spans: of each length to fill.
        valid: share of the documents.
        budget: instead of the tasks' own.
    """

    layers: int
    width: int
    heads: int
    block: int
    batch: int
    share: int
    updates: int
    lr: float
    warmup: int
    vocabulary: int
    positions: int
    every: int
    model: tuple[str, ...]
    machine: tuple[str, ...]
    systems: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: int
    spans: int = 200
    valid: float = 0.01
    gpu: bool = False
    budget: Budget | None = None


# A narrow model needs a larger initial scale, and heads half of which look nearby from the start, to learn in so few
# updates (as in scripts/demo.sh); all systems have both.
NARROW = ("--relative-positions", "--relative-position-slope", "1.0", "--init-std", "0.05")
PLAIN = ("--dropout", "0.0", "--attention-dropout", "0.0")
# Small batches and a moderate rate: PAR alone never sees a masked token in its own place, and at 2e-3 it stayed at the
# frequencies of the tokens for 2,600 updates (RESULTS.md).
SETTINGS = {
    "cpu": Setting(
        layers=2, width=128, heads=4, block=128, batch=8, share=8, updates=5000, lr=1e-3, warmup=250,
        vocabulary=8000, positions=128, every=1000, model=(*NARROW, *PLAIN), machine=("--cpu",),
        systems=("ae", "par", "ae+par"), tasks=("sst2", "docstrings"), seeds=3,
    ),
    "gpu": Setting(
        layers=12, width=512, heads=8, block=512, batch=64, share=64, updates=640, lr=1e-3, warmup=64,
        vocabulary=16000, positions=512, every=160, model=("--dropout", "0.1", "--attention-dropout", "0.0"),
        machine=("--bf16",), systems=tuple(SYSTEMS), tasks=tuple(TASKS), seeds=1, gpu=True,
    ),
    "smoke": Setting(
        layers=2, width=32, heads=2, block=48, batch=4, share=4, updates=8, lr=1e-3, warmup=2, vocabulary=60,
        positions=128, every=4, model=(*NARROW, *PLAIN), machine=("--cpu",),
        systems=(), tasks=(),  # those of the setting that it is a toy of
        seeds=1, spans=3, valid=0.2, budget=Budget(3, 8, 1e-3),
    ),
}  # fmt: skip
