"""The search: side by side with fairseq's, and against slow references for what fairseq's cannot do."""

import itertools
import math
from argparse import Namespace
from collections import Counter

import pytest
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.sequence_generator import SequenceGenerator
from fairseq.token_generation_constraints import pack_constraints
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import small_dictionary, small_model
from test_decoding import EOS, full_forward, sources

from fairseq_pmlm.generation import sequence_generator
from fairseq_pmlm.generation.search import Sampling
from fairseq_pmlm.generation.sequence_generator import SearchOptions
from fairseq_pmlm.model.pmlm import PMLM
from fairseq_pmlm.tasks.generator import Generator
from fairseq_pmlm.tasks.pmlm_seq2seq import PMLMSeq2SeqConfig, PMLMSeq2SeqTask
from fairseq_pmlm.tokenizers.dictionary import Dictionary
from fairseq_pmlm.utils.errors import PMLMError


def build(models, seq_gen_cls=None, task_options=None, **options):
    task = PMLMSeq2SeqTask(PMLMSeq2SeqConfig(data="", seed=1, **(task_options or {})), small_dictionary())
    options = {"beam": 4, "max_len_a": 0, "max_len_b": 8, **options}
    return task.build_generator(models, Namespace(**options), seq_gen_cls)


def search(models, lengths, seq_gen_cls=None, task_options=None, prefix_tokens=None, seed=0, given=None, **options):
    """[[(tokens, score, positional scores)]] for sources of *lengths*."""
    tokens, lengths = sources(lengths, seed)
    ids = torch.arange(len(tokens)) + (0 if seq_gen_cls else 1000)  # fairseq's diverse beam takes them for rows
    sample = {"id": ids, "net_input": {"src_tokens": tokens, "src_lengths": lengths}}
    torch.manual_seed(0)
    generator = build(models, seq_gen_cls, task_options, **options)
    found = generator.generate(models, sample, prefix_tokens=prefix_tokens, constraints=given)
    return [
        [(h["tokens"].tolist(), float(h["score"]), h["positional_scores"].tolist()) for h in hypotheses]
        for hypotheses in found
    ]


STRATEGIES = [
    {},
    {"sampling": True},
    {"diverse_beam_groups": 2},
    {"diversity_rate": 0.5},
]


@pytest.mark.parametrize("options", STRATEGIES, ids=str)
@pytest.mark.parametrize("early_stop", ["fairseq", "never"])
def test_a_hypothesis_ends_once(options, early_stop):
    for seed in range(3):
        model = likely_to_end(small_model(True, seed), 1.5)
        for hypotheses in search([model], [5, 6, 9], task_options={"early_stop": early_stop}, **options):
            assert hypotheses
            assert all(h[0].index(EOS) == len(h[0]) - 1 for h in hypotheses)


def likely_to_end(model, bonus):
    with torch.no_grad():
        model.output_layer.bias[EOS] += bonus
    return model


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"beam": 1},
        {"beam": 5},
        {"beam": 3, "lenpen": 2.0},
        {"beam": 3, "lenpen": -1.0, "min_len": 3},
        {"beam": 3, "unnormalized": True},
        {"beam": 4, "unkpen": 2.0, "temperature": 0.5},
        {"beam": 4, "unkpen": -2.0},
        {"beam": 3, "no_repeat_ngram_size": 2, "temperature": 3.0},
        {"beam": 3, "no_repeat_ngram_size": 3, "temperature": 3.0},
        {"beam": 4, "sampling": True},
        {"beam": 4, "sampling": True, "sampling_topk": 5},
        {"beam": 4, "sampling": True, "sampling_topp": 0.7},
        # until one has ended; fairseq goes on with ended beams then
        {"beam": 4, "diverse_beam_groups": 2, "min_len": 8},
        {"beam": 4, "diversity_rate": 0.5},
        {"beam": 2, "max_len_b": 0, "min_len": 0},
        {"beam": 15, "max_len_b": 2},
    ],
    ids=str,
)
def test_the_same_as_fairseq_s_search(options, seed, monkeypatch):
    # without its CUDA extension, fairseq compares the end of its buffer, which is padding, and so blocks nothing
    block = NGramRepeatBlock._no_repeat_ngram
    monkeypatch.setattr(
        NGramRepeatBlock,
        "_no_repeat_ngram",
        lambda self, tokens, lprobs, bsz, beam, step: block(self, tokens[:, : step + 1], lprobs, bsz, beam, step),
    )
    model = likely_to_end(small_model(True, seed, dtype=torch.float64), 1.0)  # ours multiplies in another order
    ours = search([model], [6, 3, 9, 4, 4], **options)
    theirs = search([model], [6, 3, 9, 4, 4], SequenceGenerator, **options)
    for here, there in zip(ours, theirs, strict=True):
        assert [h[0] for h in here] == [h[0] for h in there]
        for (_, score, steps), (_, expected, expected_steps) in zip(here, there, strict=True):
            assert score == pytest.approx(expected, abs=1e-5)
            assert steps == pytest.approx(expected_steps, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"lenpen": 1.5, "min_len": 2},
        {"unkpen": 1.0, "temperature": 2.0},
        {"sampling": True, "sampling_topk": 4},
        {"sampling": True, "sampling_topp": 0.8, "temperature": 2.0},
    ],
    ids=str,
)
def test_the_core_alone_searches_as_fairseq_does(options):
    registered = likely_to_end(small_model(True, 1, dtype=torch.float64), 1.0)
    dictionary = Dictionary()
    for symbol in small_dictionary().symbols[4:]:
        dictionary.add_symbol(symbol)
    plain = PMLM(registered.cfg, dictionary).double().eval()
    plain.load_state_dict(registered.state_dict())
    tokens, lengths = sources([6, 3, 9, 4, 4])
    expected = search([registered], lengths.tolist(), SequenceGenerator, **options)
    generator = sequence_generator.SequenceGenerator([plain], SearchOptions(beam=4, max_len_b=8, **options))
    torch.manual_seed(0)
    for here, there in zip(generator.generate(tokens, lengths), expected, strict=True):
        assert [h["tokens"].tolist() for h in here] == [h[0] for h in there]
        assert [float(h["score"]) for h in here] == pytest.approx([h[1] for h in there], abs=1e-5)
        for hypothesis, (_, _, steps) in zip(here, there, strict=True):
            assert hypothesis.keys() == {"tokens", "score", "positional_scores"}
            assert hypothesis["positional_scores"].tolist() == pytest.approx(steps, abs=1e-5)


def test_models_in_training_mode_generate_without_dropout():
    expected = search([small_model(seed=3)], [5, 8])
    model = small_model(seed=3).train()
    assert search([model], [5, 8]) == expected
    assert not model.training
    language_model = torch.nn.Linear(1, 1)
    Generator([model], small_dictionary(), lm_model=language_model)
    assert not language_model.training


def test_the_core_refuses_what_it_cannot_search_with():
    model = small_model()
    for options, message in [
        ({"max_len_b": "48"}, "--max-len-b '48' is not a whole number"),
        ({"beam": 2.0}, r"--beam 2\.0 is not a whole number"),
        ({"min_len": True}, "--min-len True is not a whole number"),
        ({"lenpen": None}, "--lenpen None is not a number"),
        ({"early_stop": "soon"}, "--early-stop soon is not one of fairseq, exact, never"),
        ({"length_penalty_type": "none"}, "--length-penalty-type none is not one of fairseq, wu"),
        ({"no_repeat_ngram_ignore": (5,)}, "belongs to --no-repeat-ngram-size"),
    ]:
        with pytest.raises(PMLMError, match=message):
            sequence_generator.SequenceGenerator([model], SearchOptions(**options))
    with pytest.raises(PMLMError, match="<other> is never to be chosen, but the dictionary lacks it"):
        sequence_generator.SequenceGenerator([model], SearchOptions(), suppressed=("<s>", "<other>"))


@pytest.mark.parametrize("prefix", [[[5, 6], [7, 8], [9, 10]], [[5, 6], [7, 1], [9, 1]]])
def test_prefixes_as_in_fairseq_s_search(prefix):
    model = small_model(seed=3, dtype=torch.float64)
    prefix = torch.tensor(prefix)
    ours = search([model], [6, 3, 9], prefix_tokens=prefix)
    assert ours == search([model], [6, 3, 9], SequenceGenerator, prefix_tokens=prefix.clone())
    for hypotheses, begins in zip(ours, prefix.tolist(), strict=True):
        begins = [token for token in begins if token != 1]
        assert all(h[0][: len(begins)] == begins for h in hypotheses)


@pytest.mark.parametrize("kind", ["ordered", "unordered"])
def test_constraints_as_in_fairseq_s_search(kind):
    model = small_model(seed=3)
    packed = pack_constraints([[torch.tensor([9, 10]), torch.tensor([7])], [torch.tensor([8])], []])
    options = {"constraints": kind, "beam": 6, "max_len_b": 10}
    ours = search([model], [6, 3, 9], given=packed, **options)
    theirs = search([model], [6, 3, 9], SequenceGenerator, given=packed, **options)
    assert [[h[0] for h in hypotheses] for hypotheses in ours] == [[h[0] for h in hypotheses] for hypotheses in theirs]
    best = " ".join(map(str, ours[0][0][0]))
    assert " 9 10 " in f" {best} "
    assert 7 in ours[0][0][0]
    assert 8 in ours[1][0][0]
    with pytest.raises(PMLMError, match="only fairseq-interactive"):
        search([model], [6, 3, 9], **options)
    with pytest.raises(PMLMError, match="not the option --constraints"):
        search([model], [6, 3, 9], given=packed)


def test_a_prefix_that_ends_is_the_hypothesis():
    found = search([small_model()], [5, 4], prefix_tokens=torch.tensor([[5, EOS, 1], [7, 8, 9]]))
    assert [h[0] for h in found[0]] == [[5, EOS]]
    assert all(h[0][:3] == [7, 8, 9] for h in found[1])


def all_hypotheses(model, source, types, longest):
    """{tokens: sum of log-probabilities} of everything that can be said with *types* in up to *longest* tokens."""
    found = {}

    def grow(tokens, score):
        lprobs = full_forward(model, source, tokens)
        found[(*tokens, EOS)] = score + lprobs[EOS].item()
        if len(tokens) < longest:
            for token in types:
                grow([*tokens, token], score + lprobs[token].item())

    grow([], 0.0)
    return found


@pytest.mark.parametrize("kind", ["fairseq", "wu"])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("early_stop", ["exact", "never"])
def test_a_wide_search_finds_the_best_of_everything(kind, alpha, early_stop):
    model = likely_to_end(small_model(seed=5), -1.0)
    types = [4, 5]
    with torch.no_grad():  # nothing else is worth saying
        model.output_layer.bias[[i for i in range(36) if i not in (*types, EOS)]] -= 60.0
    tokens, _ = sources([5])
    options = {"length_penalty_type": kind, "early_stop": early_stop}
    found = search([model], [5], task_options=options, beam=16, max_len_b=3, min_len=0, lenpen=alpha)[0]

    def score(tokens, total):
        return total / (((5 + len(tokens)) / 6) ** alpha if kind == "wu" else len(tokens) ** alpha)

    everything = all_hypotheses(model, tokens[0].tolist(), types, 3)
    best = sorted((score(t, s) for t, s in everything.items()), reverse=True)
    assert [h[1] for h in found[:6]] == pytest.approx(best[:6], abs=1e-4)
    for words, value, _ in found[:6]:
        assert value == pytest.approx(score(words, everything[tuple(words)]), abs=1e-4)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 1000),
    st.integers(1, 5),
    st.sampled_from(["fairseq", "wu"]),
    st.floats(-1, 3),
    st.floats(-2, 4),
    st.booleans(),
)
def test_exact_equals_never(seed, beam, kind, alpha, bonus, unnormalized):
    model = likely_to_end(small_model(seed=seed % 7), bonus)
    if unnormalized:
        kind = "fairseq"
    results = [
        search(
            [model],
            [5, 8, 3],
            task_options={"early_stop": stop, "length_penalty_type": kind},
            seed=seed,
            beam=beam,
            lenpen=alpha,
            unnormalized=unnormalized,
        )
        for stop in ("exact", "never")
    ]
    for exact, never in zip(*results, strict=True):
        assert [h[0] for h in exact] == [h[0] for h in never]
        assert [h[1] for h in exact] == pytest.approx([h[1] for h in never], abs=1e-4)


def test_exact_stops_sooner_than_never(monkeypatch):
    model = likely_to_end(small_model(seed=1), 4.0)
    steps = []
    next_logits = sequence_generator.next_logits

    def counted(model, cache, tokens):
        steps.append(tokens.size(1))
        return next_logits(model, cache, tokens)

    monkeypatch.setattr(sequence_generator, "next_logits", counted)
    taken = {}
    for stop in ("fairseq", "exact", "never"):
        steps.clear()
        search([model], [5, 8, 3], task_options={"early_stop": stop}, beam=3, max_len_b=10)
        taken[stop] = max(steps)
    assert taken["fairseq"] <= taken["exact"] < taken["never"] == 11


@pytest.mark.parametrize("early_stop", ["fairseq", "exact"])
def test_a_sentence_does_not_depend_on_its_batch(early_stop):
    model = likely_to_end(small_model(True, 2, dtype=torch.float64), 1.0)
    options = {"task_options": {"early_stop": early_stop}, "beam": 3, "max_len_a": 0.5, "max_len_b": 2}
    tokens, lengths = sources([4, 9, 6, 3, 12])

    def generate(rows):
        longest = int(lengths[rows].max())
        sample = {"net_input": {"src_tokens": tokens[rows][:, :longest], "src_lengths": lengths[rows]}}
        found = build([model], **{"max_len_b": 8, **options}).generate([model], sample)
        return [[(h["tokens"].tolist(), float(h["score"])) for h in hypotheses] for hypotheses in found]

    together = generate([0, 1, 2, 3, 4])
    for rows in ([0], [1, 3], [4, 2, 0], [3]):
        for row, alone in zip(rows, generate(rows), strict=True):
            assert [h[0] for h in alone] == [h[0] for h in together[row]]
            assert [h[1] for h in alone] == pytest.approx([h[1] for h in together[row]], abs=1e-10)
    for length, hypotheses in zip(lengths.tolist(), together, strict=True):
        assert all(len(h[0]) <= 0.5 * length + 2 + 1 for h in hypotheses)


def test_source_and_target_share_the_position_table():
    model = small_model(seed=4)
    rows = model.max_positions()
    long = rows - 4  # the target may have 3 tokens and </s>
    found = search([model], [long, 5], beam=2, max_len_b=200, min_len=2, task_options={"early_stop": "never"})
    assert max(len(h[0]) for h in found[0]) <= 4


def repeats(words, size, ignore=()):
    ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    ngrams = [n for n in ngrams if not set(n) & set(ignore)]
    return len(ngrams) != len(set(ngrams))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ngrams_with_an_ignored_symbol_may_repeat(size):
    model = small_model(seed=8)
    with torch.no_grad():
        model.output_layer.bias[[5, 6, 7]] += 20.0  # it would say nothing else
    symbol = small_dictionary()[5]
    ignoring = search(
        [model], [5, 6, 4], task_options={"no_repeat_ngram_ignore": symbol}, max_len_b=12, no_repeat_ngram_size=size
    )
    strict = search([model], [5, 6, 4], max_len_b=12, no_repeat_ngram_size=size)
    for hypotheses in strict:
        assert not any(repeats(h[0], size) for h in hypotheses)
    for hypotheses in ignoring:
        assert not any(repeats(h[0], size, ignore=[5]) for h in hypotheses)
    assert any(repeats(h[0], size) for h in itertools.chain(*ignoring))


def test_an_empty_source_has_an_empty_target_in_its_place():
    model = small_model(seed=1)
    found = search([model], [5, 2, 6], beam=3, min_len=2)
    assert [h[0] for h in found[1]] == [[EOS]]
    full = search([model], [5], beam=3, min_len=2)
    assert [h[0] for h in found[0]] == [h[0] for h in full[0]]
    assert all(len(h[0]) > 2 for h in found[2])


def test_rules_that_leave_nothing_do_not_lose_the_sentence(caplog):
    model = small_model()
    with torch.no_grad():  # two words, each once, and 8 to say
        model.output_layer.bias[[i for i in range(36) if i not in (5, 6, EOS)]] = -math.inf
    found = search([model], [5, 6], beam=2, min_len=8, no_repeat_ngram_size=1)
    for hypotheses in found:
        assert len(hypotheses) == 1
        assert hypotheses[0][1] == -math.inf
    assert "2 of 2 sentences have no hypothesis that the options allow" in caplog.text


@pytest.mark.parametrize("options", [{}, {"sampling_topk": 3}, {"sampling_topp": 0.5}], ids=str)
def test_sampling_where_next_to_nothing_is_allowed(options):
    model = small_model(seed=2)
    with torch.no_grad():
        model.output_layer.bias[[6, EOS]] -= 500.0  # the prefix and the end: fp32 rounds their probabilities to 0
    prefix = torch.tensor([[6], [6]])
    for hypotheses in search([model], [5, 7], beam=3, sampling=True, max_len_b=4, prefix_tokens=prefix, **options):
        assert len(hypotheses) == 3
        for tokens, _, scores in hypotheses:
            assert (len(tokens), tokens[0], tokens[-1]) == (5, 6, EOS)
            assert max(scores[0], scores[-1]) < -400
            assert min(scores[1:-1]) > -30
    with torch.no_grad():
        model.output_layer.bias[[i for i in range(36) if i != 5]] = -math.inf  # one word, which must not be repeated
    found = search([model], [5, 7], beam=3, sampling=True, no_repeat_ngram_size=1, max_len_b=4, **options)
    assert all(h[1] == -math.inf for hypotheses in found for h in hypotheses)


@pytest.mark.parametrize("bonus", [0.0, 30.0])
def test_draws_keep_their_proportions_where_probabilities_vanish(bonus):
    lprobs = torch.full((1, 2, 36), -math.inf)
    lprobs[:, :, [7, 9]] = torch.tensor([0.25, 0.75]).log() - 30.0 - bonus
    drawn = Counter()
    for seed in range(400):
        torch.manual_seed(seed)
        totals, words, beams = Sampling(EOS).step(1, lprobs.clone(), torch.zeros(1, 2, 1))
        assert beams.tolist() == [[0, 1]]
        assert totals.tolist() == [pytest.approx(lprobs[0, 0, words[0]].tolist(), rel=1e-5)]
        drawn.update(words[0].tolist())
    assert drawn[9] / 800 == pytest.approx(0.75, abs=0.05)
    assert drawn[7] + drawn[9] == 800


def test_contradictions_are_refused():
    model = small_model()
    for options, message in [
        ({"beam": 18}, r"--beam 18: with 36 types it lies in 1 \.\. 17"),
        ({"beam": 0}, "--beam 0"),
        ({"nbest": 5}, r"--nbest 5 is not in 1 \.\. 4"),
        ({"diverse_beam_groups": 3}, "--diverse-beam-groups 3 does not divide --beam 4"),
        ({"diverse_beam_groups": 2, "sampling": True}, "give one"),
        ({"sampling_topk": 5}, "belong to --sampling"),
        ({"sampling": True, "sampling_topk": 37}, "--sampling-topk 37 is more than the 36 types"),
        ({"sampling": True, "sampling_topp": 1.5}, r"--sampling-topp 1\.5"),
        ({"temperature": 0.0}, r"--temperature 0\.0"),
        ({"temperature": math.nan}, "--temperature nan"),
        ({"lenpen": math.nan}, "--lenpen nan"),
        ({"lenpen": 1000.0}, r"--lenpen 1000\.0 is not in -100 \.\. 100"),
        ({"no_repeat_ngram_size": -2}, "--no-repeat-ngram-size -2"),
        ({"max_len_a": math.nan}, "--max-len-a nan"),
        ({"min_len": -3}, "--min-len -3"),
        ({"retain_iter_history": True}, "--retain-iter-history"),
    ]:
        with pytest.raises(PMLMError, match=message):
            build([model], **options)
    with pytest.raises(PMLMError, match="--unnormalized"):
        build([model], task_options={"length_penalty_type": "wu"}, unnormalized=True)
    for options in (
        {"unkpen": -1.0},
        {"diverse_beam_groups": 2, "diverse_beam_strength": -0.5},
        {"diversity_rate": -0.5},
    ):
        with pytest.raises(PMLMError, match="--early-stop never"):
            build([model], task_options={"early_stop": "exact"}, **options)
    with pytest.raises(PMLMError, match="--no-repeat-ngram-ignore 'zzz': the dictionary has no"):
        build([model], task_options={"no_repeat_ngram_ignore": "zzz"}, no_repeat_ngram_size=2)
    with pytest.raises(PMLMError, match="belongs to --no-repeat-ngram-size"):
        build([model], task_options={"no_repeat_ngram_ignore": "w1"})
    with pytest.raises(PMLMError, match=r"--min-len 9 is more than the 8 tokens .* source of 5 tokens"):
        search([model], [5, 6], min_len=9)
    with torch.no_grad():
        model.output_layer.bias[7] = math.nan
    with pytest.raises(PMLMError, match="NaN"):
        search([model], [5])


def test_generators_of_others_can_be_asked_for():
    assert type(build([small_model()])) is Generator
    assert type(build([small_model()], SequenceGenerator)) is SequenceGenerator
