"""The model's options: as checkpoints store them, as they must agree, and as fairseq's commands take them."""

import dataclasses
import enum
import pickle

import pytest
import torch
from fairseq import utils

from fairseq_pmlm.model import config
from fairseq_pmlm.model.activations import ACTIVATIONS
from fairseq_pmlm.model.config import PMLMConfig, from_stored
from fairseq_pmlm.tasks.model import FairseqPMLMConfig
from fairseq_pmlm.utils.errors import PMLMError


class Cut(enum.Enum):
    HEAD = "head"


def test_stored_options_are_taken_and_others_have_their_defaults():
    stored = {"encoder_layers": 3, "dropout": 0, "max_source_positions": None, "cut_source": Cut.HEAD, "lr": [0.1]}
    assert from_stored(stored, "x") == PMLMConfig(encoder_layers=3, dropout=0.0, cut_source="head")
    assert from_stored(dataclasses.asdict(PMLMConfig()), "x") == PMLMConfig()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder_layers", "3", r"encoder_layers is '3', which is not of type int$"),
        ("encoder_layers", 3.0, r"encoder_layers is 3\.0, which is not of type int$"),
        ("encoder_layers", True, "encoder_layers is True, which is not of type int$"),
        ("dropout", True, "dropout is True, which is not of type float$"),
        ("dropout", None, "dropout is None, which is not of type float$"),
        ("relative_positions", 1, "relative_positions is 1, which is not of type bool$"),
        ("max_source_positions", "9" * 500, "max_source_positions is '9{99}, which is not of type int or NoneType$"),
        ("activation_fn", "swish", "activation_fn is 'swish', which is not one of relu, gelu, "),
        ("cut_target", None, "cut_target is 'None', which is not one of none, head, tail, middle$"),
        ("finetune_mode", ["causal"], r"finetune_mode is .*, which is not one of pseudo, causal$"),
    ],
)
def test_damaged_options_are_named(name, value, message):
    with pytest.raises(PMLMError, match=f"^checkpoint x: its option {message}"):
        from_stored({name: value}, "checkpoint x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_attention_heads": 5}, "--encoder-embed-dim 768 is not a multiple of --encoder-attention-heads 5"),
        ({"encoder_attention_heads": 0}, "--encoder-attention-heads 0: give 1 or more"),
        ({"target_segment": 2}, "--target-segment 2: with --num-segments 2, give 0 to 1"),
        ({"source_segment": -1}, "--source-segment -1: with --num-segments 2, give 0 to 1"),
        ({"relative_positions": True, "relative_position_bins": 6}, "--relative-position-bins 6 must be a multiple"),
        ({"max_target_positions": 511}, "--max-source-positions 1 and --max-target-positions 511 do not fit"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(PMLMError, match=message):
        config.check(PMLMConfig(**options))


def test_fairseq_s_options_are_ours_with_enums_for_choices():
    ours = {f.name: f for f in dataclasses.fields(PMLMConfig)}
    theirs = {f.name: f for f in dataclasses.fields(FairseqPMLMConfig) if f.name != "_name"}
    assert theirs.keys() == ours.keys()
    for name, option in theirs.items():
        assert (option.default, option.metadata) == (ours[name].default, ours[name].metadata)
        if name in config.CHOICES:
            assert tuple(map(str, option.type)) == config.CHOICES[name]
    assert pickle.loads(pickle.dumps(FairseqPMLMConfig)) is FairseqPMLMConfig  # as spawned trainers get it


def test_activations_are_fairseq_s():
    assert list(ACTIVATIONS) == utils.get_available_activation_fns()
    x = torch.linspace(-6, 6, 1001)
    for name, function in ACTIVATIONS.items():
        assert torch.equal(function(x), utils.get_activation_fn(name)(x)), name
