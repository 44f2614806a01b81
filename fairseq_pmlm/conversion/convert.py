"""A checkpoint of another format as the parameters of our model; every tensor of it is accounted for."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..tokenizers.symbols import FAIRSEQ_SYMBOLS
from ..utils.errors import PMLMError
from . import names
from .config import Config, model_options, table_size
from .files import describe_keys

EMBEDDINGS = "bert.embeddings."
HEAD = "cls.predictions."
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# [P] starts as a copy of [M], but a source's softmax has no such type: so much lower, it takes nothing from the others
PSEUDO_BIAS = -30.0


@dataclass
class Report:
    """What became of the tensors of a checkpoint."""

    kind: str  # format
    used: list[str] = field(default_factory=list)  # as the file calls them
    ignored: dict[str, str] = field(default_factory=dict)  # name -> reason
    initialised: list[str] = field(default_factory=list)  # what the file lacks
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person to read."""
        lines = [f"format: {self.kind}; {len(self.used)} tensors used, {len(self.ignored)} ignored"]
        reasons = dict.fromkeys(self.ignored.values())
        for reason in reasons:
            lines.append(f"ignored, {reason}: {', '.join(name for name, why in self.ignored.items() if why == reason)}")
        lines += [f"initialised: {what}" for what in self.initialised]
        return lines + self.notes


class Source:
    """The tensors of a checkpoint under canonical names; each is taken once, so that what is left can be named.

    Raises:
        PMLMError: two tensors have the same meaning and are not equal.
    """

    def __init__(self, tensors: dict[str, Tensor], report: Report):
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[str, str] = {}  # canonical -> as the file calls it
        self.report = report
        while tensors:  # emptied as it goes: what is converted and copied need not be held twice
            name = next(iter(tensors))
            self.add(names.canonical(name, report.kind), name, tensors.pop(name))

    def add(self, canonical: str, name: str, tensor: Tensor) -> None:
        """Put *tensor*, called *name* in the file, under its canonical name."""
        if canonical not in self.tensors:
            self.tensors[canonical], self.names[canonical] = tensor, name
        elif torch.equal(tensor, self.tensors[canonical]):
            self.report.used.append(name)
        else:
            raise PMLMError(f"the checkpoint has {name!r} and {self.names[canonical]!r} for the same, and they differ")

    def merge_output_bias(self, tied: bool) -> None:
        """Make one of the two output biases that transformers may store; untied, only the decoder's counts."""
        own, decoder = HEAD + "bias", HEAD + "decoder.bias"
        if decoder not in self.tensors:
            return
        if own in self.tensors and not tied:
            del self.tensors[own]
            self.report.ignored[self.names.pop(own)] = f"{self.names[decoder]} is what transformers adds"
        self.add(own, self.names.pop(decoder), self.tensors.pop(decoder))

    def take(self, canonical: str, *shape: int) -> Tensor:
        """The tensor of that name, once.

        Raises:
            PMLMError: it is missing, of another shape, or holds other things than finite numbers.
        """
        if canonical not in self.tensors:
            hint = describe_keys(self.names.values())
            raise PMLMError(f"the checkpoint has no {canonical!r} {shape}; of what it has, not used yet: {hint}")
        name, tensor = self.names.pop(canonical), self.tensors.pop(canonical)
        if tuple(tensor.shape) != shape:
            raise PMLMError(f"{name!r} is {tuple(tensor.shape)} in the checkpoint, and config.json asks for {shape}")
        if tensor.dtype not in DTYPES:
            raise PMLMError(f"{name!r} holds {tensor.dtype}, not floating point numbers of 16, 32 or 64 bits")
        if not tensor.isfinite().all():
            raise PMLMError(f"{name!r} holds NaN or infinite values; the checkpoint is of no use")
        self.report.used.append(name)
        return tensor

    def has(self, start: str) -> bool:
        """Whether there is a tensor whose canonical name begins with *start*."""
        return any(name.startswith(start) for name in self.tensors)

    def ignore_rest(self) -> None:
        """Say why each tensor that nobody took has no place in the model.

        Raises:
            PMLMError: there is no reason.
        """
        unknown = []
        for canonical, name in self.names.items():
            reason = names.reason_to_ignore(canonical)
            if reason is None:
                unknown.append(name)
            else:
                self.report.ignored[name] = reason
        if unknown:
            raise PMLMError(
                f"the checkpoint holds what no such encoder has, and dropping would change: {describe_keys(unknown)}"
            )


def convert(
    tensors: dict[str, Tensor], content: dict[str, Any], where: str, kind: str, rows: list[int], size: int
) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """Convert a checkpoint.

    Args:
        tensors: as the file names them; emptied.
        content: its config.json.
        where: what to call config.json in messages.
        kind: its format, one of :data:`names.FORMATS`.
        rows: for each symbol of the dictionary, the row of its embedding.
        size: of the vocabulary.

    Returns:
        options of the model, its parameters (the tensors of the file where nothing had to be changed, in the dtype of
        the file), and what became of the tensors.

    Raises:
        PMLMError: a tensor is missing, left over, or contradicts config.json; the vocabulary has another size.
    """
    report = Report(kind)
    config = Config(content, where, kind)
    source = Source(tensors, report)
    tied = content.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise PMLMError(f"{where}: tie_word_embeddings is {tied!r}, neither true nor false")
    source.merge_output_bias(tied)
    dropped = config.number("pad_token_id", lambda: 1, least=0) + 1 if kind in ("roberta", "xlm-roberta") else 0
    options = model_options(config, source.tensors, dropped)
    width = options["encoder_embed_dim"]
    types = config.number("vocab_size", lambda: len(source.tensors[EMBEDDINGS + "word_embeddings.weight"]))
    if size != types:
        raise PMLMError(
            f"the vocabulary has {size} pieces, the checkpoint {types}; give the --vocab that belongs to it"
        )
    check_padding(config, rows[FAIRSEQ_SYMBOLS.index("<pad>")], dropped > 0, report)
    if config.assumed:
        report.notes.append(f"{where} is silent, so assumed: {', '.join(config.assumed)}")

    table = source.take(EMBEDDINGS + "word_embeddings.weight", types, width)
    separate = source.tensors.get(HEAD + "decoder.weight")
    options["separate_output"] = separate is not None and not torch.equal(separate, table)
    if separate is not None:
        separate = source.take(HEAD + "decoder.weight", types, width)
    if tied and options["separate_output"]:
        report.notes.append(f"the output layer has a weight of its own, though {where} does not say so: both are kept")
    if not tied and separate is None:
        report.notes.append(
            f"{where}: tie_word_embeddings is false, but the checkpoint has no output weight; the word embeddings serve"
        )
    state = {"backbone.embed_tokens.weight": table[rows]}
    del table
    positions, segments = position_and_segments(source, config, options, dropped)
    state["backbone.embed_positions.weight"], state["backbone.embed_segments.weight"] = positions, segments
    put_pair(state, "backbone.layernorm_embedding", source, EMBEDDINGS + "LayerNorm", width)
    for i in range(options["encoder_layers"]):
        put_layer(state, i, source, options)
    if options["relative_positions"]:
        shape = options["encoder_attention_heads"], options["relative_position_bins"]
        state["backbone.relative_bias.weight"] = source.take("bert.rel_pos_bias.weight", *shape).t().contiguous()
    put_head(state, source, options, rows, types)
    if rows[-1] == rows[-2]:
        state["output_layer.bias"][-1] += PSEUDO_BIAS
        report.notes.append("[P] starts as a copy of [MASK]; its output bias is 30 lower, for it is never predicted")
    # tied, it is the same tensor: saved once, under both names
    state["output_layer.weight"] = state["backbone.embed_tokens.weight"]
    if separate is not None and options["separate_output"]:
        state["output_layer.weight"] = separate[rows]
    source.ignore_rest()
    return options, state, report


def check_padding(config: Config, row: int, counted: bool, report: Report) -> None:
    """Compare pad_token_id with the *row* of the vocabulary's padding; positions may be *counted* from it."""
    given = config.number("pad_token_id", lambda: 1 if counted else row, least=0)
    if given == row:
        return
    said = f"{config.where}: pad_token_id is {given}, but the vocabulary's padding is piece {row}"
    if counted:
        raise PMLMError(f"{said}; positions are counted from it: give the --vocab that belongs to the checkpoint")
    report.notes.append(f"{said}, which counts")


def position_and_segments(
    source: Source, config: Config, options: dict[str, Any], dropped: int
) -> tuple[Tensor, Tensor]:
    """Position table and segment table.

    Where a model has one token type, every token has it: its row is added to each row of the position table, and the
    segments, which our model needs, are zero. Dropping it would be exact only where it is zero.
    """
    width, report = options["encoder_embed_dim"], source.report
    count = options["max_positions"]
    positions = source.take(EMBEDDINGS + "position_embeddings.weight", count + dropped, width)[dropped:]
    name = EMBEDDINGS + "token_type_embeddings.weight"
    types = config.number("type_vocab_size", lambda: table_size(source.tensors, name), least=0)
    if types > 1:
        return positions.clone(), source.take(name, types, width)
    if types == 1:
        positions = positions + source.take(name, 1, width)
        report.notes.append("the one token type is part of the position table now; segments are zero")
    else:
        report.initialised.append("segments, with zeros: the checkpoint has no token types")
    if dropped:
        report.notes.append(f"the first {dropped} rows of the position table stand for no position, and are left out")
    return positions.clone(), positions.new_zeros(options["num_segments"], width)


def put_pair(state: dict[str, Tensor], ours: str, source: Source, theirs: str, *shape: int) -> None:
    """Weight, of that *shape*, and bias of a Linear or LayerNorm."""
    state[f"{ours}.weight"] = source.take(f"{theirs}.weight", *shape)
    state[f"{ours}.bias"] = source.take(f"{theirs}.bias", shape[0])


def put_layer(state: dict[str, Tensor], i: int, source: Source, options: dict[str, Any]) -> None:
    """Layer number *i*."""
    width, inner = options["encoder_embed_dim"], options["encoder_ffn_embed_dim"]
    ours, theirs = f"backbone.layers.{i}.", f"bert.encoder.layer.{i}."
    attention = theirs + "attention.self."
    if source.has(attention + "qkv_linear."):
        weight = source.take(attention + "qkv_linear.weight", 3 * width, width)
        # the authors leave out the bias of the keys: the softmax does not see it
        query, value = (flat_bias(source, f"{attention}{part}_bias", width) for part in "qv")
        bias = torch.cat([query, torch.zeros_like(query), value])
    else:
        parts = ("query", "key", "value")
        weight = torch.cat([source.take(f"{attention}{part}.weight", width, width) for part in parts])
        bias = torch.cat([source.take(f"{attention}{part}.bias", width) for part in parts])
    state[f"{ours}self_attn.qkv_proj.weight"], state[f"{ours}self_attn.qkv_proj.bias"] = weight, bias
    put_pair(state, f"{ours}self_attn.out_proj", source, f"{theirs}attention.output.dense", width, width)
    put_pair(state, f"{ours}self_attn_layer_norm", source, f"{theirs}attention.output.LayerNorm", width)
    put_pair(state, f"{ours}fc1", source, f"{theirs}intermediate.dense", inner, width)
    put_pair(state, f"{ours}fc2", source, f"{theirs}output.dense", width, inner)
    put_pair(state, f"{ours}final_layer_norm", source, f"{theirs}output.LayerNorm", width)


def flat_bias(source: Source, name: str, width: int) -> Tensor:
    """A bias of any shape, such as (1, heads, 1, width / heads)."""
    if name in source.tensors and source.tensors[name].numel() == width:
        source.tensors[name] = source.tensors[name].reshape(width)
    return source.take(name, width)


def put_head(state: dict[str, Tensor], source: Source, options: dict[str, Any], rows: list[int], types: int) -> None:
    """The LM head, initialised as BERT's is where the file has none; half of one is an error."""
    width = options["encoder_embed_dim"]
    if source.has(HEAD):
        put_pair(state, "output_layer.dense", source, HEAD + "transform.dense", width, width)
        put_pair(state, "output_layer.layer_norm", source, HEAD + "transform.LayerNorm", width)
        state["output_layer.bias"] = source.take(HEAD + "bias", types)[rows]
        return
    generator = torch.Generator().manual_seed(1)
    std = options["init_std"]
    state["output_layer.dense.weight"] = torch.randn(width, width, generator=generator) * std
    state["output_layer.dense.bias"] = torch.zeros(width)
    state["output_layer.layer_norm.weight"] = torch.ones(width)
    state["output_layer.layer_norm.bias"] = torch.zeros(width)
    state["output_layer.bias"] = torch.zeros(len(rows))
    source.report.initialised.append(
        f"the LM head, which the checkpoint lacks: dense N(0, {std}), LayerNorm 1 and 0, biases 0"
    )
