"""Published post-processing: words whatever their spacing, presets by hand and beside slow references."""

import math
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.significance import PairedTest

from fairseq_pmlm.scoring import meteor as meteor_module
from fairseq_pmlm.scoring.base import Bootstrap
from fairseq_pmlm.scoring.bleu import score_bleu, score_chrf
from fairseq_pmlm.scoring.compare import compare
from fairseq_pmlm.scoring.meteor import score_meteor
from fairseq_pmlm.scoring.presets import PRESETS, prepare, split_at_ends
from fairseq_pmlm.scoring.report import format_table
from fairseq_pmlm.scoring.rouge import score_rouge
from fairseq_pmlm.scoring.statistics import text_statistics
from fairseq_pmlm.scoring.words import penn_words, split_words
from fairseq_pmlm.utils.errors import PMLMError

ONCE = Bootstrap(0)
TEXTS = {  # as people write; as the Penn Treebank has it
    "They don't pay $3,000 (or 3.5%) for it's well-known.": (
        "They do n't pay $ 3,000 -LRB- or 3.5 % -RRB- for it 's well-known ."
    ),
    "\"Can't we?\" she said... We'll see -- I'd say 'no'.": (
        "`` Ca n't we ? '' she said ... We 'll see -- I 'd say ` no ' ."
    ),
    "Who won in the U.S. in 1999, Dr. King & co?": "Who won in the U.S. in 1999 , Dr. King &amp; co ?",
}


def spaced(text):
    """BERT's basic tokenization, character by character."""
    return " ".join("".join(c if c.isalnum() or c.isspace() else f" {c} " for c in text).split())


@pytest.mark.parametrize(("raw", "treebank"), TEXTS.items())
def test_words_do_not_depend_on_spacing(raw, treebank):
    for words in (penn_words, split_words):
        expected = words(raw)
        assert words(treebank) == words(spaced(raw)) == words(" ".join(expected)) == expected


def test_penn_words_are_those_of_the_treebank():
    text = "They don't pay $3,000 (or 3.5%) for it's well-known."
    words = "They do n't pay $ 3,000 ( or 3.5 % ) for it 's well-known ."
    assert penn_words(text) == words.split()
    assert split_words("U.S. can't: 3.5") == ["U", ".", "S", ".", "can", "'", "t", ":", "3", ".", "5"]


@given(st.text("abn't. ,3-“(", max_size=30))
def test_split_words_lose_nothing(text):
    kept, given = (re.sub("['\"“]", "", x) for x in ("".join(split_words(text)), "".join(text.split())))
    assert kept == given  # quotation marks may change their spelling


def test_xsum_and_gigaword():
    texts = prepare("xsum", ["It isn ' t 5 , 000 !"], [["It isn't 5,000!"]])
    assert texts.pair == (["It is n't 5,000 !"], [["It is n't 5,000 !"]])
    texts = prepare("gigaword", ["Shares of [UNK] rise 3 . 5 %"], [["shares of <unk> rise #.# %"]])
    assert texts.hypotheses == texts.references[0] == ["shares of unk rise #.# %"]
    scores = score_rouge(*texts.pair, **texts.preset.rouge, bootstrap=ONCE, origin=texts.origin)
    assert scores.values["rouge1"].mean == pytest.approx(100)
    assert "|stem:yes|" in scores.signature
    assert "|preset:gigaword|words:penn|case:lc|digits:#|" in scores.signature


CNNDM = [
    "The cat sat on the mat today .",
    "It did .",  # short
    "The cat sat on the mat again .",  # 7 of 8 words seen before
    "Dogs in the park ran home very fast .",
]


@pytest.mark.parametrize("mark", [" <S_SEP> ", " [X_SEP] ", "<q>", " </s> <s> "])
def test_cnndm_by_hand(mark):
    hypothesis = mark.join(CNNDM) if "</s>" not in mark else f"<s> {mark.join(CNNDM)} </s>"
    texts = prepare("cnndm", [hypothesis], [["A cat sat. [X_SEP] ok"]])
    assert texts.hypotheses == [f"{CNNDM[0]}\n{CNNDM[3]}"]
    assert texts.references == [["A cat sat .\nok"]]
    assert "1 sentences of at most 4 words and 1 of words that were there before" in texts.notes[0]
    assert "0 hypotheses are cut at 160 words" in texts.notes[0]
    assert texts.origin["sents"] == "marks"
    texts = prepare("cnndm", [hypothesis], [["A cat sat. Ok."]], word_limit=10)
    assert texts.hypotheses == [f"{CNNDM[0]}\nDogs in"]
    assert "1 hypotheses are cut at 10 words" in texts.notes[0]
    assert texts.origin["limit"] == 10
    assert texts.references == [["A cat sat .\nOk ."]]
    assert texts.origin["sents"] == "marks+rule"


def test_cnndm_without_marks_finds_sentences():
    texts = prepare("cnndm", [" ".join(CNNDM)], [["A cat sat. It ran."]])
    assert texts.hypotheses == [f"{CNNDM[0]}\n{CNNDM[3]}"]
    assert texts.references == [["A cat sat .\nIt ran ."]]
    assert texts.origin["sents"] == "rule"
    assert split_at_ends('He met Dr. J. Smith of the U.S. army. "Who?" he said. Then ( 5 p.m. ) he left .') == [
        "He met Dr. J. Smith of the U.S. army.",
        '"Who?"',
        "he said.",
        "Then ( 5 p.m. ) he left .",
    ]


def test_cnndm_scores_sentences_in_any_order():
    texts = prepare("cnndm", ["a b c d e f <q> g h i j k l"], [["g h i j k l <q> a b c d e f"]])
    scores = score_rouge(*texts.pair, **texts.preset.rouge, bootstrap=ONCE).values
    assert scores["rougeLsum"].mean == pytest.approx(100)
    assert scores["rougeL"].mean == pytest.approx(50)


def lcs(a, b):
    """Longest common subsequence, by definition."""
    if not a or not b:
        return 0
    return lcs(a[1:], b[1:]) + 1 if a[0] == b[0] else max(lcs(a[1:], b), lcs(a, b[1:]))


def test_squad_qg_rouge_is_that_of_coco():
    hypothesis, references = "who did win it ?", ["who won it ?", "did the team win ? it did"]
    texts = prepare("squad-qg", ["Who did win it?"], [["Who won it ?"], ["Did the team win? It did"]])
    assert texts.pair == ([hypothesis], [[r] for r in references])
    lengths = [lcs(hypothesis.split(), r.split()) for r in references]
    p = max(lengths) / 5
    r = max(n / len(reference.split()) for n, reference in zip(lengths, references, strict=True))
    expected = 100 * (1 + 1.44) * p * r / (r + 1.44 * p)
    scores = score_rouge(*texts.pair, **texts.preset.rouge, bootstrap=ONCE)
    assert scores.values["rougeL"].mean == pytest.approx(expected)
    assert score_rouge(["x"], [["y"]], **texts.preset.rouge, bootstrap=ONCE).values["rougeL"].mean == 0


def test_bleu_by_order():
    draw = random.Random(0)
    hypotheses, first, second = (
        [" ".join(draw.choices("abc?", k=draw.randint(0, 9))) for _ in range(30)] for _ in "123"
    )
    for smooth in ("none", "exp"):
        scores = score_bleu(hypotheses, [first, second], tokenizer="none", smooth=smooth)
        for order, name in ((1, "bleu1"), (2, "bleu2"), (3, "bleu3"), (4, "bleu")):
            theirs = sacrebleu.BLEU(tokenize="none", smooth_method=smooth, max_ngram_order=order, force=True)
            expected = theirs.corpus_score(hypotheses, [first, second]).score
            assert scores.values[name].mean == pytest.approx(expected)
            assert scores.values[name].low < expected < scores.values[name].high
        assert f"|tok:none|smooth:{smooth}|" in scores.signature


def test_statistics_by_hand():
    values = text_statistics(["a b a b", "a", "a", ""], [["a b", "c", "a", "a"]]).values
    assert values["distinct1"].mean == pytest.approx(100 * 2 / 6)
    assert values["distinct2"].mean == pytest.approx(100 * 2 / 3)  # ab, ba, ab
    assert values["distinct4"].mean == 100
    assert values["repeat1"].mean == pytest.approx(100 * (1 / 2 + 0 + 0) / 3)
    assert values["repeat2"].mean == pytest.approx(100 / 3)
    assert values["same"].mean == 25
    assert [values[k].mean for k in ("words", "words_min", "words_max", "words_ref")] == [1.5, 0, 4, 1.25]
    assert values["ratio"].mean == pytest.approx(120)
    assert text_statistics([""], [[""]]).values["distinct1"].mean == 0


# Comparisons


@pytest.fixture(scope="module")
def systems():
    """References, a system that is better on most segments, and one that is like the first up to noise."""
    draw = random.Random(1)
    references = [" ".join(draw.choices("abcdefgh", k=12)) for _ in range(150)]

    def damaged(share):
        return [" ".join(w if draw.random() > share else "x" for w in text.split()) for text in references]

    return references, damaged(0.3), damaged(0.4), damaged(0.3)


@pytest.mark.parametrize(("score", "name"), [(score_bleu, "bleu"), (score_chrf, "chrf")])
def test_comparison_agrees_with_sacrebleu(systems, score, name, monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    references, better, worse, alike = systems
    metric = sacrebleu.BLEU() if name == "bleu" else sacrebleu.CHRF()
    for other, significant in ((worse, True), (alike, False)):
        found = compare(score(better, [references]), score(other, [references]))[name]
        named = [("other", other), ("better", better)]
        both = [score(system, [references]).samples[name] for system in (better, other)]
        _, results = PairedTest(named, {name: metric}, [references], test_type="bs", n_samples=1000)()
        theirs = next(results[key] for key in results if key.lower().startswith(name))
        assert found.mean == pytest.approx(theirs[1].score - theirs[0].score)
        spread = np.abs(both[0] - both[1])  # their p-value from our resamples
        p = (1 + (spread - spread.mean() > abs(found.mean)).sum()) / 1001
        assert theirs[1].p_value == pytest.approx(p, abs=0.05)
        assert (found.p < 0.05) == significant == (found.low > 0 or found.high < 0)


def test_comparison_of_rouge(systems):
    references, better, worse, like = systems
    first, second = (score_rouge(x, [references], bootstrap=Bootstrap(500)) for x in (better, worse))
    found = compare(first, second)
    segments = first.per_segment["rougeL"] - second.per_segment["rougeL"]
    assert found["rougeL"].mean == pytest.approx(segments.mean())
    half = 1.96 * segments.std() / np.sqrt(len(segments))  # paired, so the spread of the differences counts
    assert found["rougeL"].high - found["rougeL"].low == pytest.approx(2 * half, rel=0.15)
    assert found["rougeL"].p == pytest.approx(1 / 501)
    alike = compare(first, score_rouge(like, [references], bootstrap=Bootstrap(500)))["rougeL"]
    segments = first.per_segment["rougeL"] - score_rouge(like, [references], bootstrap=ONCE).per_segment["rougeL"]
    z = abs(segments.mean()) / (segments.std() / np.sqrt(len(segments)))
    assert alike.p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.07)  # of a z-test, which holds for means
    assert compare(first, first)["rougeL"] == (0, 0, 0, 1)
    table = format_table(first, differences=found)
    assert "p (paired bootstrap)" in table
    with pytest.raises(PMLMError, match="same segments, scored alike"):
        compare(first, score_rouge(better, [references], stem=True, bootstrap=Bootstrap(500)))
    with pytest.raises(PMLMError, match="bootstrap 0: a comparison needs resamples"):
        compare(*[score_rouge(better, [references], bootstrap=ONCE)] * 2)


# METEOR


@pytest.mark.slow
@pytest.mark.skipif(meteor_module.missing_meteor() is not None, reason="METEOR 1.5 needs pycocoevalcap and Java")
def test_meteor_is_that_of_pycocoevalcap():
    from pycocoevalcap.meteor.meteor import Meteor

    hypotheses = ["the cat sits on the mats .", "a dog runs home quickly", "", "hello ||| there | a"]
    references = [
        ["the cat sat on the mat .", "where is the food", "a b", "hello there"],
        ["a cat", "a dog ran", "b", "x"],
    ]
    texts = {i: [text.replace("|||", " ")] for i, text in enumerate(hypotheses)}
    corpus, segments = Meteor().compute_score({i: [r[i] for r in references] for i in texts}, texts)
    scores = score_meteor(hypotheses, references, bootstrap=Bootstrap(20))
    assert scores.values["meteor"].mean == pytest.approx(100 * corpus)
    np.testing.assert_allclose(scores.per_segment["meteor"], 100 * np.array(segments))
    assert scores.values["meteor"].low < scores.values["meteor"].mean < scores.values["meteor"].high
    assert "|meteor:1.5|" in scores.signature


def test_meteor_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(meteor_module, "find_spec", lambda name: None)
    with pytest.raises(PMLMError, match=r"METEOR 1\.5 needs the package pycocoevalcap"):
        score_meteor(["a"], [["a"]])
    monkeypatch.setattr(meteor_module, "find_meteor", lambda: "there")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PMLMError, match=r"METEOR 1\.5 is a Java program, and there is no command 'java'"):
        score_meteor(["a"], [["a"]])
    with pytest.raises(PMLMError, match=r"METEOR '2': unknown; there are 1\.5, nltk"):
        score_meteor(["a"], [["a"]], "2")


def test_meteor_failing_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(meteor_module, "missing_meteor", lambda: None)
    monkeypatch.setattr(meteor_module, "find_meteor", lambda: tmp_path / "meteor.jar")
    failed = subprocess.CompletedProcess([], 1, "", "x\nOut of memory\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(PMLMError, match=r"0 answers for 1 and ended with 1: Out of memory"):
        score_meteor(["a"], [["a"]])


def write_wordnet(folder):
    """nltk's files for two nouns that mean the same."""
    folder.mkdir(parents=True)
    for name in ("cntlist.rev", "index.sense", *(f"{pos}.exc" for pos in ("adj", "adv", "noun", "verb"))):
        (folder / name).touch()
    (folder / "lexnames").write_text("00\tadj.all\t3\n01\tadj.pert\t3\n02\tadv.all\t4\n03\tnoun.Tops\t1\n")
    for pos in ("adj", "adv", "noun", "verb"):
        (folder / f"index.{pos}").touch()
        (folder / f"data.{pos}").write_text("  1 WordNet 9.9 Copyright\n")
    offset = (folder / "data.noun").stat().st_size
    with open(folder / "data.noun", "a") as f:
        f.write(f"{offset:08d} 03 n 02 car 0 auto 0 000 | a machine\n")
    (folder / "index.noun").write_text("".join(f"{word} n 1 0 1 0 {offset:08d}  \n" for word in ("auto", "car")))


def test_meteor_of_nltk(monkeypatch, tmp_path):
    import nltk
    from nltk.corpus import reader, wordnet

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    if not isinstance(wordnet, reader.WordNetCorpusReader):  # once loaded, it stays
        with pytest.raises(PMLMError, match="METEOR 'nltk' needs nltk's WordNet data"):
            score_meteor(["a"], [["a"]], "nltk")
    write_wordnet(tmp_path / "nltk_data" / "corpora" / "wordnet")
    scores = score_meteor(["the auto runs", "x"], [["the car run", "y"]], "nltk", bootstrap=Bootstrap(10))
    # exact, synonym, stem: 3 matches in 1 chunk; F = 1, penalty = 0.5 * (1 / 3) ** 3
    assert scores.per_segment["meteor"].tolist() == pytest.approx([100 * (1 - 0.5 / 27), 0])
    assert scores.values["meteor"].mean == pytest.approx(50 * (1 - 0.5 / 27))
    assert "|nltk:" in scores.signature


def test_presets_are_for_english():
    for name in ("xsum", "cnndm", "gigaword"):
        with pytest.raises(PMLMError, match="letters lie outside a-z"):
            prepare(name, ["나는 학교에 간다"], [["나는 집에 간다"]])
    assert prepare("squad-qg", ["나는?"], [["나는"]]).hypotheses == ["나는 ?"]


def test_unknown_presets():
    with pytest.raises(PMLMError, match="preset 'wmt': unknown; there are xsum, cnndm, gigaword, squad-qg"):
        prepare("wmt", ["a"], [["a"]])
    with pytest.raises(PMLMError, match="word limit 5: is for the preset 'cnndm'"):
        prepare("xsum", ["a"], [["a"]], word_limit=5)
    for name in PRESETS:
        with pytest.raises(PMLMError, match="1 hypotheses but 2 texts in reference list 1"):
            prepare(name, ["a"], [["a", "b"]])
