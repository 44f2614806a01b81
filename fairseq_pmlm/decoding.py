"""Seq2seq with the one backbone: layout of pairs, and the views that let fairseq's SequenceGenerator drive it.

A step of incremental decoding feeds the token that was chosen last, whose keys and values are kept, and one [P] at the
place to be predicted, whose keys and values are dropped; the first step feeds only [P]. All of it is the visibility
rule of :mod:`fairseq_pmlm.layout` with the source as context (w = 0) and target token t at step w = +t.
"""

from typing import Optional

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor

from .layout import visible

SOURCE_SEGMENT = 0
TARGET_SEGMENT = 1
CACHE = "pmlm"


def seq2seq_slots(
    src_tokens: Tensor,
    src_lengths: Tensor,
    prev_output_tokens: Tensor,
    pad: int,
    pseudo_index: int,
    pseudo_tokens: Optional[Tensor] = None,
) -> dict:
    """Lay out a batch of pairs as :func:`fairseq_pmlm.layout.seq2seq_layout` lays out one.

    Args:
        src_tokens: int64 (batch, source), padded on the right.
        src_lengths: int64 (batch,).
        prev_output_tokens: int64 (batch, target), the target shifted right by one.
        pad, pseudo_index: indices of <pad> and <pseudo>.
        pseudo_tokens: int64 (batch, target), what the [P] slots show, or None for [P] everywhere.

    Returns:
        the arguments of :meth:`fairseq_pmlm.model.Backbone.forward`.
    """
    batch, source = src_tokens.shape
    target = prev_output_tokens.size(1)
    if pseudo_tokens is None:
        pseudo_tokens = torch.full_like(prev_output_tokens, pseudo_index)
        pseudo_tokens = pseudo_tokens.masked_fill(prev_output_tokens.eq(pad), pad)
    tokens = torch.cat([src_tokens, pseudo_tokens, prev_output_tokens[:, 1:]], dim=1)
    order = torch.arange(1, target + 1, device=src_tokens.device)
    steps = torch.cat([order.new_zeros(source), -order, order[:-1]]).expand(batch, -1)
    places = torch.cat([order, order[:-1]]) - 1 + src_lengths[:, None]
    # A slot of padding would stand beyond the longest text, and must see something: the context.
    appended_padding = tokens[:, source:].eq(pad)
    places = places.masked_fill(appended_padding, 0)
    positions = torch.cat([torch.arange(source, device=places.device).expand(batch, -1), places], dim=1)
    segments = torch.full_like(positions, TARGET_SEGMENT)
    segments[:, :source] = SOURCE_SEGMENT
    steps = torch.cat([steps[:, :source], steps[:, source:].masked_fill(appended_padding, 0)], dim=1)
    return {
        "tokens": tokens,
        "positions": positions,
        "segments": segments,
        "steps": steps,
        "context_length": source,
        "queries": (source + order - 1).expand(batch, -1),
        "context_queries": 0,
    }


class SourceEncoder:
    """What fairseq's generator calls the encoder: keys and values of the source in every layer of the backbone."""

    def __init__(self, model):
        self.model = model

    def forward_torchscript(self, net_input: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """Encode ``src_tokens`` (batch, source) of ``src_lengths`` (batch,).

        Returns:
            ``keys`` and ``values``, each a list with (batch, heads, source, dim / heads) per layer; ``padding``, [bool
            (batch, source)]; ``lengths``, [int64 (batch,)].
        """
        tokens = net_input["src_tokens"]
        backbone = self.model.backbone
        padding = tokens.eq(backbone.padding_idx)
        positions = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
        segments = torch.full_like(tokens, SOURCE_SEGMENT)
        keys, values, _ = run(
            backbone,
            backbone.embed(tokens, positions, segments),
            attention_scores_mask(backbone, positions, torch.zeros_like(positions), padding, 0),
            keep_output=False,
        )
        return {"keys": keys, "values": values, "padding": [padding], "lengths": [net_input["src_lengths"]]}

    def reorder_encoder_out(self, encoder_out: dict[str, list[Tensor]], new_order: Tensor) -> dict[str, list[Tensor]]:
        """Rows *new_order*, int64 (new batch,), of everything."""
        return {name: [x.index_select(0, new_order) for x in tensors] for name, tensors in encoder_out.items()}


class IncrementalDecoder(FairseqIncrementalDecoder):
    """What fairseq's generator calls the decoder. It owns no parameters."""

    def __init__(self, model):
        super().__init__(model.dictionary)
        object.__setattr__(self, "model", model)  # not a submodule: the model owns this view, not the other way round

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, **kwargs):
        """Logits for the token that follows *prev_output_tokens*.

        Args:
            prev_output_tokens: int64 (batch, step), ``</s>`` (or any start symbol, it is not looked at) and the tokens
                chosen so far.
            encoder_out: what :class:`SourceEncoder` returned.
            incremental_state: dictionary that keeps the cache between the steps.

        Returns:
            a tuple: logits (batch, 1, types), and None.
        """
        backbone = self.model.backbone
        padding, lengths = encoder_out["padding"][0], encoder_out["lengths"][0]
        batch, source = padding.shape
        cache = incremental_state.setdefault(CACHE, {}) if incremental_state is not None else {}
        known = cache["keys.0"].size(2) if cache else 0
        step = prev_output_tokens.size(1)
        fresh = prev_output_tokens[:, 1 + known :]
        tokens = torch.cat([fresh, fresh.new_full((batch, 1), self.model.pseudo_index)], dim=1)
        order = torch.arange(1, step + 1, device=tokens.device)
        steps = torch.cat([order[:-1], -order[-1:]])  # all target slots, cached ones included
        positions = lengths[:, None] + torch.cat([order[:-1], order[-1:]]) - 1
        key_steps = torch.cat([order.new_zeros(source), steps]).expand(batch, -1)
        key_positions = torch.cat([torch.arange(source, device=tokens.device).expand(batch, -1), positions], dim=1)
        key_padding = torch.cat([padding, padding.new_zeros(batch, step)], dim=1)
        new = tokens.size(1)
        mask = attention_scores_mask(backbone, key_positions, key_steps, key_padding, source + step - new)
        segments = torch.full_like(tokens, TARGET_SEGMENT)
        past = [
            (
                torch.cat([k, cache[f"keys.{i}"]], dim=2) if known else k,
                torch.cat([v, cache[f"values.{i}"]], dim=2) if known else v,
            )
            for i, (k, v) in enumerate(zip(encoder_out["keys"], encoder_out["values"], strict=True))
        ]
        keys, values, x = run(backbone, backbone.embed(tokens, positions[:, step - new :], segments), mask, past=past)
        if new > 1:  # all but [P] stay
            for i, (k, v) in enumerate(zip(keys, values, strict=True)):
                kept_k, kept_v = k[:, :, : new - 1], v[:, :, : new - 1]
                cache[f"keys.{i}"] = torch.cat([cache[f"keys.{i}"], kept_k], dim=2) if known else kept_k
                cache[f"values.{i}"] = torch.cat([cache[f"values.{i}"], kept_v], dim=2) if known else kept_v
        return self.model.output_layer(x[:, -1:]), None

    def reorder_incremental_state_scripting(self, incremental_state, new_order: Tensor) -> None:
        """Rows *new_order*, int64 (new batch,), of the cache."""
        cache = incremental_state.get(CACHE, {})
        for name, tensor in cache.items():
            cache[name] = tensor.index_select(0, new_order)

    def max_positions(self):
        """Longest target, in tokens with </s>."""
        return self.model.max_decoder_positions()


def attention_scores_mask(backbone, positions: Tensor, steps: Tensor, padding: Tensor, first_query: int) -> Tensor:
    """The visibility rule for the slots from *first_query* on, as a mask for ``scaled_dot_product_attention``.

    Args:
        positions, steps: int64 (batch, keys).
        padding: bool (batch, keys).
        first_query: the slots from here on are queries too.

    Returns:
        (batch, heads or 1, keys - first_query, keys), boolean, or scores where the model has a relative position bias.
    """
    seen = (visible(steps[:, first_query:], steps) & ~padding[:, None, :])[:, None]
    if backbone.relative_bias is None:
        return seen
    return backbone.relative_bias(positions[:, first_query:], positions).masked_fill(~seen, float("-inf"))


def run(backbone, x: Tensor, mask: Tensor, past=None, keep_output: bool = True):
    """Run the layers over new slots with keys and values of past ones.

    Args:
        x: (batch, new, dim), embedded slots.
        mask: (batch, heads or 1, new, past + new).
        past: per layer (keys, values), each (batch, heads, past, dim / heads); None where there are none.
        keep_output: compute the last layer's output; else only its keys and values.

    Returns:
        new keys and values, each a list with (batch, heads, new, dim / heads) per layer; the output (batch, new, dim),
        or None.
    """
    keys, values = [], []
    for i, layer in enumerate(backbone.layers):
        attention = layer.self_attn
        k, v = attention.keys_values(x)
        keys.append(k)
        values.append(v)
        if not keep_output and i == len(backbone.layers) - 1:
            return keys, values, None
        if past is not None:
            k, v = torch.cat([past[i][0], k], dim=2), torch.cat([past[i][1], v], dim=2)
        x = layer.feed_forward(x, attention.out_proj(attention.attend(attention.queries(x), k, v, mask)))
    return keys, values, x
