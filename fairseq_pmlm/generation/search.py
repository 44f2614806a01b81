"""How candidates are chosen at each step of the search: the best ones, or drawn ones."""

import math
from typing import Optional

import torch
from torch import Tensor

BLOCK = 128
Candidates = tuple[Tensor, Tensor, Tensor]


class Strategy:
    """Chooses candidates; a strategy with state of its own is told which of them continue."""

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor,
        tokens: Optional[Tensor] = None,
        active: Optional[Tensor] = None,
    ) -> Candidates:
        """Candidates for the next token of each sentence.

        Args:
            step: number of tokens chosen so far.
            lprobs: (sentences, beams, vocab_size), log-probabilities of the next token; may be changed in place. In
                step 0 all beams of a sentence are alike.
            scores: (sentences, beams, step), sums of log-probabilities.
            tokens: int64 (sentences x beams, step + 1), the start symbol and what was chosen.
            active: int64 (sentences,), their places in the batch, of which some may have ended.

        Returns:
            (sentences, candidates) each, the best first unless they are drawn: sums of log-probabilities, types, beams.
        """
        raise NotImplementedError

    def keep_sentences(self, keep: Tensor) -> None:
        """Of the sentences of the last step, only *keep*, int64 (kept,), continue."""

    def keep_candidates(self, chosen: Tensor) -> None:
        """Of the candidates of the last step, *chosen*, int64 (sentences, beams), become the beams."""


class BeamSearch(Strategy):
    """The best candidates, two for each beam, so that enough are left when some of them end.

    The k best types lie in the k blocks of types with the best maxima. So one pass over the vocabulary finds the
    maxima, and only k blocks are looked at again; ``topk`` over everything would cost several such passes.
    """

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor,
        tokens: Optional[Tensor] = None,
        active: Optional[Tensor] = None,
    ) -> Candidates:
        sentences, beams, types = lprobs.shape
        count = 2 * beams
        blocks = types // BLOCK
        if blocks * (1 if step == 0 else beams) <= count:
            return self.sort_all(step, lprobs, scores, count)
        if step == 0:  # all beams are alike
            lprobs, sums = lprobs[:, :1], lprobs.new_zeros(sentences, 1)
        else:
            sums = scores[:, :, step - 1]
        maxima = lprobs[:, :, : blocks * BLOCK].unflatten(2, (blocks, BLOCK)).amax(3) + sums[:, :, None]
        best = maxima.flatten(1).topk(count, dim=1)[1]  # (sentences, count), beam * blocks + block
        starts = best.div(blocks, rounding_mode="floor") * types + best.remainder(blocks) * BLOCK
        inside = (starts[:, :, None] + torch.arange(BLOCK, device=best.device)).flatten(1)
        places = torch.cat([inside, self.rest(lprobs, blocks * BLOCK)], dim=1)
        totals = lprobs.flatten(1).gather(1, places) + sums.gather(1, places.div(types, rounding_mode="floor"))
        totals, chosen = totals.topk(count, dim=1)
        places = places.gather(1, chosen)
        return totals, places.remainder(types), places.div(types, rounding_mode="floor")

    @staticmethod
    def rest(lprobs: Tensor, first: int) -> Tensor:
        """Places, in (beams x types), of the types from *first* on, which fill no block: int64 (sentences, places)."""
        sentences, beams, types = lprobs.shape
        last = torch.arange(first, types, device=lprobs.device)
        starts = torch.arange(beams, device=lprobs.device) * types
        return (starts[:, None] + last).flatten().expand(sentences, -1)

    @staticmethod
    def sort_all(step: int, lprobs: Tensor, scores: Tensor, count: int) -> Candidates:
        """The candidates of a small vocabulary, found by sorting it."""
        types = lprobs.size(2)
        lprobs = lprobs[:, :1] if step == 0 else lprobs + scores[:, :, step - 1, None]
        every = lprobs.flatten(1)
        totals, best = every.topk(min(count, every.size(1) - 1), dim=1)  # never all: <pad> is not chosen
        return totals, best.remainder(types), best.div(types, rounding_mode="floor")


class Sampling(Strategy):
    """One candidate a beam, drawn.

    A prefix or the length limit may leave only types whose probabilities fp32 rounds to 0; these keep their
    proportions. Where nothing is left, </s> is "drawn" with a score of -inf.

    Args:
        eos: index of </s>.
        topk: draw from this many of the best types; -1 for all.
        topp: draw from the fewest types whose probabilities sum to this; -1 for all.
    """

    def __init__(self, eos: int, topk: int = -1, topp: float = -1.0):
        self.eos, self.topk, self.topp = eos, topk, topp

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor,
        tokens: Optional[Tensor] = None,
        active: Optional[Tensor] = None,
    ) -> Candidates:
        best = lprobs.amax(2)  # (sentences, beams)
        lost = best < -50
        if not lost.any():
            return self.draw(step, lprobs, scores)
        nothing = best.eq(-math.inf)
        shift = best.masked_fill(nothing | ~lost, 0.0)
        lprobs = lprobs - shift[:, :, None]
        lprobs[:, :, self.eos].masked_fill_(nothing, 0.0)
        totals, words, beams = self.draw(step, lprobs, scores)
        return totals + shift.masked_fill(nothing, -math.inf).gather(1, beams), words, beams

    def draw(self, step: int, lprobs: Tensor, scores: Tensor) -> Candidates:
        """Arguments and result are those of :meth:`step`."""
        sentences, beams, _ = lprobs.shape
        if step == 0:
            lprobs = lprobs[:, :1]
        types = None  # which types the columns of the probabilities stand for, where they are not all of them
        if self.topp > 0:
            probabilities, types = self.nucleus(lprobs.exp())
        elif self.topk > 0:
            lprobs, types = lprobs.topk(self.topk)
            probabilities = lprobs.exp()
        else:
            probabilities = lprobs.exp()
        draws = beams if step == 0 else 1
        drawn = torch.multinomial(probabilities.flatten(0, 1), draws, replacement=True).view(sentences, beams)
        probabilities = probabilities.expand(sentences, beams, -1)
        gains = probabilities.gather(2, drawn[:, :, None]).log()[:, :, 0]
        words = drawn if types is None else types.expand(sentences, beams, -1).gather(2, drawn[:, :, None])[:, :, 0]
        if step == 0:
            return gains, words, torch.zeros_like(words)
        return gains + scores[:, :, step - 1], words, torch.arange(beams, device=words.device).expand_as(words)

    def nucleus(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """The types of (sentences, beams, vocab_size) to draw from, the most probable first; the others get 0."""
        probabilities, types = probabilities.sort(descending=True)
        before = probabilities.cumsum(2).lt(self.topp)  # the type that reaches the sum is one of them
        last = before.sum(2, keepdim=True).clamp(max=before.size(2) - 1)
        within = before.scatter(2, last, True)
        width = int(last.max()) + 1
        return probabilities[:, :, :width].masked_fill(~within[:, :, :width], 0.0), types[:, :, :width]
