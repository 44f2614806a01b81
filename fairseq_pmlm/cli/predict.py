"""What a fine-tuned checkpoint says of new texts: classes, numbers, or answers to SQuAD's questions.

    pmlm predict data-bin/RTE/test.jsonl --path checkpoints/RTE/checkpoint_best.pt --data data-bin/RTE
    pmlm predict reviews.txt --path ... --data ... --format label --out labels.txt
    pmlm predict data-bin/squad --path checkpoints/squad/checkpoint_best.pt --destdir answers
    pmlm predict questions.json --path ... --data data-bin/squad --destdir new-answers --threshold-from answers

INPUT is a file, or the data directory itself, of which the part --split is read. What is predicted follows from the
data directory: answers, if ``pmlm prepare squad`` has made it.

Classes and numbers, of a checkpoint of --task sentence_prediction. The file holds JSON lines with input0 and input1, as
``pmlm prepare glue`` writes them (--texts names others), or a table without a header: a text a line, or two with a tab
between them (--texts 2 3: those columns). The output is in the order of the input; for each text

  json           {"label": "1", "probabilities": {"0": 0.1, "1": 0.9}}; of regression {"value": 2.5}
  label          the class alone, or the number
  probabilities  those of all classes in their order, with tabs between them

Answers, of a checkpoint of --task pmlm_squad. The file is SQuAD's JSON, which is prepared as the data directory was;
answers may be missing. --destdir then holds predictions.json in SQuAD's official format (id -> text), nbest.json, and
for version 2.0 spans.json (the best span of every question, also of those that are left without an answer),
na_probs.json (probability of no answer, for the official script's --na-prob-file beside spans.json) and threshold.json.
scores.json is there where references are. A question of version 2.0 has "no answer" if the probability for it is above
a threshold: that of --threshold or --threshold-from, else the one with the best F1 on these very questions, if they
have references, else 0.5.
"""

import argparse
import json
import os
import sys

import torch

from ..interface import from_pretrained
from ..preparation import glue
from ..squad.files import META
from ..tokenizers.dictionary import Dictionary, label_names
from ..utils.errors import PMLMError
from ..utils.io import Counts, check_output, read_lines, write_output
from . import arguments

MAX_TOKENS = 4096
# options that only one of the two kinds of prediction has
OF_CLASSES = ("head", "texts", "format", "shorten_method", "out")
OF_ANSWERS = ("destdir", "overwrite", "nbest", "max_answer_length", "threshold", "threshold_from")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Options from *argv*, checked as far as they can be without reading anything."""
    parser = arguments.command_parser("predict", __doc__)
    parser.add_argument("input", metavar="INPUT", help="file with texts or questions, plain or .gz, or data directory")
    arguments.add_checkpoint_arguments(parser)
    arguments.add_data_argument(parser)
    arguments.add_split_argument(parser, "part of INPUT to read, where that is a data directory", default=None)
    arguments.add_max_tokens_argument(
        parser, None, f"tokens of a batch, with padding (default: {MAX_TOKENS}; of SQuAD: 32 windows)"
    )
    classes = parser.add_argument_group("classes and numbers")
    classes.add_argument(
        "--head",
        metavar="NAME",
        help="which classification head, as --classification-head-name named it (default: the only one)",
    )
    classes.add_argument("--texts", nargs="+", metavar="COLUMN", help="columns of the text, or of the two texts")
    classes.add_argument("--format", choices=["json", "label", "probabilities"], help="default: json")
    classes.add_argument(
        "--shorten-method",
        choices=["none", "truncate"],
        help="what to do with texts beyond the model's positions: refuse them (default), or cut their end",
    )
    arguments.add_out_argument(classes)
    answers = parser.add_argument_group("answers to SQuAD's questions")
    arguments.add_output_arguments(answers, required=False)
    for option, text in (
        ("--nbest", "answers to keep of each question (default: 20)"),
        ("--max-answer-length", "longest answer in tokens (default: 30)"),
    ):
        answers.add_argument(option, type=arguments.positive, metavar="N", help=text)
    thresholds = answers.add_mutually_exclusive_group()
    thresholds.add_argument(
        "--threshold", type=float, metavar="P", help="version 2.0: no answer where the probability for that is above P"
    )
    thresholds.add_argument(
        "--threshold-from", metavar="DIR", help="version 2.0: take the threshold of predictions made before"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Run the command with *argv*, the arguments behind its name."""
    args = parse_arguments(argv)
    if not os.path.exists(args.input):
        raise PMLMError(f"cannot read {args.input}: No such file or directory")
    if not os.path.exists(args.path):
        raise PMLMError(f"--path {args.path}: no such file")
    is_directory = os.path.isdir(args.input)
    if is_directory and args.data:
        raise PMLMError(f"{args.input} is a data directory; leave --data out")
    if args.split and not is_directory:
        raise PMLMError(f"--split {args.split}: {args.input} is not a data directory")
    data = args.input if is_directory else args.data or os.path.dirname(args.path) or "."
    if os.path.isfile(os.path.join(data, META)):
        refuse(args, OF_CLASSES, f"is for classes and numbers, but {data} holds questions of SQuAD")
        from .predict_squad import answer  # which needs fairseq

        answer(args, data)
    else:
        hint = "" if args.data or is_directory else "; give --data DIR"
        refuse(args, OF_ANSWERS, f"is for answers, but pmlm prepare squad has not made {data}{hint}")
        classify(args, data)


def refuse(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """Raise PMLMError if one of the options *names* was given."""
    for name in names:
        if getattr(args, name) not in (None, False):
            raise PMLMError(f"--{name.replace('_', '-')}: {reason}")


def columns(path: str) -> tuple[str, ...]:
    """Where the texts stand if --texts does not say so: input0 and input1, or all columns of a table.

    Raises:
        PMLMError: the file is empty, or a table has more than two columns.
    """
    first = next((line for _, line in read_lines(path)), None)
    if first is None:
        raise PMLMError(f"{path}: is empty")
    if glue.is_json(path):
        # in any record, not only in the first: else the second text of the others would be dropped
        pair = any('"input1"' in line and has_key(line, "input1") for _, line in read_lines(path))
        return ("input0", "input1") if pair else ("input0",)
    width = first.count("\t") + 1
    if width > 2:
        raise PMLMError(f"{path}, line 1: {width} columns between tabs; say with --texts which of them are the texts")
    return tuple(str(i + 1) for i in range(width))


def has_key(line: str, key: str) -> bool:
    """Whether a line holds a JSON object with *key*; what is broken, :func:`glue.read` refuses."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and key in record


def choose_head(model, name, data: str) -> str:
    """The head to ask, checked against the classes of the data directory.

    Raises:
        PMLMError: the checkpoint lacks the head, or has several; the classes of the head and of the data differ.
    """
    there = list(model.model.classification_heads)
    if name is None and len(there) > 1:
        raise PMLMError(f"the checkpoint has several classification heads; give --head with one of {', '.join(there)}")
    name = name or (there[0] if there else "sentence_classification_head")
    labels, path = model.find_head(name).labels, os.path.join(data, "label", "dict.txt")
    if labels is not None and os.path.isfile(path):
        found = label_names(Dictionary.load(path))
        if found != labels:
            raise PMLMError(
                f"{path} has {len(found)} classes ({', '.join(found[:10])}), and the head {name!r} has {len(labels)} "
                f"({', '.join(labels[:10])})"
            )
    return name


def describe(output, labels, form: str) -> str:
    """The line for one text.

    Args:
        output: outputs of the head (classes,).
        labels: names of the classes; None for regression.
        form: ``--format``.
    """
    if labels is None:
        value = round(output.item(), 6)
        return json.dumps({"value": value}) if form == "json" else str(value)
    shares = [round(share, 6) for share in output.softmax(dim=0).tolist()]
    if form == "probabilities":
        return "\t".join(map(str, shares))
    label = labels[int(output.argmax())]
    if form == "label":
        return label
    return json.dumps({"label": label, "probabilities": dict(zip(labels, shares, strict=True))}, ensure_ascii=False)


def classify(args: argparse.Namespace, data: str) -> None:
    """Write the class of each text, or the number; *data*: the data directory."""
    source = os.path.join(data, f"{args.split or 'valid'}.jsonl") if os.path.isdir(args.input) else args.input
    form = args.format or "json"
    if args.texts and len(args.texts) > 2:
        raise PMLMError(f"--texts {' '.join(args.texts)}: one or two")
    check_output(args.out, source, args.path)
    folder, name = os.path.split(args.path)
    model = from_pretrained(folder or ".", name, data)
    if model.trained_for.get("_name") == "pmlm_squad":
        raise PMLMError(
            f"--path {args.path} was trained for --task pmlm_squad, but pmlm prepare squad has not made {data}; "
            "give --data DIR"
        )
    head = choose_head(model, args.head, data)
    labels = model.find_head(head).labels
    outputs = model.find_head(head).out_proj.out_features
    if labels is None and outputs > 1:
        labels = [str(i) for i in range(outputs)]  # a head that was registered by hand
    if labels is None and form == "probabilities":
        raise PMLMError("--format probabilities: the head gives numbers, not classes")
    if torch.cuda.is_available() and not args.cpu:
        model.cuda()
    counts = Counts()
    table = glue.Table(tuple(args.texts or columns(source)), header=False)
    records = glue.read(source, table, counts)
    texts = [(text, pair[0]) if pair else text for text, *pair in (record.texts for record in records)]
    if not texts:
        raise PMLMError(f"{source}: no texts")
    if counts.blank_lines:
        print(f"{source}: {counts.blank_lines} blank lines left out", file=sys.stderr)
    truncate = args.shorten_method == "truncate"
    found = model.predict_texts(head, texts, args.max_tokens or MAX_TOKENS, truncate, progress=True)
    write_output(args.out, "".join(f"{describe(output, labels, form)}\n" for output in found))
