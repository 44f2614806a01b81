"""The fairseq dataset of pre-training: blocks of text, masked and laid out."""

import numpy as np
from fairseq.data import FairseqDataset

from . import layout, masking
from .blocks import TextBlocks
from .collate import OBJECTIVES, collate


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
