"""Search for the best target of each source: beam search and sampling over a batch, with a limit for each sentence.

Options that fairseq's ``SequenceGenerator`` has, too, mean the same, and give the same hypotheses and scores (tested
side by side). No Python loop runs over hypotheses.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional, Union, get_type_hints

import torch
from torch import Tensor

from ..model.cache import Cache
from ..model.config import is_of_type
from ..model.incremental import encode_source, next_logits
from ..model.pmlm import PMLM, Symbols
from ..utils.errors import PMLMError
from .hypotheses import Ended, Hypothesis
from .search import BeamSearch, Sampling, Strategy

logger = logging.getLogger(__name__)

LENGTH_PENALTIES = ["fairseq", "wu"]
EARLY_STOPS = ["fairseq", "exact", "never"]
SUPPRESSED = ("<s>", "<mask>", "<pseudo>")  # have probabilities like any other symbol, and are never chosen


@dataclass
class SearchOptions:
    """Options of the search; the names are those of ``fairseq-generate``.

    beam: hypotheses that are kept for each sentence.
    max_len_a, max_len_b: longest target, a x (tokens of the source) + b tokens.
    min_len: shortest target, in tokens without </s>.
    length_penalty_type: ``fairseq``: sum of log-probabilities / length ^ lenpen; ``wu``: / ((5 + length) / 6) ^ lenpen,
        where 0 is the plain sum. The length counts </s>.
    lenpen: above 0 favours long targets over short ones.
    unnormalized: scores are plain sums.
    unkpen: what the log-probability of <unk> is lowered by.
    temperature: what logits are divided by.
    early_stop: when the search for a sentence ends before its limit. ``fairseq``: when as many hypotheses have ended as
        there are beams. ``exact``: when, besides, no open one can overtake the worst of them. ``never``: not at all;
        the same hypotheses as ``exact``, later.
    no_repeat_ngram_size: no sequence of this many tokens occurs twice; 0 for no such rule.
    no_repeat_ngram_ignore: indices of symbols; the rule does not hold for n-grams with one of them.
    sampling, sampling_topk, sampling_topp: draw each token from all types, from the best k, or from the fewest whose
        probabilities sum to p.
    """

    beam: int = 5
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    length_penalty_type: str = "fairseq"
    lenpen: float = 1.0
    unnormalized: bool = False
    unkpen: float = 0.0
    temperature: float = 1.0
    early_stop: str = "fairseq"
    no_repeat_ngram_size: int = 0
    no_repeat_ngram_ignore: tuple[int, ...] = ()
    sampling: bool = False
    sampling_topk: int = -1
    sampling_topp: float = -1.0

    def check(self, vocab_size: int) -> None:
        """Refuse options of a wrong type, or that contradict each other or the vocabulary.

        Raises:
            PMLMError: naming them.
        """
        for name, type_ in get_type_hints(type(self)).items():
            if type_ in (int, float) and not is_of_type(getattr(self, name), type_):
                wanted = "a whole number" if type_ is int else "a number"
                raise PMLMError(f"--{name.replace('_', '-')} {getattr(self, name)!r:.100} is not {wanted}")
        beam, topk, topp = self.beam, self.sampling_topk, self.sampling_topp
        if beam < 1 or 2 * beam > vocab_size - 1:
            raise PMLMError(f"--beam {beam}: with {vocab_size} types it lies in 1 .. {(vocab_size - 1) // 2}")
        if not self.sampling and (topk > 0 or topp > 0):
            raise PMLMError(f"--sampling-topk {topk} and --sampling-topp {topp} belong to --sampling")
        if topk > vocab_size:
            raise PMLMError(f"--sampling-topk {topk} is more than the {vocab_size} types")
        if not topp <= 1:
            raise PMLMError(f"--sampling-topp {topp}: must be in (0, 1]")
        # written so that NaN is refused, too
        numbers: list[tuple[str, Callable[[float], bool], str]] = [
            ("temperature", lambda x: 0 < x <= 1000, "above 0 and at most 1000"),
            ("lenpen", lambda x: -100 <= x <= 100, "in -100 .. 100"),
            ("max_len_a", lambda x: 0 <= x < float("inf"), "0 or more"),
            ("max_len_b", lambda x: x >= 0, "0 or more"),
            ("min_len", lambda x: x >= 0, "0 or more"),
            ("no_repeat_ngram_size", lambda x: x >= 0, "0 or more"),
        ]
        for name, is_right, wanted in numbers:
            if not is_right(getattr(self, name)):
                raise PMLMError(f"--{name.replace('_', '-')} {getattr(self, name)} is not {wanted}")
        for name, choices in (("length_penalty_type", LENGTH_PENALTIES), ("early_stop", EARLY_STOPS)):
            if str(getattr(self, name)) not in choices:
                option = name.replace("_", "-")
                raise PMLMError(f"--{option} {getattr(self, name)} is not one of {', '.join(choices)}")
        if self.no_repeat_ngram_ignore and not self.no_repeat_ngram_size:
            raise PMLMError("--no-repeat-ngram-ignore belongs to --no-repeat-ngram-size, which is not given")
        if self.length_penalty_type == "wu" and self.unnormalized:
            raise PMLMError("--length-penalty-type wu penalizes length, which --unnormalized forbids; give one of them")
        check_falling(self.early_stop, "--unkpen", self.unkpen)


def check_falling(early_stop: str, option: str, value: float) -> None:
    """Refuse an *option* whose negative *value* makes scores rise, where the search has to know when to stop.

    Raises:
        PMLMError: naming it.
    """
    if early_stop == "exact" and value < 0:
        raise PMLMError(
            f"{option} {value} makes scores rise, so that --early-stop exact cannot know when to stop; "
            "give --early-stop never"
        )


def find_symbols(dictionary: Symbols, words: Optional[str]) -> tuple[int, ...]:
    """Indices of the symbols that spell *words*, separated by spaces, within a word or at its beginning.

    Raises:
        PMLMError: the dictionary has none for one of them.
    """
    found = []
    for word in (words or "").split():
        symbols = [symbol for symbol in (word, f"\u2581{word}", f"\u0120{word}") if symbol in dictionary]
        if not symbols:
            raise PMLMError(f"--no-repeat-ngram-ignore {word!r}: the dictionary has no such symbol")
        found += [dictionary.index(symbol) for symbol in symbols]
    return tuple(found)


class SequenceGenerator:
    """Search for the best target of each source in a batch.

    Args:
        models: in evaluation mode; several are an ensemble, whose probabilities are averaged.
        options: of the search.
        strategy: how candidates are chosen at each step; None: by *options*, beam search or sampling.
        suppressed: symbols that are never chosen.
        more_scores: what to add to log-probabilities (rows, vocab_size), given the tokens, int64 (rows, step + 1).

    Raises:
        PMLMError: options that contradict each other; the dictionary lacks one of *suppressed*.
    """

    def __init__(
        self,
        models: Sequence[PMLM],
        options: SearchOptions,
        strategy: Optional[Strategy] = None,
        suppressed: Sequence[str] = SUPPRESSED,
        more_scores: Optional[Callable[[Tensor], Tensor]] = None,
    ):
        dictionary = models[0].dictionary
        options.check(len(dictionary))
        self.models, self.options, self.more_scores = list(models), options, more_scores
        self.pad, self.eos, self.unk = dictionary.pad(), dictionary.eos(), dictionary.index("<unk>")
        for symbol in suppressed:
            if dictionary.index(symbol) == self.unk:
                raise PMLMError(f"{symbol} is never to be chosen, but the dictionary lacks it")
        if strategy is None and options.sampling:
            strategy = Sampling(self.eos, options.sampling_topk, options.sampling_topp)
        self.strategy = BeamSearch() if strategy is None else strategy
        self.suppressed = torch.tensor([dictionary.index(symbol) for symbol in suppressed], dtype=torch.long)
        self.positions = min(model.max_positions() for model in models)
        self.longest_target = min(model.max_decoder_positions() for model in models)

    def length_limits(self, src_lengths: Tensor) -> Tensor:
        """Longest target of each sentence, int64 (sentences,), in tokens without </s>.

        It depends on the sentence's own source, ``src_lengths`` int64 (sentences,) with <s> and </s>, never on those
        that share its batch. An empty source has an empty target.

        Raises:
            PMLMError: a limit is less than ``--min-len``.
        """
        wanted = (self.options.max_len_a * src_lengths.double() + self.options.max_len_b).long()
        # the target's positions follow the source's; </s> needs one, too
        limits = torch.minimum(wanted.clamp(max=self.longest_target - 1), self.positions - 1 - src_lengths)
        empty = src_lengths <= 2
        short = (limits < self.options.min_len) & ~empty
        if short.any():
            first = int(short.long().argmax())
            raise PMLMError(
                f"--min-len {self.options.min_len} is more than the {int(limits[first])} tokens that --max-len-a, "
                "--max-len-b, --max-target-positions and --max-positions allow for a source of "
                f"{int(src_lengths[first])} tokens with <s> and </s>"
            )
        return limits.masked_fill(empty, 0)

    def normalize(self, scores: Tensor, length: Union[int, Tensor]) -> Tensor:
        """Sums of log-probabilities of hypotheses of *length* tokens with </s> -> their scores."""
        if self.options.unnormalized:
            return scores
        if self.options.length_penalty_type == "wu":
            return scores / ((5 + length) / 6) ** self.options.lenpen
        return scores / length**self.options.lenpen

    def restrict(
        self, lprobs: Tensor, tokens: Tensor, step: int, limits: Optional[Tensor], prefix: Optional[Tensor]
    ) -> Tensor:
        """Rule out what must not come next: -inf in *lprobs*, in place. Nothing is normalized again.

        Args:
            lprobs: (rows, vocab_size).
            tokens: int64 (rows, step + 1), the start symbol and what was chosen.
            step: number of tokens chosen.
            limits: int64 (rows,), the longest target, in tokens without </s>; None if no row has reached it yet.
            prefix: int64 (rows,), what has to come next, <pad> where that is open; or None.
        """
        at_end = None if limits is None else limits <= step
        if prefix is not None:
            prefix = prefix[:, None] if at_end is None else prefix.masked_fill(at_end, self.pad)[:, None]
            forced = lprobs.gather(1, prefix)
        lprobs[:, self.pad] = -math.inf
        if self.options.unkpen:
            lprobs[:, self.unk] -= self.options.unkpen
        lprobs.index_fill_(1, self.suppressed, -math.inf)
        if self.options.no_repeat_ngram_size:
            self.block_ngrams(lprobs, tokens[:, 1:])
        if step < self.options.min_len:
            lprobs[slice(None) if at_end is None else ~at_end, self.eos] = -math.inf
        if at_end is not None:
            eos = lprobs[:, self.eos].clone()
            lprobs.masked_fill_(at_end[:, None], -math.inf)
            lprobs[:, self.eos] = eos
        if prefix is not None:
            lprobs.masked_fill_(prefix.ne(self.pad), -math.inf)
            lprobs.scatter_(1, prefix, torch.where(prefix.ne(self.pad), forced, lprobs.gather(1, prefix)))
        return lprobs

    def block_ngrams(self, lprobs: Tensor, words: Tensor) -> None:
        """Rule out, in *lprobs* (rows, vocab_size), all that would repeat an n-gram of *words*, int64 (rows, step)."""
        size = self.options.no_repeat_ngram_size
        if words.size(1) < size:
            return
        seen = words.unfold(1, size, 1)  # (rows, n-grams, size)
        repeats = (seen[:, :, :-1] == words[:, None, words.size(1) - size + 1 :]).all(2)
        for index in self.options.no_repeat_ngram_ignore:
            repeats &= ~seen.eq(index).any(2)
        # one type may end several n-grams: it is out if one of them repeats
        most = torch.full_like(repeats, math.inf, dtype=lprobs.dtype).masked_fill(repeats, -math.inf)
        lprobs.scatter_reduce_(1, seen[:, :, -1], most, "amin")

    def log_probabilities(self, caches: list[Cache], tokens: Tensor) -> Tensor:
        """Log-probabilities (rows, vocab_size), in fp32, of what follows *tokens*, int64 (rows, step + 1)."""
        found = []
        for model, cache in zip(self.models, caches, strict=True):
            logits = next_logits(model, cache, tokens)[:, -1].div_(self.options.temperature)
            found.append(torch.log_softmax(logits.float(), dim=-1))
        if len(found) > 1:
            found = [torch.logsumexp(torch.stack(found), dim=0) - math.log(len(found))]
        return found[0] if self.more_scores is None else found[0] + self.more_scores(tokens)

    @torch.no_grad()
    def generate(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prefix_tokens: Optional[Tensor] = None,
        start: Optional[int] = None,
    ) -> list[list[Hypothesis]]:
        """Search.

        Args:
            src_tokens: int64 (sentences, source), ``<s> ... </s>``, padded on the right.
            src_lengths: int64 (sentences,).
            prefix_tokens: int64 (sentences, prefix), how the targets begin, padded on the right.
            start: index of the start symbol, default </s>; only models of the causal mode read it.

        Returns:
            for each sentence its hypotheses, the best one first: at most as many as there are beams, at least one. Each
            is a dictionary with ``tokens``, int64 (length,), </s> at the end; ``score``, (); and ``positional_scores``,
            (length,), log-probabilities.

        Raises:
            PMLMError: a limit is less than ``--min-len``; the model's outputs are not numbers.
        """
        device, beam = src_tokens.device, self.options.beam
        sentences = len(src_tokens)
        self.suppressed = self.suppressed.to(device)
        limits = self.length_limits(src_lengths)
        shortest, longest = map(int, limits.aminmax())

        caches = [encode_source(model, src_tokens, src_lengths) for model in self.models]
        rows = torch.arange(sentences, device=device).repeat_interleave(beam)
        tokens = src_tokens.new_full((sentences * beam, longest + 2), self.pad)
        tokens[:, 0] = self.eos if start is None else start
        cumulative = torch.zeros(sentences * beam, longest + 1, device=device)
        ended = Ended(sentences, beam, longest + 1, self.options.early_stop == "fairseq", device)

        active = torch.arange(sentences, device=device)  # sentences that are still searched
        idle = torch.zeros(sentences, beam, dtype=torch.bool, device=device)  # which of their beams have ended
        for step in range(longest + 1):
            if step == 0:  # all beams are alike: once for each sentence
                lprobs = self.log_probabilities(caches, tokens[::beam, :1]).repeat_interleave(beam, dim=0)
                for cache in caches:
                    cache.reorder(rows)
            else:
                lprobs = self.log_probabilities(caches, tokens[:, : step + 1])
            prefix = None
            if prefix_tokens is not None and step < prefix_tokens.size(1):
                prefix = prefix_tokens[active, step].repeat_interleave(beam)
            row_limits = limits[active].repeat_interleave(beam) if step >= shortest else None
            if lprobs[:, self.eos].isnan().any():  # softmax spreads it to all types
                raise PMLMError("the model's outputs are not numbers (NaN); was its training stable?")
            lprobs = self.restrict(lprobs, tokens[:, : step + 1], step, row_limits, prefix)

            # (active, candidates) each; a candidate's beam counts within its sentence
            scores, words, beams = self.strategy.step(
                step,
                lprobs.view(len(active), beam, -1),
                cumulative.view(len(active), beam, -1)[:, :, :step],
                tokens[:, : step + 1],
                active,
            )
            from_idle = idle.gather(1, beams)  # candidates that continue a beam that has ended
            ends = words.eq(self.eos) & scores.ne(-math.inf) & ~from_idle
            at_limit = limits[active] <= step
            # rules that leave nothing must not lose the sentence
            stuck = at_limit & (ended.count[active] == 0) & ~ends[:, :beam].any(1)
            new = ends[:, :beam].clone()
            new[:, 0] |= stuck
            offsets = torch.arange(len(active), device=device)[:, None] * beam
            if new.any():
                parents = beams[:, :beam] + offsets
                words_so_far = tokens[parents][:, :, 1 : step + 2].clone()
                words_so_far[:, :, step] = self.eos
                sums_so_far = cumulative[parents][:, :, : step + 1].clone()
                sums_so_far[:, :, step] = scores[:, :beam]
                ended.add(active, new, self.normalize(scores[:, :beam], step + 1), words_so_far, sums_so_far)

            # the best candidates that have not ended, in order; where there are too few, ended ones fill the beams
            dead = ends | from_idle
            places = torch.arange(scores.size(1), device=device) + dead.long() * scores.size(1)
            places, chosen = places.topk(beam, dim=1, largest=False)
            idle = places >= scores.size(1)
            sums = scores.gather(1, chosen)
            done = self.is_done(step, at_limit, ended, active, sums.masked_fill(idle, -math.inf), limits)

            keep = (~done).nonzero()[:, 0]
            if not len(keep):
                break
            self.strategy.keep_sentences(keep)
            parents = (beams.gather(1, chosen) + offsets)[keep].view(-1)
            words = words.gather(1, chosen)[keep].view(-1)
            cumulative = cumulative[parents]
            cumulative[:, step] = sums[keep].view(-1)
            tokens = tokens[parents]
            tokens[:, step + 1] = words
            self.strategy.keep_candidates(chosen[keep])
            active, idle = active[keep], idle[keep]
            for cache in caches:
                cache.reorder(parents)
        if impossible := int(ended.scores.amax(1).eq(-math.inf).sum()):
            logger.warning(
                f"{impossible} of {sentences} sentences have no hypothesis that the options allow (--min-len, "
                "--no-repeat-ngram-size, prefixes ...); what was written when nothing was left has a score of -inf"
            )
        return ended.hypotheses()

    def is_done(
        self, step: int, at_limit: Tensor, ended: Ended, active: Tensor, sums: Tensor, limits: Tensor
    ) -> Tensor:
        """Which of the *active* sentences need no more steps, bool (active,).

        Args:
            step: number of tokens chosen before this step.
            at_limit: bool (active,).
            ended: all hypotheses so far.
            active: int64 (active,).
            sums: (active, beams), sums of log-probabilities of the beams, -inf for those that have ended.
            limits: int64 (sentences,), of all.
        """
        best = sums.amax(1)
        done = at_limit | ((best == -math.inf) & (ended.count[active] > 0))
        full = ended.count[active] == self.options.beam
        if self.options.early_stop == "fairseq":
            done |= full
        elif self.options.early_stop == "exact":
            # Sums only fall. Their normalized value is at its best at one end of the lengths that are left.
            soonest, latest = self.normalize(best, step + 2), self.normalize(best, limits[active] + 1)
            done |= full & (torch.maximum(soonest, latest) <= ended.scores[active].amin(1))
        return done
