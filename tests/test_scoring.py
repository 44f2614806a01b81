"""Scores equal those of rouge-score and sacrebleu, intervals mean something, bad input stops with one line."""

import unicodedata

import numpy as np
import pytest
import sacrebleu
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from fairseq_pmlm._version import __version__
from fairseq_pmlm.scoring.base import Bootstrap
from fairseq_pmlm.scoring.bleu import score_bleu, score_chrf
from fairseq_pmlm.scoring.meteor import score_meteor
from fairseq_pmlm.scoring.report import format_table
from fairseq_pmlm.scoring.rouge import ROUGE_TYPES, score_rouge
from fairseq_pmlm.scoring.statistics import text_statistics
from fairseq_pmlm.scoring.tokenizers import build_rouge_tokenizer
from fairseq_pmlm.utils.errors import PMLMError

ONCE = Bootstrap(0)  # no intervals


def means(scores):
    return {name: value.mean for name, value in scores.values.items()}


# ROUGE


def test_rouge_by_hand():
    # 1-grams: 5 of 5 and 5 of 6; 2-grams: 3 of 4 and 3 of 5; longest common subsequence: all 5 words
    scores = score_rouge(["The cat on the mat."], [["The cat sat on the mat."]], bootstrap=ONCE)
    expected = {"rouge1": 1000 / 11, "rouge2": 200 / 3, "rougeL": 1000 / 11, "rougeLsum": 1000 / 11}
    assert means(scores) == pytest.approx(expected)


def test_rouge_lsum_takes_lines_as_sentences():
    scores = score_rouge(["d e\na b c"], [["a b c\nd e"]], bootstrap=ONCE)
    assert means(scores)["rougeL"] == pytest.approx(60)
    assert means(scores)["rougeLsum"] == pytest.approx(100)


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_equals_rouge_score(corpus, stem):
    hypotheses, first, second = corpus
    scorer = RougeScorer(ROUGE_TYPES, use_stemmer=stem)
    direct = [scorer.score_multi([a, b], h) for h, a, b in zip(hypotheses, first, second, strict=True)]
    scores = score_rouge(hypotheses, [first, second], stem=stem, bootstrap=ONCE)
    for name in ROUGE_TYPES:
        expected = [100 * row[name].fmeasure for row in direct]
        np.testing.assert_allclose(scores.per_segment[name], expected, rtol=0, atol=1e-12)
        assert scores.values[name].mean == pytest.approx(np.mean(expected))
    assert f"|nrefs:2|tok:default|stem:{'yes' if stem else 'no'}|agg:mean|multiref:max|" in scores.signature


@settings(max_examples=40, deadline=None)
@given(st.text("ab c.\nA1é", max_size=20), st.text("ab c.\nA1é", max_size=20))
def test_rouge_equals_rouge_score_on_any_text(hypothesis, reference):
    direct = RougeScorer(ROUGE_TYPES).score(reference, hypothesis)
    scores = score_rouge([hypothesis], [[reference]], tokenizer="default", bootstrap=ONCE)
    assert means(scores) == pytest.approx({name: 100 * direct[name].fmeasure for name in ROUGE_TYPES})


def test_best_reference_per_type_and_segment():
    # reference 1 is better in words, reference 2 in word pairs
    scores = score_rouge(["a b c d"], [["d c b a"], ["a b x y"]], bootstrap=ONCE)
    assert means(scores)["rouge1"] == pytest.approx(100)
    assert means(scores)["rouge2"] == pytest.approx(100 / 3)


def test_stemmer():
    assert means(score_rouge(["cats sitting"], [["cat sits"]], stem=True, bootstrap=ONCE))["rouge1"] == pytest.approx(
        100
    )
    assert means(score_rouge(["cats sitting"], [["cat sits"]], bootstrap=ONCE))["rouge1"] == 0


def test_empty_hypotheses_score_0_and_are_counted():
    scores = score_rouge(["", " ", "a"], [["a", "a", "a"]], bootstrap=ONCE)
    assert scores.per_segment["rouge1"].tolist() == [0, 0, 100]
    assert (scores.segments, scores.empty) == (3, 2)
    assert "3 segments, 2 of them with an empty hypothesis" in format_table(scores)
    assert score_bleu(["", "a"], [["a", "a"]], bootstrap=ONCE).empty == 1
    assert score_chrf(["", "abc"], [["abc", "abc"]], bootstrap=ONCE).per_segment["chrf"].tolist() == [0, 100]


# BLEU and chrF


@pytest.mark.parametrize(
    ("tokenizer", "theirs"), [(None, "13a"), ("default", "13a"), ("intl", "intl"), ("char", "char")]
)
def test_bleu_equals_sacrebleu(corpus, tokenizer, theirs):
    hypotheses, *references = corpus
    for used in (references[:1], references):
        scores = score_bleu(hypotheses, used, tokenizer=tokenizer, bootstrap=Bootstrap(10))
        expected = sacrebleu.corpus_bleu(hypotheses, used, tokenize=theirs).score
        assert scores.values["bleu"].mean == pytest.approx(expected)
        assert scores.values["bleu"].mean > 10
        assert f"|nrefs:{len(used)}|case:mixed|eff:no|tok:{theirs}|smooth:exp|" in scores.signature
    assert scores.per_segment is None


def test_chrf_equals_sacrebleu(corpus):
    hypotheses, *references = corpus
    scores = score_chrf(hypotheses, references, bootstrap=Bootstrap(10))
    assert scores.values["chrf"].mean == pytest.approx(sacrebleu.corpus_chrf(hypotheses, references).score)
    expected = [sacrebleu.sentence_chrf(h, list(refs)).score for h, *refs in zip(hypotheses, *references, strict=True)]
    np.testing.assert_allclose(scores.per_segment["chrf"], expected)
    assert scores.signature.startswith("chrf|nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|bootstrap:10|seed:12345|")


# Bootstrap


def test_resamples_are_sums_over_drawn_segments():
    stats = np.random.default_rng(1).random((7, 3))
    draws = np.random.default_rng(5).integers(7, size=(50, 7))
    np.testing.assert_allclose(Bootstrap(50, seed=5).sums(stats), stats[draws].sum(axis=1))


def test_rouge_interval(corpus):
    hypotheses, first, _ = corpus
    scores = score_rouge(hypotheses, [first])
    for name in ROUGE_TYPES:
        mean, low, high = scores.values[name]
        assert low < mean < high
        # the mean of 200 segments is close to normal
        half = 1.96 * scores.per_segment[name].std() / np.sqrt(len(hypotheses))
        assert high - low == pytest.approx(2 * half, rel=0.1)

    again = score_rouge(hypotheses, [first])
    assert again.values == scores.values
    assert (
        score_rouge(hypotheses, [first], bootstrap=Bootstrap(seed=1)).values["rouge1"].low
        != scores.values["rouge1"].low
    )
    narrow = score_rouge(hypotheses, [first], bootstrap=Bootstrap(confidence=0.5)).values["rouge1"]
    assert scores.values["rouge1"].low < narrow.low < narrow.high < scores.values["rouge1"].high


@pytest.mark.parametrize(("ours", "theirs"), [(score_bleu, sacrebleu.BLEU), (score_chrf, sacrebleu.CHRF)])
def test_interval_agrees_with_sacrebleu(corpus, monkeypatch, ours, theirs):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)  # its default is our default seed
    hypotheses, *references = corpus
    name, (mean, low, high) = next(iter(ours(hypotheses, references, bootstrap=Bootstrap(1000)).values.items()))
    expected = theirs().corpus_score(hypotheses, references, n_bootstrap=1000)
    assert low < mean < high
    assert (high - low) / 2 == pytest.approx(expected._ci, rel=0.05), name


def test_without_bootstrap_there_is_no_interval():
    scores = score_rouge(["a"], [["a"]], bootstrap=ONCE)
    assert scores.values["rouge1"] == (100, None, None)
    assert "|bootstrap:0|rouge-score:" in scores.signature
    assert "interval" not in format_table(scores)


def test_signature_and_table():
    scores = score_rouge(["a b"], [["a b"]])
    assert scores.signature == (
        "rouge1+rouge2+rougeL+rougeLsum|nrefs:1|tok:default|stem:no|agg:mean|multiref:max|bootstrap:1000|seed:12345"
        f"|rouge-score:0.1.2|pmlm:{__version__}"
    )
    chrf = score_chrf(["a b"], [["a b"]])
    table = format_table(scores, chrf).splitlines()
    assert table[0] == "metric      score   95 % interval"
    assert table[1] == "rouge1     100.00   100.00 .. 100.00"
    assert table[-3:] == ["1 segments", scores.signature, chrf.signature]


# Tokenizers


def rouge1(hypothesis, reference, **options):
    return means(score_rouge([hypothesis], [[reference]], bootstrap=ONCE, **options))["rouge1"]


def test_korean():
    hypothesis, reference = "나는 집에 간다.", "나는 학교에 간다."
    assert rouge1(hypothesis, reference, tokenizer="default") == 0
    assert rouge1(hypothesis, reference, tokenizer="intl") == pytest.approx(200 / 3)
    assert rouge1(hypothesis, reference, tokenizer="char") == pytest.approx(100 * 2 * 5 / (6 + 7))
    assert rouge1(unicodedata.normalize("NFD", reference), reference, tokenizer="intl") == 100


def test_vietnamese():
    tokenize, _ = build_rouge_tokenizer("intl")
    assert tokenize("Tôi YÊU tiếng Việt!") == ["tôi", "yêu", "tiếng", "việt"]
    assert tokenize(unicodedata.normalize("NFD", "Tôi yêu tiếng Việt")) == ["tôi", "yêu", "tiếng", "việt"]
    assert build_rouge_tokenizer("default")[0]("tiếng Việt") == ["ti", "ng", "vi", "t"]
    # "tiếng" and "tiêng" are different words, whatever is left of them in a-z
    assert rouge1("tiếng Việt", "tiêng Việt", tokenizer="intl") == 50


def test_chinese():
    assert rouge1("我爱上海。", "我爱北京。", tokenizer="char") == 50
    assert rouge1("我爱上海。", "我爱北京。", tokenizer="intl") == 0  # one "word" each
    assert score_bleu(["我爱上海。"], [["我爱上海。"]], tokenizer="char").values["bleu"].mean == pytest.approx(100)


def test_marks_stay_with_their_letters():
    assert build_rouge_tokenizer("intl")[0]("हिन्दी भाषा।") == ["हिन्दी", "भाषा"]
    assert build_rouge_tokenizer("char")[0]("हिन्दी, 7") == ["हि", "न्", "दी", "7"]


def test_sentencepiece(spm_model):
    processor = sentencepiece.SentencePieceProcessor(model_file=spm_model)
    hypotheses, references = ["나는 집에 간다", "我爱上海。"], ["나는 학교에 간다", "我爱北京。"]

    scores = score_rouge(hypotheses, [references], tokenizer="spm", sentencepiece_model=spm_model, bootstrap=ONCE)
    tokenize, name = build_rouge_tokenizer("spm", sentencepiece_model=spm_model)
    tokens = tokenize("我爱上海。")
    assert "".join(tokens).replace("▁", "") == "我爱上海"
    assert 0 < means(scores)["rouge1"] < 100
    assert f"|tok:{name}|" in scores.signature
    assert len(name) == len("spm-01234567")

    pieces = [[" ".join(processor.encode(text, out_type=str)) for text in texts] for texts in (hypotheses, references)]
    expected = sacrebleu.corpus_bleu(pieces[0], [pieces[1]], tokenize="none", force=True).score
    scores = score_bleu(hypotheses, [references], tokenizer="spm", sentencepiece_model=spm_model, bootstrap=ONCE)
    assert scores.values["bleu"].mean == pytest.approx(expected)
    assert f"|tok:{name}|" in scores.signature


# What stops


@pytest.mark.parametrize(
    "text",
    ["나는 학교에 간다", "Tôi yêu tiếng Việt", unicodedata.normalize("NFD", "Tôi yêu tiếng Việt"), "abcdefghй"],
)
def test_stop_where_the_default_tokenizer_would_drop_the_text(text):
    with pytest.raises(PMLMError, match=r"% of the letters lie outside a-z.*'intl'.*'char'.*'spm'"):
        score_rouge([text], [[text]])
    score_rouge([text], [[text]], tokenizer="default", bootstrap=ONCE)  # asked for, so done


def test_no_stop_for_some_accents():
    text = "The café's naïve résumé — 12 ½ € — is about the Straße, they said in English"
    score_rouge([text], [[text]], bootstrap=ONCE)
    score_rouge(["abcdefghi"], [["abcdefghi й й"]], bootstrap=ONCE)  # 2 of 20 letters: just 10 %
    score_rouge([""], [["..."]], bootstrap=ONCE)  # no letters


def test_bleu_stops_for_scripts_without_spaces():
    with pytest.raises(PMLMError, match=r"without spaces.*'char'"):
        score_bleu(["我爱北京"], [["我爱北京"]])
    score_bleu(["나는 학교에 간다"], [["나는 학교에 간다"]], bootstrap=ONCE)
    score_bleu(["我爱北京"], [["我爱北京"]], tokenizer="default", bootstrap=ONCE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "mecab"}, "tokenizer 'mecab': unknown; there are default, intl, char, none, spm"),
        ({"tokenizer": "spm"}, "needs the path of a sentencepiece model"),
        ({"tokenizer": "intl", "sentencepiece_model": "m"}, "for the tokenizer 'spm' only"),
        ({"tokenizer": "intl", "stem": True}, "stemmer is for English"),
        ({"tokenizer": "spm", "sentencepiece_model": "/no/such"}, "/no/such: cannot be loaded: FileNotFoundError"),
        ({"tokenizer": "spm", "sentencepiece_model": __file__}, "cannot be loaded"),
        ({"beta": 0}, "beta 0: expected a number above 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PMLMError, match=message) as error:
        score_rouge(["a"], [["a"]], **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": -1}, "bootstrap -1"),
        ({"confidence": 95.0}, "confidence 95.0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_bootstraps(options, message):
    with pytest.raises(PMLMError, match=message):
        Bootstrap(**options)


@pytest.mark.parametrize("score", [score_rouge, score_bleu, score_chrf, score_meteor, text_statistics])
def test_bad_segments(score):
    for hypotheses, references, message in [
        ([], [[]], "nothing to score"),
        (["a"], [], "one list of texts per reference file"),
        (["a"], ["a"], "one list of texts per reference file"),
        (["a", "b"], [["a", "b"], ["a"]], "2 hypotheses but 1 texts in reference list 2"),
    ]:
        with pytest.raises(PMLMError, match=message):
            score(hypotheses, references)
