"""pmlm score and fairseq's --scoring rouge: both give what fairseq_pmlm.scoring gives, and stop with one line."""

import importlib.util
import json
import sys

import pytest
from commands import call, pmlm
from fairseq import options, scoring
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_pmlm.cli import score as cli_score
from fairseq_pmlm.scoring import fairseq_scorer
from fairseq_pmlm.scoring.base import Bootstrap
from fairseq_pmlm.scoring.bleu import score_bleu, score_chrf
from fairseq_pmlm.scoring.report import format_table
from fairseq_pmlm.scoring.rouge import score_rouge
from fairseq_pmlm.utils.errors import PMLMError


def write(path, *lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return str(path)


# pmlm score


def test_script_prints_a_table_or_json(tmp_path, corpus, capsys):
    files = [write(tmp_path / name, *texts) for name, texts in zip(["h", "r1", "r2"], corpus, strict=True)]
    args = ["--metric", "rouge", "--metric", "bleu", "--metric", "chrf", "--hyp", files[0]]
    args += ["--ref", files[1], "--ref", files[2], "--bootstrap", "50", "--seed", "7"]
    hypotheses, *references = corpus
    parts = [
        score(hypotheses, references, bootstrap=Bootstrap(50, seed=7))
        for score in (score_rouge, score_bleu, score_chrf)
    ]

    done = pmlm("score", *args, "--json", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["segments"], result["empty"], result["confidence"]) == (200, parts[0].empty, 0.95)
    assert result["signatures"] == dict(zip(["rouge", "bleu", "chrf"], [p.signature for p in parts], strict=True))
    assert {name: tuple(value.values()) for name, value in result["scores"].items()} == {
        name: pytest.approx(tuple(value)) for part in parts for name, value in part.values.items()
    }

    call("score", *args)
    assert capsys.readouterr().out == format_table(*parts) + "\n"


def test_script_stops_with_one_line(tmp_path):
    files = ["--hyp", write(tmp_path / "h", "a", "b"), "--ref", write(tmp_path / "r", "a")]
    done = pmlm("score", "--metric", "rouge", *files, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"fairseq_pmlm: error: {tmp_path}/h has 2 hypotheses but {tmp_path}/r has 1 lines\n")


def test_script_options(tmp_path, capsys):
    hypotheses, references = write(tmp_path / "h", "D-1\t0\tb", "D-0\t0\ta"), write(tmp_path / "r", "a", "b")
    call("score", "--metric", "rouge", "--hyp-from-generate", hypotheses, "--ref", references, "--bootstrap", "0")
    assert "rouge1     100.00\n" in capsys.readouterr().out

    files = ["--hyp", references, "--ref", references]
    for args, message in [
        (["--metric", "bertscore"], "--metric bertscore: unknown; there are rouge, bleu, chrf, meteor, stats, squad"),
        (["--metric", "bleu", "--stem"], "--stem: is for --metric rouge only"),
        (
            ["--metric", "chrf", "--tokenizer", "char"],
            r"--tokenizer: chrf have none to choose \(chrf works on characters\)",
        ),
        (["--metric", "rouge", "--tokenizer", "mecab"], "tokenizer 'mecab': unknown"),
        (["--metric", "rouge", "--threshold", "0.5"], "--threshold: is for --metric squad only"),
        (["--metric", "rouge", "--metric", "squad"], "--metric squad: is scored alone, without rouge"),
        (["--metric", "squad", "--compare", hypotheses], "--compare: is not for --metric squad"),
        (["--metric", "squad", "--ref", references], "--metric squad: takes one --ref, SQuAD's JSON, and not 2"),
    ]:
        with pytest.raises(PMLMError, match=message):
            call("score", *args, *files)


def test_script_presets_and_comparisons(tmp_path, capsys, monkeypatch):
    hypotheses, others = write(tmp_path / "h", "It ' s 3 . 5 %", "no"), write(tmp_path / "o", "it is", "no")
    references = write(tmp_path / "r", "It's 3.5%", "no")
    args = ["--hyp", hypotheses, "--ref", references]
    call("score", "--preset", "xsum", *args, "--bootstrap", "0")
    out = capsys.readouterr().out
    assert "rougeL     100.00\n" in out
    assert "|preset:xsum|words:penn|" in out
    call("score", "--preset", "cnndm", "--word-limit", "0", *args, "--bootstrap", "0")
    assert "left out; 0 hypotheses are cut at 0 words\n" in capsys.readouterr().out
    call("score", "--preset", "xsum", *args, "--compare", others, "--json")
    result = json.loads(capsys.readouterr().out)
    call("score", "--preset", "xsum", *args, "--compare", others, "--save-json", str(tmp_path / "json"))
    assert json.loads((tmp_path / "json").read_text()) == result
    assert "p (paired bootstrap)" in capsys.readouterr().out
    assert result["differences"]["rougeL"]["difference"] == pytest.approx(100 - (100 + 200 / 6) / 2)
    monkeypatch.setattr(cli_score, "missing_meteor", lambda: "is not here")
    call("score", "--preset", "squad-qg", *args, "--metric", "stats", "--metric", "chrf", "--bootstrap", "0")
    assert "distinct1" in capsys.readouterr().out
    call("score", "--preset", "squad-qg", *args, "--bootstrap", "0")
    out = capsys.readouterr().out
    assert "METEOR is left out: METEOR 1.5 is not here\n" in out
    assert "bleu1      100.00\n" in out
    for bad, message in [
        ([], "give --metric, --preset or both"),
        (["--preset", "wmt"], "preset 'wmt': unknown; there are xsum, cnndm, gigaword, squad-qg"),
        (["--preset", "xsum", "--stem"], "--preset xsum settles --tokenizer and --stem itself"),
        (["--preset", "xsum", "--word-limit", "3"], "word limit 3: is for the preset 'cnndm'"),
        (["--metric", "rouge", "--word-limit", "3"], "--word-limit: is for --preset cnndm only"),
        (["--metric", "rouge", "--compare", others, "--bootstrap", "0"], "--compare: needs the resamples"),
        (["--metric", "rouge", "--compare", write(tmp_path / "x", "a")], "x has 1 hypotheses but .*r has 2 lines"),
    ]:
        with pytest.raises(PMLMError, match=message):
            call("score", *args, *bad)


# fairseq's --scoring rouge


def build_scorer(*args):
    parser = options.get_generation_parser()
    args = options.parse_args_and_arch(parser, ["data", "--path", "model.pt", "--scoring", "rouge", *args])
    return scoring.build_scorer(convert_namespace_to_omegaconf(args).scoring, None)


def test_fairseq_scorer(corpus):
    hypotheses, first, _ = corpus
    scorer = build_scorer("--rouge-stem")
    for reference, hypothesis in zip(first, hypotheses, strict=True):
        scorer.add_string(reference, hypothesis)
    expected = score_rouge(hypotheses, [first], stem=True, bootstrap=Bootstrap(0))
    assert scorer.score() == pytest.approx(expected.values["rougeL"].mean)
    assert scorer.result_string() == (
        " ".join(f"{name} = {value.mean:.2f}" for name, value in expected.values.items())
        + f" (200 segments, {expected.empty} empty) {expected.signature}"
    )

    scorer = scoring.build_scorer("rouge", None)
    scorer.add_string("a b", "a b")
    assert scorer.score() == 100


def test_fairseq_scorer_presets():
    scorer = build_scorer("--rouge-preset", "cnndm")
    scorer.add_string("g h i j k l <q> a b c d e f", "a b c d e f <q> g h i j k l <q> no")
    assert scorer.score() == pytest.approx(100)
    assert "|preset:cnndm|words:penn|sents:marks|" in scorer.result_string()
    with pytest.raises(PMLMError, match="preset 'wmt': unknown"):
        build_scorer("--rouge-preset", "wmt")
    with pytest.raises(PMLMError, match="--rouge-preset xsum settles --rouge-tokenizer"):
        build_scorer("--rouge-preset", "xsum", "--rouge-tokenizer", "intl")


def test_fairseq_scorer_tokenizers(spm_model):
    scorer = build_scorer("--rouge-tokenizer", "spm", "--rouge-sentencepiece-model", spm_model)
    scorer.add_string("나는 학교에 간다", "나는 학교에 간다")
    assert scorer.score() == 100

    scorer = build_scorer()
    for _ in range(scorer.EARLY - 1):
        scorer.add_string("나는 학교에 간다", "나는 집에 간다")
    with pytest.raises(PMLMError, match="outside a-z"):  # while decoding, not after it
        scorer.add_string("나는 학교에 간다", "나는 집에 간다")
    with pytest.raises(PMLMError, match="tokenizer 'mecab': unknown"):
        build_scorer("--rouge-tokenizer", "mecab")


def test_a_second_import_is_harmless():
    before = scoring.SCORER_REGISTRY["rouge"]
    spec = importlib.util.spec_from_file_location("fairseq_pmlm.scoring.again", fairseq_scorer.__file__)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fairseq_pmlm.scoring.again"] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["fairseq_pmlm.scoring.again"]
    assert scoring.SCORER_REGISTRY["rouge"] is before
