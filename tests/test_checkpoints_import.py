"""Imported checkpoints compute what their sources compute; every tensor is accounted for; bad files are refused."""

import json
import os

import pytest
import torch
from commands import ROOT, command, hypotheses, load, pmlm
from fairseq.dataclass.configs import CommonConfig
from foreign import (
    MODELS,
    PIECES,
    authors_greedy,
    authors_log_probs,
    save_by_transformers,
    write_unilm,
)
from omegaconf import OmegaConf
from safetensors.torch import save_file
from transformers import AutoTokenizer

from fairseq_pmlm.conversion import vocabulary
from fairseq_pmlm.conversion.common import COMMON
from fairseq_pmlm.conversion.files import read_tensors
from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.utils.errors import PMLMError


def row_indices(folder, model, config=None):
    """int64 (rows of the source's embedding,): the dictionary's index of each."""
    found = next(p for name in ("vocab.txt", "sentencepiece.bpe.model", "vocab.json") if (p := folder / name).exists())
    symbols = vocabulary.read(str(found), config or {}).symbols
    return torch.tensor([model.dictionary.index(symbol) for symbol in symbols])


def batch(model, indices, seed=0, lengths=(9, 3, 14, 1)):
    """Random rows of the source as (ids, attention mask, segments), mixed lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    pad = indices.tolist().index(model.dictionary.pad())
    ids = torch.randint(0, len(indices), (len(lengths), width), generator=generator)
    ids[ids == pad] = pad + 1
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    segments = torch.randint(0, 2, (len(lengths), width), generator=generator)
    return ids.masked_fill(~mask, pad), mask, segments.masked_fill(~mask, 0)


def run(model, indices, ids, segments):
    """Hidden states and logits, the latter in the source's order."""
    tokens = indices[ids]
    positions = torch.arange(ids.size(1)).expand_as(ids)
    with torch.no_grad():
        hidden = model.backbone(tokens, positions, segments, torch.zeros_like(ids), ids.size(1))
        return hidden, model.output_layer(hidden)[..., indices]


def compare(folder, imported, theirs, with_segments):
    model = load(imported / "model.pt")[0]
    indices = row_indices(folder, model)
    ids, mask, segments = batch(model, indices)
    segments = segments if with_segments else torch.zeros_like(segments)
    with torch.no_grad():
        given = {"token_type_ids": segments} if with_segments else {}
        expected = theirs(ids, attention_mask=mask.long(), output_hidden_states=True, **given)
    hidden, logits = run(model, indices, ids, segments)
    torch.testing.assert_close(hidden[mask], expected.hidden_states[-1][mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[mask], expected.logits[mask], rtol=0, atol=2e-5)
    return model


def objective(path):
    """What the checkpoint says it was trained for."""
    return torch.load(path)["cfg"]["task"]["objective"]


@pytest.mark.parametrize("kind", MODELS)
def test_outputs_equal_those_of_transformers(kind, tmp_path):
    theirs = save_by_transformers(kind, tmp_path)
    lines = import_checkpoint(str(tmp_path), str(tmp_path / "out"))
    assert lines[0].startswith(f"format: {kind}; ")
    assert not any(line.startswith("initialised") for line in lines)
    model = compare(tmp_path, tmp_path / "out", theirs, kind in ("bert", "electra"))
    dictionary = model.dictionary
    assert torch.equal(
        model.backbone.embed_tokens.weight[dictionary.index("<pseudo>")],
        model.backbone.embed_tokens.weight[dictionary.index("<mask>")],
    )
    assert sorted(os.listdir(tmp_path / "out"))[:2] == ["dict.txt", "model.pt"]


@pytest.mark.parametrize(
    "options", [{"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"tie_word_embeddings": False}], ids=str
)
def test_variants_of_bert(options, tmp_path):
    theirs = save_by_transformers("bert", tmp_path, **options)
    import_checkpoint(str(tmp_path), str(tmp_path / "out"))
    model = compare(tmp_path, tmp_path / "out", theirs, True)
    assert model.cfg.separate_output == ("tie_word_embeddings" in options)


def test_named_as_minilm(tmp_path):
    theirs = save_by_transformers("bert", tmp_path)
    lines = import_checkpoint(str(tmp_path), str(tmp_path / "out"), "minilm")
    assert lines[0].startswith("format: minilm; ")
    compare(tmp_path, tmp_path / "out", theirs, True)


@pytest.mark.parametrize("tied", [False, True])
def test_a_config_and_an_output_weight_that_disagree_are_reported(tied, tmp_path):
    theirs = save_by_transformers("bert", tmp_path, tie_word_embeddings=not tied)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    if tied:  # of two biases that differ, nobody could say which one counts
        tensors = read_tensors(str(tmp_path / "model.safetensors"))
        del tensors["cls.predictions.bias"]
        save_file(tensors, tmp_path / "model.safetensors")
    lines = "\n".join(import_checkpoint(str(tmp_path), str(tmp_path / "out")))
    model = compare(tmp_path, tmp_path / "out", theirs, True)
    assert model.cfg.separate_output == tied
    assert ("the output layer has a weight of its own, though" in lines) == tied
    assert ("tie_word_embeddings is false, but the checkpoint has no output weight" in lines) != tied


def test_padding_elsewhere_is_reported_and_a_piece_called_pseudo_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("foreign.PIECES", ["cat", *PIECES, "[PSEUDO]"])
    theirs = save_by_transformers("bert", tmp_path)
    lines = "\n".join(import_checkpoint(str(tmp_path), str(tmp_path / "out")))
    assert (
        f"pad_token_id is 0, but the vocabulary's padding is piece {PIECES.index('[PAD]') + 1}, which counts" in lines
    )
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()
    model = load(tmp_path / "out" / "model.pt")[0]
    ours = model.backbone.embed_tokens.weight[model.dictionary.index("[PSEUDO]")]
    assert torch.equal(ours, theirs.bert.embeddings.word_embeddings.weight[-1])


def test_an_encoder_alone_of_bert_and_roberta(tmp_path):
    for kind in ("bert", "roberta"):
        folder = tmp_path / kind
        folder.mkdir()
        theirs = save_by_transformers(kind, folder)
        getattr(theirs, kind).save_pretrained(folder)
        assert not any(key.startswith(kind) for key in read_tensors(str(folder / "model.safetensors")))
        lines = import_checkpoint(str(folder), str(folder / "out"))
        assert lines[0].startswith(f"format: {kind}; ")
        assert any(line.startswith("initialised: the LM head") for line in lines)
        model = load(folder / "out" / "model.pt")[0]
        assert objective(folder / "out" / "model.pt") == "ae"
        indices = row_indices(folder, model)
        ids, mask, segments = batch(model, indices)
        with torch.no_grad():
            expected = getattr(theirs, kind)(ids, attention_mask=mask.long()).last_hidden_state
        hidden, _ = run(model, indices, ids, torch.zeros_like(segments))
        torch.testing.assert_close(hidden[mask], expected[mask], rtol=0, atol=1e-5)


def test_old_files_shards_and_other_heads(tmp_path):
    theirs = save_by_transformers("bert", tmp_path)
    state = theirs.state_dict()
    state = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
             for k, v in state.items()}  # fmt: skip
    state |= {
        "cls.seq_relationship.weight": torch.zeros(2, 16),
        "bert.pooler.dense.weight": torch.zeros(16, 16),
        "bert.embeddings.position_ids": torch.arange(48)[None],
        "qa_outputs.bias": torch.zeros(2),
    }
    os.remove(tmp_path / "model.safetensors")
    keys = list(state)
    parts = {"a.bin": keys[:9], "b.bin": keys[9:]}
    for name, part in parts.items():
        torch.save({key: state[key] for key in part}, tmp_path / name, _use_new_zipfile_serialization=False)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    lines = "\n".join(import_checkpoint(str(tmp_path), str(tmp_path / "out")))
    compare(tmp_path, tmp_path / "out", theirs, True)
    assert f"{len(state) - 4} tensors used, 4 ignored" in lines
    for reason in (
        "a constant, not a weight: bert.embeddings.position_ids",
        "next-sentence prediction, which this model is not trained for: cls.seq_relationship.weight",
        "the head of another task: qa_outputs.bias",
    ):
        assert reason in lines
    os.remove(tmp_path / "b.bin")
    with pytest.raises(PMLMError, match=r"b\.bin: no such file"):
        import_checkpoint(str(tmp_path), str(tmp_path / "new"))
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../a.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(PMLMError, match=r"the shard '\.\./a\.bin' is not in the folder"):
        import_checkpoint(str(tmp_path), str(tmp_path / "new"))


def test_tokenizers_that_transformers_has_saved(tmp_path):
    for kind in ("bert", "roberta"):
        folder = tmp_path / kind
        folder.mkdir()
        save_by_transformers(kind, folder)
        import_checkpoint(str(folder), str(folder / "before"))
        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        for name in ("vocab.txt", "vocab.json", "merges.txt"):
            if (folder / name).exists():
                os.remove(folder / name)
        import_checkpoint(str(folder), str(folder / "out"))  # from tokenizer.json
        for name in os.listdir(folder / "before"):
            if name != "model.pt":
                assert (folder / "out" / name).read_bytes() == (folder / "before" / name).read_bytes(), name
        assert not load(folder / "out" / "model.pt")[0].cfg.separate_output
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(PMLMError, match=r"tokenizer\.json holds sentencepiece's pieces.*--vocab sentencepiece"):
        import_checkpoint(str(folder), str(folder / "new"))


@pytest.mark.parametrize("relative", [False, True])
def test_unilm_equals_the_authors_scheme(relative, tmp_path):
    tensors, config = write_unilm(tmp_path, relative, segments=6, source_type_id=4, target_type_id=5)
    lines = import_checkpoint(str(tmp_path / "unilm2.bin"), str(tmp_path / "out"))
    assert lines[0].startswith("format: unilm; ")
    assert ("--relative-positions --relative-position-max-distance 20" in lines[-1]) == relative
    model = load(tmp_path / "out" / "model.pt")[0]
    assert objective(tmp_path / "out" / "model.pt") == "ae+par"
    indices = row_indices(tmp_path, model)
    cls, sep, mask = (PIECES.index(piece) for piece in ("[CLS]", "[SEP]", "[MASK]"))
    generator = torch.Generator().manual_seed(3)
    for source_length, target_length in ((12, 9), (3, 1), (25, 14)):
        source = [cls, *torch.randint(6, len(PIECES), (source_length,), generator=generator).tolist(), sep]
        target = [*torch.randint(6, len(PIECES), (target_length,), generator=generator).tolist(), sep]
        expected = authors_log_probs(tensors, config, source, target, mask)
        with torch.no_grad():
            logits = model(
                src_tokens=indices[source][None],
                src_lengths=torch.tensor([len(source)]),
                prev_output_tokens=indices[[sep, *target[:-1]]][None],
            )[0][0]
        ours = torch.log_softmax(logits, -1)[:, indices]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("relative", [False, True])
def test_unilm_through_the_real_commands(relative, tmp_path):
    tensors, config = write_unilm(tmp_path, relative)
    pmlm("import", tmp_path / "unilm2.bin", "--save-dir", tmp_path / "out")
    generator = torch.Generator().manual_seed(1)
    words = [piece for piece in PIECES[6:] if piece.isalpha()]
    draw = [torch.randint(0, len(words), (n,), generator=generator).tolist() for n in (5, 11, 2, 8, 9, 3)]
    texts = [" ".join(words[i] for i in line) for line in draw]
    records = [{"src": a, "tgt": b} for a, b in zip(texts[::2], texts[1::2], strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pmlm(
        *("prepare pairs", "--train", tmp_path / "pairs.jsonl", "--test", tmp_path / "pairs.jsonl"),
        *("--vocab-from", tmp_path / "out", "--destdir", tmp_path / "bin"),
    )
    options = ["--user-dir", ROOT / "fairseq_pmlm", "--task", "pmlm_seq2seq", "--path", tmp_path / "out" / "model.pt"]
    options += ["--cpu", "--batch-size", 2]
    scored = command("generate", tmp_path / "bin", *options, "--score-reference").stdout
    greedy = command("generate", tmp_path / "bin", *options, "--beam", 1, "--max-len-b", 9).stdout
    cls, sep, mask, pad = (PIECES.index(piece) for piece in ("[CLS]", "[SEP]", "[MASK]", "[PAD]"))
    per_token = dict(line.removeprefix("P-").split("\t") for line in scored.splitlines() if line.startswith("P-"))
    found = hypotheses(greedy)
    for i, record in enumerate(records):
        source = [cls, *map(PIECES.index, record["src"].split()), sep]
        target = [*map(PIECES.index, record["tgt"].split()), sep]
        expected = authors_log_probs(tensors, config, source, target, mask)
        expected = [expected[t, token].item() / 0.6931471805599453 for t, token in enumerate(target)]
        assert [float(x) for x in per_token[str(i)].split()] == pytest.approx(expected, abs=1e-4)
        chosen = authors_greedy(tensors, config, source, mask, sep, 9, never=(cls, mask, pad))
        assert found[i][0][1].replace("<unk>", "[UNK]").split() == [PIECES[token] for token in chosen]


def test_fairseq_s_common_options_are_its_own():
    assert OmegaConf.to_container(OmegaConf.structured(CommonConfig), enum_to_str=True) == COMMON
