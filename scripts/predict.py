#!/usr/bin/env python
"""Classes or numbers for new texts, from a checkpoint that was trained with ``--task sentence_prediction``.

    python scripts/predict.py data-bin/RTE/test.jsonl --path checkpoints/rte/checkpoint_best.pt --data data-bin/RTE
    python scripts/predict.py reviews.txt --path ... --data ... --format label --out labels.txt

The input holds JSON lines with input0 and input1, as scripts/prepare_glue.py writes them (--texts names others), or a
table without a header: a text a line, or two with a tab between them (--texts 2 3: those columns). What comes out is in
the order of the input, for each text

  json           {"label": "1", "probabilities": {"0": 0.1, "1": 0.9}}; of regression {"value": 2.5}
  label          the class alone, or the number
  probabilities  those of all classes in their order, with tabs between them
"""

import argparse
import json
import os
import sys

import torch

from fairseq_pmlm.cli.arguments import positive
from fairseq_pmlm.interface import PMLMModel
from fairseq_pmlm.preparation import glue
from fairseq_pmlm.tokenizers.dictionary import label_names
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import Counts, keep_inputs, read_lines, write_output


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="JSON lines or a table, plain or .gz")
    parser.add_argument("--path", required=True, metavar="FILE", help="checkpoint")
    parser.add_argument("--data", metavar="DIR", help="data directory (default: that of --path)")
    parser.add_argument(
        "--head",
        metavar="NAME",
        help="which classification head, as --classification-head-name named it (default: the only one)",
    )
    parser.add_argument("--texts", nargs="+", metavar="COLUMN", help="columns of the text, or of the two texts")
    parser.add_argument(
        "--format", choices=["json", "label", "probabilities"], default="json", help="default: %(default)s"
    )
    parser.add_argument("--out", metavar="FILE", help="write here instead of to standard output")
    parser.add_argument(
        "--max-tokens", type=positive, default=4096, help="tokens of a batch, with padding (default: %(default)s)"
    )
    parser.add_argument(
        "--shorten-method",
        choices=["none", "truncate"],
        default="none",
        help="what to do with texts beyond the model's positions: refuse them, or cut their end",
    )
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    args = parser.parse_args(argv)
    if args.texts and len(args.texts) > 2:
        parser.error(f"--texts {' '.join(args.texts)}: one or two")
    keep_inputs(args.out, args.input)
    if args.out and not os.path.isdir(os.path.dirname(args.out) or "."):  # now, and not after all the work
        raise PMLMError(f"--out {args.out}: there is no directory {os.path.dirname(args.out)}")
    return args


def columns(path: str) -> tuple[str, ...]:
    """Where the texts stand if nobody says so: input0 and input1, or all columns of a table.

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
        PMLMError: there is no such head, or several; its classes are not those of the data.
    """
    there = list(model.model.classification_heads)
    if name is None and len(there) > 1:
        raise PMLMError(f"the checkpoint has several classification heads; give --head with one of {', '.join(there)}")
    name = name or (there[0] if there else "sentence_classification_head")
    labels, path = model.find_head(name).labels, os.path.join(data, "label", "dict.txt")
    if labels is not None and os.path.isfile(path):
        found = label_names(model.dictionary.load(path))
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


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    folder, name = os.path.split(args.path)
    model = PMLMModel.from_pretrained(folder or ".", name, args.data)
    head = choose_head(model, args.head, args.data or folder)
    labels = model.find_head(head).labels
    outputs = model.find_head(head).out_proj.out_features
    if labels is None and outputs > 1:
        labels = [str(i) for i in range(outputs)]  # a head that was registered by hand
    if labels is None and args.format == "probabilities":
        raise PMLMError("--format probabilities: the head gives numbers, not classes")
    if torch.cuda.is_available() and not args.cpu:
        model.cuda()
    counts = Counts()
    table = glue.Table(tuple(args.texts or columns(args.input)), header=False)
    texts = [record.texts for record in glue.read(args.input, table, counts)]
    if not texts:
        raise PMLMError(f"{args.input}: no texts")
    if counts.blank_lines:
        print(f"{args.input}: {counts.blank_lines} blank lines left out", file=sys.stderr)
    truncate = args.shorten_method == "truncate"
    found = model.predict_texts(head, texts, args.max_tokens, truncate, progress=True)
    lines = "".join(f"{describe(output, labels, args.format)}\n" for output in found)
    write_output(args.out, lines)


if __name__ == "__main__":
    main()
