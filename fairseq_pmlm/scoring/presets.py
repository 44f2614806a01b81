"""Post-processing as published, by data set: what is done to hypotheses and references before they are compared.

What a preset does stands in the signature of every score made after it.

xsum: Penn Treebank words; ROUGE-1/2/L with stemming.
cnndm: the same by sentences; hypotheses without short and near-duplicate sentences, cut at a word limit; ROUGE-L over
    sentences is ``rougeLsum``.
gigaword: lower case, digits as ``#``, unknown words as ``unk``; ROUGE-1/2/L with stemming.
squad-qg: lower case, every mark a word of its own; BLEU without smoothing, METEOR, and ROUGE-L with beta 1.2 (as in the
    COCO caption evaluation).

Both sides go through the same words (:mod:`.words`), whatever their spacing: tokenizing one side alone moves BLEU by
two points.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..utils.errors import PMLMError
from .base import check_segments
from .tokenizers import stop_if_not_english
from .words import penn_words, split_words

WORD_LIMIT = 160  # of CNN/DailyMail
SHORT = 4  # words of a sentence that is dropped
SEEN = 0.7  # share of a sentence's words that earlier ones may hold
MARKS = re.compile(r"\s*(?:<S_SEP>|\[X_SEP\]|<q>|</t> <t>|</s> <s>)\s*")
OUTER_MARKS = re.compile(r"^\s*<[ts]>|</[ts]>\s*$")
SENTENCE_END = re.compile(r"(?<=[.!?])((?:\s?[\"')\]]|\s?'')?)\s+(?=\S)")
# After these, and after single letters and U.S. and the like, a full stop ends no sentence.
ABBREVIATION = re.compile(
    r"(?:^|\s)(?:(?:[^\W\d_]\s?\.\s?)*[^\W\d_]|mrs?|ms|dr|prof|st|gen|rep|sen|gov|lt|col|jr|sr|no|vs)\s?\.$", re.I
)
UNKNOWN = re.compile(r"\[unk\]|<unk>|<<unk>>")


@dataclass(frozen=True)
class Preset:
    """How one data set is scored.

    Attributes:
        name: as in ``--preset``.
        metrics: those published, by name.
        rouge, bleu: options of :func:`~fairseq_pmlm.scoring.rouge.score_rouge` and ``score_bleu``.
        process: (hypotheses, references, word limit) -> what :class:`Prepared` holds.
    """

    name: str
    metrics: tuple[str, ...]
    process: Callable
    rouge: Mapping[str, Any] = field(default_factory=lambda: {"tokenizer": "default", "stem": True})
    bleu: Mapping[str, Any] = field(default_factory=lambda: {"tokenizer": "none"})


@dataclass
class Prepared:
    """Texts that a preset has gone over.

    Attributes:
        preset: which.
        hypotheses, references: as before, in other words.
        origin: pairs for the signature that say what was done.
        notes: what was dropped or cut, counted; a line each.
    """

    preset: Preset
    hypotheses: list[str]
    references: list[list[str]]
    origin: dict[str, object]
    notes: list[str] = field(default_factory=list)

    @property
    def pair(self) -> tuple[list[str], list[list[str]]]:
        """Hypotheses and references."""
        return self.hypotheses, self.references


def prepare(
    name: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]], word_limit: Optional[int] = None
) -> Prepared:
    """Do to the texts what preset *name* does.

    Args:
        name: of the preset.
        hypotheses: one text per segment.
        references: one list per reference file, each as long as *hypotheses*.
        word_limit: longest hypothesis, in words; ``cnndm`` only, 160 by default, 0 for none.

    Raises:
        PMLMError: an unknown preset, a word limit where there is none, lists of different lengths, and texts that are
            not English where the preset has rouge-score's own tokenizer.
    """
    preset = find_preset(name)
    check_segments(hypotheses, references)
    if word_limit is not None and (name != "cnndm" or word_limit < 0):
        raise PMLMError(f"word limit {word_limit}: is for the preset 'cnndm', and 0 (none) or more")
    if preset.rouge["tokenizer"] == "default":
        stop_if_not_english(hypotheses, references)
    ours, theirs, pairs, notes = preset.process(hypotheses, references, word_limit)
    return Prepared(preset, ours, theirs, {"preset": name, **pairs}, notes)


def find_preset(name: str) -> Preset:
    """The preset of that name; raises PMLMError if there is none."""
    if name not in PRESETS:
        raise PMLMError(f"preset {name!r}: unknown; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def each(rewrite: Callable[[str], str]):
    """A process that does the same to every text of both sides."""
    return lambda texts, references: ([*map(rewrite, texts)], [[*map(rewrite, reference)] for reference in references])


def process_xsum(hypotheses, references, word_limit):
    """Penn Treebank words."""
    return *each(lambda text: " ".join(penn_words(text)))(hypotheses, references), {"words": "penn"}, []


def process_gigaword(hypotheses, references, word_limit):
    """Lower case, digits as #, unknown words as unk."""

    def rewrite(text):  # published references have # already; as a digit it stays in its number
        text = UNKNOWN.sub("unk", text.lower()).replace("#", "0")
        return re.sub(r"\d", "#", " ".join(penn_words(text)))

    return *each(rewrite)(hypotheses, references), {"words": "penn", "case": "lc", "digits": "#"}, []


def process_squad_qg(hypotheses, references, word_limit):
    """Lower case, every mark a word of its own."""
    return *each(lambda text: " ".join(split_words(text.lower())))(hypotheses, references), {"words": "split"}, []


def process_cnndm(hypotheses, references, word_limit):
    """Sentences, one a line, in Penn Treebank words; of hypotheses, the long, short and repeated parts are left out."""
    limit = WORD_LIMIT if word_limit is None else word_limit
    ours, theirs = (is_marked(texts) for texts in (hypotheses, [text for texts in references for text in texts]))

    def words(text, marked):
        return [row for row in map(penn_words, (split_at_marks if marked else split_at_ends)(text)) if row]

    lines, short, repeated, cut = [], 0, 0, 0
    for text in hypotheses:
        found = words(text, ours)
        long_enough = [row for row in found if len(row) > SHORT]
        new = drop_repeated(long_enough)
        kept = cut_words(new, limit)
        short += len(found) - len(long_enough)
        repeated += len(long_enough) - len(new)
        cut += sum(map(len, kept)) < sum(map(len, new))
        lines.append("\n".join(map(" ".join, kept)))
    references = [["\n".join(map(" ".join, words(text, theirs))) for text in reference] for reference in references]
    pairs = {"words": "penn", "sents": found_by(ours, theirs), "drop": f"<={SHORT}", "seen": f">{SEEN}"}
    notes = [
        f"cnndm: of the hypotheses, {short:,} sentences of at most {SHORT} words and {repeated:,} of words that were "
        f"there before are left out; {cut:,} hypotheses are cut at {limit} words"
    ]
    return lines, references, {**pairs, "limit": limit}, notes


def is_marked(texts: Sequence[str]) -> bool:
    """Whether *texts* have marks between their sentences."""
    return any(MARKS.search(text) for text in texts)


def found_by(ours: bool, theirs: bool) -> str:
    """How sentences were found in hypotheses and in references, for the signature."""
    hypotheses, references = ("marks" if marked else "rule" for marked in (ours, theirs))
    return hypotheses if hypotheses == references else f"{hypotheses}+{references}"


def split_at_marks(text: str) -> list[str]:
    """Sentences of a text that has marks between them."""
    return MARKS.split(OUTER_MARKS.sub("", text))


def split_at_ends(text: str) -> list[str]:
    """Sentences of a text without marks: they end in ``.``, ``!`` or ``?``, with a quotation mark or bracket."""
    sentences, start = [], 0
    for match in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text[start : match.start()]):
            sentences.append(text[start : match.end(1)])
            start = match.end()
    return [*sentences, text[start:]]


def drop_repeated(sentences: list[list[str]]) -> list[list[str]]:
    """Those of *sentences* of whose words at most 70 % were there in earlier ones, dropped ones included."""
    seen: set[str] = set()
    kept = []
    for row in sentences:
        words = {word.lower() for word in row}
        if len(words & seen) <= SEEN * len(words):
            kept.append(row)
        seen |= words
    return kept


def cut_words(sentences: list[list[str]], limit: int) -> list[list[str]]:
    """The first *limit* words of *sentences*; all of them for 0."""
    if not limit:
        return sentences
    kept, left = [], limit
    for row in sentences:
        if left <= 0:
            break
        kept.append(row[:left])
        left -= len(row)
    return kept


PRESETS = {
    preset.name: preset
    for preset in [
        Preset("xsum", ("rouge",), process_xsum),
        Preset("cnndm", ("rouge",), process_cnndm),
        Preset("gigaword", ("rouge",), process_gigaword),
        Preset(
            "squad-qg",
            ("bleu", "meteor", "rouge"),
            process_squad_qg,
            rouge={"tokenizer": "none", "beta": 1.2},
            bleu={"tokenizer": "none", "smooth": "none"},
        ),
    ]
}
