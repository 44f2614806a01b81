"""Windows over passages as a fairseq dataset, and what they say when a model has scored their slots."""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils
from torch import Tensor

from ..scoring.squad import exact_and_f1
from ..utils.errors import PMLMError
from .files import Texts, read_windows
from .spans import Span, best_spans


class WindowAnswers(NamedTuple):
    """What one window answers to its question."""

    question: int
    passage: int
    null: float  # score of <s>, start plus end
    spans: list[Span]  # in pieces of the passage, the best one first


class SquadDataset(FairseqDataset):
    """Windows ``<s> question </s> passage </s>`` with the slots where the answer starts and ends.

    Args:
        prefix: DIR/PART, see :mod:`fairseq_pmlm.squad.files`.
        questions, passages, extents: the binarized parts, one item a question or passage.
        dictionary: fairseq dictionary.
        version: "1.1" or "2.0".
        answered: whether there are answers to score with.
        shuffle: shuffle windows of equal size before they are batched.

    Raises:
        PMLMError: the files do not belong together.
    """

    def __init__(self, prefix, questions, passages, extents, dictionary, version, answered, shuffle):
        self.prefix, self.questions, self.passages, self.extents = prefix, questions, passages, extents
        self.part = prefix.rsplit("/", 1)[-1]
        self.bos, self.pad, self.eos = dictionary.bos(), dictionary.pad(), dictionary.eos()
        self.version, self.answered, self.shuffle = version, answered, shuffle
        if not np.array_equal(2 * np.asarray(passages.sizes), extents.sizes):
            raise PMLMError(f"{prefix}.passage and {prefix}.extent differ in length; prepare the data again")
        self.rows = read_windows(prefix, questions.sizes, passages.sizes)
        self.sizes = np.asarray(questions.sizes, np.int64)[self.rows[:, 0]] + 3 + self.rows[:, 3]

    @property
    def can_reuse_epoch_itr_across_epochs(self):
        # fairseq seeds ordered_indices with the epoch in which the batches are made: kept for later epochs, they would
        # be others than those of a run that resumes there.
        return False

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        """``id``; ``tokens``, int64 (slots,); ``offset``, slot of the first piece of the passage; ``target``, slots of
        start and end: 0 twice for no answer here, -1 for unknown."""
        question, passage, first, length, *target = self.rows[index].tolist()
        asked, read = self.questions[question], self.passages[passage][first : first + length]
        bos, eos = torch.tensor([self.bos]), torch.tensor([self.eos])
        tokens = torch.cat([bos, asked.long(), eos, read.long(), eos])
        return {"id": index, "tokens": tokens, "offset": len(asked) + 2, "target": target}

    def collater(self, samples):
        """Batch windows, padded on the right.

        Returns:
            ``id`` (batch,); ``nsentences``, ``ntokens``; ``part``, the name of this part of the data; ``target``, int64
            (batch, 2); ``candidates``, bool (batch, slots), where an answer can start or end: the passage, and <s>; and
            ``net_input`` with ``src_tokens``, int64 (batch, slots), and ``src_lengths``.
        """
        if not samples:
            return {}
        tokens = data_utils.collate_tokens([sample["tokens"] for sample in samples], self.pad)
        lengths = torch.tensor([len(sample["tokens"]) for sample in samples])
        slots = torch.arange(tokens.size(1))
        offsets = torch.tensor([sample["offset"] for sample in samples])
        inside = (slots >= offsets[:, None]) & (slots < lengths[:, None] - 1)
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
            "part": self.part,
            "target": torch.tensor([sample["target"] for sample in samples]),
            "candidates": inside | (slots == 0),
            "net_input": {"src_tokens": tokens, "src_lengths": lengths},
        }

    def num_tokens(self, index):
        return int(self.sizes[index])

    def num_tokens_vec(self, indices):
        return self.sizes[indices]

    def size(self, index):
        return int(self.sizes[index])

    def ordered_indices(self):
        """Indices sorted by size; equal sizes shuffled by numpy's global state, as in ``PMLMDataset``."""
        order = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))  # noqa: NPY002
        return order[np.argsort(self.sizes[order], kind="stable")]

    @cached_property
    def texts(self) -> Texts:
        """Ids, passages and references; read when they are needed, which training never does."""
        return Texts(self.prefix, len(self.questions), len(self.passages))

    def extents_of(self, passage: int) -> np.ndarray:
        """Where the pieces of a passage stand in its text: int (pieces, 2)."""
        return self.extents[passage].numpy().reshape(-1, 2)

    def answer(self, passage: int, span: Span) -> str:
        """The text of a span, as it stands in the passage."""
        extents = self.extents_of(passage)
        return self.texts.passages[passage][extents[span.first, 0] : extents[span.last, 1]]

    def decode(self, sample, logits: Tensor, longest: int, count: int) -> Iterator[WindowAnswers]:
        """The answers of each window of a batch.

        Args:
            sample: what :meth:`collater` has made.
            logits: (batch, slots, 2), scores of start and end.
            longest: most pieces of an answer.
            count: how many spans.
        """
        scores = logits.float().cpu().numpy()
        for index, row in zip(sample["id"].tolist(), scores, strict=True):
            question, passage, first, length, *_ = self.rows[index].tolist()
            offset = int(self.questions.sizes[question]) + 2
            extents = self.extents_of(passage)[first : first + length]
            start, end = row[offset : offset + length].T
            spans = best_spans(start, end, extents[:, 0] < extents[:, 1], longest, count)
            spans = [Span(score, first + begin, first + last) for score, begin, last in spans]
            yield WindowAnswers(question, passage, float(row[0].sum()), spans)

    def judge(self, sample, logits: Tensor, longest: int) -> list[tuple[float, ...]]:
        """What :func:`~fairseq_pmlm.squad.validation.summarize` wants of each window of a batch: its question, the
        scores of the best span and of <s>, exact match and F1 of that span (0..1), whether there is an answer."""
        rows: list[tuple[float, ...]] = []
        for found in self.decode(sample, logits, longest, count=1):
            answers = self.texts.answers[found.question]
            text = self.answer(found.passage, found.spans[0]) if found.spans else ""
            best = found.spans[0].score if found.spans else -np.inf
            rows.append((found.question, best, found.null, *exact_and_f1(text, answers, self.version), bool(answers)))
        return rows
