"""BLEU and chrF by sacrebleu."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Optional

import numpy as np

from ..utils.optional import require
from .base import DEFAULT, Bootstrap, Scores, check_segments, corpus_scores, count_empty, sign
from .tokenizers import check_tokenizer, load_sentencepiece, stop_if_unspaced

THEIRS = {None: "13a", "default": "13a", "none": "none", "spm": "none"}  # sacrebleu's name, where it is another


def score_bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Optional[str] = None,
    sentencepiece_model: Optional[str] = None,
    smooth: str = "exp",
    bootstrap: Bootstrap = DEFAULT,
    origin: Mapping[str, object] = {},
) -> Scores:
    """Corpus BLEU, mixed case: ``bleu`` is BLEU-4, sacrebleu's default; ``bleu1`` to ``bleu3`` stop at shorter n-grams.

    Args:
        hypotheses, references, bootstrap, origin: as in :func:`~fairseq_pmlm.scoring.rouge.score_rouge`.
        tokenizer: ``default`` (sacrebleu's ``13a``), ``intl``, ``char`` (both sacrebleu's), ``none`` (what stands
            between spaces) or ``spm`` (pieces of *sentencepiece_model*). None is ``default`` plus the stop under
            "Raises".
        sentencepiece_model: path of the model for ``spm``.
        smooth: of n-gram orders without a match: ``exp`` (sacrebleu's default) or ``none``.

    Raises:
        PMLMError: nothing to score, lists of different lengths, a bad option, or *tokenizer* is None and more than
            10 % of the letters are of a script without spaces between words, where a "word" of 13a is a sentence.
    """
    check_segments(hypotheses, references)
    check_tokenizer(tokenizer, sentencepiece_model)
    if tokenizer is None:
        stop_if_unspaced(hypotheses, references)

    BLEU = require("sacrebleu.metrics", "BLEU").BLEU
    empty = count_empty(hypotheses)
    # force: pieces and tokens do look tokenized, no need for the warning
    metric = BLEU(tokenize=THEIRS.get(tokenizer, tokenizer), smooth_method=smooth, force=True)
    if sentencepiece_model:
        encode, name = load_sentencepiece(sentencepiece_model)
        hypotheses = [" ".join(encode(text)) for text in hypotheses]
        references = [[" ".join(encode(text)) for text in reference] for reference in references]
        metric.tokenizer_signature = name

    def up_to(order):
        def bleu(sums):  # of [length, reference length, matches of each order, n-grams of each order]
            rows = sums.astype(np.int64).tolist()
            counts = [(row[2 : 2 + order], row[6 : 6 + order], row[0], row[1]) for row in rows]
            return np.array([BLEU.compute_bleu(*c, smooth_method=smooth, max_ngram_order=order).score for c in counts])

        return bleu

    stats = metric._extract_corpus_statistics(hypotheses, references)
    functions = {"bleu": up_to(4)} | {f"bleu{order}": up_to(order) for order in (1, 2, 3)}
    values, samples = corpus_scores(stats, functions, bootstrap)
    signature = sign_as_sacrebleu("bleu", metric, bootstrap, origin)
    return Scores(values, signature, None, len(hypotheses), empty, bootstrap.confidence, samples)


def score_chrf(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    bootstrap: Bootstrap = DEFAULT,
    origin: Mapping[str, object] = {},
) -> Scores:
    """Corpus chrF2 (character 6-grams, no words), sacrebleu's default; it needs no tokenizer.

    Args:
        hypotheses, references, bootstrap, origin: as in :func:`~fairseq_pmlm.scoring.rouge.score_rouge`.

    Raises:
        PMLMError: nothing to score, or lists of different lengths.
    """
    check_segments(hypotheses, references)
    metric = require("sacrebleu.metrics", "chrF").CHRF()

    def chrf(sums):
        return np.array([metric._compute_score_from_stats(row).score for row in sums.astype(np.int64).tolist()])

    stats = metric._extract_corpus_statistics(hypotheses, references)
    values, samples = corpus_scores(stats, {"chrf": chrf}, bootstrap)
    return Scores(
        values,
        sign_as_sacrebleu("chrf", metric, bootstrap, origin),
        {"chrf": chrf(np.array(stats))},
        len(hypotheses),
        count_empty(hypotheses),
        bootstrap.confidence,
        samples,
    )


def sign_as_sacrebleu(name: str, metric, bootstrap: Bootstrap, origin: Mapping) -> str:
    """The signature with sacrebleu's own keys.

    Not with its bootstrap: that keeps a 95 % half-width around the mean of the resamples, not the bounds, and takes its
    seed from the environment.
    """
    info = metric.get_signature().info
    pairs = {key: value for key, value in info.items() if value is not None and key != "version"}
    return sign(name, pairs, bootstrap, {"sacrebleu": version("sacrebleu")}, origin)
