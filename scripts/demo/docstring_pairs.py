"""Which docstrings make a pair for summarization, which split a pair belongs to, and what text is left to train on.

Everything is decided by content and by hashes of names, so the same packages give the same corpus on every machine.
"""

import hashlib
import re
from collections import Counter
from typing import NamedTuple

SPLITS = ("train", "valid", "test")


class Entry(NamedTuple):
    package: str
    module: str
    name: str
    summary: str
    prose: list
    fields: list

    @property
    def id(self):
        return f"{self.module}:{self.name}"


class Pair(NamedTuple):
    entry: Entry
    src: str
    tgt: str


def normalise(text):
    return " ".join(re.sub(r"[\W\d_]+", " ", text.casefold()).split())


IDENTIFIER = re.compile(r"\w*(?:[._(]\w|\d|[a-z][A-Z]|[A-Z]{2})\S*")


def templates_of(package, summary, body):
    """What pairs made by habit or by machine share: the summary's beginning, its end, the body's beginning."""

    def masked(text):
        return [normalise("X" if IDENTIFIER.search(w) else w) for w in text.split()]

    head, start = masked(summary), masked(body[:200])
    return [(package, "head", *head[:3], head[-1]), (package, "tail", *head[-3:]), (package, "body", *start[:6])]


# Words that a summary may bring along without saying anything about the thing.
FUNCTION_WORDS = """
a an the this that these those it its of in on at by to for from with without into onto as is are be been was were
has have had do does can may should will must not no and or but if when which who whose what where how than then so
such each every any all some other one two both only also more most via per given using use used uses
return returns get gets set sets object objects class function method
"""
FUNCTION_WORDS = set(FUNCTION_WORDS.split())


def content_words(text):
    """Beginnings of the words that carry meaning; "computes", "computed" and "computeAll" share one."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold()
    return {word[:5] for word in re.findall(r"[a-z]{2,}", text) if word not in FUNCTION_WORDS}


def support(summary, body):
    """(how many, what part) of the summary's content words that the body mentions."""
    wanted = content_words(summary)
    found = wanted & content_words(body)
    return len(found), len(found) / max(1, len(wanted))


def fraction(name):
    """A number in [0, 1) that depends on *name* alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def split_of(module):
    x = fraction(module)
    return "train" if x < 0.84 else "valid" if x < 0.88 else "test"


def shingles(text, n=8):
    words = normalise(text).split()
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def choose_pairs(entries, max_body_words=120, per_template=20, package_share=0.25, min_support=0.5, dropped=None):
    """The pairs among *entries*; *dropped*, a Counter, learns why the others are none."""
    dropped = Counter() if dropped is None else dropped
    summaries, bodies, templates, pairs = set(), set(), Counter(), []
    for entry in entries:
        body = " ".join([*entry.prose, *entry.fields])
        summary, text = normalise(entry.summary), normalise(body)
        src = " ".join(body.split()[:max_body_words])
        common, part = support(entry.summary, src)
        _, in_prose = support(entry.summary, " ".join(entry.prose))
        reason = None
        if not entry.summary:
            reason = "no summary line"
        elif not 3 <= len(entry.summary.split()) <= 30:
            reason = "summary not of 3 to 30 words"
        elif sum(len(s.split()) for s in entry.prose) < 12:
            reason = "less than 12 words of prose in the body"
        elif f" {summary} " in f" {text} ":
            reason = "summary repeated in the body"
        elif summary in summaries:
            reason = "summary seen before"
        elif text in bodies:
            reason = "body seen before"
        # at least two words, and not from the descriptions of the arguments alone
        elif part < min_support or (min_support and (common < 2 or in_prose < min_support * 2 / 3)):
            reason = "summary not supported by the body"
        elif any(templates[key] >= per_template for key in templates_of(entry.package, entry.summary, body)):
            reason = "template used up in its package"
        if reason:
            dropped[reason] += 1
            continue
        summaries.add(summary)
        bodies.add(text)
        templates.update(templates_of(entry.package, entry.summary, body))
        pairs.append(Pair(entry, src, entry.summary))
        dropped["(kept, body cut)"] += src != body
    return cap_packages(pairs, package_share, dropped)


def cap_packages(pairs, share, dropped):
    """Thin out packages above *share* of all pairs; by hash, so that every part of the package keeps some.

    With fewer than 1 / *share* packages there is no way to keep to it, and nothing is dropped.
    """
    while True:
        count = Counter(p.entry.package for p in pairs)
        package, most = max(count.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if len(count) * share < 1 or share == 1:
            return pairs
        keep = max(1, int(share / (1 - share) * (len(pairs) - most)))
        if most <= keep:
            return pairs
        ranked = sorted((p for p in pairs if p.entry.package == package), key=lambda p: fraction(p.entry.id + p.tgt))
        gone = {id(p) for p in ranked[keep:]}
        dropped["package above its share"] += len(gone)
        pairs = [p for p in pairs if id(p) not in gone]


def split_pairs(pairs, dropped, overlap=0.5):
    """{split: pairs} by module; held-out bodies that mostly stand in a training body as well are dropped."""
    out = {split: [p for p in pairs if split_of(p.entry.module) == split] for split in SPLITS}
    seen = set().union(*(shingles(p.src) for p in out["train"]))
    for split in SPLITS[1:]:
        kept = []
        for pair in out[split]:
            own = shingles(pair.src)
            if len(own & seen) > overlap * len(own):
                dropped["held out, but copied in training"] += 1
            else:
                kept.append(pair)
        out[split] = kept
    return out


def training_text(entries, held_out, dropped, per_line=5, overlap=0.5):
    """Documents (lists of lines) out of the training modules, without what is copied from held-out pairs."""
    secret = set().union(*(shingles(p.src) for p in held_out))
    titles = {normalise(p.tgt) for p in held_out}
    lines_seen, documents, seen = Counter(), [], set()
    for entry in entries:
        if split_of(entry.module) != "train":
            continue
        lines = [line for line in [entry.summary, *entry.prose, *entry.fields] if line]
        lines = [line for line in lines if normalise(line) not in titles]
        own = shingles(" ".join(lines))
        if len(own & secret) > overlap * len(own):
            dropped["text copied in held-out pairs"] += 1
            continue
        key = normalise(" ".join(lines))
        if key in seen:
            dropped["text seen before"] += bool(lines)
            continue
        seen.add(key)
        # "Defaults to None." a thousand times teaches nothing
        kept = []
        for line in lines:
            lines_seen[normalise(line)] += 1
            if lines_seen[normalise(line)] <= per_line:
                kept.append(line)
        if kept:
            documents.append(kept)
    return documents
