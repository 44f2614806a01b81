#!/usr/bin/env python
"""The paper's objectives compared: pre-trained on the same text for as many tokens, fine-tuned, with several seeds.

    bash experiments/text.sh work/text                                          # real text, once
    python experiments/objectives.py --text work/text --data DATA --out work/cpu --hours 2
    python experiments/objectives.py --text work/text --data DATA --out work/gpu --setting gpu
    python experiments/objectives.py --smoke --out work/smoke                   # the whole path, tiny

DATA holds what is fine-tuned on, a folder for each task: sst2/ (train.tsv, valid.tsv, test.tsv: sentence, tab, label),
scitldr/ and fairytaleqa/ (train.jsonl, valid.jsonl); tasks without a folder are left out, and said.

Each invocation stops after --hours and goes on where the last one stopped, also after a kill. Jobs run in order of
their value: all objectives with seed 1 and their tasks, then seed 2, then what AE and PAR reach in the time of AE+PAR,
then the questions that the paper leaves open (--questions), then the other seeds: of the objectives and their tasks, of
the questions, of the rest. After each job, OUT/RESULTS.md, the charts in OUT/charts and OUT/results.jsonl are written
anew.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts/recipes"))  # smoke_examples.py

from finetuning_tasks import TASKS
from plan import HERE, Plan
from results import write_report
from runner import Runner
from settings import QUESTIONS, SETTINGS, SYSTEMS, Setting
from smoke_examples import main as smoke_examples

from fairseq_pmlm.cli.arguments import positive
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import read_records, write_text


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--setting", choices=["cpu", "gpu"], default="cpu", help="scale (default: %(default)s)")
    add("--text", type=Path, metavar="DIR", help="what text.sh wrote: text to pre-train on, and docstring pairs")
    add("--data", type=Path, metavar="DIR", help="data of the tasks; without it, only tasks that need none")
    add("--out", type=Path, required=True, metavar="DIR", help="directory of everything that is made")
    add("--hours", type=float, default=1e6, metavar="H", help="stop after so many hours; run again to go on")
    add("--jobs", type=positive, default=1, metavar="N", help="processes at a time, each of one thread on a CPU")
    add("--seeds", type=positive, metavar="N", help="trainings of each system (default: the setting's)")
    add("--updates", type=positive, metavar="N", help="of pre-training (default: the setting's)")
    add("--lr", type=float, metavar="RATE", help="peak learning rate of pre-training (default: the setting's)")
    add("--systems", nargs="+", choices=list(SYSTEMS), metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}")
    add("--tasks", nargs="+", choices=list(TASKS), metavar="TASK", help=f"of {', '.join(TASKS)}")
    add("--questions", action="store_true", help="also answer the questions that the paper leaves open")
    add("--smoke", action="store_true", help="the whole path in a minute or two, on text made on the spot")
    add("--plan", action="store_true", help="print the jobs, and which are done, and run nothing")
    args = parser.parse_args(argv)
    if not args.hours > 0:
        raise PMLMError(f"--hours {args.hours}: give more than 0")
    if args.lr is not None and not 0 < args.lr < 1:
        raise PMLMError(f"--lr {args.lr}: give a number between 0 and 1, such as 1e-3")
    if args.smoke and (args.text or args.data):
        raise PMLMError("--smoke makes its own text and data; leave out --text and --data")
    if not args.smoke and args.text is None:
        raise PMLMError("--text DIR is missing: the directory that experiments/text.sh wrote")
    return args


def find_data(setting: Setting, text: Path, data: Path | None) -> dict[str, Path]:
    """Where the data of each task is, for those that have any; says which have none."""
    found = {}
    for name in setting.tasks:
        folder = TASKS[name].folder
        place = text / "pairs" if folder is None else data and data / folder
        if place and place.is_dir():
            found[name] = place
        else:
            print(f"{name}: no data ({place or '--data'} is missing); left out")
    return found


def smoke_data(out: Path) -> tuple[Path, Path]:
    """Text to pre-train on and data of all tasks, made on the spot."""
    examples = out / "examples"
    smoke_examples(["fairytaleqa_qg", "--destdir", str(examples / "made")])
    for folder in ("fairytaleqa", "scitldr", "sst2", "pairs", "text"):
        (examples / folder).mkdir(exist_ok=True)
    for split in ("train", "valid", "test"):
        questions, pairs, classes = [], [], []
        for _, values in read_records(str(examples / "made" / f"{split}.jsonl"), ("passage", "answer", "question")):
            passage, answer, question = values
            literal = answer.removeprefix("It was ").removesuffix(".")
            questions.append(json.dumps({"passage": passage, "answer": literal, "question": question}))
            pairs.append(json.dumps({"src": passage, "tgt": question}))
            classes.append(f"{passage}\t{int('king' in passage)}")
        for name, lines in (
            (f"fairytaleqa/{split}.jsonl", questions),
            (f"scitldr/{split}.jsonl", pairs),
            (f"pairs/pairs.{split}.jsonl", pairs),
            (f"sst2/{split}.tsv", classes),
        ):
            write_text(examples / name, "".join(f"{line}\n" for line in lines))
    shutil.copyfile(examples / "made" / "text.txt", examples / "text" / "text.txt")
    return examples, examples


def typed(args: argparse.Namespace) -> str:
    """The command as anybody would type it: with all options but the names of directories."""
    words = ["python", "experiments/objectives.py"]
    words += ["--smoke"] if args.smoke else ["--text", "TEXT", "--data", "DATA"]
    words += ["--setting", args.setting, "--out", "OUT"] + ["--questions"] * args.questions
    for name in ("seeds", "updates", "lr", "systems", "tasks"):
        value = getattr(args, name)
        if value:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return " ".join(words)


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    setting = SETTINGS["smoke" if args.smoke else args.setting]
    if args.smoke:  # what the setting would run, at the size of a toy
        setting = dataclasses.replace(
            setting, systems=SETTINGS[args.setting].systems, tasks=SETTINGS[args.setting].tasks
        )
    changes = {key: getattr(args, key) for key in ("seeds", "updates", "lr", "systems", "tasks")}
    changes = {k: tuple(dict.fromkeys(v)) if isinstance(v, list) else v for k, v in changes.items() if v}
    if args.updates:  # the schedule keeps its shape
        changes["warmup"] = max(1, round(setting.warmup * args.updates / setting.updates))
    setting = dataclasses.replace(setting, **changes)
    out = args.out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PMLMError(f"--out {out}: cannot be made a directory: {error.strerror}") from None
    text, data = smoke_data(out) if args.smoke else (args.text.resolve(), args.data and args.data.resolve())
    if setting.gpu:
        import torch

        if not torch.cuda.is_available():
            raise PMLMError("--setting gpu: there is no GPU here")
    else:
        os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    source = text / "text" if (text / "text").is_dir() else text  # beside the docstring pairs
    plan = Plan(setting, out, [source], find_data(setting, text, data), args.questions)
    runner = Runner(
        out,
        plan.jobs(),
        args.jobs,
        args.hours * 3600,
        lambda results: write_report(out, setting, SYSTEMS, QUESTIONS, TASKS, results, typed(args)),
    )
    if args.plan:
        done = runner.done()
        for job in runner.jobs:
            print(f"{'done' if job.name in done else '    '} {job.name}")
        return
    begun = time.monotonic()
    complete = runner.run()
    left = len(runner.jobs) - len(runner.done())
    spent = (time.monotonic() - begun) / 3600
    said = "all done" if complete else f"{left} jobs are left; run again to go on"
    print(f"{said}, after {spent:.2f} hours: {out}/RESULTS.md")


if __name__ == "__main__":
    main()
