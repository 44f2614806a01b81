"""METEOR, by METEOR 1.5 itself (as published) or by nltk.

METEOR 1.5 is a Java program that the package pycocoevalcap brings along with its paraphrase tables. nltk has the
earlier formula (exact words, stems, synonyms; no paraphrases, other weights), which gives other numbers: the signature
says which it was.
"""

import functools
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

import numpy as np

from ..utils.errors import PMLMError, describe
from ..utils.optional import require
from .base import DEFAULT, Bootstrap, Score, Scores, check_segments, count_empty, sign

IMPLEMENTATIONS = ["1.5", "nltk"]
WHOLE, CHUNKS, MATCHED = [0, 1], 20, [21, 22]  # columns of METEOR 1.5's counts: words, chunks, words matched


def score_meteor(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    implementation: str = "1.5",
    bootstrap: Bootstrap = DEFAULT,
    origin: Mapping[str, object] = {},
) -> Scores:
    """METEOR for English, the best reference counting.

    Args:
        hypotheses, references, bootstrap, origin: as in :func:`~fairseq_pmlm.scoring.rouge.score_rouge`.
        implementation: ``1.5``: the corpus score of METEOR 1.5 (needs Java and pycocoevalcap); ``nltk``: the mean of
            nltk's over segments, words being what stands between spaces (needs nltk's WordNet data).

    Raises:
        PMLMError: nothing to score, lists of different lengths, or something that it needs is not there.
    """
    check_segments(hypotheses, references)
    if implementation not in IMPLEMENTATIONS:
        raise PMLMError(f"METEOR {implementation!r}: unknown; there are {', '.join(IMPLEMENTATIONS)}")
    rows = [[one_line(reference[i]) for reference in references] for i in range(len(hypotheses))]
    hypotheses = [one_line(text) for text in hypotheses]
    score = score_java if implementation == "1.5" else score_nltk
    value, samples, per_segment, library = score(hypotheses, rows, bootstrap)
    pairs = {"nrefs": len(references), "lang": "en", "agg": "corpus" if implementation == "1.5" else "mean"}
    return Scores(
        {"meteor": value},
        sign("meteor", pairs | ({"norm": "yes"} if implementation == "1.5" else {}), bootstrap, library, origin),
        {"meteor": per_segment},
        len(hypotheses),
        count_empty(hypotheses),
        bootstrap.confidence,
        {"meteor": samples},
    )


def missing_meteor() -> Optional[str]:
    """What is missing to run METEOR 1.5, as the end of a sentence; None if nothing is."""
    if find_meteor() is None:
        return 'needs the package pycocoevalcap, which brings the program along: pip install "fairseq-pmlm[meteor]"'
    if shutil.which("java") is None:
        return "is a Java program, and there is no command 'java': install a Java runtime"
    return None


def find_meteor() -> Optional[Path]:
    """meteor-1.5.jar of the installed package pycocoevalcap, found without importing it."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        return None
    jar = Path(spec.submodule_search_locations[0]) / "meteor" / "meteor-1.5.jar"
    return jar if jar.is_file() else None


def score_java(hypotheses, rows, bootstrap):
    """(Score, samples, score of each segment, versions) of METEOR 1.5.

    The program gives counts for a segment ("SCORE") and a score for counts ("EVAL"). Counts add up, so that a resample
    is the score of a sum, by the program itself; only the one chunk of a segment that is matched whole does not count.
    """
    missing = missing_meteor()
    if missing:
        raise PMLMError(f"METEOR 1.5 {missing} (or choose METEOR 'nltk')")
    lines = [" ||| ".join(["SCORE", *texts, text]) for text, texts in zip(hypotheses, rows, strict=True)]
    stats = np.array([list(map(float, line.split())) for line in run_meteor(lines)])
    added = stats.copy()
    added[(stats[:, CHUNKS] == 1) & (stats[:, WHOLE] == stats[:, MATCHED]).all(axis=1), CHUNKS] = 0
    sums = np.concatenate([added.sum(axis=0, keepdims=True), bootstrap.sums(added), stats])
    lines = ["EVAL ||| " + " ".join(map(str, row)) for row in sums]
    scores = 100 * np.array(list(map(float, run_meteor(lines)[::2])))  # each is said twice: as a segment, as a corpus
    samples = scores[1 : 1 + bootstrap.samples]
    value = Score(float(scores[0]), *bootstrap.interval(samples))
    library = {"meteor": "1.5", "pycocoevalcap": version("pycocoevalcap")}
    return value, samples, scores[1 + bootstrap.samples :], library


def run_meteor(lines: Sequence[str]) -> list[str]:
    """What METEOR 1.5 answers to *lines*."""
    jar = find_meteor()
    assert jar is not None  # see missing_meteor
    command = ["java", "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    ran = subprocess.run(command, input="\n".join([*lines, ""]), capture_output=True, encoding="utf-8", cwd=jar.parent)
    answers = ran.stdout.splitlines()
    expected = sum(1 if line.startswith("SCORE") else 2 for line in lines)
    if ran.returncode or len(answers) != expected:
        said = (ran.stderr.strip().splitlines() or ["nothing"])[-1]
        raise PMLMError(
            f"METEOR 1.5 gave {len(answers)} answers for {expected} and ended with {ran.returncode}: {said}"
        )
    return answers


def score_nltk(hypotheses, rows, bootstrap):
    """(Score, samples, score of each segment, versions) of nltk's METEOR."""
    wordnet = require("nltk.corpus", "METEOR 'nltk'").wordnet
    meteor_score = require("nltk.translate.meteor_score", "METEOR 'nltk'").meteor_score
    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise PMLMError(
            "METEOR 'nltk' needs nltk's WordNet data, which are not there: python -m nltk.downloader wordnet (or "
            "unpack wordnet.zip into nltk_data/corpora), or choose METEOR '1.5'"
        ) from None
    except Exception as error:
        raise PMLMError(f"METEOR 'nltk': nltk's WordNet data cannot be loaded ({describe(error)})") from None
    tokenize = functools.cache(str.split)
    scores = np.array(
        [
            100 * meteor_score([tokenize(text) for text in texts], tokenize(hypothesis), wordnet=wordnet)
            for hypothesis, texts in zip(hypotheses, rows, strict=True)
        ]
    )
    samples = bootstrap.sums(scores[:, None])[:, 0] / len(scores)
    library = {"nltk": version("nltk"), "wordnet": wordnet.get_version()}
    return Score(float(scores.mean()), *bootstrap.interval(samples)), samples, scores, library


def one_line(text: str) -> str:
    """*text* with single spaces, and without the mark that separates texts in METEOR's input."""
    return " ".join(text.replace("|||", " ").split())
