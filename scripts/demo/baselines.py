#!/usr/bin/env python
"""Summaries that need no model: what a trained model has to beat, each a file with one hypothesis per line.

    python scripts/demo/baselines.py --train pairs.train.jsonl --test pairs.test.jsonl --destdir baselines

lead.txt is the first sentence of the source, first12.txt its first 12 words, nearest.txt the summary of the training
source most like it, and constant.txt the one string that scores best on training summaries when it answers everything:
what a model reaches that has learned the style of summaries and ignores its source.
"""

import argparse
import os
import random
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from rouge_score import rouge_scorer, tokenize
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from fairseq_pmlm.utils.errors import PMLMError, install_excepthook
from fairseq_pmlm.utils.io import Counts, read_records, text_value, write_text


def read_pairs(path):
    """[(src, tgt)] of a JSON-lines file."""
    counts, pairs = Counts(), []
    for number, values in read_records(os.fspath(path), ("src", "tgt"), counts):
        where = f"{path}, line {number}, key"
        pairs.append(
            tuple(text_value(v, f"{where} '{k}'", counts) for k, v in zip(("src", "tgt"), values, strict=True))
        )
    if not pairs:
        raise PMLMError(f"{path}: has no pairs")
    return pairs


def lead(text):
    """The first sentence, or everything where none ends."""
    return re.split(r"(?<=[.!?])\s+(?=[\"'(\[]?[A-Z])", text.strip(), maxsplit=1)[0]


def first_words(text, n=12):
    return " ".join(text.split()[:n])


def nearest(train, sources):
    """For each of *sources* the summary of the training source with the largest TF-IDF cosine."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    known = vectorizer.fit_transform([src for src, _ in train])
    asked = vectorizer.transform(sources)
    out = []
    for i in range(0, asked.shape[0], 512):  # in slices: the full similarity matrix need not fit into memory
        out += [train[j][1] for j in np.asarray((asked[i : i + 512] @ known.T).argmax(axis=1)).ravel()]
    return out


def shuffled(lines, seed):
    """*lines* in another order in which no position keeps its own item: one random cycle (Sattolo's algorithm).

    Scoring a model's outputs in this order tells how much of the score comes from the style alone.
    """
    if len(lines) < 2:
        raise PMLMError(f"cannot shuffle {len(lines)} line(s) so that every one moves: at least 2 are needed")
    lines, rng = list(lines), random.Random(seed)
    for i in range(len(lines) - 1, 0, -1):
        j = rng.randrange(i)
        lines[i], lines[j] = lines[j], lines[i]
    return lines


# ----------------------------------------------------------------------------------------------------------------------
# the best constant


class ConstantScore:
    """Mean of ROUGE-1 and ROUGE-L F1 of one string against many references; words are numbers, references rows.

    Appending one word to the string extends each reference's table of common subsequences by one row, for all
    references at once: that makes trying thousands of strings cheap.
    """

    def __init__(self, references):
        tokens = [tokenize.tokenize(text, None) for text in references]
        self.index = {word: k for k, word in enumerate(sorted({w for row in tokens for w in row}))}
        self.lengths = np.array([len(row) for row in tokens])
        self.refs = np.full((len(tokens), max(1, self.lengths.max())), -1)
        for i, row in enumerate(tokens):
            self.refs[i, : len(row)] = [self.index[w] for w in row]

    def empty(self):
        """The state of the empty string: length, counts of its words, common words, table row."""
        rows, width = self.refs.shape
        return 0, Counter(), np.zeros(rows, int), np.zeros((rows, width + 1), int)

    def extend(self, state, word):
        length, counts, common, row = state
        equal = self.refs == self.index.get(word, -2)
        common = common + (equal.sum(axis=1) > counts[word])
        # row'[j] = max(row[j], row[j - 1] + 1 where equal, row'[j - 1])
        new = row.copy()
        new[:, 1:] = np.maximum(row[:, 1:], (row[:, :-1] + 1) * equal)
        return length + 1, counts + Counter([word]), common, np.maximum.accumulate(new, axis=1)

    def value(self, state):
        length, _, common, row = state
        total = np.maximum(length + self.lengths, 1)  # 2pr/(p+r) = 2 common / (length of both)
        return float(np.mean((2 * common / total + 2 * row[:, -1] / total) / 2))

    def score(self, text):
        state = self.empty()
        for word in tokenize.tokenize(text, None):
            state = self.extend(state, word)
        return self.value(state)


def greedy(scorer, start, words, max_words):
    """Add, drop or replace one word at a time, wherever it helps most, until nothing helps."""

    def value(tokens):
        state = scorer.empty()
        for word in tokens:
            state = scorer.extend(state, word)
        return scorer.value(state)

    best, top = list(start), value(start)
    while True:
        trials = {tuple(best[:i] + best[i + 1 :]) for i in range(len(best))}
        for word in words:
            if len(best) < max_words:
                trials |= {(*best[:i], word, *best[i:]) for i in range(len(best) + 1)}
            trials |= {(*best[:i], word, *best[i + 1 :]) for i in range(len(best))}
        score, tokens = max(((value(t), t) for t in sorted(trials)), default=(top, ()))
        if score <= top + 1e-9:
            return best, top
        best, top = list(tokens), score


def best_constant(summaries, sample=1000, candidates=300, words=40, max_words=10, seed=0, progress=False):
    """The string with the largest mean of ROUGE-1 and ROUGE-L F1 against a sample of *summaries*."""
    rng = random.Random(seed)
    scorer = ConstantScore(rng.sample(summaries, min(sample, len(summaries))))
    common = [text for text, _ in Counter(summaries).most_common(candidates)]
    real = max(sorted(common), key=scorer.score)
    counts = Counter(w for text in summaries for w in tokenize.tokenize(text, None))
    frequent = [w for w, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:words]]
    made, top = [], -1.0
    for start in tqdm([[], tokenize.tokenize(real, None)], desc="constant", unit="start", disable=not progress):
        tokens, score = greedy(scorer, start[:max_words], frequent, max_words)
        if score > top:
            made, top = tokens, score
    if not made or scorer.score(real) >= top:
        return real
    return " ".join(made).capitalize() + "."


def rouge(hypotheses, references):
    """(ROUGE-1, ROUGE-L): mean F1 in percent by rouge_score, default tokenizer (a-z and digits only)."""
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"])
    scores = [scorer.score(ref, hyp) for ref, hyp in zip(references, hypotheses, strict=True)]
    return tuple(100 * float(np.mean([s[name].fmeasure for s in scores])) for name in ("rouge1", "rougeL"))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--train", type=Path, required=True, help="training pairs: what constant and nearest learn from"
    )
    parser.add_argument(
        "--test", type=Path, required=True, help="pairs to answer; their summaries only give the scores"
    )
    parser.add_argument("--destdir", type=Path, required=True, help="folder that receives NAME.txt for each baseline")
    parser.add_argument("--sample", type=int, default=1000, help="training summaries that candidate constants meet")
    parser.add_argument("--seed", type=int, default=0, help="draws that sample")
    return parser.parse_args(argv)


def main(argv=None):
    install_excepthook()
    args = parse_args(argv)
    if args.sample < 1:
        raise PMLMError(f"--sample {args.sample}: must be at least 1")
    train, test = read_pairs(args.train), read_pairs(args.test)
    sources, references = [src for src, _ in test], [tgt for _, tgt in test]
    constant = best_constant([tgt for _, tgt in train], sample=args.sample, seed=args.seed, progress=True)
    answers = {
        "lead": [lead(src) for src in sources],
        "first12": [first_words(src) for src in sources],
        "constant": [constant] * len(test),
        "nearest": nearest(train, sources),
    }
    args.destdir.mkdir(parents=True, exist_ok=True)
    print(f"{'baseline':<10}{'ROUGE-1':>9}{'ROUGE-L':>9}   of {len(test):,} items, F1 in percent")
    for name, lines in answers.items():
        write_text(args.destdir / f"{name}.txt", "".join(" ".join(line.split()) + "\n" for line in lines))
        one, longest = rouge(lines, references)
        print(f"{name:<10}{one:>9.2f}{longest:>9.2f}")
    print(f"the constant: {constant}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
