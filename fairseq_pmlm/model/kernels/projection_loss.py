"""Projection onto the vocabulary and cross-entropy as one, a chunk of the predictions at a time.

Scores of the whole vocabulary would take most of the memory of training. Here only those of one chunk exist at a time,
and the products that the backward pass needs are computed while they exist: the gradient of a score is its probability
minus the one to predict, so these are products with exponentials, scaled by rows.
"""

import math
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import has_onednn, multiply

LOG2_E = 1 / math.log(2)  # exp2 takes a quarter of the time of exp on a CPU
ALIGNMENT = 8  # types: matrix units of GPUs want a multiple of it
CHUNK = 1024  # predictions


class Losses(NamedTuple):
    """What :func:`projection_loss` returns; all in nats, in fp32 (fp64 of fp64).

    loss: (), the sum over predictions; gradients flow through this alone.
    rows: (predictions,), the loss of each.
    nll: (predictions,), the negative log-likelihood of each target.
    correct: bool (predictions,), whether no type scores higher than the target.
    """

    loss: Tensor
    rows: Tensor
    nll: Tensor
    correct: Tensor


class Distribution(NamedTuple):
    """The distribution to predict: the target's type has *target* + *others* of it, every other type *others*.

    The type *without*, if one is given, has none of it. All of it sums to 1.
    """

    target: float = 1.0
    others: float = 0.0
    without: Optional[int] = None


ONE_HOT = Distribution()


class ProjectionLoss(torch.autograd.Function):
    """See :func:`projection_loss`."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, wanted: Distribution, chunk: int, pad_to: int
    ):
        precise = torch.promote_types(x.dtype, torch.float32)
        types, training = len(weight), any(ctx.needs_input_grad)
        surplus = -types % pad_to
        padded, padded_bias = weight, bias.to(precise)
        if surplus:  # with no probability at all
            padded, padded_bias = F.pad(weight, (0, 0, 0, surplus)), F.pad(padded_bias, (0, surplus), value=-math.inf)
        rows, nll = (x.new_empty(len(x), dtype=precise) for _ in range(2))
        correct = x.new_empty(len(x), dtype=torch.bool)
        if training:
            of_x = torch.empty_like(x)
            of_weight = torch.empty_like(padded, dtype=precise)
            of_bias = torch.zeros_like(padded_bias)
        for start in range(0, len(x), chunk):
            at = slice(start, start + chunk)
            part = x[at]
            scores = project(part, padded, padded_bias)
            top = scores.amax(1, keepdim=True)
            of_target = scores.gather(1, target[at, None])[:, 0]
            correct[at] = of_target.eq(top[:, 0])
            excluded = 0 if wanted.without is None else scores[:, wanted.without].clone()
            e = scores.sub_(top).exp2_()
            sums = e.sum(1, keepdim=True)
            log_sums = (sums.log2() + top)[:, 0]
            nll[at] = rows[at] = (log_sums - of_target) / LOG2_E
            if wanted.others:
                everything = part.to(precise) @ weight.sum(0, dtype=precise) + bias.sum(dtype=precise)
                rest = (types - (wanted.without is not None)) * log_sums - (everything * LOG2_E - excluded)
                rows[at] = wanted.target * nll[at] + wanted.others * rest / LOG2_E
            if training:
                e = e.to(x.dtype)
                of_x[at] = (e @ padded) / sums
                add_product(of_weight, e.t(), (part / sums).to(x.dtype), first=start == 0)
                of_bias += (e.t() @ (1 / sums).to(x.dtype))[:, 0]
        if training:
            if surplus:
                of_weight, of_bias = of_weight[:types], of_bias[:types]
            if not len(x):
                of_weight.zero_()
            subtract_wanted(wanted, x, weight, target, of_x, of_weight, of_bias)
            ctx.save_for_backward(of_x, of_weight, of_bias)
            ctx.dtypes = x.dtype, weight.dtype, bias.dtype
        ctx.mark_non_differentiable(rows, nll, correct)
        return rows.sum(), rows, nll, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, *others):
        one = grad.device.type == "cpu" and grad == 1
        # scaled before they are rounded: small ones would be lost in fp16, whose loss is scaled for their sake
        scaled = (x if one else x * grad.to(x.dtype) for x in ctx.saved_tensors)
        return *(x.to(dtype) for x, dtype in zip(scaled, ctx.dtypes, strict=True)), None, None, None, None


def subtract_wanted(
    wanted: Distribution, x: Tensor, weight: Tensor, target: Tensor, of_x: Tensor, of_weight: Tensor, of_bias: Tensor
) -> None:
    """Of the gradients, in place, the part that is due to the distribution to predict."""
    of_x -= wanted.target * weight[target]
    of_weight.index_add_(0, target, x.to(of_weight.dtype), alpha=-wanted.target)
    of_bias.index_add_(0, target, torch.full_like(target, -wanted.target, dtype=of_bias.dtype))
    if not wanted.others:
        return
    total, sum_x = weight.sum(0, dtype=of_weight.dtype), x.sum(0, dtype=of_weight.dtype)
    of_weight -= wanted.others * sum_x
    of_bias -= wanted.others * len(x)
    if wanted.without is not None:
        total = total - weight[wanted.without]
        of_weight[wanted.without] += wanted.others * sum_x
        of_bias[wanted.without] += wanted.others * len(x)
    of_x -= (wanted.others * total).to(of_x.dtype)


def project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Scores (predictions, types) in units of log 2, of the dtype of *bias*."""
    if x.dtype == bias.dtype:
        x, bias = x * LOG2_E, bias * LOG2_E  # so much less than the scores
        return multiply(x, weight, bias) if has_onednn(weight) and len(x) else F.linear(x, weight, bias)
    return F.linear(x, weight).to(bias.dtype).add_(bias).mul_(LOG2_E)


def add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """total += a @ b, or total = a @ b for the *first* product."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif first:
        total.copy_(a @ b)
    else:
        total += a @ b


def projection_loss(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    wanted: Distribution = ONE_HOT,
    chunk: int = CHUNK,
    pad_to: Optional[int] = None,
) -> Losses:
    """Cross-entropy of softmax(x @ weight.T + bias) against the distribution *wanted* around each target.

    Args:
        x: (predictions, dim).
        weight: (types, dim).
        bias: (types,).
        target: int64 (predictions,).
        wanted: the distribution; by default all of it is the target's.
        chunk: predictions at a time: what bounds the memory, chunk x types scores.
        pad_to: multiply with zero rows after the weight, up to a multiple of this many types, none of which is ever
            predicted; None: :data:`ALIGNMENT` on a GPU, 1 elsewhere.
    """
    pad_to = pad_to or (ALIGNMENT if x.is_cuda else 1)
    return Losses(*ProjectionLoss.apply(x, weight, bias, target, wanted, chunk, pad_to))
