"""Linear layers that multiply with oneDNN on a CPU: in training, and with packed weights in inference.

torch computes fp32 products on a CPU with MKL. oneDNN, which it also ships and uses in compiled models, is faster for
our shapes, forwards and backwards. It is faster still with weights in blocks of its own layout, and adds the bias and
applies GELU on the way. ``benchmarks/training.py`` and ``decoding.py`` measure the gain.
"""

from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 128  # number of rows to choose the layout for; products with any other number work as well


def has_onednn(weight: Tensor) -> bool:
    """Whether oneDNN can multiply with *weight*: fp32, on a CPU that this torch has it for, and not being compiled."""
    return (
        not torch.compiler.is_compiling()  # first: what follows cannot be compiled
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def multiply(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, attribute: str = "none") -> Tensor:
    """``x @ weight.T + bias`` by oneDNN, of (rows, in) and (out, in), transposed views or not; "gelu" on top."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, attribute, [], "none")


class OneDNNLinear(torch.autograd.Function):
    """``F.linear`` whose three products, one forwards and two backwards, are oneDNN's."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.size(-1))
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = multiply(rows, weight.t()).view_as(x)
        if ctx.needs_input_grad[1]:
            of_weight = multiply(rows.t(), x.reshape(-1, x.size(-1)).t())
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear``, by oneDNN where gradients are recorded and it can: (..., in) -> (..., out)."""
    if torch.is_grad_enabled() and has_onednn(weight) and x.dtype == weight.dtype and x.numel():
        return OneDNNLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Packs(dict):
    """Packed copies of parts of one weight: {first row: (weight's version, packed)}; not copied, not saved."""

    def __deepcopy__(self, memo):
        return Packs()

    def __reduce__(self):
        return Packs, ()


class PackableLinear(nn.Linear):
    """``torch.nn.Linear`` that can compute a part of its outputs, and that can be packed."""

    packs: Optional[Packs] = None

    def make_generation_fast_(self, **kwargs) -> None:
        """From now on, without gradients, multiply with a packed copy, made at first use and after each change.

        fairseq calls this before it generates.
        """
        if has_onednn(self.weight):
            self.packs = Packs()

    def train(self, mode: bool = True) -> "PackableLinear":
        """As for every module; training forgets packed copies, as optimizers change ``.data``, which has no version."""
        if mode and self.packs:
            self.packs.clear()
        return super().train(mode)

    def forward(
        self,
        x: Tensor,
        activation: Optional[Callable[[Tensor], Tensor]] = None,
        outputs: slice = slice(None),
    ) -> Tensor:
        """(..., in) -> (..., out), or only *outputs* of it, with *activation* applied."""
        whole = outputs == slice(None)
        weight, bias = (self.weight, self.bias) if whole else (self.weight[outputs], self.bias[outputs])
        if self.packs is None or torch.is_grad_enabled() or not has_onednn(weight) or x.dtype != weight.dtype:
            y = linear(x, weight, bias)
            return y if activation is None else activation(y)
        key = (outputs.start, outputs.stop)
        version = (self.weight.data_ptr(), self.weight._version)
        known, packed = self.packs.get(key, (None, None))
        if known != version:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
            self.packs[key] = (version, packed)
        fused = activation is F.gelu
        y = multiply(x, packed, bias, "gelu" if fused else "none")
        return y if activation is None or fused else activation(y)
