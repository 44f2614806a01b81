"""Beam search's choice among all types, without sorting them all."""

import torch
from fairseq import search
from torch import Tensor

BLOCK = 128


class BeamSearch(search.BeamSearch):
    """fairseq's beam search, faster where the vocabulary is large.

    The k best types lie in the k blocks of types with the best maxima. So one pass over the vocabulary finds the
    maxima, and only k blocks are looked at again; ``topk`` over everything would cost several such passes.
    """

    def step(
        self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None, candidate_multiple: int = 2
    ):
        """The best candidates of each sentence.

        Args:
            step: number of tokens chosen so far.
            lprobs: (sentences, beams, types), log-probabilities of the next token.
            scores: (sentences, beams, step), sums of log-probabilities.
            candidate_multiple: candidates per beam.

        Returns:
            (sentences, candidates) each, the best first: sums of log-probabilities, types, beams.
        """
        sentences, beams, types = lprobs.shape
        count = candidate_multiple * beams
        blocks = types // BLOCK
        if blocks * (1 if step == 0 else beams) <= count:
            return super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs, candidate_multiple)
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
