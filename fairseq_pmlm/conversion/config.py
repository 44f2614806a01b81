"""What config.json and the shapes of the tensors say of a model, as options of ours."""

import re
from typing import Any, Callable

from torch import Tensor

from ..model.config import CHOICES
from ..utils.errors import PMLMError

# Hugging Face's names of activations -> fairseq's
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_accurate",
    "gelu_fast": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
    "relu": "relu",
    "tanh": "tanh",
}
OWN = "fairseq_pmlm"  # key of an exported config.json: options that Hugging Face has no words for
OWN_OPTIONS = ("finetune_mode", "max_source_positions", "max_target_positions", "cut_source", "cut_target")
FARTHEST = 1_000_000  # tokens; no model tells distances beyond
MISSING = "cannot be read off the tensors; give --config FILE with"


class Config:
    """A config.json, and what the tensors say where it is silent.

    Args:
        content: the JSON object.
        where: what to call it in messages.
        kind: format of the checkpoint.
    """

    def __init__(self, content: dict[str, Any], where: str, kind: str):
        self.content, self.where, self.kind = content, where, kind
        self.assumed: list[str] = []  # what neither config.json nor the tensors say

    def number(self, key: str, inferred: Callable[[], int] | None = None, least: int = 1, most: int = 10**9) -> int:
        """The whole number *key*, or *inferred* where config.json has none.

        Raises:
            PMLMError: it is something else, or missing and nothing tells it.
        """
        value = self.content.get(key)
        if value is None:
            if inferred is None:
                raise PMLMError(f"{self.where} has no {key}, which {MISSING} it")
            return inferred()
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            bounds = f"of {least} or more" if most == 10**9 else f"from {least} to {most}"
            raise PMLMError(f"{self.where}: {key} is {value!r}, not a whole number {bounds}")
        return value

    def real(self, key: str, default: float, high: float, positive: bool = False) -> float:
        """The number *key* from 0 (above it, if *positive*) to below *high*; *default* where config.json has none."""
        value = self.content.get(key)
        if value is None:
            return default
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < high
        if not fits or (positive and value == 0):
            start = "above 0" if positive else "from 0"
            raise PMLMError(f"{self.where}: {key} is {value!r}, not a number {start} to below {high}")
        return float(value)

    def refuse(self) -> None:
        """Raise PMLMError for an architecture that our model cannot be."""
        kind = self.content.get("position_embedding_type", "absolute")
        if kind != "absolute":
            raise PMLMError(f"{self.where}: position_embedding_type is {kind!r}; the model has 'absolute' ones")
        for key in ("is_decoder", "add_cross_attention"):
            if self.content.get(key):
                raise PMLMError(f"{self.where}: {key} is true; only encoders can be imported")


def table_size(tensors: dict[str, Tensor], name: str, axis: int = 0) -> int:
    """Rows (or columns, *axis* 1) of the table of that canonical name; 0 if there is none.

    Raises:
        PMLMError: it is no table.
    """
    if name not in tensors:
        return 0
    if tensors[name].dim() != 2:
        raise PMLMError(
            f"{name!r} is {tuple(tensors[name].shape)} in the checkpoint, and not a table of two dimensions"
        )
    return tensors[name].shape[axis]


def own_options(config: Config) -> dict[str, Any]:
    """What an exported config.json says beside Hugging Face's words.

    Raises:
        PMLMError: it says what the options of the model cannot be.
    """
    own, where = config.content.get(OWN, {}), f"{config.where}: {OWN}"
    if not isinstance(own, dict):
        raise PMLMError(f"{where} is {own!r}, not an object with {', '.join(OWN_OPTIONS)}")
    for name, value in own.items():
        if name not in OWN_OPTIONS:
            raise PMLMError(f"{where} has {name!r}, which is none of {', '.join(OWN_OPTIONS)}")
        choices = CHOICES.get(name)
        if choices is not None:
            if value not in choices:
                raise PMLMError(f"{where}: {name} is {value!r}, none of {', '.join(choices)}")
        elif value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise PMLMError(f"{where}: {name} is {value!r}, neither a whole number of 1 or more nor null")
    return own


def model_options(config: Config, tensors: dict[str, Tensor], positions_dropped: int) -> dict[str, Any]:
    """Options of :class:`fairseq_pmlm.model.pmlm.PMLMConfig` for a checkpoint, except for ``separate_output``.

    Args:
        config: its configuration.
        tensors: its tensors under canonical names.
        positions_dropped: rows at the start of the position table that stand for no position.

    Raises:
        PMLMError: config.json is silent where the tensors are too, contradicts itself, or asks for what we have not.
    """
    config.refuse()
    embeddings, layers = "bert.embeddings.", "bert.encoder.layer."
    found = table_size(tensors, f"{embeddings}word_embeddings.weight", 1)
    if not found:
        raise PMLMError("the checkpoint has no word embeddings, a table of vocabulary x width")
    width = config.number("hidden_size", lambda: found)
    size = config.number("embedding_size", lambda: width)
    if size != width:
        raise PMLMError(
            f"{config.where}: embedding_size {size} and hidden_size {width} differ; a model whose embedding "
            "is projected cannot be imported"
        )
    relative = table_size(tensors, "bert.rel_pos_bias.weight", 1)
    bins = config.number("rel_pos_bins", lambda: relative, least=0)
    if bool(relative) != bool(bins):
        there = "a bert.rel_pos_bias.weight" if relative else "no bert.rel_pos_bias.weight"
        raise PMLMError(f"{config.where}: rel_pos_bins is {bins}, but the checkpoint has {there}")
    heads = config.number(
        "num_attention_heads", None if not relative else lambda: table_size(tensors, "bert.rel_pos_bias.weight")
    )
    if width % heads:
        raise PMLMError(f"{config.where}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    inner = table_size(tensors, f"{layers}0.intermediate.dense.weight") or 4 * width
    positions = config.number(
        "max_position_embeddings", lambda: table_size(tensors, f"{embeddings}position_embeddings.weight")
    )
    if positions <= positions_dropped:
        raise PMLMError(f"{config.where}: max_position_embeddings is {positions}, not more than {positions_dropped}")
    # what is no number of a layer is left over, and named then
    numbers = (re.match(rf"{re.escape(layers)}([0-9]{{1,4}})\.", name) for name in tensors)
    indices = {int(number[1]) for number in numbers if number}
    options: dict[str, Any] = {
        "encoder_layers": config.number("num_hidden_layers", lambda: max(indices, default=-1) + 1),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": config.number("intermediate_size", lambda: inner),
        "encoder_attention_heads": heads,
        "activation_fn": activation(config, tensors),
        "layer_norm_eps": config.real("layer_norm_eps", 1e-12, 0.1, positive=True),
        "dropout": config.real("hidden_dropout_prob", 0.1, 1),
        "attention_dropout": config.real("attention_probs_dropout_prob", 0.1, 1),
        "init_std": config.real("initializer_range", 0.02, 10),
        "max_positions": positions - positions_dropped,
        "num_segments": 2,
        "relative_positions": relative > 0,
        "source_segment": config.number("source_type_id", lambda: 0, least=0),
        "target_segment": config.number("target_type_id", lambda: 1, least=0),
    }
    if config.content.get("layer_norm_eps") is None:
        config.assumed.append(f"layer_norm_eps {options['layer_norm_eps']}")
    if relative:
        options["relative_position_bins"] = bins
        options["relative_position_max_distance"] = config.number("max_rel_pos", most=FARTHEST)
    types = config.number(
        "type_vocab_size", lambda: table_size(tensors, f"{embeddings}token_type_embeddings.weight"), least=0
    )
    options["num_segments"] = max(2, types)
    for name in ("source", "target"):
        if options[f"{name}_segment"] >= max(2, types):
            raise PMLMError(
                f"{config.where}: {name}_type_id {options[f'{name}_segment']} is none of the {types} token types"
            )
    return options | own_options(config)


def activation(config: Config, tensors: dict[str, Tensor]) -> str:
    """fairseq's name of the activation; the LM head of RoBERTa and ELECTRA has GELU, whatever config.json says."""
    theirs = config.content.get("hidden_act", "gelu")
    if not isinstance(theirs, str) or theirs not in ACTIVATIONS:
        raise PMLMError(f"{config.where}: hidden_act is {theirs!r}; there are {', '.join(ACTIVATIONS)}")
    head = any(name.startswith("cls.predictions.transform.") for name in tensors)
    if theirs != "gelu" and head and config.kind in ("roberta", "xlm-roberta", "electra"):
        raise PMLMError(
            f"{config.where}: hidden_act is {theirs!r}, while the LM head of {config.kind} has 'gelu'; the model has "
            "one activation for both"
        )
    return ACTIVATIONS[theirs]
