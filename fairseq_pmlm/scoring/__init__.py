"""Scores of generated text: ROUGE, BLEU, chrF, METEOR, statistics; intervals, comparisons, the published presets.

A score here is always the number that rouge-score, sacrebleu or METEOR itself gives for the same texts. What is added
is what a table in a paper needs: the interval, a test between two systems, one line that says how the number was made,
the post-processing that published numbers had, tokenizers for texts that are not English, and a stop where
rouge-score's own tokenizer would throw most of the text away.

Scores are on a scale of 0..100. Importing the package registers the fairseq scorer ``rouge``
(``fairseq-generate --scoring rouge``).
"""

from . import fairseq_scorer  # noqa: F401
from .base import Bootstrap, Score, Scores
from .bleu import score_bleu, score_chrf
from .compare import Difference, compare
from .meteor import score_meteor
from .presets import PRESETS, find_preset, prepare
from .report import as_json, format_table
from .rouge import ROUGE_TYPES, score_rouge
from .statistics import text_statistics

__all__ = [
    "PRESETS",
    "ROUGE_TYPES",
    "Bootstrap",
    "Difference",
    "Score",
    "Scores",
    "as_json",
    "compare",
    "find_preset",
    "format_table",
    "prepare",
    "score_bleu",
    "score_chrf",
    "score_meteor",
    "score_rouge",
    "text_statistics",
]
