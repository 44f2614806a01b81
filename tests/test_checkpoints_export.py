"""Exported checkpoints load into transformers, compute the same there, and come back to the bit."""

import json

import pytest
import torch
from commands import load
from foreign import PIECES, authors_log_probs, save_by_transformers, write_unilm
from test_checkpoints_import import batch, row_indices, run
from transformers import AutoTokenizer, BertForMaskedLM

from fairseq_pmlm.conversion.export import export_checkpoint
from fairseq_pmlm.conversion.files import read_tensors
from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.utils.errors import PMLMError

KINDS = ["bert", "roberta", "xlm-roberta", "unilm", "relative"]


def make(kind, folder):
    """Imported from a checkpoint of that *kind*: folder/in; what was imported: folder."""
    if kind in ("unilm", "relative"):
        write_unilm(folder, kind == "relative", segments=6, source_type_id=4, target_type_id=5)
        import_checkpoint(str(folder / "unilm2.bin"), str(folder / "in"))
    else:
        save_by_transformers(kind, folder)
        import_checkpoint(str(folder), str(folder / "in"))
    return folder / "in" / "model.pt"


def train(path, **options):
    """Stand in for training: another [P], and limits of the fine-tuning task."""
    checkpoint = torch.load(path, weights_only=True)
    torch.manual_seed(1)
    checkpoint["model"]["backbone.embed_tokens.weight"][-1] += torch.randn(16)
    checkpoint["model"]["output_layer.bias"][-1] += 3
    checkpoint["cfg"]["model"] |= {"max_source_positions": 28, "max_target_positions": 18, "cut_source": "head"}
    checkpoint["cfg"]["model"] |= options
    torch.save(checkpoint, path)


def contents(path):
    checkpoint = torch.load(path, weights_only=True)
    return checkpoint["model"], checkpoint["cfg"]["model"]


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["auto", "unilm"])
def test_round_trip_to_the_bit(kind, trained, target, tmp_path):
    path = make(kind, tmp_path)
    if trained:
        train(path, finetune_mode="causal")
    said = export_checkpoint(str(path), str(path.parent), str(tmp_path / "out"), target)
    assert ("a row of its own" in said) == trained
    import_checkpoint(str(tmp_path / "out"), str(tmp_path / "again"))
    (before, options), (after, again) = contents(path), contents(tmp_path / "again" / "model.pt")
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert options == again
    for name in (tokenizer_files.find(str(path.parent)), str(path.parent / "dict.txt")):
        with open(name, "rb") as a, open(name.replace("/in/", "/again/"), "rb") as b:
            assert a.read() == b.read()
    other = export_checkpoint(
        str(tmp_path / "again" / "model.pt"), str(tmp_path / "again"), str(tmp_path / "2"), target
    )
    assert other.split(": ", 1)[1] == said.split(": ", 1)[1]


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "unilm"])
def test_transformers_computes_the_same(kind, tmp_path):
    path = make(kind, tmp_path)
    export_checkpoint(str(path), str(path.parent), str(tmp_path / "out"))
    theirs, info = BertForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    model = load(path)[0]
    indices = row_indices(tmp_path, model)
    ids, mask, segments = batch(model, indices)
    segments = torch.zeros_like(segments) if "roberta" in kind else segments
    with torch.no_grad():
        expected = theirs.eval()(ids, attention_mask=mask.long(), token_type_ids=segments).logits
    _, logits = run(model, indices, ids, segments)
    torch.testing.assert_close(logits[mask], expected[mask], rtol=0, atol=2e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    bpe = tokenizer_files.load(tokenizer_files.find(str(path.parent)))
    for text in ("the cats sat, singing", "a café"):
        ours = model.dictionary.encode_line(bpe.encode(text), add_if_not_exist=False, append_eos=False).long()
        assert indices[tokenizer.encode(text, add_special_tokens=False)].tolist() == ours.tolist()


def test_every_line_of_a_strange_vocabulary_keeps_its_row(tmp_path, monkeypatch):
    pieces = ["cat", *PIECES[:9], "", "<s>", "a\u00a0b", *PIECES[9:], "the", "[SEP]"]
    monkeypatch.setattr("foreign.PIECES", pieces)
    theirs = save_by_transformers("bert", tmp_path)
    import_checkpoint(str(tmp_path), str(tmp_path / "in"))
    model = load(tmp_path / "in" / "model.pt")[0]
    table = theirs.bert.embeddings.word_embeddings.weight
    for symbol, line in (("cat_", 0), ("<empty>", 10), ("<s>_", 11), ("a<U+00A0>b", 12), ("</s>", len(pieces) - 1)):
        assert torch.equal(model.backbone.embed_tokens.weight[model.dictionary.index(symbol)], table[line])
    export_checkpoint(str(tmp_path / "in" / "model.pt"), str(tmp_path / "in"), str(tmp_path / "out"))
    before, after = (read_tensors(str(folder / "model.safetensors")) for folder in (tmp_path, tmp_path / "out"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()


@pytest.mark.parametrize("relative", [False, True])
def test_the_authors_scheme_reads_the_pseudo_mask_as_mask(relative, tmp_path):
    path = make("relative" if relative else "unilm", tmp_path)
    train(path)
    export_checkpoint(str(path), str(path.parent), str(tmp_path / "out"), "unilm")
    model = load(path)[0]
    tensors, config = read_tensors(str(tmp_path / "out" / "pytorch_model.bin")), json.loads(
        (tmp_path / "out" / "config.json").read_text()
    )  # fmt: skip
    pieces = (tmp_path / "out" / "vocab.txt").read_text().splitlines()
    assert pieces[-1] == "[PSEUDO]"
    # the names of the raw files, which the reference reads
    for name in list(tensors):
        if name.endswith("LayerNorm.weight"):
            tensors[name.replace("weight", "gamma")] = tensors[name]
            tensors[name.replace("weight", "beta")] = tensors[name.replace("weight", "bias")]
    for i in range(2):
        part = f"bert.encoder.layer.{i}.attention.self."
        tensors[f"{part}qkv_linear.weight"] = torch.cat(
            [tensors[f"{part}{x}.weight"] for x in ("query", "key", "value")]
        )
        tensors[f"{part}q_bias"], tensors[f"{part}v_bias"] = tensors[f"{part}query.bias"], tensors[f"{part}value.bias"]
    if relative:
        tensors["bert.encoder.rel_pos_bias.weight"] = tensors["bert.rel_pos_bias.weight"]
    indices = row_indices(tmp_path / "out", model, config)
    source, target = [3, 8, 9, 20, 4], [7, 30, 31, 4]
    expected = authors_log_probs(tensors, config, source, target, pieces.index("[MASK]"))
    with torch.no_grad():
        logits = model(
            src_tokens=indices[source][None],
            src_lengths=torch.tensor([5]),
            prev_output_tokens=indices[[4, *target[:-1]]][None],
        )[0][0]
    torch.testing.assert_close(torch.log_softmax(logits, -1)[:, indices], expected, rtol=0, atol=1e-4)


def test_refusals(tmp_path):
    path = make("relative", tmp_path)
    with pytest.raises(PMLMError, match="has relative positions, which BERT has not; --format unilm"):
        export_checkpoint(str(path), str(path.parent), str(tmp_path / "out"), "bert")
    with pytest.raises(PMLMError, match=r"--vocab-from .*: it has no dict\.txt"):
        export_checkpoint(str(path), str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(PMLMError, match=r"checkpoint .*none\.pt does not exist"):
        export_checkpoint(str(tmp_path / "none.pt"), str(path.parent), str(tmp_path / "out"))
    with pytest.raises(PMLMError, match=r"checkpoint .*in is a directory; name a file in it, such as"):
        export_checkpoint(str(path.parent), str(path.parent), str(tmp_path / "out"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(PMLMError, match="does not hold a fairseq_pmlm model"):
        export_checkpoint(str(tmp_path / "foreign.pt"), str(path.parent), str(tmp_path / "out"))
    pieces = (path.parent / "vocab.txt").read_text().splitlines()
    (path.parent / "vocab.txt").write_text("\n".join([*pieces[:-1], "other"]) + "\n")
    with pytest.raises(PMLMError, match=r"dict\.txt was not made from vocab\.txt"):
        export_checkpoint(str(path), str(path.parent), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", ["{}", None], ids=["foreign config", "no config"])
def test_a_model_of_other_people_is_not_replaced(config, tmp_path):
    path, folder = make("bert", tmp_path), tmp_path / "theirs"
    export_checkpoint(str(path), str(path.parent), str(folder))
    export_checkpoint(str(path), str(path.parent), str(folder), overwrite=True)
    if config is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text(config)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(PMLMError, match=r"--save-dir .*theirs holds a model that is no export"):
            export_checkpoint(str(path), str(path.parent), str(folder), overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
