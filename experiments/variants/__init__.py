"""Pre-training with one thing changed that the product has no switch for: ``--user-dir experiments/variants``.

``--task pmlm_variants`` is ``--task pmlm`` with ``--variant``, and the masks of the validation text are alike whatever
``--seed`` says, so that losses of different trainings are losses of the same tokens. Validations log ``seconds``: how
long training took since the validation before, or since the start; of the processor where there is no GPU, as others
may be using it. The variants:

hidden-kept       [P] slots and originals do not see the [M] slots of masked places that show the original or a random
                  token; in the default, [P] of such a place can look at the answer
one-symbol        [P] slots show [M]: one embedding for both, as in the authors' fine-tuning code
no-placeholders   no [M] slots at all, with ``--objective par``: nothing in the context says where something is missing
blind-originals   originals of one step do not see each other
"""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.tasks import register_task

import fairseq_pmlm.tasks  # noqa: F401
from fairseq_pmlm.data import layout
from fairseq_pmlm.data.layout import Slots
from fairseq_pmlm.data.pretraining_dataset import PMLMDataset
from fairseq_pmlm.model import attention, cache, transformer
from fairseq_pmlm.tasks.pmlm import PMLMTask, PMLMTaskConfig
from fairseq_pmlm.utils.errors import PMLMError

VARIANTS = ["none", "hidden-kept", "one-symbol", "no-placeholders", "blind-originals"]
VALID_SEED = 1
BEYOND = 1 << 20  # a step that no appended slot may look at; of context slots, only these look at steps


@dataclass
class VariantsConfig(PMLMTaskConfig):
    """Options of ``--task pmlm_variants``."""

    variant: ChoiceEnum(VARIANTS) = field(default="none", metadata={"help": "what is changed"})


@register_task("pmlm_variants", dataclass=VariantsConfig)
class VariantsTask(PMLMTask):
    """See the module's docstring."""

    def __init__(self, cfg: VariantsConfig, dictionary):
        super().__init__(cfg, dictionary)
        self.variant = str(cfg.variant)
        if self.variant == "no-placeholders" and str(cfg.objective) not in ("par", "ar"):
            raise PMLMError(f"--variant no-placeholders is for --objective par or ar, not {cfg.objective}")
        change_visibility(self.variant)
        self.clock = time.perf_counter if torch.cuda.is_available() else time.process_time
        self.begun = None  # when training began after the validation before; None while validating
        self.seconds = 0.0

    def train_step(self, *args, **kwargs):
        if self.begun is None:
            self.begun = self.clock()
        return super().train_step(*args, **kwargs)

    def valid_step(self, *args, **kwargs):
        if self.begun is not None:
            self.seconds, self.begun = self.clock() - self.begun, None
        return super().valid_step(*args, **kwargs)

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        if self.begun is None:
            metrics.log_scalar("seconds", self.seconds, round=2)

    def build_model(self, cfg, from_checkpoint=False):
        model = super().build_model(cfg, from_checkpoint)
        if self.variant == "one-symbol":
            model.pseudo_index = self.dictionary.index("<mask>")
        return model

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        super().load_dataset(split, epoch, combine, **kwargs)
        dataset = VariantDataset(self.datasets[split], self.variant)
        if split != "train":
            dataset.seed = VALID_SEED
        self.datasets[split] = dataset


def change_visibility(variant: str) -> None:
    """Let this process's models attend as *variant* says."""
    attention.visible = cache.visible = blind if variant == "blind-originals" else layout.visible
    transformer.visibility = by_row if variant == "no-placeholders" else attention.visibility


class VariantDataset(PMLMDataset):
    """A :class:`PMLMDataset` whose slots are changed as *variant* says."""

    def __init__(self, dataset: PMLMDataset, variant: str):
        self.__dict__.update(dataset.__dict__)
        self.variant = variant

    def __getitem__(self, index):
        item = super().__getitem__(index)
        slots = item["slots"]
        if self.variant == "hidden-kept":
            slots = hide_kept(slots, self.mask_index)
        elif self.variant == "one-symbol":
            slots = slots._replace(tokens=np.where(slots.tokens == self.pseudo_index, self.mask_index, slots.tokens))
        elif self.variant == "no-placeholders":
            slots = remove_placeholders(slots)
        return {**item, "slots": slots}


def masked_places(slots: Slots) -> np.ndarray:
    """Where the masked places of an example with [P] slots stand in its context."""
    return slots.positions[slots.steps < 0]


def hide_kept(slots: Slots, mask_index: int) -> Slots:
    """Out of the sight of appended slots: the [M] slots that do not show [M]."""
    places = masked_places(slots)
    steps = slots.steps.copy()
    steps[places[slots.tokens[places] != mask_index]] = BEYOND
    return slots._replace(steps=steps)


def remove_placeholders(slots: Slots) -> Slots:
    """Without the [M] slots; positions stay as they are."""
    keep = np.ones(len(slots.tokens), bool)
    keep[masked_places(slots)] = False
    removed = int((~keep).sum())
    return slots._replace(
        **{name: getattr(slots, name)[keep] for name in ("tokens", "positions", "segments", "steps")},
        context_length=slots.context_length - removed,
        queries=slots.queries - removed,
    )


def blind(query_steps, key_steps):
    """:func:`layout.visible`, but an original sees none of its own step but itself; queries are the last keys."""
    seen = layout.visible(query_steps, key_steps)
    queries, keys = query_steps.shape[-1], key_steps.shape[-1]
    same = (query_steps[..., :, None] == key_steps[..., None, :]) & (query_steps[..., :, None] > 0)
    for i in range(queries):
        same[..., i, keys - queries + i] = False
    return seen & ~same


def by_row(padding, positions, steps, context_length, bias=None, dtype=None):
    """:func:`attention.visibility` where context positions differ between the rows of a batch."""
    c = context_length
    seen = attention.visibility(padding, positions, steps, c, None, dtype)
    if bias is None:
        return seen
    context, appended = bias(positions[:, :c], positions[:, :c]), seen.appended
    if seen.context is not None:
        context = context + seen.context
    if appended is not None:
        appended = appended + bias(positions[:, c:], positions)
    return attention.Visibility(context, appended)
