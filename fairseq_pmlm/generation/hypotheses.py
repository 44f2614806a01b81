"""The hypotheses of a search that have ended, held in tables: there is no Python loop over them."""

import math

import torch
from torch import Tensor

Hypothesis = dict[str, Tensor]


class Ended:
    """The hypotheses that have ended, at most *beam* for each sentence: the first ones, or the best ones.

    Args:
        sentences, beam: how many.
        longest: length of the longest possible hypothesis, in tokens with </s>.
        first: keep those that ended first, as fairseq does; else those with the best scores.
        device: of all tensors.
    """

    def __init__(self, sentences: int, beam: int, longest: int, first: bool, device: torch.device):
        self.first = first
        self.count = torch.zeros(sentences, dtype=torch.long, device=device)
        self.lengths = torch.zeros(sentences, beam, dtype=torch.long, device=device)  # 0: still empty
        self.scores = torch.full((sentences, beam), -math.inf, device=device)
        self.tokens = torch.zeros(sentences, beam, longest, dtype=torch.long, device=device)
        self.cumulative = torch.zeros(sentences, beam, longest, device=device)

    def add(self, sentences: Tensor, new: Tensor, scores: Tensor, tokens: Tensor, cumulative: Tensor) -> None:
        """Add hypotheses of equal length.

        Args:
            sentences: int64 (n,), whose hypotheses they are.
            new: bool (n, k), which of the k candidates of each sentence have ended.
            scores: (n, k), normalized.
            tokens: int64 (n, k, length), with </s>.
            cumulative: (n, k, length), sums of log-probabilities.
        """
        beam, length = self.scores.size(1), tokens.size(2)
        lengths = torch.cat([self.lengths[sentences], new.long() * length], dim=1)
        held = torch.cat([self.scores[sentences], scores.to(self.scores).masked_fill(~new, -math.inf)], dim=1)
        # stable: among equals, the one that ended first stays
        empty = lengths.eq(0)
        order = empty.long().argsort(dim=1, stable=True)
        if not self.first:
            order = order.gather(1, held.gather(1, order).argsort(dim=1, descending=True, stable=True))
        order = order[:, :beam]
        self.lengths[sentences] = lengths.gather(1, order)
        self.scores[sentences] = held.gather(1, order)
        self.count[sentences] = self.lengths[sentences].ne(0).sum(1)
        order = order[:, :, None].expand(-1, -1, length)
        for table, part in ((self.tokens, tokens), (self.cumulative, cumulative.to(self.cumulative))):
            longer = table[sentences]
            both = torch.cat([longer[:, :, :length], part], dim=1).gather(1, order)
            table[sentences, :, :length] = both

    def hypotheses(self) -> list[list[Hypothesis]]:
        """For each sentence its hypotheses, the best one first; see :meth:`SequenceGenerator.generate`."""
        order = self.scores.argsort(dim=1, descending=True, stable=True)
        lengths = self.lengths.tolist()
        found: list[list[Hypothesis]] = []
        for i, beams in enumerate(order.tolist()):
            found.append([])
            for j in beams:
                if not (length := lengths[i][j]):
                    continue
                cumulative = self.cumulative[i, j, :length]
                found[-1].append(
                    {
                        "tokens": self.tokens[i, j, :length],
                        "score": self.scores[i, j],
                        "positional_scores": cumulative.diff(prepend=cumulative.new_zeros(1)),
                    }
                )
        return found
