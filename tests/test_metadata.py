from types import SimpleNamespace

import pytest
import torch
from reference import small_dictionary, small_model

from fairseq_pmlm.checkpoints import metadata
from fairseq_pmlm.tokenizers import files as tokenizer_files
from fairseq_pmlm.utils.errors import PMLMError

CFG = SimpleNamespace(
    encoder_attention_heads=4,
    layer_norm_eps=1e-12,
    activation_fn="gelu",
    relative_positions=False,
    relative_position_max_distance=128,
    separate_output=False,
    source_segment=0,
    target_segment=1,
)


def facts(**changes):
    return metadata.facts(SimpleNamespace(**{**vars(CFG), **changes}), ["a", "b"], None)


def test_facts_survive_the_tensor():
    known = facts()
    assert metadata.from_tensor(metadata.to_tensor(known)) == known
    assert metadata.to_tensor(known).dtype == torch.int64


def test_equal_facts_pass():
    metadata.check(facts(), facts(), "x")
    metadata.check(facts(), facts(relative_position_max_distance=99), "x")  # it plays no part without the bias


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder_attention_heads": 2}, "--encoder-attention-heads 4, this model has 2"),
        ({"layer_norm_eps": 1e-5}, "--layer-norm-eps 1e-12, this model has 1e-05"),
        ({"target_segment": 5}, "--target-segment 1, this model has 5"),
        ({"activation_fn": "relu"}, "--activation-fn gelu, this model has relu"),
        (
            {"relative_positions": True},
            "--relative-positions False, this model has True; leave out --relative-positions",
        ),
    ],
)
def test_a_contradiction_names_both_values(change, named):
    with pytest.raises(PMLMError, match=named):
        metadata.check(facts(), facts(**change), "checkpoint x.pt")


def test_symbols_are_compared_in_order():
    one, two = metadata.facts(CFG, ["a", "b"], None), metadata.facts(CFG, ["b", "a"], None)
    with pytest.raises(PMLMError, match="another dictionary"):
        metadata.check(one, two, "x")
    assert metadata.hash_symbols(["a\nb"]) != metadata.hash_symbols(["a", "b", "c"])


def test_tokenizers_are_compared_by_their_bytes(tmp_path, caplog):
    (tmp_path / "sentencepiece.model").write_bytes(b"one")
    assert tokenizer_files.find(f"{tmp_path}:/elsewhere") == str(tmp_path / "sentencepiece.model")
    assert tokenizer_files.find(str(tmp_path / "none")) is None
    one = metadata.facts(CFG, ["a"], tokenizer_files.fingerprint(str(tmp_path / "sentencepiece.model")))
    (tmp_path / "sentencepiece.model").write_bytes(b"two")
    two = metadata.facts(CFG, ["a"], tokenizer_files.fingerprint(str(tmp_path / "sentencepiece.model")))
    with pytest.raises(PMLMError, match="another tokenizer"):
        metadata.check(one, two, "x")
    metadata.check(one, metadata.facts(CFG, ["a"], None), "x")
    assert "nothing to compare" in caplog.text


def test_damaged_facts_are_refused():
    with pytest.raises(PMLMError, match="damaged"):
        metadata.from_tensor(torch.tensor([300, -1, 5]))


def test_a_foreign_checkpoint_is_named():
    model = small_model()
    with pytest.raises(PMLMError, match=r"does not hold a fairseq_pmlm model.*decoder\.weight"):
        model.load_state_dict({"decoder.weight": torch.zeros(1)})


def test_loading_checks_shapes_and_names():
    state = small_model().state_dict()
    other = small_model(dictionary=small_dictionary(40))
    with pytest.raises(PMLMError, match=r"another architecture.*\(36, 16\) there and \(46, 16\) here"):
        other.load_state_dict({**state, "identity": other.state_dict()["identity"]})
    with pytest.raises(PMLMError, match=r"another architecture.*layers\.2"):
        small_model(layers=2).load_state_dict(dict(state))
    small_model(seed=9).load_state_dict(dict(state))
