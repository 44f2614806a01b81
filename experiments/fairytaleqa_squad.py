#!/usr/bin/env python
"""FairytaleQA's literal answers as SQuAD 1.1, and answers that need no model.

    python experiments/fairytaleqa_squad.py convert --train train.jsonl --valid valid.jsonl --destdir DIR
    python experiments/fairytaleqa_squad.py baselines --train DIR/train.json --valid DIR/valid.json --out FILE

A record of FairytaleQA has ``passage``, ``question`` and ``answer``. Where the answer, without white space and full
stop at its end, stands in the passage (in any case of its letters) it becomes a SQuAD answer, as it is spelled there.
Where it stands several times, the place with the most question words around it is taken. Everything else is left out,
and counted.
"""

import argparse
import json
import random
import re
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
from paired import difference

from fairseq_pmlm.scoring.squad import exact_and_f1, score_squad
from fairseq_pmlm.squad.reader import SquadFile
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import Counts, read_json, read_records, text_value, write_text

AROUND = 60  # characters on each side in which question words are counted
STOP = {
    *("a", "an", "the", "of", "to", "in", "and", "was", "were", "is", "are", "did", "do", "does"),
    *("what", "who", "why", "how", "when", "where", "which", "he", "she", "it", "they", "his", "her"),
}


def words(text: str) -> set[str]:
    """Lower-cased words that say something."""
    return set(re.findall(r"\w+", text.lower())) - STOP


def place(passage: str, question: str, answer: str) -> int | None:
    """Where *answer* stands in *passage*; of several places, the one with most of the question around it."""
    pattern = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)
    asked = words(question)
    places = [match.start() for match in pattern.finditer(passage)]
    around = lambda at: words(passage[max(0, at - AROUND) : at + len(answer) + AROUND])  # noqa: E731
    return max(places, key=lambda at: len(asked & around(at)), default=None)


def convert(path: str, target: Path, name: str) -> None:
    """Write the SQuAD file *target* from a JSON-lines file."""
    counts, paragraphs = Counts(), {}
    kept = 0
    for number, values in read_records(path, ("passage", "question", "answer"), counts):
        passage, question, answer = (text_value(value, f"{path}, line {number}", counts) for value in values)
        answer = answer.rstrip(" .")
        start = place(passage, question, answer) if answer else None
        if start is None:
            continue
        kept += 1
        spelled = passage[start : start + len(answer)]
        entry = {"id": f"{name}{number}", "question": question, "answers": [{"text": spelled, "answer_start": start}]}
        paragraphs.setdefault(passage, []).append(entry)
    if not kept:
        raise PMLMError(f"{path}: none of {counts.lines:,} answers stands in its passage")
    data = [{"title": "FairytaleQA", "paragraphs": [{"context": c, "qas": qas} for c, qas in paragraphs.items()]}]
    write_text(target, json.dumps({"version": "1.1", "data": data}))
    print(f"{target}: {kept:,} of {counts.lines:,} questions ({kept / counts.lines:.1%}), {len(paragraphs):,} passages")


def read_questions(path: Path) -> list[tuple[str, str, str, list[str]]]:
    """Id, passage, question and answers of every question."""
    file = SquadFile(str(path), Counts())
    return [(q.id, p.passage, q.text, [a.text for a in q.answers]) for p in file.paragraphs() for q in p.questions]


def sentences(passage: str) -> list[str]:
    """The sentences of a passage, by their marks."""
    return [s.strip() for s in re.split(r"(?<=[.!?])[\"'”’]*\s+", passage) if s.strip()] or [passage]


def most_like(question: str, texts: list[str]) -> str:
    """The first of the texts with the most words of the question."""
    asked = words(question)
    return max(texts, key=lambda text: len(asked & words(text)))


def best_constant(train: list[str], candidates: int = 200) -> str:
    """Of the most frequent answers, the one with the best mean F1 as the answer to everything."""
    common = [answer for answer, _ in Counter(train).most_common(candidates)]
    return max(common, key=lambda text: sum(exact_and_f1(text, [answer], "1.1")[1] for answer in train))


def baselines(train: Path, valid: Path, seed: int) -> dict[str, dict[str, str]]:
    """Name -> id -> answer."""
    questions, rng = read_questions(valid), random.Random(seed)
    constant = best_constant([answers[0] for *_, answers in read_questions(train)])
    found: dict[str, dict[str, str]] = {f"best constant, {constant!r}": {q[0]: constant for q in questions}}
    found["random sentence"] = {q[0]: rng.choice(sentences(q[1])) for q in questions}
    found["sentence with most question words"] = {q[0]: most_like(q[2], sentences(q[1])) for q in questions}
    return found


def table(rows: dict[str, list[dict[str, str]]], valid: Path, paired: list[str]) -> str:
    """EM and F1 of each system, over its seeds, with 95 % intervals, as Markdown.

    Args:
        rows: name -> for each seed, id -> answer.
        valid: the questions.
        paired: two systems to compare, or fewer.

    Raises:
        PMLMError: a prediction is missing; see :func:`~fairseq_pmlm.scoring.squad.score_squad`.
    """
    references = {number: answers for number, *_, answers in read_questions(valid)}
    # name -> for each seed "exact" and "f1" of all questions, in percent
    values = {
        name: [score_squad(found, references, "1.1").scores.per_segment for found in seeds]
        for name, seeds in rows.items()
    }
    lines = [f"| {len(references):,} questions | seeds | exact match | F1 |", "|---|---|---|---|"]
    for name, seeds in values.items():
        cells = [over_seeds([seed[metric] for seed in seeds]) for metric in ("exact", "f1")]
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    if len(paired) == 2 and len({len(rows[name]) for name in paired}) == 1:
        exact, f1 = (
            difference(*([seed[metric] for seed in values[name]] for name in paired)) for metric in ("exact", "f1")
        )
        lines += [
            "",
            f"{paired[0]} minus {paired[1]}, paired, with 95 % intervals: exact match {exact} ({exact.verdict()}), "
            f"F1 {f1} ({f1.verdict()}).",
        ]
    return "\n".join(lines) + "\n"


def over_seeds(values: list[np.ndarray]) -> str:
    """Mean and 95 % interval over seeds and questions; the standard deviation over seeds, where there are several."""
    overall = difference(values, [np.zeros_like(seed) for seed in values])
    spread = f" ± {statistics.stdev(float(seed.mean()) for seed in values):.1f}" if len(values) > 1 else ""
    return f"{overall.mean:.1f}{spread} [{overall.low:.1f}, {overall.high:.1f}]"


def main(argv=None) -> None:
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("convert", "baselines"):
        command = commands.add_parser(name)
        for part in ("train", "valid"):
            command.add_argument(f"--{part}", type=Path, required=True, metavar="FILE")
    commands.choices["convert"].add_argument("--destdir", type=Path, required=True, metavar="DIR")
    command = commands.choices["baselines"]
    command.add_argument(
        "systems", nargs="*", metavar="NAME=FILE", help="predictions of a system, id -> text; again for each seed"
    )
    command.add_argument("--out", required=True, metavar="FILE", help="write the table here")
    command.add_argument("--seed", type=int, default=0, help="draws the random sentences")
    args = parser.parse_args(argv)
    if args.command == "convert":
        args.destdir.mkdir(parents=True, exist_ok=True)
        for part in ("train", "valid"):
            convert(str(getattr(args, part)), args.destdir / f"{part}.json", part)
        return
    rows: dict[str, list] = {}
    for system in args.systems:
        name, separator, path = system.rpartition("=")
        if not separator:
            raise PMLMError(f"{system}: expected NAME=FILE")
        rows.setdefault(name, []).append(read_json(path))
    paired = list(rows)[:2]
    rows |= {name: [answers] for name, answers in baselines(args.train, args.valid, args.seed).items()}
    text = table(rows, args.valid, paired)
    write_text(args.out, text)
    print(text, end="")


if __name__ == "__main__":
    main()
