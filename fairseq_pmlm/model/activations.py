"""Activation functions of the feed-forward layers, by the names that fairseq's ``--activation-fn`` knows them by."""

import math
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu_accurate(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 computes it."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def linear(x: Tensor) -> Tensor:
    """No activation."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_fast": gelu_accurate,
    "gelu_accurate": gelu_accurate,
    "tanh": torch.tanh,
    "linear": linear,
}
