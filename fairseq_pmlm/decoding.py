"""Seq2seq with the one backbone: layout of pairs, and the views that let fairseq's SequenceGenerator drive it.

A step of incremental decoding feeds the token that was chosen last, whose keys and values are kept, and one [P] at the
place to be predicted, whose keys and values are dropped; the first step feeds only [P]. All of it is the visibility
rule of :mod:`fairseq_pmlm.layout` with the source as context (w = 0) and target token t at step w = +t.
"""

import math
from typing import Optional

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor

from .attention import visibility
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
    """What fairseq's generator calls the encoder: keys and values of the source in every layer of the backbone.

    They are held once for each sentence. ``rows`` says which sentence a row of the search (one beam of it) belongs to;
    reordering the beams of a sentence therefore costs nothing here.
    """

    def __init__(self, model):
        self.model = model

    def forward_torchscript(self, net_input: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """Encode ``src_tokens`` (batch, source) of ``src_lengths`` (batch,).

        Returns:
            ``keys`` and ``values``, each a list with (batch, heads, source, dim / heads) per layer; ``padding``, [bool
            (batch, source)]; ``lengths``, [int64 (batch,)]; ``rows``, [int64 (rows,)], rows of the same sentence side
            by side and equally many for each; at first one.
        """
        tokens = net_input["src_tokens"]
        backbone = self.model.backbone
        padding = tokens.eq(backbone.padding_idx)
        positions = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
        x = backbone.embed(tokens, positions, torch.full_like(tokens, SOURCE_SEGMENT))
        seen = visibility(padding, positions, torch.zeros_like(positions), tokens.size(1), backbone.relative_bias)
        keys, values = [], []
        for i, layer in enumerate(backbone.layers):
            k, v = (part.contiguous() for part in layer.self_attn.keys_values(x))  # every step will multiply them
            keys.append(k)
            values.append(v)
            if i < len(backbone.layers) - 1:  # nobody looks at what the last layer says of the source
                attended = layer.self_attn.attend(layer.self_attn.queries(x), k, v, seen.context)
                x = layer.feed_forward(x, layer.self_attn.out_proj(attended))
        return {
            "keys": keys,
            "values": values,
            "padding": [padding],
            "lengths": [net_input["src_lengths"]],
            "rows": [torch.arange(len(tokens), device=tokens.device)],
        }

    def reorder_encoder_out(self, encoder_out: dict[str, list[Tensor]], new_order: Tensor) -> dict[str, list[Tensor]]:
        """The sentences that rows *new_order*, int64 (new rows,), belong to; those that no row needs any more are gone.

        Rows of a sentence must stay side by side and equally many, as they do in fairseq's search.
        """
        sentences, rows = torch.unique_consecutive(encoder_out["rows"][0][new_order], return_inverse=True)
        if len(sentences) < len(encoder_out["lengths"][0]):
            encoder_out = {
                name: [x.index_select(0, sentences) for x in part]
                for name, part in encoder_out.items()
                if name != "rows"
            }
        return {**encoder_out, "rows": [rows]}


class TargetCache:
    """Keys and values of the target tokens chosen so far, in every layer; written in place.

    Args:
        layers: number of layers.
        rows: beams of all sentences.
        like: a tensor of the dtype and on the device wanted, whose last dimension is the width of the model.
    """

    def __init__(self, layers: int, rows: int, like: Tensor):
        self.known = 0  # tokens that are here to stay
        # time before rows: a step writes one block for all rows
        self.tensor = like.new_empty(2 * layers, 16, rows, like.size(-1))

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put *keys* and *values* (new, rows, dim) behind the known ones; return both with them, (step, rows, dim)."""
        end = self.known + len(keys)
        while end > self.tensor.size(1):  # twice the room, now and then
            self.tensor = torch.cat([self.tensor, torch.empty_like(self.tensor)], dim=1)
        self.tensor[2 * layer, self.known : end] = keys
        self.tensor[2 * layer + 1, self.known : end] = values
        return self.tensor[2 * layer, :end], self.tensor[2 * layer + 1, :end]

    def reorder(self, new_order: Tensor) -> None:
        """Keep rows *new_order*, int64 (new rows,)."""
        if torch.equal(new_order, torch.arange(self.tensor.size(2), device=new_order.device)):
            return  # greedy search, mostly
        kept = self.tensor.new_empty(*self.tensor.shape[:2], len(new_order), self.tensor.size(3))
        kept[:, : self.known] = self.tensor[:, : self.known].index_select(2, new_order)
        self.tensor = kept


class IncrementalDecoder(FairseqIncrementalDecoder):
    """What fairseq's generator calls the decoder. It owns no parameters."""

    def __init__(self, model):
        super().__init__(model.dictionary)
        object.__setattr__(self, "model", model)  # not a submodule: the model owns this view, not the other way round

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, **kwargs):
        """Logits for the token that follows *prev_output_tokens*.

        Args:
            prev_output_tokens: int64 (rows, step), ``</s>`` (or any start symbol, it is not looked at) and the tokens
                chosen so far.
            encoder_out: what :class:`SourceEncoder` returned.
            incremental_state: dictionary that keeps the cache between the steps.

        Returns:
            a tuple: logits (rows, 1, types), and None.
        """
        backbone = self.model.backbone
        rows, step = prev_output_tokens.shape
        state = incremental_state if incremental_state is not None else {}
        if CACHE not in state:
            state[CACHE] = TargetCache(len(backbone.layers), rows, backbone.embed_tokens.weight)
        cache = state[CACHE]
        known = cache.known
        # the tokens that the cache does not know, and [P] at the place to be predicted: (new, rows)
        tokens = prev_output_tokens[:, 1 + known :].t()
        tokens = torch.cat([tokens, tokens.new_full((1, rows), self.model.pseudo_index)])
        order = torch.arange(1, step + 1, device=tokens.device)
        lengths = encoder_out["lengths"][0]
        positions = order[known:, None] - 1 + lengths[encoder_out["rows"][0]]
        x = backbone.embed(tokens, positions, torch.full_like(tokens, TARGET_SEGMENT))
        scores = self.scores_to_add(encoder_out, order, known, x.dtype)
        for i, layer in enumerate(backbone.layers):
            attention = layer.self_attn
            if i < len(backbone.layers) - 1:
                q, k, v = attention.qkv_proj(x).chunk(3, dim=-1)
            else:  # of the last layer, only [P] has an output that anybody looks at
                q, (k, v) = attention.project_queries(x[-1:]), attention.project_keys_values(x)
                x, scores = x[-1:], scores[..., -1:, :]
            keys, values = cache.put(i, k, v)
            attended = attend(
                q, keys, values, encoder_out["keys"][i], encoder_out["values"][i], scores, attention.heads
            )
            x = layer.feed_forward(x, attention.out_proj(attended))
        cache.known = step - 1  # all but [P] stay
        return self.model.output_layer(x[-1][:, None]), None

    def scores_to_add(self, encoder_out, order: Tensor, known: int, dtype) -> Tensor:
        """The visibility rule and the relative position bias for the new slots of one step.

        Args:
            encoder_out: what :class:`SourceEncoder` returned.
            order: int64 (step,), 1 .. step; the last is the place to be predicted.
            known: how many target tokens the cache holds.
            dtype: of the result.

        Returns:
            (sentences, heads or 1, 1, new, source + step), to be added to the scores; -inf where nothing is seen.
        """
        bias = self.model.backbone.relative_bias
        padding, lengths = encoder_out["padding"][0], encoder_out["lengths"][0]
        sentences, source = padding.shape
        steps = torch.cat([order[:-1], -order[-1:]])
        seen = visible(steps[known:], steps).expand(sentences, -1, -1)
        seen = torch.cat([~padding[:, None].expand(-1, seen.size(1), -1), seen], dim=2)
        scores = torch.zeros(seen[:, None].shape, dtype=dtype, device=order.device)
        if bias is not None:
            places = lengths[:, None] + order - 1
            context = torch.arange(source, device=order.device).expand(sentences, -1)
            scores = bias(places[:, known:], torch.cat([context, places], dim=1))
        return scores.masked_fill(~seen[:, None], -math.inf)[:, :, None]

    def reorder_incremental_state_scripting(self, incremental_state, new_order: Tensor) -> None:
        """Keep rows *new_order*, int64 (new rows,), of the cache."""
        if CACHE in incremental_state:
            incremental_state[CACHE].reorder(new_order)

    def max_positions(self):
        """Longest target, in tokens with </s>."""
        return self.model.max_decoder_positions()


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    source_keys: Tensor,
    source_values: Tensor,
    scores: Tensor,
    heads: int,
) -> Tensor:
    """Attention of new target slots over their sentence's source, which all beams share, and their own beam's target.

    Args:
        queries: (new, rows, dim), rows = sentences x beams.
        keys, values: (step, rows, dim), of the target.
        source_keys, source_values: (sentences, heads, source, dim / heads).
        scores: (sentences, heads or 1, 1, new, source + step), to be added to the scores.
        heads: attention heads.

    Returns:
        (new, rows, dim)
    """
    sentences, _, source, width = source_keys.shape
    new, rows, dim = queries.shape
    step, beams = len(keys), rows // sentences
    # No copy of keys and values: their strides fit batched products as they are. What is permuted is small.
    queries = (queries * width**-0.5).view(new, rows * heads, width).transpose(0, 1)
    over_target = queries @ keys.view(step, rows * heads, width).permute(1, 2, 0)
    over_target = over_target.view(sentences, beams, heads, new, step).transpose(1, 2)
    queries = queries.reshape(sentences, beams, heads, new, width).transpose(1, 2)
    over_source = queries.reshape(sentences, heads, beams * new, width) @ source_keys.transpose(2, 3)
    # (sentences, heads, beams, new, source + step)
    weights = torch.cat([over_source.view(sentences, heads, beams, new, source), over_target], dim=4) + scores
    weights = weights.softmax(dim=4, dtype=torch.promote_types(weights.dtype, torch.float32)).to(queries.dtype)
    on_source = weights[..., :source].reshape(sentences, heads, beams * new, source)
    on_target = weights[..., source:].transpose(1, 2).reshape(rows * heads, new, step)
    from_source = (on_source @ source_values).view(sentences, heads, beams, new, width).transpose(1, 2)
    from_target = on_target @ values.view(step, rows * heads, width).transpose(0, 1)
    attended = from_target.view(sentences, beams, heads, new, width) + from_source
    return attended.permute(3, 0, 1, 2, 4).reshape(new, rows, dim)
