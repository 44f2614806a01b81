"""Seq2seq with the one backbone: layout of pairs, and the views that let fairseq's SequenceGenerator drive it.

A step of incremental decoding feeds the token that was chosen last, whose keys and values are kept, and one [P] at the
place to be predicted, whose keys and values are dropped; the first step feeds only [P]. All of it is the visibility
rule of :mod:`fairseq_pmlm.data.layout` with the source as context (w = 0) and target token t at step w = +t. Infilling
(:mod:`infilling`) takes the same two functions, :func:`encode` and :func:`extend`, for places in the text.

The beams of a sentence are alternative continuations of the same slots. So the slots of a sentence, its source and the
targets of all its beams, lie side by side in one :class:`Cache` and do not move; a mask says which of them a beam
descends from. Reordering the beams reorders that mask, and attention is one product for all beams of a sentence.
"""

import math
from typing import Optional

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor

from ..data.layout import visible
from .attention import RelativePositionBias, visibility

CACHE = "pmlm"


def seq2seq_slots(
    src_tokens: Tensor,
    src_lengths: Tensor,
    prev_output_tokens: Tensor,
    pad: int,
    pseudo_index: int,
    pseudo_tokens: Optional[Tensor] = None,
) -> dict:
    """Lay out a batch of pairs as :func:`fairseq_pmlm.data.layout.seq2seq_layout` lays out one.

    Args:
        src_tokens: int64 (batch, source), padded on the right.
        src_lengths: int64 (batch,).
        prev_output_tokens: int64 (batch, target), the target shifted right by one.
        pad, pseudo_index: indices of <pad> and <pseudo>.
        pseudo_tokens: int64 (batch, target), what the [P] slots show, or None for [P] everywhere.

    Returns:
        the arguments of :meth:`fairseq_pmlm.model.transformer.Backbone.forward`.
    """
    if pseudo_tokens is None:
        pseudo_tokens = torch.full_like(prev_output_tokens, pseudo_index)
        pseudo_tokens = pseudo_tokens.masked_fill(prev_output_tokens.eq(pad), pad)
    target = prev_output_tokens.size(1)
    order = torch.arange(1, target + 1, device=src_tokens.device)
    appended = torch.cat([pseudo_tokens, prev_output_tokens[:, 1:]], dim=1)
    steps, places = torch.cat([-order, order[:-1]]), torch.cat([order, order[:-1]]) - 1
    return lay_out(src_tokens, src_lengths, appended, steps, places, target, pad)


def causal_slots(src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, pad: int) -> dict:
    """Lay out a batch of pairs without [P]: the slot of each target token predicts the next one, as in a decoder.

    The first of *prev_output_tokens*, </s>, stands where the source's own </s> stands. Arguments and result are those
    of :func:`seq2seq_slots`.
    """
    target = prev_output_tokens.size(1)
    order = torch.arange(1, target + 1, device=src_tokens.device)
    return lay_out(src_tokens, src_lengths, prev_output_tokens, order, order - 2, target, pad)


def lay_out(
    src_tokens: Tensor, src_lengths: Tensor, appended: Tensor, steps: Tensor, places: Tensor, predicting: int, pad: int
) -> dict:
    """Sources as context, and what is appended to each.

    Args:
        src_tokens: int64 (batch, source), padded on the right.
        src_lengths: int64 (batch,).
        appended: int64 (batch, appended), tokens.
        steps: int64 (appended,), signed steps.
        places: int64 (appended,), positions, from the end of the source on.
        predicting: how many leading ones of *appended* predict.
        pad: index of <pad>.

    Returns:
        the arguments of :meth:`transformer.Backbone.forward`; segments are 0 for sources and 1 for targets.
    """
    batch, source = src_tokens.shape
    # A slot of padding would stand beyond the longest text, and must see something: the context.
    padding = appended.eq(pad)
    places = (places + src_lengths[:, None]).masked_fill(padding, 0)
    positions = torch.cat([torch.arange(source, device=places.device).expand(batch, -1), places], dim=1)
    segments = torch.ones_like(positions)
    segments[:, :source] = 0
    return {
        "tokens": torch.cat([src_tokens, appended], dim=1),
        "positions": positions,
        "segments": segments,
        "steps": torch.cat([torch.zeros_like(src_tokens), steps.expand(batch, -1).masked_fill(padding, 0)], dim=1),
        "context_length": source,
        "queries": torch.arange(source, source + predicting, device=places.device).expand(batch, -1),
        "context_queries": 0,
    }


class Cache:
    """Keys and values of a batch of sentences in every layer, written in place: the source, then the target's slots.

    Args:
        padding: bool (sentences, source), True at <pad>.
        lengths: int64 (sentences,), of the sources.

    Attributes:
        keys, values: for each layer (sentences, heads, capacity, dim / heads), of which ``used`` slots are filled.
        seen: bool (sentences, beams, used), the slots that each beam descends from.
        positions: int64 (sentences, used), the places that the slots stand for.
        known: tokens of each target that are here.
    """

    ROOM = 160  # slots, at first, for the targets of a sentence: growing copies the source as well

    def __init__(self, padding: Tensor, lengths: Tensor):
        self.lengths = lengths
        self.source = self.used = padding.size(1)
        self.seen = ~padding[:, None]
        self.positions = torch.arange(self.source, device=padding.device).expand_as(padding)
        self.known = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def add_layer(self, keys: Tensor, values: Tensor) -> None:
        """Hold the source's *keys* and *values* (sentences, heads, source, dim / heads) in one more layer."""
        for held, new in ((self.keys, keys), (self.values, values)):
            held.append(new.new_empty(*new.shape[:2], self.source + self.ROOM, new.size(3)))
            held[-1][:, :, : self.source] = new

    def forget_targets(self) -> None:
        """Start anew with the source alone."""
        self.used, self.known = self.source, 0
        self.seen, self.positions = self.seen[:, :, : self.source], self.positions[:, : self.source]

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write *keys* and *values* (sentences, heads, new, dim / heads) behind the ``used`` slots; return all."""
        end = self.used + keys.size(2)
        self.keys[layer][:, :, self.used : end] = keys
        self.values[layer][:, :, self.used : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def keep(self, tokens: int, positions: Tensor) -> None:
        """Of the slots just written, keep those of the first *tokens* tokens of each beam.

        They lie token by token, and within a token beam by beam; *positions* is int64 (sentences, their number).
        """
        beams = self.seen.size(1)
        own = torch.eye(beams, dtype=torch.bool, device=self.seen.device).repeat(1, tokens)
        self.seen = torch.cat([self.seen, own.expand(len(self.seen), -1, -1)], dim=2)
        self.positions = torch.cat([self.positions, positions], dim=1)
        self.used += tokens * beams
        self.known += tokens

    def make_room(self, new: int) -> None:
        """See to it that *new* more slots fit: drop target slots that no beam descends from; grow where many are left.

        Beams soon share most of their past, so few slots of a long output are alive: about one a token.
        """
        capacity = self.keys[0].size(2)
        if self.used + new <= capacity:
            return
        alive = self.seen[:, :, self.source :].any(1)
        count = int(alive.sum(1).max())
        order = alive.long().argsort(dim=1, descending=True, stable=True)[:, :count] + self.source
        if 4 * (count + new) > 3 * (capacity - self.source):
            capacity = self.source + 2 * (count + new)
        places = order[:, None, :, None]
        for held in (self.keys, self.values):
            for layer, slots in enumerate(held):
                kept = slots.gather(2, places.expand(-1, slots.size(1), -1, slots.size(3)))
                if capacity > slots.size(2):
                    held[layer] = slots.new_empty(*slots.shape[:2], capacity, slots.size(3))
                    held[layer][:, :, : self.source] = slots[:, :, : self.source]
                held[layer][:, :, self.source : self.source + count] = kept
        order = torch.cat([torch.arange(self.source, device=order.device).expand(len(order), -1), order], dim=1)
        self.seen = self.seen.gather(2, order[:, None].expand(-1, self.seen.size(1), -1))
        self.positions = self.positions.gather(1, order)
        self.used = self.source + count

    def reorder(self, new_order: Tensor) -> None:
        """Keep the beams *new_order*, int64 (rows,), rows = sentences x beams, and the sentences that they belong to.

        Rows of a sentence stay side by side and equally many, as they do in fairseq's search.
        """
        sentences, beams, used = self.seen.shape
        kept = torch.unique_consecutive(new_order.div(beams, rounding_mode="floor"))
        self.seen = self.seen.flatten(0, 1)[new_order].view(len(kept), -1, used)
        if len(kept) < sentences:
            self.lengths, self.positions = self.lengths[kept], self.positions[kept]
            for held in (self.keys, self.values):
                for layer, slots in enumerate(held):
                    held[layer] = slots[kept]


def encode(model, tokens: Tensor, segments: Tensor, lengths: Tensor) -> Cache:
    """Keys and values of context in every layer of the model's backbone.

    Args:
        model: the :class:`~fairseq_pmlm.model.pmlm.PMLMModel`.
        tokens, segments: int64 (batch, context), padded on the right.
        lengths: int64 (batch,).
    """
    backbone = model.backbone
    padding = tokens.eq(backbone.padding_idx)
    cache = Cache(padding, lengths)
    x = backbone.embed(tokens, cache.positions, segments)
    steps = torch.zeros_like(tokens)
    seen = visibility(padding, cache.positions, steps, tokens.size(1), backbone.relative_bias, x.dtype)
    for i, layer in enumerate(backbone.layers):
        attention = layer.self_attn
        if i == len(backbone.layers) - 1:  # nobody looks at what the last layer says of the context
            cache.add_layer(*attention.keys_values(x))
            break
        q, k, v = attention.queries_keys_values(x)
        cache.add_layer(k, v)
        x = layer.feed_forward(x, attention.out_proj(attention.attend(q, k, v, seen.context)))
    return cache


def extend(
    model, cache: Cache, tokens: Tensor, segments: Tensor, positions: Tensor, steps: Tensor, kept: int, predicting: int
) -> Tensor:
    """Append slots to each beam; the first *kept* of them stay in *cache*, the last *predicting* are looked at.

    Args:
        model: the :class:`~fairseq_pmlm.model.pmlm.PMLMModel`.
        cache: what the slots follow.
        tokens: int64 (rows, new), rows = sentences x beams.
        segments, positions: int64 (sentences, new), alike for all beams of a sentence.
        steps: int64 (new,), signed steps.
        kept, predicting: how many.

    Returns:
        (rows, predicting, dim), hidden states of the last layer.
    """
    backbone = model.backbone
    sentences, beams, _ = cache.seen.shape
    # (sentences, new x beams), token by token: so the slots that predict, and go again if they are [P], come last
    tokens = tokens.view(sentences, beams, -1).transpose(1, 2).flatten(1)
    segments, positions = (x.repeat_interleave(beams, dim=1) for x in (segments, positions))
    cache.make_room(tokens.size(1))
    x = backbone.embed(tokens, positions, segments)
    mask = appended_mask(cache, backbone.relative_bias, steps, positions)
    for i, layer in enumerate(backbone.layers):
        attention = layer.self_attn
        if i < len(backbone.layers) - 1:
            q, k, v = attention.queries_keys_values(x)
        else:  # of the last layer, only what predicts has an output that anybody looks at
            k, v = attention.keys_values(x)
            x, mask = x[:, -predicting * beams :], mask[:, :, -predicting * beams :]
            q = attention.queries(x)
        x = layer.feed_forward(x, attention.out_proj(attention.attend(q, *cache.put(i, k, v), mask)))
    cache.keep(kept, positions[:, : kept * beams])
    return x.view(sentences, predicting, beams, -1).transpose(1, 2).flatten(0, 1)


def appended_mask(cache: Cache, bias: Optional[RelativePositionBias], steps: Tensor, positions: Tensor) -> Tensor:
    """The visibility rule, and the relative position bias, for new slots.

    Args:
        cache: what is there.
        bias: the relative position bias, if the model has one.
        steps: int64 (new,), signed steps of the new slots of each beam.
        positions: int64 (sentences, new x beams).

    Returns:
        (sentences, heads or 1, new x beams, used + new x beams), to be added to the scores; -inf where nothing is seen.
    """
    sentences, beams, _ = cache.seen.shape
    own = torch.eye(beams, dtype=torch.bool, device=steps.device)
    rule = (visible(steps, steps)[:, None, :, None] & own[:, None]).flatten(2).flatten(0, 1)
    seen = torch.cat([cache.seen.repeat(1, len(steps), 1), rule.expand(sentences, -1, -1)], dim=2)[:, None]
    if bias is None:  # numbers all the same: attention would turn truth values into them in each layer
        scores = torch.zeros(seen.shape, dtype=cache.keys[0].dtype, device=seen.device)
    else:
        scores = bias(positions, torch.cat([cache.positions, positions], dim=1))
    return scores.masked_fill(~seen, -math.inf)


class SourceEncoder:
    """What fairseq's generator calls the encoder: keys and values of the source in every layer of the backbone."""

    def __init__(self, model):
        self.model = model

    def forward_torchscript(self, net_input: dict[str, Tensor]) -> Cache:
        """Encode ``src_tokens`` int64 (batch, source) of ``src_lengths`` int64 (batch,)."""
        tokens = net_input["src_tokens"]
        segments = torch.full_like(tokens, self.model.cfg.source_segment)
        return encode(self.model, tokens, segments, net_input["src_lengths"])

    def reorder_encoder_out(self, encoder_out: Cache, new_order: Tensor) -> Cache:
        """Keep the beams *new_order*, int64 (rows,), in place: of sources and of targets."""
        encoder_out.reorder(new_order)
        return encoder_out


class IncrementalDecoder(FairseqIncrementalDecoder):
    """What fairseq's generator calls the decoder. It owns no parameters."""

    def __init__(self, model):
        super().__init__(model.dictionary)
        object.__setattr__(self, "model", model)  # not a submodule: the model owns this view, not the other way round

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, **kwargs):
        """Logits for the token that follows *prev_output_tokens*.

        Args:
            prev_output_tokens: int64 (rows, step), </s> and the tokens chosen so far; rows = sentences x beams. Only
                the causal mode looks at </s>.
            encoder_out: the :class:`Cache` that :class:`SourceEncoder` returned; the target's slots are put there.
            incremental_state: dictionary that remembers between the steps whose targets are in the cache. With
                another one, or with none, the targets start anew.

        Returns:
            a tuple: logits (rows, 1, types), and None.
        """
        cache = encoder_out
        state = incremental_state if incremental_state is not None else {}
        if state.get(CACHE) is not cache:
            cache.forget_targets()
            state[CACHE] = cache
        rows, step = prev_output_tokens.shape
        if self.model.cfg.finetune_mode == "causal":  # the tokens that the cache does not know; the last predicts
            tokens = prev_output_tokens[:, cache.known :]
            steps = torch.arange(cache.known + 1, step + 1, device=tokens.device)
            places, kept = steps - 2, len(steps)
        else:  # the same, and [P] at the place to be predicted
            tokens = prev_output_tokens[:, 1 + cache.known :]
            tokens = torch.cat([tokens, tokens.new_full((rows, 1), self.model.pseudo_index)], dim=1)
            steps = torch.arange(cache.known + 1, step + 1, device=tokens.device)
            places, kept = steps - 1, len(steps) - 1
            steps[-1] = -step
        positions = cache.lengths[:, None] + places
        segments = torch.full_like(positions, self.model.cfg.target_segment)
        x = extend(self.model, cache, tokens, segments, positions, steps, kept, predicting=1)
        return self.model.output_layer(x), None

    def max_positions(self):
        """Longest target, in tokens with </s>."""
        return self.model.max_decoder_positions()
