"""The model's options, what they must agree on, and the named architectures."""

from dataclasses import dataclass, field, fields
from typing import Any, Optional, get_args, get_type_hints

from ..utils.errors import PMLMError
from .activations import ACTIVATIONS

CUTS = ("none", "head", "tail", "middle")
FINETUNE_MODES = ("pseudo", "causal")


@dataclass
class PMLMConfig:
    """Options of the model; a checkpoint stores them, and generation reads them from there.

    fairseq's commands take them as options; their help texts are here.
    """

    encoder_layers: int = field(default=12, metadata={"help": "number of Transformer layers"})
    encoder_embed_dim: int = field(default=768, metadata={"help": "width of the model"})
    encoder_ffn_embed_dim: int = field(default=3072, metadata={"help": "width of the feed-forward layers"})
    encoder_attention_heads: int = field(default=12, metadata={"help": "attention heads; they divide the width"})
    activation_fn: str = field(default="gelu", metadata={"help": "activation of the feed-forward layers"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and on each sublayer's output"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout on attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout after the feed-forward activation"})
    pooler_dropout: float = field(default=0.0, metadata={"help": "dropout in classification heads"})
    init_std: float = field(
        default=0.02,
        metadata={"help": "standard deviation of the initial weights; narrow models learn sooner with more"},
    )
    layer_norm_eps: float = field(default=1e-12, metadata={"help": "epsilon of every LayerNorm"})
    max_positions: int = field(
        default=512,
        metadata={"help": "rows of the position table, in tokens: the longest text, or source plus target"},
    )
    num_segments: int = field(default=2, metadata={"help": "rows of the segment table"})
    relative_positions: bool = field(
        default=False, metadata={"help": "add a relative position bias to the attention scores, shared by all layers"}
    )
    relative_position_bins: int = field(default=32, metadata={"help": "buckets of the relative position bias"})
    relative_position_max_distance: int = field(
        default=128, metadata={"help": "distance, in tokens, from which on all share the last bucket"}
    )
    relative_position_slope: float = field(
        default=0.0,
        metadata={
            "help": "start with half of the heads looking nearby, which learns much sooner on a small budget: a bias "
            "of minus this per token of distance in the first head, a quarter of it in each next; 0: N(0, 0.02) for all"
        },
    )
    separate_output: bool = field(
        default=False,
        metadata={"help": "give the softmax layer a weight of its own instead of the token embedding's"},
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={
            "help": "keep only the input of each layer for the backward pass, and compute the rest again: less memory"
        },
    )
    offload_activations: bool = field(
        default=False,
        metadata={"help": "keep the inputs of layers in the host's memory; implies --checkpoint-activations"},
    )
    compile: bool = field(
        default=False,
        metadata={"help": "training: compile the layers with torch.compile, once for all shapes of batches"},
    )
    arch_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint to take the architecture from, with --arch pmlm; whatever else is given must agree "
            "with it, except that --max-positions may be more"
        },
    )
    # What decoding must repeat belongs to the model: fairseq-generate reads model options from the checkpoint, but task
    # options from the command line.
    source_segment: int = field(default=0, metadata={"help": "seq2seq: segment of the source"})
    target_segment: int = field(default=1, metadata={"help": "seq2seq: segment of the target"})
    max_source_positions: Optional[int] = field(
        default=None,
        metadata={"help": "seq2seq: longest source in tokens, with <s> and </s> (default: what the target leaves)"},
    )
    max_target_positions: Optional[int] = field(
        default=None,
        metadata={"help": "seq2seq: longest target in tokens, with </s> (default: a quarter of the table)"},
    )
    finetune_mode: str = field(
        default="pseudo",
        metadata={
            "help": "seq2seq: what predicts a target token. pseudo: a [P] in its place; causal: the slot of the token "
            "before it, as in a decoder, for comparison"
        },
    )
    cut_source: str = field(
        default="none",
        metadata={"help": "seq2seq: which part of a source beyond --max-source-positions to keep; none: refuse it"},
    )
    cut_target: str = field(
        default="none",
        metadata={"help": "seq2seq: which part of a target beyond --max-target-positions to keep; none: refuse it"},
    )


CHOICES = {
    "activation_fn": tuple(ACTIVATIONS),
    "finetune_mode": FINETUNE_MODES,
    "cut_source": CUTS,
    "cut_target": CUTS,
}


def from_stored(options: dict[str, Any], where: str) -> PMLMConfig:
    """The options that a checkpoint stores, as a config. Those that it lacks have their defaults; others are ignored.

    Args:
        options: as stored.
        where: what to call the checkpoint in an error.

    Raises:
        PMLMError: a value has the wrong type, or is not one of its choices.
    """
    types = get_type_hints(PMLMConfig)
    found = {}
    for name in (f.name for f in fields(PMLMConfig)):
        if name not in options:
            continue
        value, choices = options[name], CHOICES.get(name)
        if choices:
            value = str(getattr(value, "value", value))  # fairseq's choices are enums
            if value not in choices:
                raise PMLMError(f"{where}: its option {name} is {value!r}, which is not one of {', '.join(choices)}")
        elif not is_of_type(value, types[name]):
            raise PMLMError(f"{where}: its option {name} is {value!r:.100}, which is not of type {_name(types[name])}")
        found[name] = value
    return PMLMConfig(**found)


def is_of_type(value: Any, kind: Any) -> bool:
    """Whether *value* is of an option's type. An int is taken for a float, but a bool for neither."""
    return type(value) in _kinds(kind) or (type(value) is int and float in _kinds(kind))


def _kinds(kind: Any) -> tuple[type, ...]:
    """``Optional[int]`` -> int and NoneType; ``int`` -> int"""
    return get_args(kind) or (kind,)


def _name(kind: Any) -> str:
    return " or ".join(one.__name__ for one in _kinds(kind))


def check(cfg: PMLMConfig) -> None:
    """Refuse options that contradict each other.

    Raises:
        PMLMError: naming them.
    """
    if cfg.encoder_attention_heads < 1:
        raise PMLMError(f"--encoder-attention-heads {cfg.encoder_attention_heads}: give 1 or more")
    if cfg.encoder_embed_dim % cfg.encoder_attention_heads:
        raise PMLMError(
            f"--encoder-embed-dim {cfg.encoder_embed_dim} is not a multiple of "
            f"--encoder-attention-heads {cfg.encoder_attention_heads}"
        )
    bins, distance = cfg.relative_position_bins, cfg.relative_position_max_distance
    if cfg.relative_positions and (bins < 4 or bins % 4 or distance <= bins // 4):
        raise PMLMError(
            f"--relative-position-bins {bins} must be a multiple of 4, and "
            f"--relative-position-max-distance {distance} more than a quarter of it"
        )
    for name, segment in (("source", cfg.source_segment), ("target", cfg.target_segment)):
        if not 0 <= segment < cfg.num_segments:
            raise PMLMError(
                f"--{name}-segment {segment}: with --num-segments {cfg.num_segments}, give 0 to {cfg.num_segments - 1}"
            )
    source, target = seq2seq_limits(cfg)
    if source + target > cfg.max_positions or min(source, target) < 3:
        raise PMLMError(
            f"--max-source-positions {source} and --max-target-positions {target} do not fit the "
            f"--max-positions {cfg.max_positions} rows of the position table; each needs at least 3"
        )


def seq2seq_limits(cfg: PMLMConfig) -> tuple[int, int]:
    """Longest source and longest target, in tokens with their special symbols."""
    target = cfg.max_target_positions or cfg.max_positions // 4
    return cfg.max_source_positions or cfg.max_positions - target, target


# name: layers, width, heads; the feed-forward width is four times the width
ARCHITECTURES = {
    "pmlm_tiny": (2, 128, 2),
    "pmlm_mini": (4, 256, 4),
    "pmlm_small": (6, 384, 12),
    "pmlm_base": (12, 768, 12),
    "pmlm_large": (24, 1024, 16),
}
