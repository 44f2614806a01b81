"""Generating, scoring and validating by the real commands, against direct calls of the model."""

import json
import math
import re

import pytest
import torch
from commands import (
    USER_DIR,
    command,
    finetune,
    generate,
    hypotheses,
    interactive,
    load,
    refused,
)

from fairseq_pmlm.utils.errors import PMLMError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "batching", [["--batch-size", 8], ["--batch-size", 16, "--beam", 1], ["--max-tokens", 200], ["--batch-size", 128]]
)
def test_every_sentence_gets_its_hypothesis(work, finetuned, batching):
    found = hypotheses(generate(work, finetuned, *batching))
    assert sorted(found) == list(range(37))


def test_generation_equals_the_direct_search(work, finetuned):
    from test_decoding import beam_search

    model, task = load(finetuned)
    found = hypotheses(generate(work, finetuned, "--batch-size", 5, "--beam", 3, "--max-len-b", 8, "--nbest", 3))
    source = [line.split() for line in (work / "p.test.src").read_text().splitlines()]
    for i in range(0, 37, 9):
        tokens = [0, *(task.dictionary.index(w) for w in source[i]), 2]
        expected = beam_search(model, tokens, 3, max_len=8)
        assert [text for _, text in found[i]] == [task.dictionary.string(t) for t, _ in expected]
        for (score, _), (_, reference) in zip(found[i], expected, strict=True):
            assert score == pytest.approx(reference / math.log(2), abs=1e-4)


def test_the_causal_mode_and_the_authors_corruption_and_smoothing(work, pretrained):
    from test_decoding import beam_search

    corruption = ["--target-mask-prob", 0.5, "--source-mask-prob", 0.1, "--label-smoothing-type", "kl"]
    options = ["--finetune-from-model", pretrained[0], "--finetune-mode", "causal", *corruption]
    finetune(work, work / "causal", *options, updates=20)
    path = work / "causal" / "checkpoint_last.pt"
    model, task = load(path)
    assert model.cfg.finetune_mode == "causal"  # as stored: generation needs no option
    found = hypotheses(generate(work, path, "--batch-size", 16, "--beam", 2, "--max-len-b", 6, "--nbest", 2))
    source = [line.split() for line in (work / "p.test.src").read_text().splitlines()]
    for i in (0, 36):
        expected = beam_search(model, [0, *(task.dictionary.index(w) for w in source[i]), 2], 2, max_len=6)
        assert [text for _, text in found[i]] == [task.dictionary.string(t) for t, _ in expected]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_generation_and_validation_in_half_precision(work, finetuned, dtype):
    """The scores are those of a model whose parameters really have that type."""
    model, task = load(finetuned)
    source = (work / "p.test.src").read_text().splitlines()
    option = f"--{dtype}"
    found = hypotheses(generate(work, finetuned, option, "--beam", 1, "--batch-size", 1, "--max-len-b", 6))
    exact = hypotheses(generate(work, finetuned, "--beam", 1, "--batch-size", 1, "--max-len-b", 6))
    model = model.bfloat16() if dtype == "bf16" else model.half()
    assert {p.dtype for p in model.parameters()} == {getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[dtype])}
    same = 0
    for i in range(37):
        tokens = torch.tensor([[0, *(task.dictionary.index(w) for w in source[i].split()), 2]])
        score, text = found[i][0]
        target = torch.tensor([[2, *(task.dictionary.index(w) for w in text.split())]])
        with torch.no_grad():
            lengths = torch.tensor([tokens.size(1)])
            output = model(src_tokens=tokens, src_lengths=lengths, prev_output_tokens=target)
        lprobs = model.get_normalized_probs(output, log_probs=True)[0]
        wanted = torch.cat([target[0, 1:], torch.tensor([2])])
        assert score == pytest.approx(lprobs.gather(1, wanted[:, None]).mean().item() / math.log(2), abs=0.02)
        same += score == exact[i][0][0]
    assert same < 20  # rounding shows
    sent = interactive(work, finetuned, "w3 w4 w5\n", option, "--beam", 1, "--max-len-b", 6).stdout
    assert hypotheses(sent)
    options = [work / "pairs", *USER_DIR, "--task", "pmlm_seq2seq", "--path", finetuned, "--cpu", "--batch-size", 16]
    done = command("validate", *options, option)
    loss = float(re.search(r"\| loss (\S+)", done.stdout + done.stderr)[1])
    exact = command("validate", *options)
    assert loss == pytest.approx(float(re.search(r"\| loss (\S+)", exact.stdout + exact.stderr)[1]), abs=0.05)
    assert ("parameters as bfloat16" in done.stdout + done.stderr) == (dtype == "bf16")


def test_validation_casts_the_parameters(finetuned):
    from fairseq import checkpoint_utils

    def types(**overrides):  # fairseq-validate passes its whole command line as overrides
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(finetuned)], arg_overrides=overrides)
        return {p.dtype for p in models[0].parameters()}

    assert types(bf16=False) == {torch.float32}
    assert types(bf16=True) == {torch.bfloat16}
    with pytest.raises(PMLMError, match="--fp16 and --bf16"):
        types(bf16=True, fp16=True)


def test_validation_shows_everything_as_it_is(work, finetuned):
    options = [work / "pairs", *USER_DIR, "--task", "pmlm_seq2seq", "--path", finetuned, "--cpu", "--batch-size", 16]
    losses = [
        re.search(r"\| loss (\S+) \| nll_loss (\S+)", done.stdout + done.stderr).groups()
        for more in ([], ["--target-mask-prob", 1.0, "--source-mask-prob", 1.0])
        for done in [command("validate", *options, *more)]
    ]
    assert losses[0] == losses[1]


def test_scoring_references_equals_full_forwards(work, finetuned):
    from test_decoding import full_forward

    model, task = load(finetuned)
    stdout = generate(work, finetuned, "--score-reference", "--batch-size", 8)
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", stdout, re.MULTILINE))
    assert len(scores) == 37
    source = (work / "p.test.src").read_text().splitlines()
    target = (work / "p.test.tgt").read_text().splitlines()
    for i in (0, 11, 36):
        tokens = [0, *(task.dictionary.index(w) for w in source[i].split()), 2]
        words = [*(task.dictionary.index(w) for w in target[i].split()), 2]
        expected = [full_forward(model, tokens, words[:t])[word].item() / math.log(2) for t, word in enumerate(words)]
        assert [float(x) for x in scores[str(i)].split()] == pytest.approx(expected, abs=2e-4)


def test_corruption_is_for_training_alone(work, finetuned):
    from test_decoding import full_forward

    model, task = load(finetuned)
    stdout = generate(work, finetuned, "--score-reference", "--batch-size", 8, subset="train")
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", stdout, re.MULTILINE))
    source, target = ((work / f"p.train.{side}").read_text().splitlines() for side in ("src", "tgt"))
    assert len(scores) == len(source)
    for i in (5, 100):
        tokens = [0, *(task.dictionary.index(w) for w in source[i].split()), 2]
        words = [*(task.dictionary.index(w) for w in target[i].split()), 2]
        expected = [full_forward(model, tokens, words[:t])[word].item() / math.log(2) for t, word in enumerate(words)]
        assert [float(x) for x in scores[str(i)].split()] == pytest.approx(expected, abs=2e-4)


def test_a_prefix_is_kept(work, finetuned):
    found = hypotheses(generate(work, finetuned, "--prefix-size", 2, "--batch-size", 8))
    target = [line.split() for line in (work / "p.test.tgt").read_text().splitlines()]
    for i, hypothesis in found.items():
        assert hypothesis[0][1].split()[:2] == target[i][:2]


def test_an_ensemble_of_two_averages(work, finetuned, other):
    from test_decoding import full_forward

    stdout = generate(work, f"{finetuned}:{other}", "--score-reference", "--batch-size", 8)
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", stdout, re.MULTILINE))
    models = [load(path)[0] for path in (finetuned, other)]
    dictionary = load(finetuned)[1].dictionary
    tokens = [0, *(dictionary.index(w) for w in (work / "p.test.src").read_text().splitlines()[3].split()), 2]
    words = [*(dictionary.index(w) for w in (work / "p.test.tgt").read_text().splitlines()[3].split()), 2]
    expected = [
        math.log2(sum(full_forward(m, tokens, words[:t])[word].exp().item() for m in models) / 2)
        for t, word in enumerate(words)
    ]
    assert [float(x) for x in scores["3"].split()] == pytest.approx(expected, abs=2e-4)
    assert sorted(hypotheses(generate(work, f"{finetuned}:{other}", "--batch-size", 8))) == list(range(37))


def test_interactive_equals_generate(work, finetuned):
    source = (work / "p.test.src").read_text()
    options = ["--beam", 2, "--max-len-b", 10]
    done = interactive(work, finetuned, source, *options)
    ours, theirs = hypotheses(done.stdout), hypotheses(generate(work, finetuned, "--batch-size", 10, *options))
    assert sorted(ours) == list(range(37))
    assert {i: h[0][1] for i, h in ours.items()} == {i: h[0][1] for i, h in theirs.items()}


def test_interactive_with_constraints_and_an_empty_line(work, finetuned):
    first, second, *_ = (work / "p.test.src").read_text().splitlines()
    word = second.split()[0]
    source = f"{first}\t{word}\n\n{second}\n"
    done = interactive(work, finetuned, source, "--constraints", "--beam", 4, "--max-len-b", 10)
    found = hypotheses(done.stdout)
    assert sorted(found) == [0, 1, 2]
    assert word in found[0][0][1].split()
    assert found[1] == [(found[1][0][0], "")]
    assert "1 of 3 lines of the input are empty; so will their hypotheses be" in done.stderr
    done = command(
        "generate",
        work / "pairs",
        *USER_DIR,
        "--task",
        "pmlm_seq2seq",
        "--path",
        finetuned,
        "--constraints",
        check=False,
    )
    refused(done, "--constraints", "fairseq-interactive")


def test_our_own_options_of_generation(work, finetuned):
    options = ["--beam", 3, "--max-len-b", 12, "--batch-size", 10]
    plain = hypotheses(generate(work, finetuned, *options, "--lenpen", 0))
    sums = ["--length-penalty-type", "wu", "--lenpen", 0]
    assert hypotheses(generate(work, finetuned, *options, *sums)) == plain
    results = [
        hypotheses(generate(work, finetuned, *options, "--nbest", 3, "--early-stop", stop))
        for stop in ("exact", "never")
    ]
    assert sorted(results[0]) == list(range(37))
    assert {i: [text for _, text in h] for i, h in results[0].items()} == {
        i: [text for _, text in h] for i, h in results[1].items()
    }


def test_validation_of_pairs_equals_direct_losses(work, finetuned):
    done = command(
        "validate",
        work / "pairs",
        *USER_DIR,
        "--path",
        finetuned,
        "--task",
        "pmlm_seq2seq",
        "--batch-size",
        8,
        "--cpu",
        "--log-format",
        "json",
    )
    line = json.loads(re.findall(r"(\{.*nll_loss.*\})$", done.stdout, re.MULTILINE)[-1])
    model, task = load(finetuned)
    task.load_dataset("valid")
    data = task.dataset("valid")
    batch = data.collater([data[i] for i in range(len(data))])
    assert len(data) == 37
    with torch.no_grad():
        lprobs = model.get_normalized_probs(model(**batch["net_input"]), log_probs=True)
    nll = -lprobs.gather(-1, batch["target"][..., None])[..., 0][batch["target"].ne(1)]
    assert float(line["valid_nll_loss"]) == pytest.approx(nll.mean().item() / math.log(2), abs=2e-3)


def test_encoding_and_generating_share_every_tensor(finetuned):
    model, _ = load(finetuned)
    parameters = {p.data_ptr() for p in model.parameters()}
    assert model.encoder.model.backbone is model.backbone
    assert model.decoder.model.backbone is model.backbone
    assert {p.data_ptr() for p in model.backbone.parameters()} <= parameters
    assert len(parameters) == len(list(model.parameters()))  # nothing stands twice, the tied weight included
