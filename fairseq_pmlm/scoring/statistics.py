"""What the texts are like, whatever the references say: variety, repetition, lengths."""

from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from .base import Score, Scores, check_segments, count_empty, sign
from .tokenizers import build_rouge_tokenizer

ORDERS = (1, 2, 3, 4)


def text_statistics(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Optional[str] = None,
    sentencepiece_model: Optional[str] = None,
    origin: Mapping[str, object] = {},
) -> Scores:
    """Statistics of the hypotheses, and the lengths of the references beside theirs. Exact counts, so no intervals.

    * ``distinct1`` to ``distinct4``: different n-grams of all hypotheses, in percent of all their n-grams.
    * ``repeat1`` to ``repeat4``: n-grams that stood in the same hypothesis before, in percent of its n-grams, the mean
      over hypotheses that have any (0 where none has).
    * ``same``: hypotheses that are word for word like an earlier one, in percent.
    * ``words``, ``words_min``, ``words_max``: mean, least and largest number of words of a hypothesis; ``words_ref``:
      mean of the references; ``ratio``: words of all hypotheses in percent of those of all first references.

    Args:
        hypotheses, references, sentencepiece_model, origin: as in :func:`~fairseq_pmlm.scoring.rouge.score_rouge`.
        tokenizer: as there, but ``intl`` by default.
    """
    check_segments(hypotheses, references)
    tokenize, name = build_rouge_tokenizer(tokenizer or "intl", False, sentencepiece_model)
    ours = [tokenize(text) for text in hypotheses]
    theirs = [[len(tokenize(text)) for text in reference] for reference in references]
    lengths = np.array([len(words) for words in ours])

    values: dict[str, float] = {}
    grams = {n: [list(zip(*(words[i:] for i in range(n)), strict=False)) for words in ours] for n in ORDERS}
    for n, rows in grams.items():
        total = sum(map(len, rows))
        values[f"distinct{n}"] = 100 * len({gram for row in rows for gram in row}) / max(total, 1)
    for n, rows in grams.items():
        shares = [100 * (1 - len(set(row)) / len(row)) for row in rows if row]
        values[f"repeat{n}"] = float(np.mean(shares)) if shares else 0.0
    values["same"] = 100 * (1 - len(set(map(tuple, ours))) / len(ours))
    values |= {"words": float(lengths.mean()), "words_min": float(lengths.min()), "words_max": float(lengths.max())}
    values |= {"words_ref": float(np.mean(theirs)), "ratio": 100 * lengths.sum() / max(sum(theirs[0]), 1)}
    return Scores(
        {key: Score(value) for key, value in values.items()},
        sign("statistics", {"nrefs": len(references), "tok": name}, None, {}, origin),
        None,
        len(hypotheses),
        count_empty(hypotheses),
        0.95,
    )
