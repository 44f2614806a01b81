"""Self-attention over context and appended slots.

Context slots come first and see each other and nothing else, so their attention is dense and needs no mask but padding;
only the rows of appended slots carry one, built once per batch from the steps and shared by all layers.
"""

import math
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.layout import visible
from .kernels.dropout import dropout_attention
from .kernels.linear import PackableLinear


class RelativePositionBias(nn.Module):
    """T5's bidirectional relative position bias (paper, section 4.1): one table for all layers.

    Args:
        bins: number of buckets; one half for keys behind the query, one half for keys after it.
        max_distance: distances from here on share a bucket.
        heads: attention heads.
        slope: start with half of the heads looking nearby: a bias of minus *slope* per token of distance in the first
            head, a quarter of that in the second, and so on; the other half starts at N(0, 0.02), as all do where this
            is 0, and averages over the text.
    """

    def __init__(self, bins: int, max_distance: int, heads: int, slope: float = 0.0):
        super().__init__()
        self.bins = bins
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.empty(bins, heads))
        nn.init.normal_(self.weight, std=0.02)
        if slope:
            distances = torch.arange(-max_distance, max_distance + 1)
            buckets = self.buckets(distances)
            mean = torch.bincount(buckets, distances.abs().float(), bins) / torch.bincount(
                buckets, minlength=bins
            ).clamp(1)
            local = (heads + 1) // 2
            self.weight.data[:, :local] -= mean[:, None] * slope * 0.25 ** torch.arange(local)

    def buckets(self, distance: Tensor) -> Tensor:
        """Bucket of each *distance* = position of key - position of query; any shape, int64."""
        half = self.bins // 2
        exact = half // 2  # distances below this have a bucket each; beyond, buckets grow logarithmically
        ahead = (distance > 0).long() * half
        distance = distance.abs()
        scale = (half - exact) / math.log(self.max_distance / exact)
        far = exact + (torch.log(distance.clamp(min=exact).float() / exact) * scale).long()
        return ahead + torch.where(distance < exact, distance, far.clamp(max=half - 1))

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Bias to add to the scaled scores.

        Args:
            query_positions: int64 (batch, queries).
            key_positions: int64 (batch, keys).

        Returns:
            (batch, heads, queries, keys), dtype of the table.
        """
        distance = key_positions[:, None, :] - query_positions[:, :, None]
        # contiguous: fused kernels want masks whose last dimension is
        return F.embedding(self.buckets(distance), self.weight).permute(0, 3, 1, 2).contiguous()


class Visibility(NamedTuple):
    """Who sees whom in one batch, as what to add to the scores: -inf where a slot may not attend.

    context: (batch or 1, heads or 1, context or 1, context), or None where every context slot sees all of them.
    appended: (batch, heads or 1, appended, slots), or None where nothing is appended.
    """

    context: Optional[Tensor]
    appended: Optional[Tensor]


def visibility(
    padding: Tensor,
    positions: Tensor,
    steps: Tensor,
    context_length: int,
    bias: Optional[RelativePositionBias] = None,
    dtype: torch.dtype = torch.float32,
) -> Visibility:
    """Build the masks of one batch, once for all layers.

    Args:
        padding: bool (batch, slots), True at <pad>. No row may consist of padding alone.
        positions: int64 (batch, slots); context positions are the same in all rows.
        steps: int64 (batch, slots), signed steps; 0 under the padding, so that no row is left without a key.
        context_length: number of leading slots that are context.
        bias: relative position bias, if the model has one.
        dtype: of the masks.
    """
    c = context_length
    nothing = torch.zeros((), dtype=dtype, device=steps.device)
    context = appended = None
    if bias is not None:
        context = bias(positions[:1, :c], positions[:1, :c])
    if padding[:, :c].any():
        context = (nothing if context is None else context).masked_fill(padding[:, None, None, :c], -math.inf)
    if steps.size(1) > c:
        hidden = ~visible(steps[:, c:], steps) | padding[:, None, :]
        appended = nothing if bias is None else bias(positions[:, c:], positions)
        appended = appended.masked_fill(hidden[:, None], -math.inf)
    return Visibility(context, appended)


def select_rows(mask: Optional[Tensor], rows: Tensor) -> Optional[Tensor]:
    """The rows of *mask* (batch or 1, heads or 1, queries or 1, keys) that *rows*, int64 (batch, selected), name."""
    if mask is None or mask.size(2) == 1:  # every row is the same
        return mask
    mask = mask.expand(rows.size(0), -1, -1, -1)
    return mask.gather(2, rows[:, None, :, None].expand(-1, mask.size(1), -1, mask.size(3)))


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values.

    Args:
        dim: width of the model, a multiple of *heads*.
        heads: attention heads.
        dropout: dropout on the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv_proj = PackableLinear(dim, 3 * dim)
        self.out_proj = PackableLinear(dim, dim)

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, slots, dim) -> (batch, heads, slots, dim / heads)"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def queries(self, x: Tensor) -> Tensor:
        """Queries of the slots *x* (batch, slots, dim), split into heads."""
        return self.split_heads(self.qkv_proj(x, outputs=slice(0, x.size(-1))))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots *x* (batch, slots, dim), split into heads."""
        dim = x.size(-1)
        keys, values = self.qkv_proj(x, outputs=slice(dim, 3 * dim)).chunk(2, dim=-1)
        return self.split_heads(keys), self.split_heads(values)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the slots *x* (batch, slots, dim), split into heads."""
        queries, keys, values = self.qkv_proj(x).chunk(3, dim=-1)
        return self.split_heads(queries), self.split_heads(keys), self.split_heads(values)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[Tensor]) -> Tensor:
        """Attention of *queries* over *keys*, all (batch, heads, ., dim / heads) -> (batch, queries, dim)."""
        heads = dropout_attention(queries, keys, values, mask, self.dropout if self.training else 0.0)
        return heads.transpose(1, 2).flatten(2)

    def forward(
        self,
        x: Tensor,
        seen: Visibility,
        context_length: int,
        queries: Optional[Tensor] = None,
        context_queries: int = 0,
    ) -> Tensor:
        """Attend.

        Args:
            x: (batch, slots, dim), context slots first.
            seen: masks of the batch.
            context_length: number of leading slots that are context.
            queries: None for all slots, or int64 (batch, selected): the slots whose outputs are wanted.
            context_queries: how many leading columns of *queries* name context slots.

        Returns:
            (batch, slots or selected, dim)
        """
        c = context_length
        if queries is None:
            q, k, v = self.queries_keys_values(x)
            split, masks = c, seen
        else:
            k, v = self.keys_values(x)
            q = self.queries(gather_slots(x, queries))
            split = context_queries
            masks = Visibility(
                select_rows(seen.context, queries[:, :split]), select_rows(seen.appended, queries[:, split:] - c)
            )
        parts = []
        if split:
            parts.append(self.attend(q[:, :, :split], k[:, :, :c], v[:, :, :c], masks.context))
        if q.size(2) > split:
            parts.append(self.attend(q[:, :, split:], k, v, masks.appended))
        return self.out_proj(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))


def gather_slots(x: Tensor, slots: Tensor) -> Tensor:
    """(batch, slots, dim), int64 (batch, selected) -> (batch, selected, dim)"""
    return x.gather(1, slots[:, :, None].expand(-1, -1, x.size(2)))
