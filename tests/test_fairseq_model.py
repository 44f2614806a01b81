"""The registered model: fairseq's words for a batch mean the same as the plain model's; copies and files of it."""

import copy
import io

import pytest
import torch
from reference import small_model
from test_decoding import sources
from test_heads import TEXTS, padded, with_heads

from fairseq_pmlm.data import layout, masking
from fairseq_pmlm.data.collate import OBJECTIVES, collate
from fairseq_pmlm.model.batch_layout import causal_slots, seq2seq_slots, text_slots
from fairseq_pmlm.model.heads import SpanHead
from fairseq_pmlm.model.kernels.projection_loss import Losses
from fairseq_pmlm.model.pmlm import HIDDEN, LOGITS, PMLM, Predict

PAD, EOS, MASK, PSEUDO = 1, 2, 34, 35


def pretraining_batch():
    samples = []
    for i, row in enumerate(TEXTS[:3]):
        tokens = torch.tensor(row).numpy()
        mask = masking.draw_mask((tokens != 0) & (tokens != EOS), masking.generator(1, 1, i))
        shown, pseudo = (mask.positions * 0 + symbol for symbol in (MASK, PSEUDO))
        samples.append({"id": i, "slots": layout.pretraining_layout(tokens, 0 * tokens, mask, shown, pseudo)})
    return collate(samples, OBJECTIVES["ae+par"], PAD)


@torch.no_grad()
def test_slots_pass_through():
    model, batch = small_model(True), pretraining_batch()
    net_input = batch["net_input"]
    slots = {name: value for name, value in net_input.items() if name != "select"}
    for predict in (LOGITS, HIDDEN, Predict(target=batch["target"])):
        ours = PMLM.forward(model, slots, predict._replace(select=net_input["select"]))
        theirs = model(**net_input, predict=predict)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
    assert model(**net_input).shape == (len(batch["target"]), 36)
    assert "select" in net_input  # a batch may be used again


@torch.no_grad()
def test_texts_are_read():
    model = with_heads(task=3)
    model.register_head("span_head", SpanHead(16))
    tokens = padded(TEXTS)
    slots = text_slots(tokens, EOS, 2)
    for words, predict in (
        ({"features_only": True}, HIDDEN),
        ({"features_only": True, "classification_head_name": "task"}, Predict(head="classification_heads.task")),
        ({"predict": Predict(head="span_head")}, Predict(head="span_head")),
    ):
        found, nothing = model(src_tokens=tokens, src_lengths=None, **words)
        assert nothing is None
        torch.testing.assert_close(found, PMLM.forward(model, slots, predict), rtol=0, atol=1e-10)
    assert found.shape == (*tokens.shape, 2)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["pseudo", "causal"])
def test_pairs_are_laid_out_and_corrupted_in_training_alone(mode):
    quiet = {"dropout": 0.0, "attention_dropout": 0.0}
    model = small_model(finetune_mode=mode, source_segment=1, target_segment=0, **quiet)
    tokens, lengths = sources([5, 8])
    previous, shown_target, pseudo = (torch.tensor(rows) for rows in (
        [[EOS, 5, 6], [EOS, 7, PAD]], [[EOS, 9, 6], [EOS, 7, PAD]], [[PSEUDO, 9, PSEUDO], [PSEUDO, 4, PAD]],
    ))  # fmt: skip
    shown_source = tokens.clone()
    shown_source[0, 1] = MASK

    def by_hand(source, target, *pseudo):
        if mode == "causal":
            return PMLM.forward(model, causal_slots(source, lengths, target, PAD, (1, 0)))
        return PMLM.forward(model, seq2seq_slots(source, lengths, target, PAD, PSEUDO, (1, 0), *pseudo))

    given = {"src_tokens": tokens, "src_lengths": lengths, "prev_output_tokens": previous}
    corrupted = {"pseudo_tokens": pseudo, "shown_target": shown_target, "shown_source": shown_source}
    logits, nothing = model(**given, **corrupted)
    assert nothing is None
    assert logits.shape == (2, 3, 36)
    assert torch.equal(logits, by_hand(tokens, previous))
    model.train()
    torch.testing.assert_close(model(**given)[0], logits)
    torch.testing.assert_close(model(**given, **corrupted)[0], by_hand(shown_source, shown_target, pseudo))
    select = torch.tensor([0, 1, 2, 3, 4])
    losses = model(**given, predict=Predict(select=select, target=torch.tensor([5, 6, EOS, 7, EOS])))
    assert isinstance(losses, Losses)
    wanted = -logits.log_softmax(2).flatten(0, 1)[select, [5, 6, EOS, 7, EOS]]
    torch.testing.assert_close(losses.nll, wanted)


def test_copies_and_files_of_the_module():
    model, (tokens, lengths) = small_model(True), sources([5, 8])
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    given = {"src_tokens": tokens, "src_lengths": lengths, "prev_output_tokens": torch.tensor([[EOS, 5], [EOS, 6]])}
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert twin.state_dict().keys() == model.state_dict().keys()
        assert twin.output_layer.weight is twin.backbone.embed_tokens.weight
        assert twin.encoder.model is twin
        assert torch.equal(twin(**given)[0], model(**given)[0])
