"""The model: slots in; logits, losses, hidden states or the outputs of a head out."""

from typing import Any, NamedTuple, Optional, Protocol, Union

import torch
from torch import Tensor, nn

from ..checkpoints import metadata
from ..utils.errors import PMLMError, describe
from . import heads
from .config import PMLMConfig, seq2seq_limits
from .kernels.linear import PackableLinear
from .kernels.projection_loss import CHUNK, ONE_HOT, Distribution, Losses
from .transformer import Backbone, OutputLayer, init_bert_weights


class Symbols(Protocol):
    """What the model needs of a dictionary, ours or fairseq's."""

    symbols: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str: ...

    def __contains__(self, symbol: object) -> bool: ...

    def index(self, symbol: str) -> int: ...

    def pad(self) -> int: ...

    def eos(self) -> int: ...


class Predict(NamedTuple):
    """What to predict, and from which slots.

    head: path of the module that predicts; None for hidden states as they are.
    select: int64 (predictions,), indices into the (batch x selected) slots that the backbone returns; None for all, in
        their shape.
    target: int64 (predictions,), the types to predict: returns their losses in place of logits.
    distribution, chunk: as for :func:`fairseq_pmlm.model.kernels.projection_loss.projection_loss`.
    """

    head: Optional[str] = "output_layer"
    select: Optional[Tensor] = None
    target: Optional[Tensor] = None
    distribution: Distribution = ONE_HOT
    chunk: int = CHUNK


LOGITS = Predict()
HIDDEN = Predict(head=None)


class PMLM(nn.Module):
    """A pseudo-masked language model (paper, section 3): one Transformer over slots, a softmax layer, and any heads.

    Args:
        cfg: options.
        dictionary: has <mask> and <pseudo>.
        tokenizer: fingerprint of the tokenizer that belongs to the dictionary, if there is one.
    """

    def __init__(self, cfg: PMLMConfig, dictionary: Symbols, tokenizer: Optional[str] = None):
        super().__init__()
        self.cfg = cfg
        self.dictionary = dictionary
        self.pseudo_index = dictionary.index("<pseudo>")
        self.backbone = Backbone(cfg, len(dictionary), dictionary.pad())
        self.output_layer = OutputLayer(cfg, self.backbone.embed_tokens)
        self.classification_heads = nn.ModuleDict()
        known = metadata.facts(cfg, dictionary.symbols, tokenizer)
        self.register_buffer("identity", metadata.to_tensor(known))

    def forward(self, slots: dict[str, Any], predict: Predict = LOGITS) -> Union[Tensor, Losses]:
        """Predict.

        Args:
            slots: the arguments of :meth:`fairseq_pmlm.model.transformer.Backbone.forward`.
            predict: what to predict.

        Returns:
            logits (batch, selected, vocab_size) or (predictions, vocab_size); losses of the targets; outputs of a
            classification head, (batch, classes), or of the span head, (batch, selected, 2); or hidden states.
        """
        return self.outputs(slots, predict) if predict.target is None else self.losses(slots, predict)

    def outputs(self, slots: dict[str, Any], predict: Predict = LOGITS) -> Tensor:
        """Logits, outputs of a head, or hidden states; see :meth:`forward`."""
        x = self.selected(slots, predict)
        return x if predict.head is None else self.get_submodule(predict.head)(x)

    def losses(self, slots: dict[str, Any], predict: Predict) -> Losses:
        """Losses of the targets of *predict*; see :meth:`forward`."""
        x, target = self.selected(slots, predict), predict.target
        assert target is not None
        return self.output_layer.loss(x, target, predict.distribution, predict.chunk)

    def selected(self, slots: dict[str, Any], predict: Predict) -> Tensor:
        """Hidden states (batch, selected, dim), or (predictions, dim) where *predict* selects some of them."""
        x = self.backbone(**slots)
        return x if predict.select is None else x.flatten(0, 1)[predict.select]

    def register_head(self, path: str, head: nn.Module) -> None:
        """Add *head*, with new weights, at *path*: one of :data:`heads.KINDS`, with a name where there can be several.

        Raises:
            PMLMError: the name is empty, has a dot, or is one that torch uses itself.
        """
        head.apply(lambda module: init_bert_weights(module, self.cfg.init_std))
        parent, _, name = path.rpartition(".")
        try:
            self.get_submodule(parent).add_module(name, head.to(self.output_layer.bias))
        except (AttributeError, KeyError) as error:
            raise PMLMError(f"{path!r} cannot be the name of a head ({describe(error)})") from error

    def register_classification_head(
        self, name: str, num_classes: int, inner_dim: Optional[int] = None, labels: Optional[list[str]] = None
    ) -> None:
        """Add ``classification_heads.NAME`` with new weights; see :class:`heads.ClassificationHead`."""
        dim = self.cfg.encoder_embed_dim
        head = heads.ClassificationHead(dim, num_classes, inner_dim or dim, self.cfg.pooler_dropout, labels)
        self.register_head(f"classification_heads.{name}", head)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.output_layer.bias.device

    def pack(self) -> None:
        """From now on, multiply with packed weights where gradients are not recorded and that is faster."""
        for module in self.modules():
            if isinstance(module, PackableLinear):
                module.make_generation_fast_()

    def max_positions(self) -> int:
        """Rows of the position table."""
        return self.cfg.max_positions

    def max_decoder_positions(self) -> int:
        """Longest target, in tokens with </s>."""
        return seq2seq_limits(self.cfg)[1]
