"""Self-attention over context and appended slots.

Context slots come first and see each other and nothing else, so their attention is dense and needs no mask but padding;
only the rows of appended slots carry one, built once per batch from the steps and shared by all layers.
"""

import math
from typing import Callable, NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.layout import visible
from .kernels.dropout import dropout_attention
from .kernels.linear import PackableLinear


class RelativePositionBias(nn.Module):
    """T5's bidirectional relative position bias (paper, section 4.1): one table for all layers.

    Args:
        bins: number of buckets; one half for keys before the query, one half for keys after it.
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


# which slots of each example: int64 (batch, selected), or, where no slot is context, the same slice of every example
Rows = Union[Tensor, slice]
Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # keys and values of new slots -> those of all slots so far


def select_slots(x: Tensor, slots: Rows) -> Tensor:
    """(batch, slots, dim) -> (batch, selected, dim)"""
    if isinstance(slots, slice):
        return x[:, slots]
    return x.gather(1, slots[:, :, None].expand(-1, -1, x.size(2)))


def select_rows(mask: Optional[Tensor], rows: Rows) -> Optional[Tensor]:
    """The *rows* of *mask* (batch or 1, heads or 1, queries or 1, keys)."""
    if mask is None or mask.size(2) == 1:  # every row is the same
        return mask
    if isinstance(rows, slice):
        return mask[:, :, rows]
    mask = mask.expand(rows.size(0), -1, -1, -1)
    return mask.gather(2, rows[:, None, :, None].expand(-1, mask.size(1), -1, mask.size(3)))


def select_masks(seen: Visibility, rows: Rows, context_rows: int, context_length: int) -> Visibility:
    """The masks of *rows*, of which the first *context_rows* name context slots."""
    if isinstance(rows, slice):
        return Visibility(None, select_rows(seen.appended, rows))
    context, appended = rows[:, :context_rows], rows[:, context_rows:] - context_length
    return Visibility(select_rows(seen.context, context), select_rows(seen.appended, appended))


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
        """(batch, slots, dim) -> (batch, heads, slots, head_dim)"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def project(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """Queries (0), keys (1) and values (2), from *first* to *last*: (batch, heads, slots, head_dim) each.

        Args:
            x: (batch, slots, dim).
            first, last: which of the three.
        """
        dim, count = x.size(-1), last - first + 1
        outputs = slice(None) if count == 3 else slice(first * dim, (last + 1) * dim)
        projected = self.qkv_proj(x, outputs=outputs)  # (batch, slots, count x dim)
        return [self.split_heads(part) for part in projected.chunk(count, dim=-1)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor]) -> Tensor:
        """Queries over keys and values, (batch, heads, ., head_dim) each -> (batch, queries, dim)"""
        out = dropout_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return out.transpose(1, 2).flatten(2)  # (batch, heads, queries, head_dim) -> (batch, queries, dim)

    def forward(
        self,
        x: Tensor,
        seen: Visibility,
        context_length: int,
        queries: Optional[Rows] = None,
        context_queries: int = 0,
        store: Optional[Store] = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: (batch, slots, dim), context slots first.
            seen: masks of the batch.
            context_length: number of leading slots that are context.
            queries: which slots' outputs are wanted, context slots first; None for all.
            context_queries: how many of *queries*, from the first, name context slots.
            store: of a layer of a cache: takes keys and values of *x*, and returns those to attend over.

        Returns:
            (batch, slots or selected, dim)
        """
        c = context_length
        if queries is None:
            q, k, v = self.project(x, 0, 2)
            split, masks = c, seen
        else:
            k, v = self.project(x, 1, 2)
        if store is not None:
            k, v = store(k, v)
        if queries is not None:
            chosen = select_slots(x, queries)
            if not chosen.size(1):  # only keys and values are needed
                return chosen
            (q,) = self.project(chosen, 0, 0)
            split = context_queries
            masks = select_masks(seen, queries, split, c)
        parts = []
        if split:  # context slots over the context
            parts.append(self.attend(q[:, :, :split], k[:, :, :c], v[:, :, :c], masks.context))
        if q.size(2) > split:  # appended slots over all
            parts.append(self.attend(q[:, :, split:], k, v, masks.appended))
        return self.out_proj(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
