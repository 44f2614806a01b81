"""fairseq datasets: blocks of text, masked and laid out; and pairs with pseudo masks."""

import logging
import math
from bisect import bisect_right
from typing import NamedTuple

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset, LanguagePairDataset, TokenBlockDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset

from . import layout, masking
from .errors import PMLMError

logger = logging.getLogger(__name__)

OBJECTIVES = {"ae": ("ae",), "par": ("par",), "ar": ("ar",), "ae+par": ("ae", "par"), "ae+ar": ("ae", "ar")}


NO_END = "line {line} of the binarized text does not end in </s>; binarize it again, with </s> at the end of each line"


class Lines(FairseqDataset):
    """The lines of a binarized text without the </s> at their ends, long ones cut into pieces.

    Args:
        dataset: binarized lines, each ending in </s>, with ``sizes``.
        eos: index of </s>.
        max_length: longest piece in tokens, or None to cut nothing.
        keep_empty: keep empty lines, which separate documents.
    """

    def __init__(self, dataset, eos: int, max_length: int | None, keep_empty: bool):
        self.dataset = dataset
        self.eos = eos
        self.max_length = max_length
        with_end = np.asarray(dataset.sizes)
        if len(with_end) and with_end.min() < 1:
            raise PMLMError(NO_END.format(line=int(np.argmin(with_end)) + 1))
        self.tokens = int(with_end.sum(dtype=np.int64)) - len(with_end)
        self.cut_lines = 0 if max_length is None else int((with_end > max_length + 1).sum())
        # Where every line is one piece, nothing is held of each: a corpus has hundreds of millions of lines.
        self.line = None
        if self.cut_lines or (not keep_empty and (with_end == 1).any()):
            lengths = with_end.astype(np.int64) - 1
            pieces = np.ones_like(lengths) if max_length is None else np.maximum(1, -(-lengths // max_length))
            if not keep_empty:
                pieces[lengths == 0] = 0
            self.line = np.repeat(np.arange(len(lengths)), pieces)
            number = np.arange(len(self.line)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
            self.start = number * (max_length or 0)
            self.lengths = lengths[self.line] - self.start
            if max_length is not None:
                self.lengths = np.minimum(self.lengths, max_length)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each piece."""
        return np.asarray(self.dataset.sizes) - 1 if self.line is None else self.lengths

    def __len__(self):
        return len(self.dataset) if self.line is None else len(self.line)

    def __getitem__(self, index):
        return torch.from_numpy(self.span(index, index)[0])

    def span(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The pieces *first* to *last*, one after the other: int64 (tokens,), and where each ends, int64 (pieces,)."""
        if self.line is None:
            return self.read(first, last)
        ends = np.cumsum(self.lengths[first : last + 1])
        tokens, _ = self.read(int(self.line[first]), int(self.line[last]))
        start = int(self.start[first])
        return tokens[start : start + int(ends[-1])], ends

    def line_of(self, token: int) -> tuple[int, int]:
        """The line of the text's *token* and how many tokens stand before it, where every line is one piece."""
        lines = range(len(self))
        if is_memory_mapped(self.dataset):  # where lines start stands in the index file, in bytes, and with each </s>
            pointers, width = self.dataset._index._pointers, np.dtype(self.dataset._index.dtype).itemsize
            line = bisect_right(lines, token, key=lambda line: pointers[line] // width - line) - 1
            return line, int(pointers[line]) // width - line
        if not hasattr(self, "_first_tokens"):
            self._first_tokens = np.cumsum(self.sizes, dtype=np.int64) - self.sizes
        line = int(np.searchsorted(self._first_tokens, token, side="right")) - 1
        return line, int(self._first_tokens[line])

    def read(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`span`, of lines.

        Raises:
            PMLMError: one of them does not end in </s>.
        """
        tokens = contiguous_tokens(self.dataset, first, last)
        ends = np.cumsum(self.dataset.sizes[first : last + 1], dtype=np.int64) - 1
        ended = tokens[ends] == self.eos
        if not ended.all():
            raise PMLMError(NO_END.format(line=first + int(np.argmin(ended)) + 1))
        text = np.ones(len(tokens), bool)
        text[ends] = False
        return tokens[text].astype(np.int64), ends - np.arange(len(ends))


def is_memory_mapped(dataset) -> bool:
    """Whether *dataset* is one of fairseq's memory-mapped files, as we know them."""
    return isinstance(dataset, MMapIndexedDataset) and hasattr(dataset, "_bin_buffer")


def contiguous_tokens(dataset, first: int, last: int) -> np.ndarray:
    """The items *first* to *last* of a binarized text, one after the other, as integers of any type.

    fairseq's memory-mapped files hold them so; reading item by item takes ten times as long.
    """
    if is_memory_mapped(dataset):
        pointer, size = dataset._index[last]
        start = int(dataset._index[first][0])
        width = np.dtype(dataset._index.dtype).itemsize
        count = (int(pointer) - start) // width + int(size)
        return np.frombuffer(dataset._bin_buffer, dataset._index.dtype, count, start)
    return torch.cat([dataset[i] for i in range(first, last + 1)]).numpy()


class TextBlocks:
    """Contiguous blocks of text: ``blocks[i]`` is ``(tokens int64 (length,), line ends int64 (ends,))``.

    Line ends are the places strictly inside the block where a line stops. Blocks are those of fairseq's
    ``TokenBlockDataset`` over lines without </s>; lines longer than a block are cut first where a break mode would
    otherwise exceed the block size. In mode ``none``, where they are found by counting, nothing is held of lines.

    Args:
        dataset: binarized lines, each ending in </s>; empty lines separate documents.
        block_size: longest block, in tokens.
        pad, eos: indices of <pad> and </s>.
        break_mode: ``none``, ``complete``, ``complete_doc`` or ``eos``, as fairseq has them.
    """

    def __init__(self, dataset, block_size: int, pad: int, eos: int, break_mode: str = "none"):
        break_mode = str(break_mode)
        self.lines = Lines(
            dataset,
            eos,
            max_length=None if break_mode == "none" else block_size,
            keep_empty=break_mode in ("none", "complete_doc"),  # where they do not matter, and where they do
        )
        if not self.lines.tokens:
            raise PMLMError("the binarized text holds no tokens; every line is empty")
        self.blocks = None
        self.block_size = block_size
        if break_mode == "none":
            count = -(-self.lines.tokens // block_size)
            self.sizes = np.full(count, block_size, np.int32)
            self.sizes[-1] = self.lines.tokens - (count - 1) * block_size
        elif break_mode == "eos":  # a block a line; fairseq's code for this case does not run on numpy >= 2
            self.sizes = self.lines.sizes
        else:
            self.blocks = TokenBlockDataset(
                self.lines, self.lines.sizes, block_size, pad=pad, eos=eos, break_mode=break_mode, document_sep_len=0
            )
            self.sizes = np.asarray(self.blocks.sizes, np.int64)
        self.break_mode = break_mode
        self.dropped_tokens = self.lines.tokens - int(self.sizes.sum(dtype=np.int64))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        first, offset, last = self.where(index)
        length = int(self.sizes[index])
        tokens, ends = self.lines.span(first, last)
        ends = ends - offset
        return tokens[offset : offset + length], np.unique(ends[(ends > 0) & (ends < length)])

    def where(self, index: int) -> tuple[int, int, int]:
        """The first piece of a block, how many of its tokens stand before the block, and the last piece."""
        if self.break_mode == "eos":
            return index, 0, index
        if self.blocks is not None:
            first, offset, last = (int(x) for x in self.blocks.block_to_dataset_index[index])
            return first, offset, last
        start = int(index) * self.block_size
        first, before = self.lines.line_of(start)
        last, _ = self.lines.line_of(start + int(self.sizes[index]) - 1)
        return first, start - before, last


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
        mask_prob, leave_unmasked_prob, random_token_prob: see :mod:`fairseq_pmlm.masking`.
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
        self.random_types = ordinary_types(dictionary)
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
        """Batch the slots: context, [P] and originals padded apart, so that the same columns mean the same everywhere.

        Returns:
            ``id`` (batch,); ``ntokens``, ``nsentences``; ``objectives``; ``target`` (predictions,), those of all texts
            for one objective after the other; and ``net_input`` with ``tokens``, ``positions``, ``segments``, ``steps``
            (batch, slots), ``context_length``, ``queries`` (batch, selected), the slots that predict, padded;
            ``context_queries``, how many of its leading columns lie in the context; and ``wanted`` (predictions,),
            where in ``queries``, flattened, the slots for ``target`` are.
        """
        if not samples:
            return {}
        slots = [sample["slots"] for sample in samples]
        groups = len(self.objectives)
        masked = np.array([len(s.targets) // groups for s in slots])
        context = np.array([s.context_length for s in slots])
        pseudo = masked if self.objectives != ("ae",) else np.zeros_like(masked)
        parts = np.stack([context, pseudo, [len(s.tokens) for s in slots] - context - pseudo], axis=1)
        starts = np.cumsum([0, *parts.max(axis=0)])  # columns where context, [P] and originals start; and their end
        context, width = int(starts[1]), int(masked.max())
        fields = np.zeros((4, len(slots), starts[-1]), np.int64)
        tokens, positions, segments, steps = fields
        tokens[:] = self.pad
        positions[:, :context] = np.arange(context)  # under the padding too: attention wants all rows alike there
        queries = np.full((len(slots), groups, width), context)  # of [P], padding must lie behind the context as well
        queries[:, : context_queries(self.objectives, 1)] = 0
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
        target = [
            s.targets[group * n : (group + 1) * n]
            for group in range(groups)
            for s, n in zip(slots, masked, strict=True)
        ]
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(parts[:, 0].sum()),
            "objectives": self.objectives,
            "target": torch.from_numpy(np.concatenate(target)),
            "net_input": {
                "tokens": torch.from_numpy(tokens),
                "positions": torch.from_numpy(positions),
                "segments": torch.from_numpy(segments),
                "steps": torch.from_numpy(steps),
                "context_length": context,
                "queries": torch.from_numpy(queries.reshape(len(slots), -1)),
                "context_queries": context_queries(self.objectives, width),
                "wanted": torch.from_numpy(np.concatenate(wanted)),
            },
        }

    def num_tokens(self, index):
        return int(self.sizes[index])

    def num_tokens_vec(self, indices):
        return self.sizes[indices]

    def size(self, index):
        return int(self.sizes[index])

    def ordered_indices(self):
        """Indices sorted by size; equal sizes shuffled by numpy's global state.

        fairseq seeds that alike for every epoch, so epochs differ in the order of the batches, and in the masks;
        ``--update-ordered-indices-seed`` makes other batches as well.
        """
        order = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))  # noqa: NPY002
        return order[np.argsort(self.sizes[order], kind="stable")]


def context_queries(objectives: tuple[str, ...], masked: int) -> int:
    """How many of the predicting slots lie in the context: the [M] slots, where autoencoding is an objective."""
    return masked if "ae" in objectives else 0


def ordinary_types(dictionary) -> np.ndarray:
    """int64 (types,): indices of the symbols that text can hold: neither special nor ``madeupword`` padding."""
    special = {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "<pseudo>"}
    return np.array(
        [i for i, s in enumerate(dictionary.symbols) if s not in special and not s.startswith("madeupword")], np.int64
    )


class CutDataset(BaseWrapperDataset):
    """Sequences ending in </s>, of at most *max_length* tokens including it.

    Of a sequence with two parts, ``A </s> B </s>``, only B is cut: what is asked for (A) stays whole.

    Args:
        dataset: token sequences with ``sizes``.
        max_length: the limit, in tokens.
        keep: which part of a longer sequence stays: ``head``, ``tail``, or ``middle`` (both ends go).
        eos: index of </s>.
        name: what to call the sequences in an error.

    Raises:
        PMLMError: of a longer sequence, nothing of B would be left; counting them.
    """

    def __init__(self, dataset, max_length: int, keep: str, eos: int, name: str):
        super().__init__(dataset)
        self.max_length = max_length
        self.keep = str(keep)
        self.eos = eos
        self.name = name
        self._sizes = np.minimum(np.asarray(dataset.sizes), max_length)
        long = np.flatnonzero(np.asarray(dataset.sizes) > max_length).tolist()
        full = [index for index in long if self.first_part(dataset[index]) > max_length - 2]
        if full:
            raise PMLMError(
                f"{len(full):,} lines of {name}, line {full[0] + 1} first, have a first part that leaves nothing of "
                f"{max_length} tokens for the second ({self.first_part(dataset[full[0]])} with </s>); raise the limit"
            )

    def first_part(self, item: torch.Tensor) -> int:
        """Tokens of the first of two parts, with its </s>; 0 where there is one part."""
        ends = item[:-1].eq(self.eos).nonzero()
        return int(ends[0]) + 1 if len(ends) else 0

    @property
    def sizes(self):
        return self._sizes

    def __getitem__(self, index):
        item = self.dataset[index]
        surplus = len(item) - self.max_length
        if surplus <= 0:
            return item
        whole = self.first_part(item)
        room = self.max_length - 1 - whole
        start = whole + {"head": 0, "tail": surplus, "middle": surplus // 2}[self.keep]
        return torch.cat([item[:whole], item[start : start + room], item[-1:]])

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
        self.random_types = ordinary_types(self.tgt_dict)
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
        """What is shown in place of *tokens*; see :func:`fairseq_pmlm.masking.corrupt`."""
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
