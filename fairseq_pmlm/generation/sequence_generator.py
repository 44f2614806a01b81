"""The search: what fairseq's ``SequenceGenerator`` does, with a limit for each sentence, other ways to stop and to
penalize length, and no Python loop over hypotheses.

Options that both have mean the same, and give the same hypotheses and scores (tested side by side). The strategies
(beam, diverse beam, sampling, constraints) are fairseq's own.
"""

import logging
import math
from typing import Optional

import torch
from fairseq import search
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from ..utils.errors import PMLMError
from .search import BeamSearch, Sampling

logger = logging.getLogger(__name__)

LENGTH_PENALTIES = ["fairseq", "wu"]
EARLY_STOPS = ["fairseq", "exact", "never"]


class Ended:
    """The hypotheses that have ended, at most *beam* for each sentence: the first ones, or the best ones.

    Args:
        sentences, beam: how many.
        longest: of any hypothesis, in tokens with </s>.
        first: keep those that ended first, as fairseq does; else those with the best scores.
        device: of everything.
    """

    def __init__(self, sentences: int, beam: int, longest: int, first: bool, device):
        self.first = first
        self.count = torch.zeros(sentences, dtype=torch.long, device=device)
        self.lengths = torch.zeros(sentences, beam, dtype=torch.long, device=device)  # 0: nothing here yet
        self.scores = torch.full((sentences, beam), -math.inf, device=device)
        self.tokens = torch.zeros(sentences, beam, longest, dtype=torch.long, device=device)
        self.cumulative = torch.zeros(sentences, beam, longest, device=device)

    def add(self, sentences: Tensor, new: Tensor, scores: Tensor, tokens: Tensor, cumulative: Tensor) -> None:
        """Add hypotheses of equal length.

        Args:
            sentences: int64 (n,), whose they are.
            new: bool (n, k), which of the k places of each sentence hold one.
            scores: (n, k), normalized.
            tokens: int64 (n, k, length), with </s>.
            cumulative: (n, k, length), sums of log-probabilities.
        """
        beam, length = self.scores.size(1), tokens.size(2)
        lengths = torch.cat([self.lengths[sentences], new.long() * length], dim=1)
        held = torch.cat([self.scores[sentences], scores.to(self.scores).masked_fill(~new, -math.inf)], dim=1)
        # stable: of equal ones, the one that ended first stays
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

    def hypotheses(self) -> list[list[dict[str, Tensor]]]:
        """What fairseq's generator returns: for each sentence, its hypotheses, the best one first."""
        order = self.scores.argsort(dim=1, descending=True, stable=True)
        lengths = self.lengths.tolist()
        nothing = torch.empty(0)
        found = []
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
                        "attention": nothing,
                        "alignment": nothing,
                        "positional_scores": cumulative.diff(prepend=cumulative.new_zeros(1)),
                    }
                )
        return found


class Generator(SequenceGenerator):
    """Search for the best target of each source in a batch.

    Args:
        models, tgt_dict: as for fairseq's ``SequenceGenerator``, which also takes most of *options*.
        length_penalty_type: ``fairseq``: sum of log-probabilities / length ^ lenpen; ``wu``: / ((5 + length) / 6) ^
            lenpen, where 0 is the plain sum. The length counts </s>.
        early_stop: when the search for a sentence ends before its limit. ``fairseq``: when as many hypotheses have
            ended as there are beams. ``exact``: when, besides, no open one can overtake the worst of them.
            ``never``: not at all; the same hypotheses as ``exact``, later.
        no_repeat_ngram_size: no sequence of so many tokens comes twice; 0 for no such rule.
        no_repeat_ngram_ignore: indices of symbols; the rule does not hold for n-grams with one of them.

    Raises:
        PMLMError: options that contradict each other.
    """

    def __init__(
        self,
        models,
        tgt_dict,
        length_penalty_type: str = "fairseq",
        early_stop: str = "fairseq",
        no_repeat_ngram_size: int = 0,
        no_repeat_ngram_ignore: tuple[int, ...] = (),
        **options,
    ):
        super().__init__(models, tgt_dict, **options)
        if type(self.search) is search.BeamSearch:
            self.search = BeamSearch(tgt_dict)
        elif type(self.search) is search.Sampling:
            self.search = Sampling(tgt_dict, self.search.sampling_topk, self.search.sampling_topp)
        self.length_penalty_type = str(length_penalty_type)
        self.early_stop = str(early_stop)
        self.ngram_size = no_repeat_ngram_size
        self.ngram_ignore = tuple(no_repeat_ngram_ignore)
        self.positions = min(model.max_positions() for model in self.model.models)
        if self.length_penalty_type == "wu" and not self.normalize_scores:
            raise PMLMError("--length-penalty-type wu penalizes length, which --unnormalized forbids; give one of them")
        falls = {"--unkpen": self.unk_penalty, "--lm-weight": self.lm_weight if self.lm_model else 0.0}
        falls["--diverse-beam-strength"] = -getattr(self.search, "diversity_strength", 0.0)
        falls["--diversity-rate"] = getattr(self.search, "diversity_rate", 0.0)
        for option, value in falls.items():
            if self.early_stop == "exact" and value < 0:
                raise PMLMError(
                    f"{option} {value} makes scores rise, so that --early-stop exact cannot know when to stop; "
                    "give --early-stop never"
                )

    def length_limits(self, src_lengths: Tensor) -> Tensor:
        """Longest target of each sentence, int64 (sentences,), in tokens without </s>.

        It depends on the sentence's own source, ``src_lengths`` int64 (sentences,) with <s> and </s>, never on those
        that share its batch. An empty source has an empty target.

        Raises:
            PMLMError: a limit is less than ``--min-len``.
        """
        wanted = (self.max_len_a * src_lengths.double() + self.max_len_b).long()
        # the target's positions follow the source's; </s> needs one, too
        limits = torch.minimum(wanted.clamp(max=self.max_len - 1), self.positions - 1 - src_lengths)
        empty = src_lengths <= 2
        short = (limits < self.min_len) & ~empty
        if short.any():
            first = int(short.long().argmax())
            raise PMLMError(
                f"--min-len {self.min_len} is more than the {int(limits[first])} tokens that --max-len-a, --max-len-b, "
                f"--max-target-positions and --max-positions allow for a source of {int(src_lengths[first])} tokens "
                "with <s> and </s>"
            )
        return limits.masked_fill(empty, 0)

    def normalize(self, scores: Tensor, length) -> Tensor:
        """Sums of log-probabilities of hypotheses of *length* tokens with </s> -> their scores."""
        if not self.normalize_scores:
            return scores
        if self.length_penalty_type == "wu":
            return scores / ((5 + length) / 6) ** self.len_penalty
        return scores / length**self.len_penalty

    def restrict(
        self, lprobs: Tensor, tokens: Tensor, step: int, limits: Optional[Tensor], prefix: Optional[Tensor]
    ) -> Tensor:
        """Rule out what must not come next: -inf in *lprobs*, in place. Nothing is normalized again.

        Args:
            lprobs: (rows, types).
            tokens: int64 (rows, step + 1), the start symbol and what was chosen.
            step: number of tokens chosen.
            limits: int64 (rows,), the longest target, in tokens without </s>; or None where none is reached yet.
            prefix: int64 (rows,), what has to come next, <pad> where that is open; or None.
        """
        at_end = None if limits is None else limits <= step
        if prefix is not None:
            prefix = prefix[:, None] if at_end is None else prefix.masked_fill(at_end, self.pad)[:, None]
            forced = lprobs.gather(1, prefix)
        lprobs[:, self.pad] = -math.inf
        if self.unk_penalty:
            lprobs[:, self.unk] -= self.unk_penalty
        if self.token_indices_to_suppress is not None:
            lprobs.index_fill_(1, self.token_indices_to_suppress, -math.inf)
        if self.ngram_size:
            self.block_ngrams(lprobs, tokens[:, 1:])
        if step < self.min_len:
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
        """Rule out, in *lprobs* (rows, types), each type that would repeat an n-gram of *words*, int64 (rows, step)."""
        size = self.ngram_size
        if words.size(1) < size:
            return
        seen = words.unfold(1, size, 1)  # (rows, n-grams, size)
        repeats = (seen[:, :, :-1] == words[:, None, words.size(1) - size + 1 :]).all(2)
        for index in self.ngram_ignore:
            repeats &= ~seen.eq(index).any(2)
        # one type may end several n-grams: it is out if one of them repeats
        most = torch.full_like(repeats, math.inf, dtype=lprobs.dtype).masked_fill(repeats, -math.inf)
        lprobs.scatter_reduce_(1, seen[:, :, -1], most, "amin")

    def _generate(
        self,
        sample: dict,
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
        bos_token: Optional[int] = None,
    ) -> list[list[dict[str, Tensor]]]:
        """Search.

        Args:
            sample: a batch; ``net_input`` holds ``src_tokens`` int64 (sentences, source) and ``src_lengths``.
            prefix_tokens: int64 (sentences, prefix), how the targets begin, padded on the right.
            constraints: packed constraints, as fairseq's lexically constrained search takes them.
            bos_token: start symbol, default </s>; the models do not look at it.

        Returns:
            for each sentence its hypotheses, the best one first: at most as many as there are beams, at least one.

        Raises:
            PMLMError: a limit is less than ``--min-len``; the model's outputs are not numbers.
        """
        src_tokens, src_lengths = sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"]
        device, beam = src_tokens.device, self.beam_size
        sentences = len(src_tokens)
        if constraints is not None and not self.search.supports_constraints:
            raise PMLMError("constraints were given, but not the option --constraints")
        if constraints is None and self.search.supports_constraints:
            raise PMLMError("--constraints: only fairseq-interactive reads them, after each source, behind tabs")
        self.search.init_constraints(constraints, beam)
        if self.should_set_src_lengths:
            self.search.set_src_lengths(src_lengths)
        if self.token_indices_to_suppress is not None:
            self.token_indices_to_suppress = self.token_indices_to_suppress.to(device)
        limits = self.length_limits(src_lengths)
        shortest, longest = limits.aminmax()
        shortest, longest = int(shortest), int(longest)

        encoder_outs = self.model.forward_encoder(sample["net_input"])
        rows = torch.arange(sentences, device=device).repeat_interleave(beam)
        states = [{} for _ in range(self.model.models_size)]
        tokens = src_tokens.new_full((sentences * beam, longest + 2), self.pad)
        tokens[:, 0] = self.eos if bos_token is None else bos_token
        cumulative = torch.zeros(sentences * beam, longest + 1, device=device)
        ended = Ended(sentences, beam, longest + 1, self.early_stop == "fairseq", device)

        active = torch.arange(sentences, device=device)  # sentences that are still searched
        idle = torch.zeros(sentences, beam, dtype=torch.bool, device=device)  # beams of theirs that have ended
        for step in range(longest + 1):
            if step == 0:  # all beams are alike: once for each sentence
                lprobs, _ = self.model.forward_decoder(tokens[::beam, :1], encoder_outs, states, self.temperature)
                lprobs = lprobs.repeat_interleave(beam, dim=0)
                self.model.reorder_incremental_state(states, rows)
                encoder_outs = self.model.reorder_encoder_out(encoder_outs, rows)
            else:
                lprobs, _ = self.model.forward_decoder(tokens[:, : step + 1], encoder_outs, states, self.temperature)
            if self.lm_model is not None:
                said = self.lm_model.get_normalized_probs(self.lm_model(tokens[:, : step + 1]), log_probs=True)
                lprobs = lprobs + self.lm_weight * said[:, -1]
            prefix = None
            if prefix_tokens is not None and step < prefix_tokens.size(1):
                prefix = prefix_tokens[active, step].repeat_interleave(beam)
            row_limits = limits[active].repeat_interleave(beam) if step >= shortest else None
            if lprobs[:, self.eos].isnan().any():  # softmax spreads it to all types
                raise PMLMError("the model's outputs are not numbers (NaN); was its training stable?")
            lprobs = self.restrict(lprobs, tokens[:, : step + 1], step, row_limits, prefix)

            # (active, candidates) each; a candidate's beam counts within its sentence
            scores, words, beams = self.search.step(
                step,
                lprobs.view(len(active), beam, -1),
                cumulative.view(len(active), beam, -1)[:, :, :step],
                tokens[:, : step + 1],
                active,
            )
            from_idle = idle.gather(1, beams)  # what an ended beam would go on with
            ends = words.eq(self.eos) & scores.ne(-math.inf) & ~from_idle
            at_limit = limits[active] <= step
            # rules that leave nothing over must not lose the sentence
            stuck = at_limit & (ended.count[active] == 0) & ~ends[:, :beam].any(1)
            new = ends[:, :beam].clone()
            new[:, 0] |= stuck
            offsets = torch.arange(len(active), device=device)[:, None] * beam
            if new.any():
                parents = beams[:, :beam] + offsets
                words_so_far = tokens[parents][:, :, 1 : step + 2].clone()
                words_so_far[:, :, step] = self.eos
                sums = cumulative[parents][:, :, : step + 1].clone()
                sums[:, :, step] = scores[:, :beam]
                ended.add(active, new, self.normalize(scores[:, :beam], step + 1), words_so_far, sums)

            # the best candidates that go on, in their order; where there are too few, ended ones fill up
            dead = ends | from_idle
            places = torch.arange(scores.size(1), device=device) + dead.long() * scores.size(1)
            places, chosen = places.topk(beam, dim=1, largest=False)
            idle = places >= scores.size(1)
            going_on = scores.gather(1, chosen)
            done = self.is_done(step, at_limit, ended, active, going_on.masked_fill(idle, -math.inf), limits)

            keep = (~done).nonzero()[:, 0]
            if not len(keep):
                break
            self.search.prune_sentences(keep)
            parents = (beams.gather(1, chosen) + offsets)[keep].view(-1)
            words = words.gather(1, chosen)[keep].view(-1)
            cumulative = cumulative[parents]
            cumulative[:, step] = going_on[keep].view(-1)
            tokens = tokens[parents]
            tokens[:, step + 1] = words
            self.search.update_constraints(chosen[keep])
            active, idle = active[keep], idle[keep]
            self.model.reorder_incremental_state(states, parents)
            encoder_outs = self.model.reorder_encoder_out(encoder_outs, parents)
        if impossible := int(ended.scores.amax(1).eq(-math.inf).sum()):
            logger.warning(
                f"{impossible} of {sentences} sentences have no hypothesis that the options allow (--min-len, "
                "--no-repeat-ngram-size, prefixes ...); what was written when nothing was left has a score of -inf"
            )
        return ended.hypotheses()

    def is_done(self, step: int, at_limit: Tensor, ended: Ended, active: Tensor, going_on: Tensor, limits: Tensor):
        """Which of the *active* sentences need no more steps, bool (active,).

        Args:
            step: number of tokens chosen before this step.
            at_limit: bool (active,).
            ended: all hypotheses so far.
            active: int64 (active,).
            going_on: (active, beams), sums of log-probabilities of the beams that go on, -inf for those that do not.
            limits: int64 (sentences,), of all.
        """
        best = going_on.amax(1)
        done = at_limit | ((best == -math.inf) & (ended.count[active] > 0))
        full = ended.count[active] == self.beam_size
        if self.early_stop == "fairseq":
            done |= full
        elif self.early_stop == "exact":
            # Sums only fall. Their normalized value is at its best at one end of the lengths that are left.
            soonest, latest = self.normalize(best, step + 2), self.normalize(best, limits[active] + 1)
            done |= full & (torch.maximum(soonest, latest) <= ended.scores[active].amin(1))
        return done
