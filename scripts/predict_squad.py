"""Answers questions about passages: predictions in SQuAD's official format, the n best, and scores.

    python scripts/predict_squad.py data-bin/squad --path checkpoints/squad/checkpoint_best.pt --destdir answers
    python scripts/predict_squad.py data-bin/squad --path checkpoints/squad/checkpoint_best.pt --destdir new-answers \\
        --input questions.json --threshold-from answers

DATA is a directory of scripts/prepare_squad.py; questions are those of its part --split, or those of --input, which is
prepared as DATA was. DIR then holds predictions.json (id -> text), nbest.json, and for version 2.0 spans.json (the best
span of every question, also of those that are left without an answer), na_probs.json (probability of no answer, for the
official script's --na-prob-file beside spans.json) and threshold.json. scores.json is there where references are.

A question of version 2.0 has "no answer" if the probability for it is above a threshold: that of --threshold or
--threshold-from, else the one with the best F1 on these very questions, if they have references, else 0.5.
"""

import argparse
import json
import os
import re
import tempfile

import fairseq_pmlm  # noqa: F401  (before fairseq, whose imports it keeps quiet)

# isort: split
import torch
from fairseq import checkpoint_utils

from fairseq_pmlm.cli import arguments
from fairseq_pmlm.preparation.squad import prepare
from fairseq_pmlm.scoring.report import as_json, format_table
from fairseq_pmlm.squad.files import read_meta
from fairseq_pmlm.squad.prediction import OURS, predict, read_threshold, write
from fairseq_pmlm.utils import directories
from fairseq_pmlm.utils.errors import PMLMError, install_excepthook


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", help="directory of scripts/prepare_squad.py")
    add("--path", required=True, metavar="FILE", help="checkpoint of --task pmlm_squad")
    questions = parser.add_mutually_exclusive_group()
    questions.add_argument("--split", default="valid", help="part of DATA to answer (default: %(default)s)")
    questions.add_argument("--input", metavar="FILE", help="SQuAD's JSON to answer instead; answers may be missing")
    arguments.add_output_arguments(parser)
    count = {"type": arguments.positive, "metavar": "N"}
    add("--nbest", default=20, help="answers to keep of each question (default: %(default)s)", **count)
    add("--max-answer-length", default=30, help="longest answer in tokens (default: %(default)s)", **count)
    thresholds = parser.add_mutually_exclusive_group()
    thresholds.add_argument(
        "--threshold", type=float, metavar="P", help="version 2.0: no answer where the probability for that is above P"
    )
    thresholds.add_argument(
        "--threshold-from", metavar="DIR", help="version 2.0: take the threshold of predictions made before"
    )
    add("--batch-size", default=32, help="windows at a time (default: %(default)s)", **count)
    add("--cpu", action="store_true", help="do not use a GPU")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    install_excepthook()
    args = parse_arguments(argv)
    threshold = args.threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise PMLMError(f"--threshold {threshold}: expected a probability from 0 to 1")
    if args.threshold_from:
        threshold = read_threshold(args.threshold_from)
    if not os.path.isfile(args.path):
        raise PMLMError(f"--path {args.path}: no such file")
    with (
        tempfile.TemporaryDirectory() as temporary,
        directories.building(args.destdir, args.overwrite, re.compile(OURS), what="predictions") as folder,
    ):
        data, split = args.data, args.split
        _, limits, parts = read_meta(data)
        if args.input:
            data, split = temporary, "test"
            prepared = prepare({"test": args.input}, args.data, limits, temporary)
            version = read_meta(args.data)[0]
            if read_meta(temporary)[0] != version:
                print(f"note: the questions are of version {read_meta(temporary)[0]}, the model's of {version}")
            if not prepared["test"].answered:
                print("not scored: some questions come without answers")
            if prepared["test"].cut:
                print(f"{prepared['test'].cut:,} questions cut to {limits.max_question_positions} tokens")
        elif split not in parts:
            raise PMLMError(f"--split {split}: {data} has the parts {', '.join(parts)}")
        state = checkpoint_utils.load_checkpoint_to_cpu(args.path, {"data": data})
        # looked up before the task is set up, as another one would look for its own data
        trained_for = getattr(getattr(state.get("cfg"), "task", None), "_name", None)
        if trained_for != "pmlm_squad":
            raise PMLMError(f"--path {args.path} was trained for --task {trained_for}, not for --task pmlm_squad")
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([args.path], state=state)
        model, cuda = models[0].eval(), torch.cuda.is_available() and not args.cpu
        if cuda:
            model.cuda()
        task.load_dataset(split)
        dataset = task.dataset(split)
        if threshold is not None and dataset.version != "2.0":
            raise PMLMError(f"the questions are of version {dataset.version}, which has no threshold")
        found = predict(model, task, dataset, args.max_answer_length, args.nbest, args.batch_size, cuda)
        used, scores = write(folder, found, dataset, args.nbest, threshold)
        if scores:
            with open(os.path.join(folder, "scores.json"), "w", encoding="utf-8") as f:
                f.write(json.dumps(as_json({"squad": scores.scores})) + "\n")
    print(f"{len(found):,} questions, {len(dataset):,} windows: answers are in {args.destdir}")
    if used is not None:
        origin = "given" if threshold is not None else "best F1 on these very questions" if scores else "not tuned"
        empty = sum(prediction.probability > used for prediction in found)
        print(f"threshold of the probability of no answer: {used:.6g} ({origin}); without an answer: {empty:,}")
    if scores:
        print(format_table(scores.scores))


if __name__ == "__main__":
    main()
