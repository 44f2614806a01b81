"""ROUGE (by rouge-score), BLEU and chrF (by sacrebleu): several references, bootstrap intervals, a signature.

A score here is always the number that rouge-score or sacrebleu itself gives for the same texts. What is added is what a
table in a paper needs: the interval, one line that says how the number was made, tokenizers for texts that
are not English, and a stop where rouge-score's own tokenizer would throw most of the text away.

Every score is on a scale of 0..100. The module also registers the fairseq scorer ``rouge``
(``fairseq-generate --scoring rouge``).
"""

import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import NamedTuple, Optional

import numpy as np
import sacrebleu
from fairseq.dataclass import FairseqDataclass
from fairseq.scoring import SCORER_REGISTRY, BaseScorer, register_scorer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

import fairseq_pmlm  # for __version__, read late: the package may still be importing this very module
from fairseq_pmlm.errors import PMLMError
from fairseq_pmlm.score_tokenizers import (
    build_rouge_tokenizer,
    check_tokenizer,
    load_sentencepiece,
    stop_if_not_english,
    stop_if_unspaced,
)

ROUGE_TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


class Score(NamedTuple):
    """One number on a scale of 0..100 and its bootstrap interval.

    ``mean`` is the score of the whole test set: the mean over segments for ROUGE, the corpus score for BLEU and chrF.
    ``low`` and ``high`` bound the interval; both are None without a bootstrap.
    """

    mean: float
    low: Optional[float] = None
    high: Optional[float] = None


@dataclass
class Scores:
    """What :func:`score_rouge`, :func:`score_bleu` and :func:`score_chrf` return.

    Attributes:
        values: score by name (``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``; ``bleu``; ``chrf``), 0..100.
        signature: one line that says how the numbers were made.
        per_segment: float array of shape (segments,) by name, 0..100; None for BLEU, which is no mean over segments.
        segments: number of hypotheses.
        empty: number of hypotheses without any text; they are scored like all others.
        confidence: probability that the intervals cover, 0..1.
    """

    values: dict[str, Score]
    signature: str
    per_segment: Optional[dict[str, np.ndarray]]
    segments: int
    empty: int
    confidence: float


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


def score_rouge(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Optional[str] = None,
    stem: bool = False,
    sentencepiece_model: Optional[str] = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 12345,
) -> Scores:
    r"""ROUGE-1, -2, -L and -Lsum (F1), the mean over segments.

    With several references a segment counts, for each type on its own, its best F1 (rouge-score's ``score_multi``).
    rougeLsum takes the lines of a text (``"\n"``) as its sentences, as rouge-score does; where no text has a newline
    it equals rougeL. Other marks between sentences, such as ``<q>``, are the caller's to turn into newlines.

    Args:
        hypotheses: one text per segment; empty ones score 0.
        references: one list per reference file, each as long as *hypotheses* (sacrebleu's layout).
        tokenizer: ``default`` (rouge-score's: lower-cased runs of a-z and 0-9), ``intl`` (runs of letters, marks and
            digits of any script), ``char`` (each letter or digit, with its marks) or ``spm`` (pieces of
            *sentencepiece_model* that hold a letter or digit). The last three fold case and compose to NFC first.
            None is ``default`` plus the stop under "Raises".
        stem: Porter's stemmer for English, with the default tokenizer only.
        sentencepiece_model: path of the model for ``spm``.
        bootstrap: number of resamples; 0 for no intervals.
        confidence: probability that the interval covers, between 0 and 1.
        seed: of the resampling; the same seed draws the same segments in every metric.

    Raises:
        PMLMError: nothing to score, lists of different lengths, a bad option, or *tokenizer* is None and more than
            10 % of the letters lie outside a-z, which the default tokenizer would drop.
    """
    check_segments(hypotheses, references)
    check_bootstrap(bootstrap, confidence, seed)
    tokenize, tokenizer_name = build_rouge_tokenizer(tokenizer, stem, sentencepiece_model)
    if tokenizer is None:
        stop_if_not_english(hypotheses, references)

    scorer = RougeScorer(ROUGE_TYPES, tokenizer=types.SimpleNamespace(tokenize=tokenize))
    f1 = np.empty((len(hypotheses), len(ROUGE_TYPES)))
    for i, hypothesis in enumerate(hypotheses):
        best = scorer.score_multi([reference[i] for reference in references], hypothesis)
        f1[i] = [100 * best[name].fmeasure for name in ROUGE_TYPES]

    means = f1.mean(axis=0)
    samples = resample_sums(f1, bootstrap, seed) / len(f1)
    values = {name: Score(float(means[k]), *interval(samples[:, k], confidence)) for k, name in enumerate(ROUGE_TYPES)}
    signature = sign(
        "+".join(ROUGE_TYPES),
        {
            "nrefs": len(references),
            "tok": tokenizer_name,
            "stem": "yes" if stem else "no",
            "agg": "mean",
            "multiref": "max",
        },
        bootstrap,
        seed,
        {"rouge-score": version("rouge-score")},
    )
    per_segment = {name: f1[:, k].copy() for k, name in enumerate(ROUGE_TYPES)}
    return Scores(values, signature, per_segment, len(hypotheses), count_empty(hypotheses), confidence)


def score_bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Optional[str] = None,
    sentencepiece_model: Optional[str] = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 12345,
) -> Scores:
    """Corpus BLEU-4, mixed case, exponential smoothing: sacrebleu's default.

    Args:
        hypotheses, references, bootstrap, confidence, seed: as in :func:`score_rouge`.
        tokenizer: ``default`` (sacrebleu's ``13a``), ``intl``, ``char`` (both sacrebleu's) or ``spm`` (pieces of
            *sentencepiece_model*). None is ``default`` plus the stop under "Raises".
        sentencepiece_model: path of the model for ``spm``.

    Raises:
        PMLMError: nothing to score, lists of different lengths, a bad option, or *tokenizer* is None and more than
            10 % of the letters are of a script without spaces between words, where a "word" of 13a is a sentence.
    """
    check_segments(hypotheses, references)
    check_bootstrap(bootstrap, confidence, seed)
    check_tokenizer(tokenizer, sentencepiece_model)
    if tokenizer is None:
        stop_if_unspaced(hypotheses, references)

    empty = count_empty(hypotheses)
    if tokenizer == "spm":
        encode, name = load_sentencepiece(sentencepiece_model)
        hypotheses = [" ".join(encode(text)) for text in hypotheses]
        references = [[" ".join(encode(text)) for text in reference] for reference in references]
        metric = BLEU(tokenize="none", force=True)  # force: pieces do look tokenized, no need for the warning
        metric.tokenizer_signature = name
    else:
        metric = BLEU(tokenize="13a" if tokenizer in (None, "default") else tokenizer)

    value, signature, _ = score_with_sacrebleu(metric, "bleu", hypotheses, references, bootstrap, confidence, seed)
    return Scores({"bleu": value}, signature, None, len(hypotheses), empty, confidence)


def score_chrf(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 12345,
) -> Scores:
    """Corpus chrF2 (character 6-grams, no words), sacrebleu's default; it needs no tokenizer.

    Args:
        hypotheses, references, bootstrap, confidence, seed: as in :func:`score_rouge`.

    Raises:
        PMLMError: nothing to score, lists of different lengths, or a bad option.
    """
    check_segments(hypotheses, references)
    check_bootstrap(bootstrap, confidence, seed)
    metric = CHRF()
    value, signature, stats = score_with_sacrebleu(metric, "chrf", hypotheses, references, bootstrap, confidence, seed)
    per_segment = {"chrf": np.array([metric._compute_score_from_stats(row).score for row in stats])}
    return Scores({"chrf": value}, signature, per_segment, len(hypotheses), count_empty(hypotheses), confidence)


def score_with_sacrebleu(metric, name, hypotheses, references, bootstrap, confidence, seed):
    """(Score, signature, counts per segment) of a sacrebleu metric.

    Both scores are functions of counts (n-grams matched, n-grams in all, lengths) that add up over segments. So a
    resample is a weighted sum of rows, and no text is read twice. sacrebleu's own bootstrap works on the same rows but
    keeps a 95 % half-width around the mean of the resamples, not the bounds, and takes its seed from the environment.
    """
    stats = metric._extract_corpus_statistics(hypotheses, references)
    corpus_score = metric._aggregate_and_compute(stats).score
    sums = resample_sums(np.array(stats, dtype=np.float64), bootstrap, seed)  # exact: integers below 2 ** 53
    samples = np.array([metric._compute_score_from_stats(row).score for row in sums.astype(np.int64).tolist()])

    info = metric.get_signature().info
    pairs = {key: value for key, value in info.items() if value is not None and key != "version"}
    signature = sign(name, pairs, bootstrap, seed, {"sacrebleu": sacrebleu.__version__})
    return Score(corpus_score, *interval(samples, confidence)), signature, stats


# ---------------------------------------------------------------------------------------------------------------------
# Bootstrap


def resample_sums(stats: np.ndarray, bootstrap: int, seed: int) -> np.ndarray:
    """Sums of *stats* (segments, columns) over *bootstrap* resamples of the segments: (bootstrap, columns)."""
    segments = len(stats)
    generator = np.random.default_rng(seed)
    sums = np.empty((bootstrap, stats.shape[1]))
    block = max(1, 4_000_000 // segments)  # resamples at a time: bounds the memory to some 100 MB
    for start in range(0, bootstrap, block):
        rows = min(block, bootstrap - start)
        draws = generator.integers(segments, size=(rows, segments))
        # how often each resample holds each segment: one bincount, where every resample counts in a range of its own
        draws += segments * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * segments).reshape(rows, segments)
        sums[start : start + rows] = counts.astype(stats.dtype) @ stats
    return sums


def interval(samples: np.ndarray, confidence: float) -> tuple[Optional[float], Optional[float]]:
    """Percentile interval that holds the middle *confidence* of *samples*; (None, None) where there are none."""
    if not len(samples):
        return None, None
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------------------------------
# Checks and reports


def check_segments(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise PMLMError unless there is something to score and every list of references is as long as *hypotheses*."""
    if isinstance(references, str) or not references or any(isinstance(reference, str) for reference in references):
        raise PMLMError("references: expected one list of texts per reference file, as in [first_file, second_file]")
    if not hypotheses:
        raise PMLMError("nothing to score: no hypotheses")
    for number, reference in enumerate(references, 1):
        if len(reference) != len(hypotheses):
            raise PMLMError(f"{len(hypotheses)} hypotheses but {len(reference)} texts in reference list {number}")


def check_bootstrap(bootstrap: int, confidence: float, seed: int) -> None:
    """Raise PMLMError unless the options of the bootstrap make sense."""
    if bootstrap < 0:
        raise PMLMError(f"bootstrap {bootstrap}: expected the number of resamples, or 0 for no intervals")
    if not 0 < confidence < 1:
        raise PMLMError(f"confidence {confidence}: expected a probability between 0 and 1, such as 0.95")
    if seed < 0:
        raise PMLMError(f"seed {seed}: expected 0 or more")


def count_empty(hypotheses: Sequence[str]) -> int:
    """How many hypotheses hold nothing but white space."""
    return sum(not hypothesis.strip() for hypothesis in hypotheses)


def sign(name: str, pairs: dict, bootstrap: int, seed: int, library: dict) -> str:
    """sacrebleu-style signature: ``name|key:value|...``, the bootstrap and the versions last."""
    pairs = {**pairs, "bootstrap": bootstrap}
    if bootstrap:
        pairs["seed"] = seed
    pairs |= {**library, "pmlm": fairseq_pmlm.__version__}
    return "|".join([name, *(f"{key}:{value}" for key, value in pairs.items())])


def format_table(*scores: Scores) -> str:
    """A table of one or several :class:`Scores` over the same hypotheses: metric, score and interval (0..100).

    Below it stand the number of segments and of empty hypotheses, and one signature per argument.
    """
    bootstrapped = any(value.low is not None for part in scores for value in part.values.values())
    lines = [f"{'metric':<10} {'score':>6}"]
    if bootstrapped:
        lines[0] += f"   {100 * scores[0].confidence:g} % interval"
    for part in scores:
        for name, value in part.values.items():
            bounds = "" if value.low is None else f"   {value.low:6.2f} .. {value.high:6.2f}"
            lines.append(f"{name:<10} {value.mean:6.2f}{bounds}")
    empty = f", {scores[0].empty} of them with an empty hypothesis" if scores[0].empty else ""
    lines.append(f"{scores[0].segments} segments{empty}")
    return "\n".join(lines + [part.signature for part in scores])


# ---------------------------------------------------------------------------------------------------------------------
# fairseq's --scoring rouge


@dataclass
class RougeConfig(FairseqDataclass):
    """Options of ``--scoring rouge``."""

    rouge_tokenizer: Optional[str] = field(
        default=None,
        metadata={
            "help": "tokenizer of --scoring rouge: default (a-z and 0-9), intl, char or spm; without this option "
            "default, and a stop if more than a tenth of the letters are others"
        },
    )
    rouge_stem: bool = field(default=False, metadata={"help": "stem English words in --scoring rouge (Porter)"})
    rouge_sentencepiece_model: Optional[str] = field(
        default=None, metadata={"help": "sentencepiece model for --rouge-tokenizer spm"}
    )


class FairseqRougeScorer(BaseScorer):
    """ROUGE of what ``fairseq-generate`` decodes, without intervals (``scripts/score.py`` has them)."""

    EARLY = 64  # pairs after which the letters are looked at for the first time

    def __init__(self, cfg: RougeConfig):
        super().__init__(cfg)
        # a bad option stops here, not after an hour of decoding
        build_rouge_tokenizer(cfg.rouge_tokenizer, cfg.rouge_stem, cfg.rouge_sentencepiece_model)

    def add_string(self, ref: str, pred: str) -> None:
        super().add_string(ref, pred)
        if len(self.pred) == self.EARLY and self.cfg.rouge_tokenizer is None:
            stop_if_not_english(self.pred, [self.ref])

    def scores(self) -> Scores:
        cfg = self.cfg
        return score_rouge(
            self.pred,
            [self.ref],
            tokenizer=cfg.rouge_tokenizer,
            stem=cfg.rouge_stem,
            sentencepiece_model=cfg.rouge_sentencepiece_model,
            bootstrap=0,
        )

    def score(self) -> float:
        """ROUGE-L F1, 0..100."""
        return self.scores().values["rougeL"].mean

    def result_string(self) -> str:
        """All types, the number of segments and empty hypotheses, and the signature on one line."""
        scores = self.scores()
        values = " ".join(f"{name} = {value.mean:.2f}" for name, value in scores.values.items())
        return f"{values} ({scores.segments} segments, {scores.empty} empty) {scores.signature}"


if "rouge" not in SCORER_REGISTRY:  # fairseq refuses the second registration of a module that is loaded twice
    register_scorer("rouge", dataclass=RougeConfig)(FairseqRougeScorer)
