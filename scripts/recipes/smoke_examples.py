#!/usr/bin/env python
"""A few examples in the published format of a recipe's data set, and a text to pre-train on: for ``--smoke``.

python scripts/recipes/smoke_examples.py xsum --destdir smoke-output/xsum/examples
"""

import argparse
import functools
import json
import random
from pathlib import Path

from fairseq_pmlm.preparation.glue import TASKS
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import write_text

WHO = ["the farmer", "a doctor", "her brother", "the old king", "a small dog", "the teacher"]
DID = ["found", "sold", "read", "lost", "kept", "wanted"]
WHAT = ["a letter", "the golden apple", "two books", "a map", "some bread", "the key"]
WHERE = ["in the market", "at home", "by the river", "in 1999", "under a tree", "near the school"]
SIZES = {"train": 24, "valid": 6, "test": 7}


def story(draw):
    """(who, did, what, where) of three or four sentences, and their text."""
    facts = [tuple(draw.choice(words) for words in (WHO, DID, WHAT, WHERE)) for _ in range(draw.randint(3, 4))]
    return facts, " ".join(f"{' '.join(fact).capitalize()}." for fact in facts)


def lines(path, rows):
    write_text(path, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def parallel(folder, split, source, target, stories):
    """Two text files: the story, and its first two sentences."""
    lines(folder / source, [text for _, text in stories])
    lines(folder / target, [f"{' '.join(facts[0])} . {' '.join(facts[1])} ." for facts, _ in stories])


def news(folder, split, stories):
    name = "val" if split == "valid" else split
    parallel(folder, split, f"{name}.source", f"{name}.target", stories)


def gigaword(folder, split, stories):
    names = {"valid": ("valid.article.filter.txt", "valid.title.filter.txt"), "test": ("input.txt", "task1_ref0.txt")}
    parallel(folder, split, *names.get(split, ("train.article.txt", "train.title.txt")), stories)


def squad(folder, split, stories):
    paragraphs = []
    for number, ((who, did, what, where), *_), text in ((i, *pair) for i, pair in enumerate(stories)):
        answer = {"text": what, "answer_start": text.index(what)}
        question = {"id": f"{split}{number}", "question": f"What was it that {who} {did} {where}?", "answers": [answer]}
        paragraphs.append({"context": text, "qas": [question]})
    name = "dev" if split == "valid" else split
    data = {"version": "1.1", "data": [{"title": "Stories", "paragraphs": paragraphs}]}
    write_text(folder / f"{name}.json", json.dumps(data))


def answers(folder, split, stories):
    """SQuAD 2.0 with its two published files; every fifth question asks for what the story does not tell."""
    paragraphs = []
    for number, ((who, did, what, where), *_), text in ((i, *pair) for i, pair in enumerate(stories)):
        known = number % 5 < 4
        answer = {"text": what, "answer_start": text.index(what)}
        question = f"What was it that {who} {did} {where}?" if known else f"Why was it that {who} {did} {where}?"
        entry = {"id": f"{split}{number}", "question": question, "is_impossible": not known}
        paragraphs.append({"context": text, "qas": [entry | {"answers": [answer] if known else []}]})
    name = {"train": "train-v2.0", "valid": "dev-v2.0"}.get(split, split)
    write_text(folder / f"{name}.json", json.dumps({"version": "v2.0", "data": [{"paragraphs": paragraphs}]}))


def scitldr(folder, split, stories):
    rows = []
    for facts, text in stories:
        targets = [f"{who} {did} {what} ." for who, did, what, _ in facts[:2]]
        rows.append({"source": text.split(". "), "target": targets[:1] if split == "train" else targets})
    lines(folder / f"{'dev' if split == 'valid' else split}.jsonl", rows)


def fairytaleqa(folder, split, stories):
    rows = [
        {"passage": text, "answer": f"It was {what}.", "question": f"What was it that {who} {did} {where}?"}
        for ((who, did, what, where), *_), text in stories
    ]
    lines(folder / f"{split}.jsonl", rows)


def glue(name, folder, split, stories):
    """The files of a GLUE task: the class follows from who did it; of pairs, both texts are sentences of the story."""
    task = TASKS[name]
    for candidates in (task.files[key] for key in (split, f"{split}1") if key in task.files):
        file, table = candidates[-1] if split == "test" else candidates[0]
        rows = [[*table.texts, *([table.label] if table.label else [])]] if table.header else []
        for facts, text in stories:
            number = WHO.index(facts[0][0])
            label = task.labels[number % len(task.labels)] if task.labels else f"{number}.0"
            texts = [text, " ".join(facts[1])][: len(table.texts)]
            cells = dict(zip(table.texts, texts, strict=True)) | {table.label: label}
            columns = rows[0] if table.header else [str(i + 1) for i in range(table.columns)]
            rows.append([cells.get(column, "x") for column in columns])
        lines(folder / file, ["\t".join(row) for row in rows])


FORMATS = {
    **{name: functools.partial(glue, name) for name in TASKS},
    "cnndm": news,
    "xsum": news,
    "gigaword": gigaword,
    "squad_qg": squad,
    "squad": answers,
    "scitldr": scitldr,
    "fairytaleqa_qg": fairytaleqa,
}


def main(argv=None):
    install_excepthook()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", help=", ".join(FORMATS))
    parser.add_argument("--destdir", type=Path, required=True, help="directory for the files")
    args = parser.parse_args(argv)
    if args.recipe not in FORMATS:
        raise PMLMError(f"{args.recipe}: there is no such recipe, but {', '.join(FORMATS)}")
    draw = random.Random(0)
    args.destdir.mkdir(parents=True, exist_ok=True)
    texts = []
    for split, size in SIZES.items():
        stories = [story(draw) for _ in range(size)]
        FORMATS[args.recipe](args.destdir, split, stories)
        texts += [text for _, text in stories]
    lines(args.destdir / "text.txt", [f"{text}\nWhat was it that they did? It was this : that.\n" for text in texts])


if __name__ == "__main__":
    main()
