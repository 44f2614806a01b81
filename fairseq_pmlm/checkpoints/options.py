"""What config.json and the shapes of the tensors say of a model, as options of ours."""

from typing import Any, Callable

from torch import Tensor

from ..errors import PMLMError

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

    def number(self, key: str, inferred: Callable[[], int] | None = None, least: int = 1) -> int:
        """The whole number *key*, or *inferred* where config.json has none.

        Raises:
            PMLMError: it is something else, or missing and nothing tells it.
        """
        value = self.content.get(key)
        if value is None:
            if inferred is None:
                raise PMLMError(f"{self.where} has no {key}, which {MISSING} it")
            return inferred()
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise PMLMError(f"{self.where}: {key} is {value!r}, not a whole number of {least} or more")
        return value

    def real(self, key: str, default: float, low: float, high: float, assume: bool = True) -> float:
        """The number *key* between *low* and *high*; *default*, noted as assumed, where config.json has none."""
        value = self.content.get(key)
        if value is None:
            if assume:
                self.assumed.append(f"{key} {default}")
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            raise PMLMError(f"{self.where}: {key} is {value!r}, not a number between {low} and {high}")
        return float(value)

    def refuse(self) -> None:
        """Raise PMLMError for an architecture that our model cannot be."""
        kind = self.content.get("position_embedding_type", "absolute")
        if kind != "absolute":
            raise PMLMError(f"{self.where}: position_embedding_type is {kind!r}; the model has 'absolute' ones")
        for key in ("is_decoder", "add_cross_attention"):
            if self.content.get(key):
                raise PMLMError(f"{self.where}: {key} is true; only encoders can be imported")


def model_options(config: Config, tensors: dict[str, Tensor], positions_dropped: int) -> dict[str, Any]:
    """Options of :class:`fairseq_pmlm.model.PMLMConfig` for a checkpoint, except for ``separate_output``.

    Args:
        config: its configuration.
        tensors: its tensors under canonical names.
        positions_dropped: rows at the start of the position table that stand for no position.

    Raises:
        PMLMError: config.json is silent where the tensors are too, contradicts itself, or asks for what we have not.
    """
    config.refuse()
    embeddings, layers = "bert.embeddings.", "bert.encoder.layer."
    words = tensors.get(f"{embeddings}word_embeddings.weight")
    if words is None or words.dim() != 2:
        raise PMLMError("the checkpoint has no word embeddings, a table of vocabulary x width")
    width = config.number("hidden_size", lambda: words.shape[1])
    size = config.number("embedding_size", lambda: width)
    if size != width:
        raise PMLMError(
            f"{config.where}: embedding_size {size} and hidden_size {width} differ; a model whose embedding "
            "is projected cannot be imported"
        )
    relative = tensors.get("bert.rel_pos_bias.weight")
    bins = config.number("rel_pos_bins", lambda: 0 if relative is None else relative.shape[1], least=0)
    if (relative is None) != (bins == 0):
        there = "no bert.rel_pos_bias.weight" if relative is None else "a bert.rel_pos_bias.weight"
        raise PMLMError(f"{config.where}: rel_pos_bins is {bins}, but the checkpoint has {there}")
    heads = config.number("num_attention_heads", None if relative is None else lambda: relative.shape[0])
    if width % heads:
        raise PMLMError(f"{config.where}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    first = tensors.get(f"{layers}0.intermediate.dense.weight")
    positions = config.number(
        "max_position_embeddings", lambda: len(tensors.get(f"{embeddings}position_embeddings.weight", ()))
    )
    indices = {int(name.removeprefix(layers).split(".")[0]) for name in tensors if name.startswith(layers)}
    options: dict[str, Any] = {
        "encoder_layers": config.number("num_hidden_layers", lambda: max(indices, default=-1) + 1),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": config.number("intermediate_size", lambda: 4 * width if first is None else len(first)),
        "encoder_attention_heads": heads,
        "activation_fn": activation(config, tensors),
        "layer_norm_eps": config.real("layer_norm_eps", 1e-12, 0, 1),
        "dropout": config.real("hidden_dropout_prob", 0.1, 0, 1, assume=False),
        "attention_dropout": config.real("attention_probs_dropout_prob", 0.1, 0, 1, assume=False),
        "init_std": config.real("initializer_range", 0.02, 0, 10, assume=False),
        "max_positions": positions - positions_dropped,
        "num_segments": 2,
        "relative_positions": relative is not None,
        "source_segment": config.number("source_type_id", lambda: 0, least=0),
        "target_segment": config.number("target_type_id", lambda: 1, least=0),
    }
    if relative is not None:
        options["relative_position_bins"] = bins
        options["relative_position_max_distance"] = config.number("max_rel_pos")
    types = tensors.get(f"{embeddings}token_type_embeddings.weight", ())
    types = config.number("type_vocab_size", lambda: len(types), least=0)
    options["num_segments"] = max(2, types)
    for name in ("source", "target"):
        if options[f"{name}_segment"] >= max(2, types):
            raise PMLMError(
                f"{config.where}: {name}_type_id {options[f'{name}_segment']} is none of the {types} token types"
            )
    own = config.content.get(OWN, {})
    options |= {key: own[key] for key in OWN_OPTIONS if isinstance(own, dict) and key in own}
    return options


def activation(config: Config, tensors: dict[str, Tensor]) -> str:
    """fairseq's name of the activation; the LM head of RoBERTa and ELECTRA has GELU, whatever config.json says."""
    theirs = config.content.get("hidden_act", "gelu")
    if theirs not in ACTIVATIONS:
        raise PMLMError(f"{config.where}: hidden_act is {theirs!r}; there are {', '.join(ACTIVATIONS)}")
    head = any(name.startswith("cls.predictions.transform.") for name in tensors)
    if theirs != "gelu" and head and config.kind in ("roberta", "xlm-roberta", "electra"):
        raise PMLMError(
            f"{config.where}: hidden_act is {theirs!r}, while the LM head of {config.kind} has 'gelu'; the model has "
            "one activation for both"
        )
    return ACTIVATIONS[theirs]
