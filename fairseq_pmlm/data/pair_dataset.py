"""The fairseq datasets of pairs: cut to length, and with pseudo masks."""

import logging
import math
from typing import NamedTuple

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, LanguagePairDataset

from ..utils.errors import PMLMError
from . import masking
from .cutting import cut, first_part

logger = logging.getLogger(__name__)


class CutDataset(BaseWrapperDataset):
    """Sequences ending in </s>, of at most *max_length* tokens including it.

    Of a sequence with two parts, ``A </s> B </s>``, only B is cut: A, the question, stays whole.

    Args:
        dataset: token sequences with ``sizes``.
        max_length: the limit, in tokens.
        keep: which part of a longer sequence stays: ``head``, ``tail``, or ``middle`` (both ends go).
        eos: index of </s>.
        name: what to call the sequences in an error.

    Raises:
        PMLMError: nothing of B would be left of some longer sequences; says how many.
    """

    def __init__(self, dataset, max_length: int, keep: str, eos: int, name: str):
        super().__init__(dataset)
        self.max_length = max_length
        self.keep = str(keep)
        self.eos = eos
        self.name = name
        self._sizes = np.minimum(np.asarray(dataset.sizes), max_length)
        long = np.flatnonzero(np.asarray(dataset.sizes) > max_length).tolist()
        full = [index for index in long if first_part(dataset[index], eos) > max_length - 2]
        if full:
            raise PMLMError(
                f"{len(full):,} lines of {name}, line {full[0] + 1} first, have a first part that leaves nothing of "
                f"{max_length} tokens for the second ({first_part(dataset[full[0]], eos)} with </s>); raise the limit"
            )

    @property
    def sizes(self):
        return self._sizes

    def __getitem__(self, index):
        return cut(self.dataset[index], self.max_length, self.keep, self.eos)

    def size(self, index):
        return int(self._sizes[index])

    def num_tokens(self, index):
        return int(self._sizes[index])


class Corruption(NamedTuple):
    """What training shows instead of the tokens of a pair; probabilities, see :class:`PseudoMaskedPairDataset`."""

    seed: int
    leave_unmasked_prob: float = 0.1
    random_token_prob: float = 0.1
    target_mask_prob: float = 0.0
    source_mask_prob: float = 0.0


class PseudoMaskedPairDataset(LanguagePairDataset):
    """fairseq's pairs, right-padded, corrupted for training as the authors do (their ``s2s-ft``).

    Each [P] slot shows [P], or with small probability a random type or the token itself, as the [M] slots of
    pre-training do: ``net_input["pseudo_tokens"]`` is (batch, target). With ``target_mask_prob`` the slot of the token
    itself shows the same (``shown_target``, in place of ``prev_output_tokens``), and with ``source_mask_prob`` a token
    of the source is corrupted as well, [M] for [P] (``shown_source``, in place of ``src_tokens``). The model looks at
    these in training alone. All draws depend on (seed, epoch, id) alone.

    Args:
        corruption: None, to show everything as it is (validation, generation), or a :class:`Corruption`.
        Others: as for fairseq's ``LanguagePairDataset``.
    """

    def __init__(self, *args, corruption: Corruption | None = None, **kwargs):
        super().__init__(*args, left_pad_source=False, left_pad_target=False, **kwargs)
        self.corruption = corruption
        self.random_types = masking.ordinary_types(self.tgt_dict)
        self.epoch = 1

    def set_epoch(self, epoch):
        super().set_epoch(epoch)
        self.epoch = epoch

    @property
    def can_reuse_epoch_itr_across_epochs(self):
        return False  # as in PMLMDataset

    def collater(self, samples, pad_to_length=None):
        batch = super().collater(samples, pad_to_length)
        if self.corruption is None or not batch or batch.get("target") is None:
            return batch
        target = batch["target"].numpy()
        net_input = batch["net_input"]
        source, previous = (net_input[name].numpy().copy() for name in ("src_tokens", "prev_output_tokens"))
        pseudo = np.full_like(target, self.tgt_dict.pad())
        for row, index in enumerate(batch["id"].tolist()):
            rng = masking.generator(self.corruption.seed, self.epoch, index)
            length = int((target[row] != self.tgt_dict.pad()).sum())
            pseudo[row, :length] = self.corrupt(target[row, :length], "<pseudo>", rng)
            if self.corruption.target_mask_prob:  # the last token, </s>, has no slot of its own
                hidden = np.flatnonzero(rng.random(length - 1) < self.corruption.target_mask_prob)
                previous[row, 1 + hidden] = pseudo[row, hidden]
            if self.corruption.source_mask_prob:
                length = int((source[row] != self.src_dict.pad()).sum())
                hidden = np.flatnonzero(rng.random(length) < self.corruption.source_mask_prob)
                hidden = hidden[~np.isin(source[row, hidden], (self.src_dict.bos(), self.src_dict.eos()))]
                source[row, hidden] = self.corrupt(source[row, hidden], "<mask>", rng)
        net_input["pseudo_tokens"] = torch.from_numpy(pseudo)
        if self.corruption.target_mask_prob:
            net_input["shown_target"] = torch.from_numpy(previous)
        if self.corruption.source_mask_prob:
            net_input["shown_source"] = torch.from_numpy(source)
        return batch

    def corrupt(self, tokens: np.ndarray, symbol: str, rng: np.random.Generator) -> np.ndarray:
        """What is shown in place of *tokens*; see :func:`fairseq_pmlm.data.masking.corrupt`."""
        assert self.corruption is not None
        _, leave_unmasked_prob, random_token_prob, *_ = self.corruption
        index = self.tgt_dict.index(symbol)
        return masking.corrupt(tokens, index, self.random_types, rng, leave_unmasked_prob, random_token_prob)

    def ordered_indices(self):
        """Indices sorted by length, for batches with little padding; equals are shuffled where fairseq does so.

        In training: sources that differ by up to 6 % count as equally long, and go by the length of their targets, up
        and down in turns. Elsewhere fairseq's order, by sources: decoding knows no targets.
        """
        order = super().ordered_indices()
        if self.corruption is None or self.tgt_sizes is None:
            return order
        if self.shuffle:
            order = np.random.permutation(order)  # noqa: NPY002 (fairseq seeds this one)
        group = (np.log(self.src_sizes[order]) / math.log(1.06)).astype(np.int64)
        target = self.tgt_sizes[order].astype(np.int64)
        return order[np.lexsort((np.where(group % 2, -target, target), group))]

    def num_tokens(self, index):
        """Slots of a pair: the source, and two for each target token."""
        return int(self.src_sizes[index] + (2 * self.tgt_sizes[index] if self.tgt_sizes is not None else 0))

    def num_tokens_vec(self, indices):
        slots = self.src_sizes[indices]
        return slots if self.tgt_sizes is None else slots + 2 * self.tgt_sizes[indices]
