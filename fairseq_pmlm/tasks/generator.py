"""The search as a generator of fairseq's: its options translated, and its strategies where ours has none."""

from typing import Any, Optional

import torch
from fairseq import search
from torch import Tensor

from ..generation.search import Candidates, Strategy
from ..generation.sequence_generator import Hypothesis, SearchOptions, SequenceGenerator, check_falling
from ..utils.errors import PMLMError


class FairseqStrategy(Strategy):
    """A search strategy of fairseq's: diverse beams, lexical constraints, allowed tokens."""

    def __init__(self, strategy: search.Search):
        self.strategy = strategy

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor,
        tokens: Optional[Tensor] = None,
        active: Optional[Tensor] = None,
    ) -> Candidates:
        return self.strategy.step(step, lprobs, scores, tokens, active)

    def keep_sentences(self, keep: Tensor) -> None:
        self.strategy.prune_sentences(keep)

    def keep_candidates(self, chosen: Tensor) -> None:
        self.strategy.update_constraints(chosen)


class Generator:
    """What fairseq's tasks and commands call a generator.

    Args:
        models, tgt_dict, beam_size, len_penalty, normalize_scores, unk_penalty, search_strategy, lm_model, lm_weight,
            tokens_to_suppress: as for fairseq's ``SequenceGenerator``, which puts all models in evaluation mode, too.
        match_source_len: ignored here, as :func:`check_options` refuses it.
        options: others of :class:`~fairseq_pmlm.generation.sequence_generator.SearchOptions`.

    Raises:
        PMLMError: options that contradict each other.
    """

    def __init__(
        self,
        models,
        tgt_dict,
        beam_size: int = 1,
        len_penalty: float = 1.0,
        normalize_scores: bool = True,
        unk_penalty: float = 0.0,
        search_strategy: Optional[search.Search] = None,
        match_source_len: bool = False,
        lm_model=None,
        lm_weight: float = 1.0,
        tokens_to_suppress: tuple[str, ...] = (),
        **options: Any,
    ):
        self.symbols_to_strip_from_output = {tgt_dict.eos()}
        self.search = search.BeamSearch(tgt_dict) if search_strategy is None else search_strategy
        self.lm_model, self.lm_weight = lm_model, lm_weight
        for model in [*models, lm_model]:
            if model is not None:
                model.eval()
        ours: Optional[Strategy] = FairseqStrategy(self.search)
        if type(self.search) in (search.BeamSearch, search.Sampling):
            ours = None  # the core has these
        if type(self.search) is search.Sampling:
            options |= {"sampling": True}
            options |= {name: getattr(self.search, name) for name in ("sampling_topk", "sampling_topp")}
        settings = SearchOptions(
            beam=beam_size, lenpen=len_penalty, unnormalized=not normalize_scores, unkpen=unk_penalty, **options
        )
        check_falling(settings.early_stop, "--lm-weight", lm_weight if lm_model else 0.0)
        check_falling(settings.early_stop, "--diverse-beam-strength", -getattr(self.search, "diversity_strength", 0.0))
        check_falling(settings.early_stop, "--diversity-rate", getattr(self.search, "diversity_rate", 0.0))
        more = None if lm_model is None else self.fused
        self.generator = SequenceGenerator(models, settings, ours, tokens_to_suppress, more)

    def fused(self, tokens: Tensor) -> Tensor:
        """Weighted log-probabilities (rows, vocab_size) of the language model given with ``--lm-path``."""
        lprobs = self.lm_model.get_normalized_probs(self.lm_model(tokens), log_probs=True)  # (rows, step + 1, types)
        return self.lm_weight * lprobs[:, -1]

    @torch.no_grad()
    def generate(
        self,
        models,
        sample: dict,
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
        bos_token: Optional[int] = None,
        **_,
    ) -> list[list[Hypothesis]]:
        """Search; see :meth:`SequenceGenerator.generate`. Hypotheses have two more keys that fairseq's commands read,
        ``attention`` and ``alignment``, of empty tensors.

        Args:
            models: ignored, as by fairseq's; those of the constructor are searched.
            sample: a batch; ``net_input`` holds ``src_tokens`` int64 (sentences, source) and ``src_lengths``.
            prefix_tokens, bos_token: how targets begin.
            constraints: packed constraints, as fairseq's lexically constrained search takes them.
        """
        src_tokens, src_lengths = sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"]
        if constraints is not None and not self.search.supports_constraints:
            raise PMLMError("constraints were given, but not the option --constraints")
        if constraints is None and self.search.supports_constraints:
            raise PMLMError("--constraints: only fairseq-interactive reads them, after each source, behind tabs")
        self.search.init_constraints(constraints, self.generator.options.beam)
        found = self.generator.generate(src_tokens, src_lengths, prefix_tokens, bos_token)
        nothing = torch.empty(0)
        return [[{**h, "attention": nothing, "alignment": nothing} for h in hypotheses] for hypotheses in found]


def check_options(options, types: int) -> None:
    """Refuse options of fairseq's searches that contradict each other or the vocabulary, or that cannot work.

    Args:
        options: fairseq's group of generation options, or a namespace with some of them.
        types: size of the vocabulary.

    Raises:
        PMLMError: where fairseq would use other numbers, or end in a traceback.
    """

    def get(name, default):
        return getattr(options, name, default)

    beam, nbest, groups = get("beam", 5), get("nbest", 1), get("diverse_beam_groups", -1)
    if get("print_alignment", None):
        raise PMLMError("--print-alignment: one stack reads the source and writes the target; it has no alignment")
    if get("match_source_len", False):
        raise PMLMError("--match-source-len: it goes beyond the longest target that the model has positions for")
    if get("retain_iter_history", False):
        raise PMLMError("--retain-iter-history: this search does not refine in iterations")
    names = ["max_len_a", "max_len_b", "min_len", "lenpen", "unkpen", "temperature", "no_repeat_ngram_size"]
    names += ["sampling", "sampling_topk", "sampling_topp"]
    given = {name: get(name, None) for name in names}
    SearchOptions(beam=beam, **{name: value for name, value in given.items() if value is not None}).check(types)
    if not 1 <= nbest <= beam:
        raise PMLMError(f"--nbest {nbest} is not in 1 .. {beam}, the number of beams")
    if groups > 0 and beam % groups:
        raise PMLMError(f"--diverse-beam-groups {groups} does not divide --beam {beam}")
    if sum([get("sampling", False), groups > 0, get("diversity_rate", -1.0) > 0]) > 1:
        raise PMLMError("--sampling, --diverse-beam-groups and --diversity-rate are different searches; give one")
