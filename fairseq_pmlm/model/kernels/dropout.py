"""Dropout for training on a CPU, where torch's own is slow.

torch draws each decision separately, in one thread at 6 ns a value, and ``scaled_dot_product_attention`` leaves its
fused kernel as soon as there is dropout: a step may take twice as long. Here a decision is 16 bits of a 64-bit random
number of torch's own generator (so that seeds keep their meaning), and attention takes a few heads at a time, whose
scores stay in the cache. Probabilities are exact to 1/65536. ``benchmarks/training.py`` measures the gain.
"""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG2_E = 1 / math.log(2)
SCORES = 2**19  # at a time, 2 MB: two heads of 512 x 512 slots


def applies(x: Tensor) -> bool:
    """Whether this module's dropout is for *x*: on a CPU, in fp32 or fp64, and not being compiled."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def random_bits(shape) -> Tensor:
    """int16 of *shape*, uniform over all that int16 can hold, from torch's generator."""
    count = math.prod(shape)
    return torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count].view(shape)


def threshold(p: float) -> int:
    """Where :func:`random_bits` is less than this, probability *p*, a value is dropped."""
    return round(p * 65536) - 32768


class ElementDropout(torch.autograd.Function):
    """``F.dropout`` in training: keeps two bytes a value for its backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        bits = random_bits(x.shape)
        ctx.save_for_backward(bits)
        ctx.p = p
        return ElementDropout.factors(bits, p, x.dtype).mul_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (bits,) = ctx.saved_tensors
        return ElementDropout.factors(bits, ctx.p, grad.dtype).mul_(grad), None

    @staticmethod
    def factors(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
        """0 where *bits* say that a value is dropped, else 1 / (1 - p)."""
        values = bits.to(dtype)  # comparing integers of 16 bits is slow
        return torch.ge(values, threshold(p), out=values).mul_(1 / (1 - p))


class Dropout(nn.Dropout):
    """``torch.nn.Dropout``, faster on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        return ElementDropout.apply(x, self.p) if applies(x) and self.p < 1 else super().forward(x)


class DroppedAttention(torch.autograd.Function):
    """``F.scaled_dot_product_attention`` with dropout on its weights, a few heads at a time.

    Of the weights, exponentials that are not yet divided by their sums are kept for the backward pass; their signs say
    which of them are dropped. All division by sums is of matrices without the dimension of the keys.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[Tensor], p: float) -> Tensor:
        batch, heads, rows, size = queries.shape
        scaled = queries * (LOG2_E / math.sqrt(size))  # exp2 takes a quarter of the time of exp
        weights = queries.new_empty(batch, heads, rows, keys.size(2))
        sums = queries.new_empty(batch, heads, rows, 1)
        out = queries.new_empty(batch, rows, heads, size).transpose(1, 2)
        for at in groups(batch, heads, rows * keys.size(2)):
            e = torch.bmm(scaled[at], keys[at].transpose(1, 2), out=weights[at])
            if mask is not None:
                e.add_(part(mask, at), alpha=LOG2_E)
            e.sub_(e.amax(-1, keepdim=True)).exp2_()
            torch.sum(e, -1, keepdim=True, out=sums[at])
            kept = random_bits(e.shape).to(e.dtype)
            torch.copysign(e, kept.sub_(threshold(p) - 0.5), out=e)
            torch.clamp_min(e, 0, out=kept)
            torch.mul(torch.bmm(kept, values[at]), 1 / (1 - p) / sums[at], out=out[at])
        ctx.save_for_backward(queries, keys, values, out, weights, sums)
        ctx.p = p
        ctx.mask_shape = None if mask is None else mask.shape
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        queries, keys, values, out, weights, sums = ctx.saved_tensors
        scale = 1 / math.sqrt(queries.size(-1))
        minus_dot = (grad * out).sum(-1, keepdim=True).neg_()  # sum over the keys of weight times its gradient
        grad = grad * (1 / (1 - ctx.p))
        grad_over_sums, queries_over_sums, scale_over_sums = grad / sums, queries * (scale / sums), scale / sums
        of_queries, of_keys, of_values = (torch.empty_like(x) for x in (queries, keys, values))
        of_mask = grad.new_zeros(ctx.mask_shape) if ctx.needs_input_grad[3] else None
        for at in groups(weights.size(0), weights.size(1), weights.size(2) * weights.size(3)):
            e = weights[at]
            kept = e.clamp_min(0)
            of_values[at] = torch.bmm(kept.transpose(1, 2), grad_over_sums[at])
            of_scores = torch.bmm(grad[at], values[at].transpose(1, 2))  # times the sums, until the end
            of_scores.mul_(kept).addcmul_(torch.abs(e, out=kept), minus_dot[at])
            torch.mul(torch.bmm(of_scores, keys[at]), scale_over_sums[at], out=of_queries[at])
            of_keys[at] = torch.bmm(of_scores.transpose(1, 2), queries_over_sums[at])
            if of_mask is not None:
                into = part(of_mask, at)
                into += of_scores.div_(sums[at]).sum_to_size(into.shape)
        return of_queries, of_keys, of_values, of_mask, None


def groups(batch: int, heads: int, scores: int):
    """Indices that together cover all heads, a few heads of one example at a time; *scores*: of a head."""
    few = max(1, SCORES // scores)
    for b in range(batch):
        for h in range(0, heads, few):
            yield b, slice(h, min(h + few, heads))


def part(mask: Tensor, at: tuple[int, slice]) -> Tensor:
    """The part of *mask* (batch or 1, heads or 1, ...) for the group *at*: a view."""
    b, heads = at
    return mask[b if mask.size(0) > 1 else 0, heads if mask.size(1) > 1 else slice(None)]


def dropout_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[Tensor], p: float) -> Tensor:
    """``F.scaled_dot_product_attention``: (batch, heads, ., size) each, a mask to add, or boolean where p is 0."""
    if p and applies(queries) and queries.size(2):
        return DroppedAttention.apply(queries, keys, values, mask, p)
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=p)
