"""Linear layers whose weights can be packed for inference on a CPU.

oneDNN multiplies faster with weights in blocks of its own layout, and adds the bias and applies GELU on the way; torch
uses that in compiled models. ``scripts/benchmarks/decoding.py`` says what it brings.
"""

from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 128  # for which number of rows to lay out; it serves any other as well


def can_pack(weight: Tensor) -> bool:
    """Whether there is a packed product for *weight*: fp32, on a CPU that this torch has oneDNN for."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


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
        if can_pack(self.weight):
            self.packs = Packs()

    def forward(
        self,
        x: Tensor,
        activation: Optional[Callable[[Tensor], Tensor]] = None,
        outputs: slice = slice(None),
    ) -> Tensor:
        """(..., in) -> (..., out), the *outputs* wanted of it, with *activation* applied."""
        whole = outputs == slice(None)
        weight, bias = (self.weight, self.bias) if whole else (self.weight[outputs], self.bias[outputs])
        if self.packs is None or torch.is_grad_enabled() or not can_pack(self.weight) or x.dtype != weight.dtype:
            y = F.linear(x, weight, bias)
            return y if activation is None else activation(y)
        key = (outputs.start, outputs.stop)
        version = (self.weight.data_ptr(), self.weight._version)
        known, packed = self.packs.get(key, (None, None))
        if known != version:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
            self.packs[key] = (version, packed)
        fused = activation is F.gelu
        y = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "gelu" if fused else "none", [], "none")
        return y if activation is None or fused else activation(y)
