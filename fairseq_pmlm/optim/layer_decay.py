"""Layer-wise learning-rate decay: the nearer to the text, the smaller the learning rate.

fairseq's composite optimizer keeps an optimizer for each group of parameters, by their attribute ``param_group``. Its
groups can only be described to ``fairseq-hydra-train``; here they follow from one number, and the schedule is that of
``--lr-scheduler``.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass, field

from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.composite import CompositeOptimizer, FairseqCompositeOptimizer

from ..utils.errors import PMLMError

logger = logging.getLogger(__name__)


@dataclass
class LayerDecayConfig(FairseqAdamConfig):
    """Options of ``--optimizer pmlm_layer_decay``: those of Adam, and the decay."""

    layer_lr_decay: float = field(
        default=0.9,
        metadata={
            "help": "learning rate of a layer as a multiple of that of the layer above it; heads have --lr itself, the "
            "last layer this much of it, the embeddings least"
        },
    )


@register_optimizer("pmlm_layer_decay", dataclass=LayerDecayConfig)
class LayerDecayOptimizer(FairseqCompositeOptimizer):
    """Adam for each layer, with a learning rate of its own.

    Raises:
        PMLMError: a decay that is none; parameters without names of layers.
    """

    def __init__(self, cfg: LayerDecayConfig, params):
        FairseqOptimizer.__init__(self, cfg)  # not that of the composite, which reads groups from its options
        if not 0 < cfg.layer_lr_decay <= 1:
            raise PMLMError(f"--layer-lr-decay {cfg.layer_lr_decay} is not in (0, 1]")
        groups = defaultdict(list)
        for parameter in params:
            groups[getattr(parameter, "param_group", "default")].append(parameter)
        depth = sum(name.startswith("layer") for name in groups)
        if not depth:
            raise PMLMError(
                "--optimizer pmlm_layer_decay finds no layers: is this a PMLM, and without --fp16, or with "
                "--fp16-no-flatten-grads?"
            )
        levels = {"default": 0, "embeddings": depth + 1} | {f"layer{i}": depth - i for i in range(depth)}
        self.scales = {name: cfg.layer_lr_decay ** levels[name] for name in groups}
        self.optimizers = {name: FairseqAdam(cfg, members) for name, members in groups.items()}
        self._optimizer = CompositeOptimizer(self.optimizers)
        self.set_lr(self.optimizers[next(iter(groups))].get_lr())
        logger.info("learning rates: " + ", ".join(f"{name} x {scale:.4g}" for name, scale in self.scales.items()))

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of heads; that of each layer follows."""
        for name, optimizer in self.optimizers.items():
            optimizer.set_lr(lr * self.scales[name])
