"""The fairseq dataset of pre-training: blocks of text, masked and laid out."""

import numpy as np
import torch
from fairseq.data import FairseqDataset

from . import layout, masking
from .blocks import TextBlocks

OBJECTIVES = {"ae": ("ae",), "par": ("par",), "ar": ("ar",), "ae+par": ("ae", "par"), "ae+ar": ("ae", "ar")}


class PMLMDataset(FairseqDataset):
    """Masked, laid-out blocks for pre-training.

    An example is [SOS] S1 [EOS] S2 [EOS] with segments 0 and 1, cut at a line end drawn uniformly (at any token where
    there is none). Cut, mask and corruption depend on (seed, epoch, index) alone. Sizes are counted in *slots*: what
    the Transformer really holds, and what ``--max-tokens`` therefore limits.

    Args:
        blocks: the text.
        dictionary: fairseq dictionary that holds ``<mask>`` and ``<pseudo>``.
        objective: one of :data:`OBJECTIVES`.
        seed: seed of all masks.
        mask_prob, leave_unmasked_prob, random_token_prob: see :mod:`fairseq_pmlm.data.masking`.
        corrupt_pseudo: corrupt [P] slots with the same draw as [M], instead of showing [P] in all of them.
        shuffle: shuffle examples of equal size before they are batched.
    """

    def __init__(
        self,
        blocks: TextBlocks,
        dictionary,
        objective: str = "ae+par",
        seed: int = 1,
        mask_prob: float = 0.15,
        leave_unmasked_prob: float = 0.1,
        random_token_prob: float = 0.1,
        corrupt_pseudo: bool = False,
        shuffle: bool = True,
    ):
        self.blocks = blocks
        self.bos, self.pad, self.eos = dictionary.bos(), dictionary.pad(), dictionary.eos()
        self.mask_index, self.pseudo_index = dictionary.index("<mask>"), dictionary.index("<pseudo>")
        self.random_types = masking.ordinary_types(dictionary)
        self.objectives = OBJECTIVES[str(objective)]
        self.seed = seed
        self.epoch = 1
        self.mask_prob = mask_prob
        self.leave_unmasked_prob = leave_unmasked_prob
        self.random_token_prob = random_token_prob
        self.corrupt_pseudo = corrupt_pseudo
        self.shuffle = shuffle
        tokens = self.blocks.sizes.astype(np.int64) + np.where(self.blocks.sizes > 1, 3, 2)
        self.sizes = tokens if self.objectives == ("ae",) else tokens + 2 * masking.max_masked(tokens, mask_prob)

    def set_epoch(self, epoch):
        self.epoch = epoch

    @property
    def can_reuse_epoch_itr_across_epochs(self):
        # Data-loader workers that live on would keep the epoch, hence the masks, that they were started with.
        return False

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, index):
        """``{"id": int, "slots": Slots}``."""
        tokens, line_ends = self.blocks[index]
        rng = masking.generator(self.seed, self.epoch, index)
        if len(tokens) > 1:
            cut = int(line_ends[rng.integers(len(line_ends))] if len(line_ends) else rng.integers(1, len(tokens)))
            tokens = np.concatenate([[self.bos], tokens[:cut], [self.eos], tokens[cut:], [self.eos]])
            segments = (np.arange(len(tokens)) > cut + 1).astype(np.int64)
        else:
            tokens = np.concatenate([[self.bos], tokens, [self.eos]])
            segments = np.zeros(len(tokens), np.int64)
        maskable = (tokens != self.bos) & (tokens != self.eos) & (tokens != self.pad)
        mask = masking.draw_mask(maskable, rng, self.mask_prob, one_token_steps="ar" in self.objectives)
        original = tokens[mask.positions]
        corruption = (self.random_types, rng, self.leave_unmasked_prob, self.random_token_prob)
        shown = masking.corrupt(original, self.mask_index, *corruption)
        pseudo = np.full(len(original), self.pseudo_index)
        if self.corrupt_pseudo:
            pseudo = np.where(shown == self.mask_index, self.pseudo_index, shown)
        slots = layout.pretraining_layout(
            tokens,
            segments,
            mask,
            shown,
            pseudo,
            autoencoding="ae" in self.objectives,
            autoregressive=self.objectives != ("ae",),
        )
        return {"id": index, "slots": slots}

    def collater(self, samples):
        """Batch the slots; see :func:`collate`."""
        return collate(samples, self.objectives, self.pad) if samples else {}

    def num_tokens(self, index):
        return int(self.sizes[index])

    def num_tokens_vec(self, indices):
        return self.sizes[indices]

    def size(self, index):
        return int(self.sizes[index])

    def ordered_indices(self):
        """Indices sorted by size; equal sizes shuffled by numpy's global state.

        fairseq seeds that with the epoch, so epochs differ in the batches and in their order, as in the masks.
        """
        order = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))  # noqa: NPY002
        return order[np.argsort(self.sizes[order], kind="stable")]


def collate(samples: list[dict], objectives: tuple[str, ...], pad: int) -> dict:
    """Batch the slots of *samples*, ``{"id": int, "slots": Slots}`` each, laid out for *objectives*.

    Context, [P] and originals are padded apart, so that the same columns mean the same everywhere.

    Returns:
        ``id`` (batch,); ``ntokens``, ``nslots``, ``nsentences``, without padding; ``objectives``; ``target``
        (predictions,), those of all texts for one objective after the other; and ``net_input`` with ``tokens``,
        ``positions``, ``segments``, ``steps`` (batch, slots), ``context_length``, ``queries`` (batch, selected), the
        slots that predict, padded; ``context_queries``, how many of its leading columns lie in the context; and
        ``wanted`` (predictions,), where in ``queries``, flattened, the slots for ``target`` are.
    """
    slots = [sample["slots"] for sample in samples]
    groups = len(objectives)
    masked = np.array([len(s.targets) // groups for s in slots])
    context = np.array([s.context_length for s in slots])
    pseudo = masked if objectives != ("ae",) else np.zeros_like(masked)
    parts = np.stack([context, pseudo, [len(s.tokens) for s in slots] - context - pseudo], axis=1)
    starts = np.cumsum([0, *parts.max(axis=0)])  # columns where context, [P] and originals start; and their end
    context, width = int(starts[1]), int(masked.max())
    fields = np.zeros((4, len(slots), starts[-1]), np.int64)
    tokens, positions, segments, steps = fields
    tokens[:] = pad
    positions[:, :context] = np.arange(context)  # under the padding too: attention wants all rows alike there
    queries = np.full((len(slots), groups, width), context)  # of [P], padding must lie behind the context as well
    queries[:, : context_queries(objectives, 1)] = 0
    for row, s in enumerate(slots):
        own = np.stack(s[:4])
        taken = 0
        for start, count in zip(starts, parts[row], strict=False):
            fields[:, row, start : start + count] = own[:, taken : taken + count]
            taken += count
        columns = np.where(s.queries < s.context_length, s.queries, s.queries + context - s.context_length)
        queries[row, :, : masked[row]] = columns.reshape(groups, -1)
    real = np.arange(width) < masked[:, None]
    wanted = [np.flatnonzero(real[:, None] & (np.arange(groups) == group)[:, None]) for group in range(groups)]
    leading = context_queries(objectives, width)
    if not width:  # nothing to predict; the last layer is asked for one slot all the same, which nobody looks at
        queries, leading = np.zeros((len(slots), 1), np.int64), 1
    target = [
        s.targets[group * n : (group + 1) * n] for group in range(groups) for s, n in zip(slots, masked, strict=True)
    ]
    return {
        "id": torch.tensor([sample["id"] for sample in samples]),
        "nsentences": len(samples),
        "ntokens": int(parts[:, 0].sum()),
        "nslots": int(parts.sum()),
        "objectives": objectives,
        "target": torch.from_numpy(np.concatenate(target)),
        "net_input": {
            "tokens": torch.from_numpy(tokens),
            "positions": torch.from_numpy(positions),
            "segments": torch.from_numpy(segments),
            "steps": torch.from_numpy(steps),
            "context_length": context,
            "queries": torch.from_numpy(queries.reshape(len(slots), -1)),
            "context_queries": leading,
            "wanted": torch.from_numpy(np.concatenate(wanted)),
        },
    }


def context_queries(objectives: tuple[str, ...], masked: int) -> int:
    """How many of the predicting slots lie in the context: the [M] slots, where autoencoding is an objective."""
    return masked if "ae" in objectives else 0
