"""A model from Python: against plain forwards, whatever shares its batch; the README's examples; pmlm predict."""

import dataclasses
import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, pmlm
from fairseq.data import Dictionary
from reference import forward, logits
from test_heads import segments

from fairseq_pmlm import PMLMModel
from fairseq_pmlm.conversion.export import export_checkpoint
from fairseq_pmlm.conversion.importing import fairseq_checkpoint
from fairseq_pmlm.generation import gaps
from fairseq_pmlm.generation.infilling import Gapped, infill
from fairseq_pmlm.model.config import PMLMConfig
from fairseq_pmlm.tokenizers.files import fingerprint
from fairseq_pmlm.tokenizers.symbols import write_dictionary
from fairseq_pmlm.tokenizers.wordpiece import WordPiece
from fairseq_pmlm.utils.batching import batches
from fairseq_pmlm.utils.errors import PMLMError

ROOT = Path(__file__).parents[1]
TEXT = ["a", "good", "film", "i", "liked", "it", "bad", "boring", "the", "of", "and", "was", "very", "not"]
TEXTS = ["a good film", ("the film was bad", "i liked it"), "it", "very very boring and not good " * 3, ""]
HEAD = "sentence_classification_head"
EXACT = {"rtol": 0, "atol": 2e-5}  # packed products round differently


def write_vocabulary(folder):
    """A WordPiece vocab.txt and its dict.txt in *folder*; the path of the first."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*TEXT, *"abcdefg", "##s"])]
    tokenizer = WordPiece(pieces)
    write_dictionary(str(folder / "dict.txt"), tokenizer.symbols)
    return tokenizer.save(str(folder))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """data-bin/reviews and checkpoints/reviews, with a model of random weights and two heads."""
    place = tmp_path_factory.mktemp("hub")
    data, checkpoints = place / "data-bin" / "reviews", place / "checkpoints" / "reviews"
    data.mkdir(parents=True)
    checkpoints.mkdir(parents=True)
    vocabulary = write_vocabulary(data)
    torch.manual_seed(0)
    options = {
        "encoder_layers": 2,
        "encoder_embed_dim": 128,
        "encoder_ffn_embed_dim": 512,
        "encoder_attention_heads": 2,
    }
    cfg = PMLMConfig(**options, max_positions=40, relative_positions=True)
    model = PMLMModel(cfg, Dictionary.load(str(data / "dict.txt")), fingerprint(vocabulary))
    model.register_classification_head(HEAD, num_classes=2, labels=["0", "1"])
    model.register_classification_head("stars", num_classes=1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    known = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg) if f.name != "_name"}
    known = {k: v if isinstance(v, (int, float, str, type(None))) else str(v) for k, v in known.items()}
    torch.save(fairseq_checkpoint(known, model.state_dict(), str(data), "ae+par"), checkpoints / "checkpoint_best.pt")
    (data / "label").mkdir()
    (data / "label" / "dict.txt").write_text("0 5\n1 6\n")
    return place


@pytest.fixture(scope="module")
def hub(place):
    return PMLMModel.from_pretrained(
        str(place / "checkpoints/reviews"), data_name_or_path=str(place / "data-bin/reviews")
    )


def encode(hub, text):
    return hub.encode(*([text] if isinstance(text, str) else text))


def plain(hub, text):
    """Hidden states by loops over slots, from the description of the method."""
    row = encode(hub, text).tolist()
    with torch.no_grad():
        everything = list(range(len(row)))
        return forward(hub.model, row, everything, segments(row), [everything] * len(row))


def test_encode_and_decode(hub):
    tokens = hub.encode("a good film", "i liked it")
    symbols = [hub.dictionary[t] for t in tokens]
    assert symbols == ["<s>", "a", "good", "film", "</s>", "i", "liked", "it", "</s>"]
    assert hub.decode(tokens) == ["a good film", "i liked it"]
    assert hub.decode(hub.encode("a good film")) == "a good film"
    assert hub.encode("").tolist() == [0, 2]
    assert hub.dictionary.index("<mask>") not in hub.encode("a <mask> film")  # text cannot spell a symbol
    with pytest.raises(PMLMError, match=r"\(length,\), not \(1, 9\)"):
        hub.decode(tokens[None])


def test_features_are_those_of_a_plain_forward_whatever_shares_the_batch(hub):
    lines = [encode(hub, text) for text in TEXTS]
    batch = hub.extract_features(lines)
    for text, line, row in zip(TEXTS, lines, batch, strict=True):
        wanted = plain(hub, text)
        torch.testing.assert_close(row[: len(line)], wanted, **EXACT)
        torch.testing.assert_close(hub.extract_features(line)[0], wanted, **EXACT)
        torch.testing.assert_close(hub.extract_features(line[None])[0], wanted, **EXACT)
    states = hub.extract_features(lines, return_all_hiddens=True)
    assert [state.shape for state in states] == [batch.shape] * 3
    assert torch.equal(states[-1], batch)
    embedded = hub.model.backbone.embed_tokens.weight[lines[0][1]] + hub.model.backbone.embed_positions.weight[1]
    norm = hub.model.backbone.layernorm_embedding
    torch.testing.assert_close(states[0][0, 1], norm(embedded + hub.model.backbone.embed_segments.weight[0]), **EXACT)
    assert not hub.model.backbone.layers[0]._forward_hooks  # nothing stays behind


def test_classes_and_numbers_in_the_order_of_the_texts(hub):
    head = hub.model.classification_heads[HEAD]
    for budget in (1, 20, 4096):
        outputs = hub.predict_texts(HEAD, TEXTS, max_tokens=budget)
        for text, row in zip(TEXTS, outputs, strict=True):
            hidden = torch.tanh(head.dense.weight @ plain(hub, text)[0] + head.dense.bias)
            torch.testing.assert_close(row, (head.out_proj.weight @ hidden + head.out_proj.bias).detach(), **EXACT)
    logs = hub.predict(HEAD, hub.encode("a good film"))
    torch.testing.assert_close(logs[0], outputs[0].log_softmax(0), **EXACT)
    stars = hub.predict_texts("stars", TEXTS)
    assert stars.shape == (len(TEXTS), 1)
    torch.testing.assert_close(hub.predict("stars", [encode(hub, text) for text in TEXTS]), stars, **EXACT)
    with pytest.raises(PMLMError, match="takes a list of texts"):
        hub.predict_texts(HEAD, "a good film")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "no texts were given"),
        (["a good film"], "tokens are what encode"),
        (torch.tensor([[0.0, 2.0]]), "tokens are what encode"),
        (torch.tensor([0, 999, 2]), "token 999: the dictionary has"),
        (torch.tensor([0, -1, 2]), "token -1: the dictionary has"),
        (torch.tensor(2), "tokens are what encode"),
    ],
)
def test_tokens_that_are_none(hub, tokens, message):
    with pytest.raises(PMLMError, match=message):
        hub.extract_features(tokens)


def test_numbers_out_of_range(hub):
    for options in ({"beam": 0}, {"nbest": 0}, {"beam": 2, "nbest": 3}):
        with pytest.raises(PMLMError, match=r"infill\(\) takes a beam of 1 or more, and an nbest of 1 to beam"):
            hub.infill("a <mask> film", **options)
    with pytest.raises(PMLMError, match=r"infill\(\) takes a seed of 0 or more, not -1"):
        hub.infill("a <mask> film", seed=-1)
    with pytest.raises(PMLMError, match=r"generate\(\) takes a batch_size of 1 or more, not 0"):
        hub.generate(["a film"], batch_size=0)


def test_batches_hold_every_text_once_within_the_budget():
    sizes = [3, 9, 1, 5, 5, 20, 2]
    found = list(batches(sizes, 12))
    assert sorted(i for batch in found for i in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= 12 for batch in found)
    assert found[0] == [5]


def test_fill_mask_gives_the_best_types(hub):
    found = hub.fill_mask("a <mask> film", topk=3)
    row = [0, hub.dictionary.index("a"), hub.dictionary.index("<mask>"), hub.dictionary.index("film"), 2]
    everything = list(range(5))
    with torch.no_grad():
        x = forward(hub.model, row, everything, [0] * 5, [everything] * 5)
        shares = logits(hub.model, x[2:3])[0].softmax(0)
    ordinary = range(4, len(hub.dictionary) - 2)
    best = sorted(ordinary, key=lambda i: -shares[i])[:3]
    assert [symbol for _, _, symbol in found] == [hub.dictionary[i] for i in best]
    assert [share for _, share, _ in found] == pytest.approx([shares[i].item() for i in best], abs=1e-5)
    assert re.fullmatch(r"a ?\S+ film", found[0][0])
    for text in ("no mask", "<mask> and <mask>"):
        with pytest.raises(PMLMError, match="takes a text with one <mask>, not"):
            hub.fill_mask(text)
    with pytest.raises(PMLMError, match="a topk of 1 or more, not 0"):
        hub.fill_mask("a <mask> film", topk=0)


def test_generate_in_the_order_of_the_sources(hub):
    sources = ["a good film", "", "it was very boring and not good", "bad"]
    alone = [hub.generate(source, beam=2, max_len_b=6) for source in sources]
    assert hub.generate(sources, beam=2, max_len_b=6, batch_size=3) == alone
    assert alone[1] == ""
    assert all(len(text.split()) <= 6 for text in alone)
    wu = hub.generate(sources, beam=2, max_len_b=6, length_penalty_type="wu", early_stop="exact")
    assert len(wu) == 4
    with pytest.raises(PMLMError, match="no option 'beams'"):
        hub.generate(sources, beams=2)


@pytest.mark.parametrize(("keep", "kept"), [("head", "a good"), ("tail", "liked it"), ("middle", "film i")])
def test_sources_are_cut_as_the_model_says(hub, monkeypatch, caplog, keep, kept):
    sources = ["a good film i liked it", "", "it was"]
    whole = [hub.encode(source).tolist() for source in sources]
    assert [line.tolist() for line in hub.encode_sources(sources)] == whole
    assert "1 of 3 sources are empty; so will their targets be" in caplog.text
    monkeypatch.setattr(hub.model.cfg, "max_source_positions", 4)
    refused = r"1 of 3 sources .* --max-source-positions 4 \(the first is number 1, the longest has 8 tokens\)"
    for ask in (hub.encode_sources, hub.generate):
        with pytest.raises(PMLMError, match=refused):
            ask(sources)
    monkeypatch.setattr(hub.model.cfg, "cut_source", keep)
    assert [line.tolist() for line in hub.encode_sources(sources)] == [hub.encode(kept).tolist(), *whole[1:]]
    assert f"1 of 3 sources are longer than --max-source-positions 4: cut to their {keep}" in caplog.text


@pytest.mark.parametrize("steps", ["token", "span", "all", "ae"])
def test_infill_is_the_search_as_text(hub, steps):
    text = "a <mask:2> i liked <mask>"
    found = hub.infill(text, beam=3, nbest=2, steps=steps)
    tokens, places = gaps.encode(text, hub.bpe, hub.dictionary, "x")
    mask = gaps.factorize(places, "all" if steps == "ae" else steps, "left-to-right", np.random.default_rng(1))
    fillings = infill(hub.model, [Gapped(tokens, 0 * tokens, mask)], 3, autoencoding=steps == "ae")[0]
    assert len(found) == 2
    for filled, filling in zip(found, fillings, strict=False):
        words = [hub.dictionary[token] for token in filling.tokens.tolist()]
        assert filled.spans == [hub.bpe.decode(" ".join(part)) for part in (words[:2], words[2:])]
        assert filled.text == hub.bpe.decode(" ".join(["a", *words[:2], "i", "liked", *words[2:]]))
        assert filled.logprob == pytest.approx(filling.logprobs.sum())
    assert hub.infill(text, steps=steps, beam=3) == found[:1]


def test_infill_refuses(hub):
    for text, options, message in [
        ("a film", {}, r"infill\(\): no gap; write <mask>"),
        ("a <mask>", {"steps": "word"}, "steps token, span, all or ae, .* not 'word' and 'left-to-right'"),
        ("a <mask>", {"order": "sorted"}, "order left-to-right, right-to-left, random, not 'token' and 'sorted'"),
        ("a <mask>", {"beam": 0}, "a beam of 1 or more, and an nbest of 1 to beam, not 0 and 1"),
        ("a <mask>", {"beam": 2, "nbest": 3}, "not 2 and 3"),
        ("a <mask:60>", {}, r"infill\(\): 63 tokens; the model has 40 positions"),
    ]:
        with pytest.raises(PMLMError, match=message):
            hub.infill(text, **options)


def test_what_cannot_be_loaded_or_asked(hub, place, tmp_path):
    for name in ("https://example.org/model.tar.gz", "model.tar.gz", "s3://bucket/model"):
        with pytest.raises(PMLMError, match="only a local directory can be loaded"):
            PMLMModel.from_pretrained(name)
    with pytest.raises(PMLMError, match="no such directory"):
        PMLMModel.from_pretrained(str(tmp_path / "none"))
    with pytest.raises(PMLMError, match=r"has no model\.pt or checkpoint_best\.pt or checkpoint_last\.pt"):
        PMLMModel.from_pretrained(str(tmp_path))
    with pytest.raises(PMLMError, match=r"no .*dict\.txt"):
        PMLMModel.from_pretrained(str(place / "checkpoints/reviews"))
    empty = fairseq_checkpoint({"max_positions": 9}, {"a": torch.zeros(1)}, "", "ae")
    for lacking in ({"cfg": None}, {"cfg": {}}, {"cfg": {"model": [1]}}, {"model": None}, {"model": ["a"]}):
        torch.save(empty | lacking, tmp_path / "model.pt")
        with pytest.raises(PMLMError, match=r"model\.pt does not hold a fairseq_pmlm model"):
            PMLMModel.from_pretrained(str(tmp_path), data_name_or_path=str(place / "data-bin/reviews"))
    with pytest.raises(PMLMError, match="head 'other'; its heads: sentence_classification_head, stars"):
        hub.predict("other", hub.encode("a"))
    with pytest.raises(PMLMError, match="a text of 62 tokens is longer than the model's 40 positions"):
        hub.extract_features(hub.encode("a " * 60))
    with pytest.raises(PMLMError, match=r"1 of 2 texts are longer .* \(the first is number 2, with 62 tokens\)"):
        hub.predict_texts(HEAD, ["a", "a " * 60])
    assert hub.predict_texts(HEAD, ["a " * 60], truncate=True).shape == (1, 2)


def test_an_export_says_which_heads_it_leaves_out(place, tmp_path):
    path = str(place / "checkpoints/reviews/checkpoint_best.pt")
    said = export_checkpoint(path, str(place / "data-bin/reviews"), str(tmp_path / "export"), "auto", False)
    assert "left out, as such files hold no heads of ours: classification_heads.sentence_classification_head;" in said
    assert said.endswith("classification_heads.stars")


def test_examples_of_the_readme(place, monkeypatch):
    block = re.search(r"## From Python\n.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert block.count(">>>") >= 8
    monkeypatch.chdir(place)
    test = doctest.DocTestParser().get_doctest(block, {}, "README", "README.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said = []
    runner.run(test, out=said.append)
    assert runner.summarize().failed == 0, "".join(said)


@pytest.fixture
def options(place):
    path = ["--path", place / "checkpoints/reviews/checkpoint_best.pt", "--data", place / "data-bin/reviews", "--cpu"]
    return [*path, "--head", HEAD]


def test_predict_prints_labels_and_probabilities_in_input_order(hub, place, options, tmp_path, capsys):
    texts = ["a good film", "bad", "", "very very boring"]
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    call("predict", tmp_path / "in.txt", *options, "--max-tokens", 6)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = hub.predict_texts(HEAD, texts).softmax(1)
    assert [row["label"] for row in rows] == [str(int(p.argmax())) for p in wanted]
    for row, shares in zip(rows, wanted, strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(shares.tolist(), abs=1e-5)
    call("predict", tmp_path / "in.txt", *options, "--format", "label", "--out", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text().split() == [row["label"] for row in rows]
    call("predict", tmp_path / "in.txt", *options, "--format", "probabilities")
    first = capsys.readouterr().out.splitlines()[0].split("\t")
    assert list(map(float, first)) == pytest.approx(wanted[0].tolist(), abs=1e-5)


def test_predict_reads_pairs_json_lines_and_numbers(hub, place, options, tmp_path, capsys):
    (tmp_path / "in.tsv").write_text("the film was bad\ti liked it\na\tb\n")
    (tmp_path / "in.jsonl").write_text(
        '{"input0": "the film was bad", "input1": "i liked it"}\n{"input0": "a", "input1": "b"}\n'
    )
    answers = []
    for name in ("in.tsv", "in.jsonl"):
        call("predict", tmp_path / name, *options[:-1], "stars")
        answers.append([json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()])
    assert answers[0] == answers[1]
    wanted = hub.predict_texts("stars", [("the film was bad", "i liked it"), ("a", "b")])[:, 0]
    assert answers[0] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_predict_refuses(place, options, tmp_path):
    empty, wide, text = tmp_path / "empty.txt", tmp_path / "wide.tsv", tmp_path / "text.txt"
    empty.write_text("")
    wide.write_text("a\tb\tc\n")
    text.write_text("a\n" + "a " * 60 + "\n")
    mixed, ragged = tmp_path / "mixed.jsonl", tmp_path / "ragged.tsv"
    mixed.write_text('{"input0": "a"}\n{"input0": "a", "input1": "b"}\n')
    ragged.write_text("a\tb\na\n")
    for args, message in [
        ([empty, *options], "is empty"),
        ([wide, *options], "3 columns between tabs; say with --texts"),
        ([text, *options], "1 of 2 texts are longer"),
        ([text, *options[:-2]], "several classification heads; give --head with one of sentence_classification_head"),
        ([text, *options[:-1], "stars", "--format", "probabilities"], "the head gives numbers"),
        ([text, *options, "--out", text], "is what is read"),
        ([text, *options, "--out", tmp_path / "no" / "x"], "--out .*/no/x: the directory .*/no does not exist"),
        ([mixed, *options], r"mixed\.jsonl, line 1: no key 'input1'"),
        ([ragged, *options], r"line 2: 1 columns between tabs instead of 2$"),
    ]:
        with pytest.raises(PMLMError, match=message):
            call("predict", *args)
    labels = place / "data-bin/reviews/label/dict.txt"
    labels.write_text("0 5\n1 6\n2 7\n")
    try:
        with pytest.raises(PMLMError, match=r"has 3 classes \(0, 1, 2\), and the head '\w+' has 2"):
            call("predict", text, *options)
    finally:
        labels.write_text("0 5\n1 6\n")


@pytest.mark.slow
def test_predict_as_a_command_ends_in_one_line(options, tmp_path):
    done = pmlm("predict", tmp_path / "none.txt", *options, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"fairseq_pmlm: error: cannot read {tmp_path}/none.txt: No such file or directory"
