"""Heads that tasks put on what the backbone makes of a text.

A head lives in the model under a path, which its keys in the state dict begin with: ``classification_heads.NAME`` as in
fairseq's RoBERTa, any number of them; ``span_head``. :data:`KINDS` says what can stand there.
"""

from typing import Iterable, Optional

import torch
from torch import Tensor, nn

from ..checkpoints import metadata
from .config import PMLMConfig
from .kernels.linear import PackableLinear


class ClassificationHead(nn.Module):
    """Classes, or numbers, from the first slot, <s>: dropout, dense, tanh, dropout, projection (fairseq's RoBERTa).

    Args:
        dim: width of the backbone.
        num_classes: outputs.
        inner_dim: width of the dense layer.
        dropout: probability.
        labels: names of the classes in their order; None where there are none (regression) or they are not known.
    """

    facts: Tensor

    def __init__(
        self, dim: int, num_classes: int, inner_dim: int, dropout: float, labels: Optional[Iterable[str]] = None
    ):
        super().__init__()
        self.dense = PackableLinear(dim, inner_dim)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = PackableLinear(inner_dim, num_classes)
        # No shape shows the order of the classes, so the state dict holds it, like the model's identity.
        self.register_buffer("facts", metadata.to_tensor({"labels": labels and list(labels)}))

    @classmethod
    def like(cls, cfg: PMLMConfig, tensors: dict[str, Tensor]) -> "ClassificationHead":
        """A head of the same shape as that of which a checkpoint has *tensors*, for a model with options *cfg*."""
        inner_dim, dim = tensors["dense.weight"].shape
        labels = read_labels(tensors["facts"])
        return cls(dim, len(tensors["out_proj.weight"]), inner_dim, cfg.pooler_dropout, labels)

    @property
    def labels(self) -> Optional[list[str]]:
        """Names of the classes, or None."""
        return read_labels(self.facts)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, slots, dim) -> (batch, classes)"""
        hidden = torch.tanh(self.dense(self.dropout(features[:, 0])))
        return self.out_proj(self.dropout(hidden))

    def differs(self, tensors: dict[str, Tensor]) -> Optional[str]:
        """How this head differs from that of which a checkpoint has *tensors*; None if they are of one kind."""
        there = ClassificationHead.sizes(tensors)
        here = ClassificationHead.sizes(self.state_dict())
        for what, old, new in zip(("classes", "hidden units"), there, here, strict=True):
            if old != new:
                return f"{old} {what} there and {new} here"
        theirs, ours = read_labels(tensors["facts"]), self.labels
        if theirs is not None and ours is not None and theirs != ours:
            return f"the classes {', '.join(theirs)} there and {', '.join(ours)} here"
        return None

    @staticmethod
    def sizes(tensors: dict[str, Tensor]) -> tuple[int, int]:
        return len(tensors["out_proj.weight"]), len(tensors["dense.weight"])


def read_labels(facts: Tensor) -> Optional[list[str]]:
    """The names of the classes in the buffer ``facts`` of a head, int64 (bytes,), or None."""
    return metadata.from_tensor(facts, name="facts")["labels"]


class SpanHead(PackableLinear):
    """Where an answer starts and where it ends: two logits for every slot."""

    def __init__(self, dim: int):
        super().__init__(dim, 2)

    @classmethod
    def like(cls, cfg: PMLMConfig, tensors: dict[str, Tensor]) -> "SpanHead":
        """A head for a model with options *cfg*; all of them are alike."""
        return cls(cfg.encoder_embed_dim)

    def differs(self, tensors: dict[str, Tensor]) -> Optional[str]:
        return None


# The first part of a head's path -> its class. A class has the methods ``like`` and ``differs``.
KINDS: dict[str, type[ClassificationHead] | type[SpanHead]] = {
    "classification_heads": ClassificationHead,
    "span_head": SpanHead,
}
