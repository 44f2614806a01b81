"""Decoding with a cache: a source is encoded once, and each step computes the slots that it adds.

A step feeds the token that was chosen last, whose keys and values are kept, and one [P] at the place to be predicted,
whose keys and values are dropped; the first step feeds only [P]. All of it is the visibility rule of
:mod:`fairseq_pmlm.data.layout` with the source as context (w = 0) and target token t at step w = +t. Infilling
(:mod:`fairseq_pmlm.generation.infilling`) uses the same two functions, :func:`encode` and :func:`extend`, for places
in the middle of a text.
"""

import torch
from torch import Tensor

from .cache import Cache
from .pmlm import PMLM


def encode(model: PMLM, tokens: Tensor, segments: Tensor, lengths: Tensor) -> Cache:
    """Keys and values of context in every layer of the model's backbone.

    Args:
        model: in evaluation mode.
        tokens, segments: int64 (batch, context), padded on the right.
        lengths: int64 (batch,).
    """
    cache = Cache(tokens.eq(model.backbone.padding_idx), lengths)
    steps = torch.zeros_like(tokens)
    # no queries: of the last layer, only keys and values are used
    model.backbone(tokens, cache.positions, segments, steps, tokens.size(1), queries=slice(0, 0), cache=cache)
    return cache


def extend(
    model: PMLM,
    cache: Cache,
    tokens: Tensor,
    segments: Tensor,
    positions: Tensor,
    steps: Tensor,
    kept: int,
    predicting: int,
) -> Tensor:
    """Append slots to each beam; the first *kept* of them stay in *cache*, the last *predicting* predict.

    Args:
        model: in evaluation mode.
        cache: what the slots follow.
        tokens: int64 (rows, new), rows = sentences x beams.
        segments, positions: int64 (sentences, new), the same for all beams of a sentence.
        steps: int64 (new,), signed steps.
        kept, predicting: how many.

    Returns:
        (rows, predicting, dim), hidden states of the last layer.
    """
    sentences, beams, _ = cache.seen.shape
    # (sentences, new x beams), token by token: so the slots that predict, [P] which are not kept, come last
    tokens = tokens.view(sentences, beams, -1).transpose(1, 2).flatten(1)
    segments, positions = (x.repeat_interleave(beams, dim=1) for x in (segments, positions))
    cache.make_room(tokens.size(1))
    last = slice(tokens.size(1) - predicting * beams, None)
    x = model.backbone(tokens, positions, segments, steps, 0, queries=last, cache=cache)
    cache.keep(kept, positions[:, : kept * beams])
    return x.view(sentences, predicting, beams, -1).transpose(1, 2).flatten(0, 1)


def encode_source(model: PMLM, src_tokens: Tensor, src_lengths: Tensor) -> Cache:
    """Encode sources, int64 (sentences, source), padded on the right, of *src_lengths*, int64 (sentences,)."""
    return encode(model, src_tokens, torch.full_like(src_tokens, model.cfg.source_segment), src_lengths)


def next_logits(model: PMLM, cache: Cache, prev_output_tokens: Tensor) -> Tensor:
    """Logits (rows, 1, vocab_size) for the token that follows each row; rows = sentences x beams.

    Args:
        model: in evaluation mode.
        cache: what :func:`encode_source` returned, with the targets up to an earlier step. The tokens that it lacks are
            added to it.
        prev_output_tokens: int64 (rows, step), </s> and the tokens chosen so far. Only the causal mode reads </s>.
    """
    rows, step = prev_output_tokens.shape
    if model.cfg.finetune_mode == "causal":  # the tokens that the cache lacks; the last one predicts
        tokens = prev_output_tokens[:, cache.known :]
        steps = torch.arange(cache.known + 1, step + 1, device=tokens.device)
        places, kept = steps - 2, len(steps)
    else:  # the same, and [P] at the place to be predicted
        tokens = prev_output_tokens[:, 1 + cache.known :]
        tokens = torch.cat([tokens, tokens.new_full((rows, 1), model.pseudo_index)], dim=1)
        steps = torch.arange(cache.known + 1, step + 1, device=tokens.device)
        places, kept = steps - 1, len(steps) - 1
        steps[-1] = -step
    positions = cache.lengths[:, None] + places
    segments = torch.full_like(positions, model.cfg.target_segment)
    return model.output_layer(extend(model, cache, tokens, segments, positions, steps, kept, predicting=1))
