"""Batches of texts and of pairs, as fairseq's commands pass them, laid out in slots.

These do for a batch of tensors what :mod:`fairseq_pmlm.data.layout` does for one example.
"""

from typing import Any, Optional

import torch
from torch import Tensor


def seq2seq_slots(
    src_tokens: Tensor,
    src_lengths: Tensor,
    prev_output_tokens: Tensor,
    pad: int,
    pseudo_index: int,
    segments: tuple[int, int],
    pseudo_tokens: Optional[Tensor] = None,
) -> dict[str, Any]:
    """Lay out a batch of pairs as :func:`fairseq_pmlm.data.layout.seq2seq_layout` lays out one.

    Args:
        src_tokens: int64 (batch, source), padded on the right.
        src_lengths: int64 (batch,).
        prev_output_tokens: int64 (batch, target), the target shifted right by one.
        pad, pseudo_index: indices of <pad> and <pseudo>.
        segments: ids of the segments of sources and of targets.
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
    return lay_out(src_tokens, src_lengths, appended, steps, places, target, pad, segments)


def causal_slots(
    src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, pad: int, segments: tuple[int, int]
) -> dict[str, Any]:
    """Lay out a batch of pairs without [P]: the slot of each target token predicts the next one, as in a decoder.

    The first of *prev_output_tokens*, </s>, has the position of the source's own </s>. Arguments and result are those
    of :func:`seq2seq_slots`.
    """
    target = prev_output_tokens.size(1)
    order = torch.arange(1, target + 1, device=src_tokens.device)
    return lay_out(src_tokens, src_lengths, prev_output_tokens, order, order - 2, target, pad, segments)


def lay_out(
    src_tokens: Tensor,
    src_lengths: Tensor,
    appended: Tensor,
    steps: Tensor,
    places: Tensor,
    predicting: int,
    pad: int,
    segments: tuple[int, int],
) -> dict[str, Any]:
    """Sources as context, and what is appended to each.

    Args:
        src_tokens: int64 (batch, source), padded on the right.
        src_lengths: int64 (batch,).
        appended: int64 (batch, appended), tokens.
        steps: int64 (appended,), signed steps.
        places: int64 (appended,), positions counted from the end of the source.
        predicting: how many leading ones of *appended* predict.
        pad: index of <pad>.
        segments: ids of the segments of sources and of targets.

    Returns:
        the arguments of :meth:`fairseq_pmlm.model.transformer.Backbone.forward`.
    """
    batch, source = src_tokens.shape
    # Padding would have positions beyond the table, and must see something: it gets position 0, and sees the context.
    padding = appended.eq(pad)
    places = (places + src_lengths[:, None]).masked_fill(padding, 0)
    positions = torch.cat([torch.arange(source, device=places.device).expand(batch, -1), places], dim=1)
    of_slots = torch.full_like(positions, segments[1])
    of_slots[:, :source] = segments[0]
    return {
        "tokens": torch.cat([src_tokens, appended], dim=1),
        "positions": positions,
        "segments": of_slots,
        "steps": torch.cat([torch.zeros_like(src_tokens), steps.expand(batch, -1).masked_fill(padding, 0)], dim=1),
        "context_length": source,
        "queries": torch.arange(source, source + predicting, device=places.device).expand(batch, -1),
        "context_queries": 0,
    }


def text_slots(tokens: Tensor, eos: int, num_segments: int, first_only: bool = False) -> dict[str, Any]:
    """Lay out a batch of texts: every slot is context, and sees all of its text.

    Args:
        tokens: int64 (batch, length), ``<s> a </s>`` or ``<s> a </s> b </s>``, padded on the right; what follows the
            first </s> has segment 1.
        eos: index of </s>.
        num_segments: rows of the segment table; with one, everything has segment 0.
        first_only: compute the output of the first slot alone, the only one that classification heads read.

    Returns:
        the arguments of :meth:`fairseq_pmlm.model.transformer.Backbone.forward`.
    """
    ends = tokens.eq(eos).long()
    return {
        "queries": torch.zeros_like(tokens[:, :1]) if first_only else None,
        "context_queries": int(first_only),
        "tokens": tokens,
        "positions": torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens),
        "segments": (ends.cumsum(1) - ends).clamp(max=min(1, num_segments - 1)),
        "steps": torch.zeros_like(tokens),
        "context_length": tokens.size(1),
    }
