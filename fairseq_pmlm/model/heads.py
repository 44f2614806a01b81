"""Understanding: a text as context alone, and the heads that tasks put on what the backbone makes of it.

A head lives in the model under a path, which its keys in the state dict begin with: ``classification_heads.NAME`` as in
fairseq's RoBERTa, any number of them; ``span_head``. :data:`KINDS` says what can stand there.
"""

import logging
from typing import Iterable, Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from ..checkpoints import metadata as identity
from ..tokenizers.symbols import MADE_UP
from ..utils.errors import PMLMError
from .kernels.linear import PackableLinear

logger = logging.getLogger(__name__)


def encoder_slots(tokens: Tensor, eos: int, num_segments: int) -> dict:
    """Lay out a batch of texts as :func:`fairseq_pmlm.data.layout.encoder_layout` lays out one.

    Args:
        tokens: int64 (batch, length), ``<s> a </s>`` or ``<s> a </s> b </s>``, padded on the right; what follows the
            first </s> has segment 1.
        eos: index of </s>.
        num_segments: rows of the segment table; with one, everything has segment 0.

    Returns:
        the arguments of :meth:`fairseq_pmlm.model.transformer.Backbone.forward`, without queries.
    """
    ends = tokens.eq(eos).long()
    return {
        "tokens": tokens,
        "positions": torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens),
        "segments": (ends.cumsum(1) - ends).clamp(max=min(1, num_segments - 1)),
        "steps": torch.zeros_like(tokens),
        "context_length": tokens.size(1),
    }


class ClassificationHead(nn.Module):
    """Classes, or numbers, from the first slot, <s>: dropout, dense, tanh, dropout, projection (fairseq's RoBERTa).

    Args:
        dim: width of the backbone.
        num_classes: outputs.
        inner_dim: width of the dense layer.
        dropout: probability.
        labels: names of the classes in their order; None where there are none (regression) or nobody knows them.
    """

    def __init__(
        self, dim: int, num_classes: int, inner_dim: int, dropout: float, labels: Optional[Iterable[str]] = None
    ):
        super().__init__()
        self.dense = PackableLinear(dim, inner_dim)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = PackableLinear(inner_dim, num_classes)
        # The order of the classes is in no shape, so the state dict says it, as the model's identity is said.
        self.register_buffer("facts", identity.to_tensor({"labels": labels and list(labels)}))

    @classmethod
    def like(cls, cfg, tensors: dict[str, Tensor]) -> "ClassificationHead":
        """A head of the shape of the *tensors* that a checkpoint has of one, for a model with options *cfg*."""
        inner_dim, dim = tensors["dense.weight"].shape
        labels = identity.from_tensor(tensors["facts"])["labels"]
        return cls(dim, len(tensors["out_proj.weight"]), inner_dim, cfg.pooler_dropout, labels)

    @property
    def labels(self) -> Optional[list[str]]:
        """Names of the classes, or None."""
        return identity.from_tensor(self.facts)["labels"]

    def forward(self, features: Tensor) -> Tensor:
        """(batch, slots, dim) -> (batch, classes)"""
        hidden = torch.tanh(self.dense(self.dropout(features[:, 0])))
        return self.out_proj(self.dropout(hidden))

    def differs(self, tensors: dict[str, Tensor]) -> Optional[str]:
        """How this head differs from that of which a checkpoint has *tensors*; None if they are of one kind."""
        there = ClassificationHead.sizes(tensors)
        here = ClassificationHead.sizes(self.state_dict())
        for what, theirs, ours in zip(("classes", "hidden units"), there, here, strict=True):
            if theirs != ours:
                return f"{theirs} {what} there and {ours} here"
        labels = identity.from_tensor(tensors["facts"])["labels"]
        if None not in (labels, self.labels) and labels != self.labels:
            return f"the classes {', '.join(labels)} there and {', '.join(self.labels)} here"
        return None

    @staticmethod
    def sizes(tensors: dict[str, Tensor]) -> tuple[int, int]:
        return len(tensors["out_proj.weight"]), len(tensors["dense.weight"])


class SpanHead(PackableLinear):
    """Where an answer starts and where it ends: two logits for every slot."""

    def __init__(self, dim: int):
        super().__init__(dim, 2)

    @classmethod
    def like(cls, cfg, tensors: dict[str, Tensor]) -> "SpanHead":
        """A head for a model with options *cfg*; all of them are alike."""
        return cls(cfg.encoder_embed_dim)

    def differs(self, tensors: dict[str, Tensor]) -> Optional[str]:
        return None


# What stands at the beginning of a head's path -> its class. A class has the methods ``like`` and ``differs``.
KINDS = {"classification_heads": ClassificationHead, "span_head": SpanHead}


def path_of(key: str) -> Optional[str]:
    """The path of the head that a key of the state dict belongs to, or None."""
    parts = key.split(".")
    if parts[0] not in KINDS:
        return None
    return ".".join(parts[:2]) if parts[0] == "classification_heads" else parts[0]


def find(state_dict: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Path of each head in *state_dict* -> its tensors, by their names within the head."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        path = path_of(key)
        if path is not None:
            found.setdefault(path, {})[key[len(path) + 1 :]] = tensor
    return found


def settle(model, state_dict: dict[str, Tensor], where: str, finetuning: bool) -> None:
    """Make *model* and a checkpoint that is being loaded into it agree on their heads.

    A head that the checkpoint alone has is registered. At the start of a fine-tuning, one that the model alone has, or
    that is of another kind there, keeps its initial weights.

    Args:
        model: has the method ``register_head``.
        state_dict: of the checkpoint; changed in place.
        where: what to call the checkpoint.
        finetuning: whether training starts from it, and does not go on.

    Raises:
        PMLMError: it lacks a head, or has one of another kind, and this is not the start of a fine-tuning; its tensors
            are no head.
    """
    theirs = find(state_dict)
    for path, tensors in theirs.items():
        try:
            like = KINDS[path.split(".")[0]].like(model.cfg, tensors)
            fits = {name: tensor.shape for name, tensor in like.state_dict().items()}
        except (KeyError, ValueError) as error:
            raise PMLMError(f"{where}: the tensors of {path!r} are not those of a head") from error
        if fits != {name: tensor.shape for name, tensor in tensors.items()}:
            raise PMLMError(f"{where}: the tensors of {path!r} do not fit each other")
        ours = find(model.state_dict()).get(path)
        if ours is None:
            model.register_head(path, like)
            continue
        head = model.get_submodule(path)
        difference = head.differs(tensors)
        if difference and not finetuning:
            raise PMLMError(
                f"{where}: its head {path!r} is another one: {difference}; only fine-tuning can give it other classes"
            )
        if difference:
            logger.warning(f"{where}: its head {path!r} is another one: {difference}; initialised anew")
            for name in tensors:
                del state_dict[f"{path}.{name}"]
        state_dict.update({f"{path}.{name}": ours[name] for name in ours if difference or name == "facts"})
    for path, tensors in find(model.state_dict()).items():
        if path in theirs:
            continue
        if not finetuning:
            raise PMLMError(f"{where} has no head {path!r} (its heads: {', '.join(theirs) or 'none'})")
        logger.info(f"{where} has no head {path!r}: it starts with random weights")
        state_dict.update({f"{path}.{name}": tensor for name, tensor in tensors.items()})


def label_names(dictionary: Dictionary) -> list[str]:
    """The classes in a dictionary of labels, without what fairseq adds to it."""
    symbols = dictionary.symbols[dictionary.nspecial :]
    return [symbol for symbol in symbols if symbol != "<mask>" and not MADE_UP.fullmatch(symbol)]


def task_labels(task) -> Optional[list[str]]:
    """Names of the classes of a ``sentence_prediction`` task; None for regression and for other tasks.

    Raises:
        PMLMError: it prepares texts in another way than PMLM reads them, or its classes are not ``--num-classes``.
    """
    dictionary = getattr(task, "label_dictionary", None)
    if dictionary is None:
        return None
    bos = task.source_dictionary.bos()
    if task.cfg.init_token != bos:
        raise PMLMError(
            f"a PMLM classifies at <s>, which --init-token {bos} puts first; given is {task.cfg.init_token}"
        )
    if task.cfg.separator_token is not None:
        raise PMLMError(
            f"--separator-token {task.cfg.separator_token}: a PMLM reads pairs as <s> a </s> b </s>; leave it out"
        )
    if str(task.cfg.shorten_method) == "random_crop":
        raise PMLMError("--shorten-method random_crop may cut off <s>, at which a PMLM classifies; use truncate")
    if task.cfg.regression_target:
        return None
    labels = label_names(dictionary)
    if len(labels) != task.cfg.num_classes:
        raise PMLMError(
            f"{task.cfg.data}/label/dict.txt has {len(labels)} classes ({', '.join(labels[:10])}), and the head has "
            f"{task.cfg.num_classes} (--num-classes)"
        )
    return labels
