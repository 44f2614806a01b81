"""Infilling and scoring against full forwards of the slow reference, searches by hand and all fillings there are."""

import itertools
import json
import math

import numpy as np
import pytest
import sentencepiece
import torch
from commands import call
from reference import forward, logits, may_see, small_dictionary, small_model
from test_hub import TEXT, hub, place  # noqa: F401  (fixtures)

from fairseq_pmlm.data.masking import Mask
from fairseq_pmlm.generation import gaps
from fairseq_pmlm.generation.infilling import Gapped, best_combinations, infill, score
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.tokenizers.symbols import write_dictionary
from fairseq_pmlm.utils.errors import PMLMError

RELATIVE = pytest.mark.parametrize("relative", [False, True])
BOS, EOS, FIRST = 0, 2, 4
CLOSE = {"rtol": 0, "atol": 3e-5}
# steps, as positions of a text of 10 tokens: one by one in two orders, spans, all at once
STEPS = [[[2], [3], [7]], [[7], [3], [2]], [[7], [2, 3]], [[2, 3, 7]], [[3, 7], [5], [2]]]


def gapped(length, steps, types, seed=0):
    """A random text with two segments, and a mask of these steps."""
    tokens = np.random.default_rng(seed).integers(FIRST, FIRST + types, length)
    tokens[[0, -1]] = BOS, EOS
    segments = (np.arange(length) >= length // 2).astype(np.int64)
    numbers = np.concatenate([np.full(len(step), i + 1) for i, step in enumerate(steps)])
    return Gapped(tokens, segments, Mask(np.concatenate(steps), numbers))


def step_logprobs(model, text, known):
    """Log-probabilities (places, types) of the step that follows *known*, tokens of the first places of the mask.

    One forward of the slots that exist then: the context, with [M] at all places, the originals, and [P].
    """
    mask, pseudo = model.dictionary.index("<mask>"), model.dictionary.index("<pseudo>")
    places, steps = text.mask.positions.tolist(), text.mask.steps.tolist()
    now = steps[len(known)]
    slots = [(mask if i in places else token, i, ("context", 0)) for i, token in enumerate(text.tokens.tolist())]
    slots += [(token, places[i], ("original", steps[i])) for i, token in enumerate(known)]
    slots += [(pseudo, where, ("pseudo", now)) for where, step in zip(places, steps, strict=True) if step == now]
    kinds = [slot[2] for slot in slots]
    sees = [[k for k, key in enumerate(kinds) if may_see(query, key)] for query in kinds]
    positions = [slot[1] for slot in slots]
    x = forward(model, [slot[0] for slot in slots], positions, text.segments[positions].tolist(), sees)
    return torch.log_softmax(logits(model, x[-steps.count(now) :]), dim=-1)


def chain(model, text, tokens):
    """Log-probability of each of *tokens* at the places of the mask, one step after the other."""
    found = []
    while len(found) < len(tokens):
        lprobs = step_logprobs(model, text, tokens[: len(found)])
        found += [lprobs[i, tokens[len(found) + i]].item() for i in range(len(lprobs))]
    return found


def search(model, text, beam, types):
    """Beam search by hand: [(tokens, sum)], the best first."""
    live = [([], 0.0)]
    while len(live[0][0]) < len(text.mask.positions):
        candidates = []
        for tokens, total in live:
            lprobs = step_logprobs(model, text, tokens)
            for words in itertools.product(range(FIRST, FIRST + types), repeat=len(lprobs)):
                gain = sum(lprobs[i, word].item() for i, word in enumerate(words))
                candidates.append(([*tokens, *words], total + gain))
        live = sorted(candidates, key=lambda candidate: -candidate[1])[:beam]
    return live


def model_of(types, relative=False):
    return small_model(relative, dictionary=small_dictionary(types), layers=2)


@torch.no_grad()
@RELATIVE
@pytest.mark.parametrize("beam", [1, 3])
def test_infilling_equals_a_search_by_full_forwards(relative, beam):
    model = model_of(4, relative)
    texts = [gapped(10 + i % 3, steps, 4, seed=i) for i, steps in enumerate([*STEPS, STEPS[0], STEPS[2]])]
    for text, fillings in zip(texts, infill(model, texts, beam), strict=True):
        expected = search(model, text, beam, types=4)
        assert [filling.tokens.tolist() for filling in fillings] == [tokens for tokens, _ in expected]
        for filling, (tokens, total) in zip(fillings, expected, strict=True):
            assert filling.logprobs.sum() == pytest.approx(total, abs=1e-4)
            np.testing.assert_allclose(filling.logprobs, chain(model, text, tokens), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("steps", STEPS[:4])
def test_a_beam_that_holds_everything_finds_the_best_filling_there_is(steps):
    model, text = model_of(3, relative=True), gapped(10, steps, 3)
    everything = {
        words: sum(chain(model, text, words)) for words in itertools.product(range(FIRST, FIRST + 3), repeat=3)
    }
    (found,) = infill(model, [text], beam=100)
    assert len(found) == len(everything) == 27
    assert [tuple(filling.tokens.tolist()) for filling in found] == sorted(everything, key=everything.get, reverse=True)


@torch.no_grad()
@RELATIVE
def test_scores_of_any_order_equal_full_forwards_step_by_step(relative):
    model = model_of(20, relative)
    texts = [gapped(10 + 2 * (i % 2), steps, 20, seed=i) for i, steps in enumerate(STEPS)]
    for max_tokens in (10_000, 40):  # whatever shares a batch
        for text, found in zip(texts, score(model, texts, max_tokens=max_tokens), strict=True):
            expected = chain(model, text, text.tokens[text.mask.positions].tolist())
            np.testing.assert_allclose(found, expected, **CLOSE)


@torch.no_grad()
def test_orders_differ_and_infilling_agrees_with_scoring():
    model = model_of(20)
    fillings = [infill(model, [gapped(10, steps, 20)], beam=2)[0][0] for steps in STEPS[:4]]
    assert len({round(float(filling.logprobs.sum()), 4) for filling in fillings}) == 4
    for steps, filling in zip(STEPS, fillings, strict=False):
        text = gapped(10, steps, 20)
        text.tokens[text.mask.positions] = filling.tokens
        np.testing.assert_allclose(score(model, [text])[0], filling.logprobs, **CLOSE)


@torch.no_grad()
@RELATIVE
def test_all_at_once_equals_a_masked_language_model(relative):
    model = model_of(4, relative)
    texts = [gapped(10 + i, steps, 4, seed=i) for i, steps in enumerate(STEPS)]
    for text, fillings, scores in zip(
        texts, infill(model, texts, 3, autoencoding=True), score(model, texts, autoencoding=True), strict=True
    ):
        tokens = text.tokens.tolist()
        for position in text.mask.positions:
            tokens[position] = model.dictionary.index("<mask>")
        everything = [list(range(len(tokens)))] * len(tokens)
        x = forward(model, tokens, list(range(len(tokens))), text.segments.tolist(), everything)
        lprobs = torch.log_softmax(logits(model, x[text.mask.positions]), dim=-1)
        originals = text.tokens[text.mask.positions]
        np.testing.assert_allclose(scores, lprobs[np.arange(len(originals)), originals], **CLOSE)
        best = sorted(
            itertools.product(range(FIRST, FIRST + 4), repeat=len(originals)),
            key=lambda words: -sum(lprobs[i, word].item() for i, word in enumerate(words)),
        )
        assert [tuple(filling.tokens.tolist()) for filling in fillings] == best[:3]


@torch.no_grad()
def test_special_symbols_fill_no_gap_however_likely():
    model = model_of(4)
    special = [model.dictionary.index(s) for s in ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<pseudo>")]
    model.output_layer.bias[special] += 50
    for autoencoding in (False, True):
        (found,) = infill(model, [gapped(10, STEPS[2], 4)], 64, autoencoding)
        assert len(found) == 64
        assert not np.isin([filling.tokens for filling in found], special).any()
        assert found[0].logprobs.max() < -20  # nothing is normalized again


def test_nothing_to_fill():
    text = Gapped(np.array([BOS, 5, EOS]), np.zeros(3, np.int64), Mask(np.zeros(0, np.int64), np.zeros(0, np.int64)))
    ((filling,),) = infill(model_of(4), [text])
    assert len(filling.tokens) == 0
    assert len(score(model_of(4), [text])[0]) == 0


@pytest.mark.parametrize(("places", "types", "count"), [(1, 5, 3), (3, 4, 7), (2, 3, 20), (4, 2, 16)])
def test_best_combinations(places, types, count):
    lprobs = torch.log_softmax(torch.randn(2, places, types, generator=torch.Generator().manual_seed(1)), dim=-1)
    words, gains = best_combinations(lprobs, count)
    for row in range(2):
        everything = sorted(
            itertools.product(range(types), repeat=places),
            key=lambda chosen: -sum(lprobs[row, i, word].item() for i, word in enumerate(chosen)),
        )
        assert [tuple(chosen) for chosen in words[row].tolist()] == everything[:count]
        expected = [[lprobs[row, i, word].item() for i, word in enumerate(chosen)] for chosen in everything[:count]]
        torch.testing.assert_close(gains[row], torch.tensor(expected))


@pytest.fixture(scope="module", params=["sentencepiece", "byte_fallback", "wordpiece", "byte_bpe"])
def tokenizer(request, tmp_path_factory, place):  # noqa: F811
    """A tokenizer and its dictionary."""
    from fairseq.data import Dictionary

    folder = tmp_path_factory.mktemp(request.param)
    text = folder / "text.txt"
    text.write_text("".join(f"{' '.join(TEXT[i % 7 :])}, and (so) on. it's not\n" for i in range(200)))
    if request.param == "wordpiece":
        folder = place / "data-bin/reviews"
    elif request.param == "byte_bpe":
        import tokenizers

        made = tokenizers.ByteLevelBPETokenizer()
        made.train([str(text)], 320, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
        made.save(str(folder / "tokenizer.json"))
    else:
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(folder / "sentencepiece"), hard_vocab_limit=False, minloglevel=2,
            vocab_size=300 if request.param == "byte_fallback" else 60, byte_fallback=request.param == "byte_fallback",
        )  # fmt: skip
    path = tokenizer_files.find(str(folder))
    if not (folder / "dict.txt").exists():
        write_dictionary(str(folder / "dict.txt"), tokenizer_files.load(path).symbols)
    return tokenizer_files.load(path), Dictionary.load(str(folder / "dict.txt"))


GAPPED = [
    ("the <mask> was bad", ["film"]),
    ("<mask> film, <mask>.", ["a good", "i liked it"]),
    ("<mask>", ["not"]),
    ("it's <mask>, and (<mask>) on.", ["not", "so"]),
    ("  a\t<mask>\u00a0film 𪛖 ", ["very good"]),
]


@pytest.mark.parametrize(("text", "fillers"), GAPPED)
def test_what_stands_around_a_gap_is_cut_as_in_the_whole_text(tokenizer, text, fillers):
    bpe, dictionary = tokenizer
    whole, spans = gaps.encode_filled(text, fillers, bpe, dictionary, "x")
    sizes = iter(len(span) for span in spans)
    sized = gaps.GAP.sub(lambda match: f"<mask:{next(sizes)}>", text)
    tokens, found = gaps.encode(sized, bpe, dictionary, "x")
    assert found == spans
    inside = [i for span in spans for i in span]
    assert (tokens[inside] == dictionary.index("<mask>")).all()
    np.testing.assert_array_equal(np.delete(tokens, inside), np.delete(whole, inside))
    plain = dictionary.encode_line(f"<s> {bpe.encode(sum_up(text, fillers))}", add_if_not_exist=False)
    np.testing.assert_array_equal(whole, plain)


def sum_up(text, fillers):
    for filler in fillers:
        text = text.replace("<mask>", filler, 1)
    return text


def test_characters_that_the_tokenizer_does_not_know_stay_unknown_beside_a_gap(tokenizer):
    bpe, dictionary = tokenizer
    tokens, (span,) = gaps.encode("a ☃<mask:2>☃ film", bpe, dictionary, "x")
    assert tokens[span.start : span.stop].tolist() == [dictionary.index("<mask>")] * 2
    for side in (tokens[: span.start], tokens[span.stop :]):
        assert len(side) > 2
    assert (tokens == dictionary.index("<mask>")).sum() == 2


def test_gaps_and_orders():
    assert gaps.cut("a <mask:2> <mask>  <mask> b<mask>c", "x") == (["a ", " b", "c"], [4, 1])
    spans = [range(2, 5), range(7, 8)]
    rng = np.random.default_rng(1)
    places = {
        ("token", "left-to-right"): ([2, 3, 4, 7], [1, 2, 3, 4]),
        ("token", "right-to-left"): ([7, 4, 3, 2], [1, 2, 3, 4]),
        ("span", "right-to-left"): ([7, 2, 3, 4], [1, 2, 2, 2]),
        ("all", "random"): ([2, 3, 4, 7], [1, 1, 1, 1]),
    }
    for (unit, order), (positions, steps) in places.items():
        mask = gaps.factorize(spans, unit, order, rng)
        assert mask.positions.tolist() == positions, (unit, order)
        assert mask.steps.tolist() == steps
    drawn = {tuple(gaps.factorize(spans, "token", "random", rng).positions.tolist()) for _ in range(200)}
    assert drawn == set(itertools.permutations([2, 3, 4, 7]))
    mask = gaps.read_order("4 1,3 2", spans, "x")
    assert mask.positions.tolist() == [7, 2, 4, 3]
    assert mask.steps.tolist() == [1, 2, 2, 3]
    for line in ("1 2 3", "1 2 3 5", "1,1 2 3 4", "a", "1 2 3 4,", "1 2 3 -4"):
        with pytest.raises(PMLMError, match="order of 4 tokens"):
            gaps.read_order(line, spans, "x")
    for text in ("no gap", "<mask:0>", "<mask:x>", "<mask:>", "<mask:-1>", "<mask: 2>", "<mask:9999>"):
        with pytest.raises(PMLMError, match=r"file, line 3: .*gap"):
            gaps.cut(text, "file, line 3")


def run(place, *args):  # noqa: F811
    data = ["--data", place / "data-bin/reviews", "--path", place / "checkpoints/reviews/checkpoint_best.pt", "--cpu"]
    call("infill", *args, *data)


def test_the_script_fills_and_scores(place, hub, tmp_path, capsys):  # noqa: F811
    texts = tmp_path / "texts.txt"
    texts.write_text("the <mask:2> was bad\n\ni <mask> it, and <mask> liked it\n")
    run(place, texts, "--nbest", 2, "--beam", 4, "--order", "right-to-left")
    filled = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["rank"]) for row in filled] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert filled[0]["logprob"] >= filled[1]["logprob"]
    first = hub.decode(hub.encode(filled[0]["text"]))
    assert filled[0]["text"].startswith("the ")
    assert filled[0]["text"].endswith(" was bad")
    assert first == filled[0]["text"]
    assert [len(row["spans"]) for row in filled] == [1, 1, 2, 2]
    assert len(filled[2]["tokens"]) == 2
    # what infilling says of a filling is what scoring says of it, in the order of the text
    spans = tmp_path / "spans.jsonl"
    rows = [row for row in filled if row["rank"] == 1 and "##" not in " ".join(row["tokens"])]
    gap_texts = {1: "the <mask> was bad", 3: "i <mask> it, and <mask> liked it"}
    spans.write_text("".join(json.dumps({"text": gap_texts[row["id"]], "spans": row["spans"]}) + "\n" for row in rows))
    run(place, spans, "--score", "--order", "right-to-left", "--out", tmp_path / "out.jsonl")
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert scored
    for row, found in zip(rows, scored, strict=True):
        assert found["tokens"] == row["tokens"]
        assert found["logprobs"] == pytest.approx(row["logprobs"], abs=1e-4)
        assert found["logprob"] == pytest.approx(row["logprob"], abs=1e-4)
        assert sum(found["span_logprobs"]) == pytest.approx(row["logprob"], abs=1e-4)
    order = tmp_path / "order.txt"
    order.write_text("2 1\n2 1\n")
    run(place, texts, "--order", order, "--nbest", 2, "--beam", 4)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == filled
    texts.write_text("i <mask> it\n")
    run(place, texts, "--steps", "ae")
    (best,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    ((text, probability, symbol),) = hub.fill_mask("i <mask> it", topk=1)
    assert (best["text"], best["tokens"]) == (text, [symbol])
    assert math.exp(best["logprob"]) == pytest.approx(probability, abs=1e-5)


def test_the_script_says_what_is_unknown(place, hub, tmp_path, capsys):  # noqa: F811
    texts, spans = tmp_path / "texts.txt", tmp_path / "spans.jsonl"
    texts.write_text("the \u4e16\t<mask> was bad\n")
    run(place, texts)
    said = capsys.readouterr().err
    assert "texts.txt: replaced by spaces or U+FFFD: 1 (tab 1)" in said
    assert "1 tokens around the gaps are not in the dictionary: read as <unk>" in said
    spans.write_text(json.dumps({"text": "the <mask> was bad", "spans": ["\u4e16"]}) + "\n")
    run(place, spans, "--score")
    said = capsys.readouterr()
    assert "1 tokens of the spans are not in the dictionary: scored as <unk>" in said.err
    assert json.loads(said.out)["tokens"] == ["<unk>"]


def test_the_script_refuses(place, hub, tmp_path):  # noqa: F811
    texts, spans, order = tmp_path / "texts.txt", tmp_path / "spans.jsonl", tmp_path / "order.txt"
    texts.write_text("the <mask:2> was bad\nno gap\n")
    order.write_text("1 2\n")

    def refused(match, *args):
        with pytest.raises(PMLMError, match=match):
            run(place, *args)

    refused("texts.txt, line 2: no gap", texts)
    refused("order.txt: 1 orders for 2 texts", texts, "--order", order)
    refused("--order sideways is none of left-to-right", texts, "--order", "sideways")
    refused("only one step; leave --order out", texts, "--order", "random", "--steps", "all")
    refused("give one of them", texts, "--order", order, "--steps", "span")
    for directory in (place / "checkpoints/reviews", f"{place}/data-bin"):
        with pytest.raises(PMLMError, match="is a directory; give a checkpoint in it"):
            call("infill", texts, "--path", directory, "--cpu")
    refused("--nbest 6 is more than --beam 5", texts, "--nbest", 6)
    refused("--beam 20000: give 1 to 1,000", texts, "--beam", 20000)
    refused(r"--score reads JSON lines", texts, "--score")
    texts.write_text("a <mask:50>\n")
    refused("line 1: 53 tokens, with <s> and </s>; the model has 40 positions", texts)
    texts.write_text("\n")
    refused("no texts", texts)
    for content, match in (
        ({"text": "a <mask>", "spans": ["good", "film"]}, "line 1: 1 gaps, and 2 spans"),
        ({"text": "a <mask>", "spans": "good"}, "key 'spans': not a list of texts"),
        ({"text": "a <mask>", "spans": None}, "key 'spans': not a list of texts"),
        ({"text": 1, "spans": []}, "key 'text': not text, but a number"),
        ({"text": "a <mask>", "spans": [" "]}, "the span ' ' holds no token"),
        ({"text": "a f<mask>m", "spans": ["il"]}, "shares the token 'film'"),
        ({"text": "a"}, "no key 'spans'"),
    ):
        spans.write_text(json.dumps(content) + "\n")
        refused(match, spans, "--score")


def test_a_checkpoint_that_has_not_learned_it(place, tmp_path, capsys):  # noqa: F811
    state = torch.load(place / "checkpoints/reviews/checkpoint_best.pt", weights_only=False)
    texts = tmp_path / "texts.txt"
    texts.write_text("a <mask> film\n")
    path = tmp_path / "checkpoint_best.pt"
    for task, match, options in (
        ({"_name": "pmlm_seq2seq"}, "was trained for --task pmlm_seq2seq", []),
        ({"_name": "pmlm", "objective": "ae"}, "has no trained .P.: give --steps ae", []),
        ({"_name": "pmlm", "objective": "par"}, "its .M. predict nothing", ["--steps", "ae"]),
        ({"_name": "pmlm_variants", "variant": "one-symbol"}, "was trained with --variant one-symbol", []),
    ):
        state["cfg"]["task"].update(task)
        torch.save(state, path)
        with pytest.raises(PMLMError, match=match):
            call("infill", texts, "--path", path, "--data", place / "data-bin/reviews", "--cpu", *options)
    # what the experiments pre-train without a change is as good as any
    state["cfg"]["task"]["variant"] = "none"
    torch.save(state, path)
    call("infill", texts, "--path", path, "--data", place / "data-bin/reviews", "--cpu")
    assert len(json.loads(capsys.readouterr().out)["tokens"]) == 1
