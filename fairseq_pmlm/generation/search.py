"""fairseq's beam search without sorting the whole vocabulary, and its sampling where next to nothing is allowed."""

import math

import torch
from fairseq import search
from torch import Tensor

from ..utils.errors import PMLMError

BLOCK = 128


def check_options(options, types: int) -> None:
    """Refuse options of fairseq's searches that contradict each other or the vocabulary.

    Args:
        options: fairseq's group of generation options, or a namespace with some of them.
        types: size of the vocabulary.

    Raises:
        PMLMError: where fairseq would go on with other numbers, or end in a traceback.
    """

    def get(name, default):
        return getattr(options, name, default)

    beam, nbest, groups = get("beam", 5), get("nbest", 1), get("diverse_beam_groups", -1)
    topk, topp, rate = get("sampling_topk", -1), get("sampling_topp", -1.0), get("diversity_rate", -1.0)
    sampling = get("sampling", False)
    if get("print_alignment", None):
        raise PMLMError("--print-alignment: one stack reads the source and writes the target; it has no alignment")
    if get("match_source_len", False):
        raise PMLMError("--match-source-len: it goes beyond the longest target that the model has positions for")
    if beam < 1 or 2 * beam > types - 1:
        raise PMLMError(f"--beam {beam}: with {types} types it lies in 1 .. {(types - 1) // 2}")
    if not 1 <= nbest <= beam:
        raise PMLMError(f"--nbest {nbest} is not in 1 .. {beam}, the number of beams")
    if groups > 0 and beam % groups:
        raise PMLMError(f"--diverse-beam-groups {groups} does not divide --beam {beam}")
    if sum([sampling, groups > 0, rate > 0]) > 1:
        raise PMLMError("--sampling, --diverse-beam-groups and --diversity-rate are different searches; give one")
    if not sampling and (topk > 0 or topp > 0):
        raise PMLMError(f"--sampling-topk {topk} and --sampling-topp {topp} belong to --sampling")
    if topk > types:
        raise PMLMError(f"--sampling-topk {topk} is more than the {types} types")
    if not topp <= 1:
        raise PMLMError(f"--sampling-topp {topp} is no probability")
    if get("retain_iter_history", False):
        raise PMLMError("--retain-iter-history: there are no iterations of refinement here")
    # written so that NaN is refused, too
    numbers = [
        ("temperature", 1.0, lambda x: 0 < x <= 1000, "above 0 and at most 1000"),
        ("lenpen", 1.0, lambda x: -100 <= x <= 100, "in -100 .. 100"),
        ("max_len_a", 0.0, lambda x: 0 <= x < float("inf"), "0 or more"),
        ("max_len_b", 200, lambda x: x >= 0, "0 or more"),
        ("min_len", 1, lambda x: x >= 0, "0 or more"),
        ("no_repeat_ngram_size", 0, lambda x: x >= 0, "0 or more"),
    ]
    for name, default, is_right, wanted in numbers:
        if not is_right(get(name, default)):
            raise PMLMError(f"--{name.replace('_', '-')} {get(name, default)} is not {wanted}")


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


class Sampling(search.Sampling):
    """fairseq's sampling, also where all that is allowed has a probability that fp32 rounds to 0.

    That happens: a prefix or the length limit leaves one type, the model thinks little of it, and
    ``torch.multinomial`` wants a sum above 0. What is left keeps its proportions; where nothing is left, </s> is
    "drawn" with a score of -inf.
    """

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        """Draw; arguments and result as for :meth:`BeamSearch.step`, one candidate a beam."""
        best = lprobs.amax(2)  # (sentences, beams)
        lost = best < -50
        if not lost.any():
            return super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs)
        nothing = best.eq(-math.inf)
        shift = best.masked_fill(nothing | ~lost, 0.0)
        lprobs = lprobs - shift[:, :, None]
        lprobs[:, :, self.eos].masked_fill_(nothing, 0.0)
        totals, words, beams = super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs)
        return totals + shift.masked_fill(nothing, -math.inf).gather(1, beams), words, beams
