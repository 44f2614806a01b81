"""The part of ``pmlm predict`` that answers SQuAD's questions."""

import argparse
import json
import os
import re
import tempfile

import fairseq_pmlm.tasks  # noqa: F401  registers with fairseq; before fairseq, whose imports it keeps quiet

# isort: split
import torch
from fairseq import checkpoint_utils

from ..preparation.squad import prepare
from ..scoring.report import as_json, format_table
from ..squad.files import read_meta
from ..squad.prediction import OURS, predict, read_threshold, write
from ..utils import directories
from ..utils.errors import PMLMError
from ..utils.io import check_input

WINDOWS, NBEST, LONGEST = 32, 20, 30  # of a batch; answers to keep; tokens of an answer


def answer(args: argparse.Namespace, data: str) -> None:
    """Answer the questions of ``pmlm predict``'s INPUT, and write what its docstring lists to ``--destdir``.

    Args:
        args: its options.
        data: directory of ``pmlm prepare squad``, which says how questions are prepared.

    Raises:
        PMLMError: an option, the questions or the checkpoint do not fit.
    """
    if not args.destdir:
        raise PMLMError("give --destdir DIR, for the answers")
    threshold, nbest = args.threshold, args.nbest or NBEST
    if threshold is not None and not 0 <= threshold <= 1:
        raise PMLMError(f"--threshold {threshold}: expected a probability from 0 to 1")
    if args.threshold_from:
        threshold = read_threshold(args.threshold_from)
    check_input(args.path, "--path")
    with (
        tempfile.TemporaryDirectory() as temporary,
        directories.building(args.destdir, args.overwrite, re.compile(OURS), what="predictions") as folder,
    ):
        version, limits, parts = read_meta(data)
        split = args.split or "valid"
        if not os.path.isdir(args.input):
            prepared = prepare({"test": args.input}, data, limits, temporary)
            data, split = temporary, "test"
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
        batch_size = WINDOWS if args.max_tokens is None else max(1, args.max_tokens // limits.max_source_positions)
        found = predict(model, task, dataset, args.max_answer_length or LONGEST, nbest, batch_size, cuda)
        used, scores = write(folder, found, dataset, nbest, threshold)
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
