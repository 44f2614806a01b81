"""ROUGE by rouge-score."""

import types
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Optional

import numpy as np

from ..utils.errors import PMLMError
from ..utils.optional import require
from .base import DEFAULT, Bootstrap, Score, Scores, check_segments, count_empty, sign
from .tokenizers import build_rouge_tokenizer, stop_if_not_english

ROUGE_TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def score_rouge(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Optional[str] = None,
    stem: bool = False,
    sentencepiece_model: Optional[str] = None,
    beta: float = 1.0,
    bootstrap: Bootstrap = DEFAULT,
    origin: Mapping[str, object] = {},
) -> Scores:
    r"""ROUGE-1, -2, -L and -Lsum, the mean over segments.

    With several references a segment counts, for each type on its own, its best F1 (rouge-score's ``score_multi``).
    rougeLsum takes the lines of a text (``"\n"``) as its sentences, as rouge-score does; where no text has a newline
    it equals rougeL. Other marks between sentences, such as ``<q>``, are the caller's to turn into newlines.

    Args:
        hypotheses: one text per segment; empty ones score 0.
        references: one list per reference file, each as long as *hypotheses* (sacrebleu's layout).
        tokenizer: ``default`` (rouge-score's: lower-cased runs of a-z and 0-9), ``intl`` (runs of letters, marks and
            digits of any script), ``char`` (each letter or digit, with its marks), ``none`` (what stands between
            spaces) or ``spm`` (pieces of *sentencepiece_model* that hold a letter or digit). ``intl``, ``char`` and
            ``spm`` fold case and compose to NFC first. None is ``default`` plus the stop under "Raises".
        stem: Porter's stemmer for English, with the default tokenizer only.
        sentencepiece_model: path of the model for ``spm``.
        beta: F is (1 + beta^2) P R / (R + beta^2 P). Other than 1, the best precision and the best recall of several
            references are taken apart, as in the COCO caption evaluation that published question generation used.
        bootstrap: how intervals are drawn.
        origin: pairs for the signature that say what was done to the texts before.

    Raises:
        PMLMError: nothing to score, lists of different lengths, a bad option, or *tokenizer* is None and more than
            10 % of the letters lie outside a-z, which the default tokenizer would drop.
    """
    check_segments(hypotheses, references)
    if not 0 < beta < float("inf"):
        raise PMLMError(f"beta {beta}: expected a number above 0; 1 weighs precision and recall alike")
    tokenize, tokenizer_name = build_rouge_tokenizer(tokenizer, stem, sentencepiece_model)
    if tokenizer is None:
        stop_if_not_english(hypotheses, references)

    rouge_scorer = require("rouge_score.rouge_scorer", "ROUGE")
    scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, tokenizer=types.SimpleNamespace(tokenize=tokenize))
    f = np.empty((len(hypotheses), len(ROUGE_TYPES)))
    for i, hypothesis in enumerate(hypotheses):
        ours = [reference[i] for reference in references]
        if beta == 1:
            best = scorer.score_multi(ours, hypothesis)
            f[i] = [100 * best[name].fmeasure for name in ROUGE_TYPES]
        else:
            scores = [scorer.score(reference, hypothesis) for reference in ours]
            f[i] = [100 * f_beta([score[name] for score in scores], beta) for name in ROUGE_TYPES]

    means = f.mean(axis=0)
    samples = bootstrap.sums(f) / len(f)
    values = {name: Score(float(means[k]), *bootstrap.interval(samples[:, k])) for k, name in enumerate(ROUGE_TYPES)}
    pairs = {"nrefs": len(references), "tok": tokenizer_name, "stem": "yes" if stem else "no"}
    pairs |= (
        {"agg": "mean", "multiref": "max"} if beta == 1 else {"beta": beta, "agg": "mean", "multiref": "max-p-max-r"}
    )
    library = {"rouge-score": version("rouge-score")}
    return Scores(
        values,
        sign("+".join(ROUGE_TYPES), pairs, bootstrap, library, origin),
        {name: f[:, k].copy() for k, name in enumerate(ROUGE_TYPES)},
        len(hypotheses),
        count_empty(hypotheses),
        bootstrap.confidence,
        {name: samples[:, k].copy() for k, name in enumerate(ROUGE_TYPES)},
    )


def f_beta(scores, beta: float) -> float:
    """F of the best precision and the best recall of *scores*, 0..1."""
    precision, recall = max(s.precision for s in scores), max(s.recall for s in scores)
    total = recall + beta**2 * precision
    return (1 + beta**2) * precision * recall / total if total else 0.0
