"""Decoding with the cache equals full forwards, and what fairseq's generator does with it equals a search by hand."""

import math

import pytest
import torch
from reference import forward, may_see, small_dictionary, small_model

from fairseq_pmlm.model.cache import Cache

MODES = pytest.mark.parametrize("mode", ["pseudo", "causal"])
RELATIVE = pytest.mark.parametrize("relative", [False, True])
PSEUDO, EOS, PAD, BOS, MASK = 35, 2, 1, 0, 34


def sources(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        tokens[row, 0] = BOS
        tokens[row, 1 : length - 1] = torch.randint(4, 34, (length - 2,), generator=generator)
        tokens[row, length - 1] = EOS
    return tokens, torch.tensor(lengths)


def full_forward(model, source, prefix):
    """Log-probabilities (types,) of what follows *prefix*, by one forward of the slow reference, without any cache."""
    n, t = len(source), len(prefix)
    segments = [0] * n + [1] * (t + 1)
    if model.cfg.finetune_mode == "pseudo":
        tokens = [*source, *prefix, model.dictionary.index("<pseudo>")]
        positions = [*range(n), *range(n, n + t), n + t]
        kinds = [("context", 0)] * n + [("original", i + 1) for i in range(t)] + [("pseudo", t + 1)]
    else:  # an ordinary decoder over the same stack; its start symbol stands where the source ends
        tokens = [*source, EOS, *prefix]
        positions = [*range(n), n - 1, *range(n, n + t)]
        kinds = [("context", 0)] * n + [("original", i + 1) for i in range(t + 1)]
    sees = [[k for k, key in enumerate(kinds) if may_see(query, key)] for query in kinds]
    x = forward(model, tokens, positions, segments, sees)
    return model.get_normalized_probs((model.output_layer(x[-1:]),), log_probs=True)[0]


def beam_search(model, source, beam, max_len, min_len=1, lenpen=1.0):
    """fairseq's beam search for one sentence, by hand: [(tokens, score)] sorted by score."""
    live, finished = [([], 0.0)], []
    for step in range(max_len + 1):
        candidates = []
        for tokens, score in live:
            lprobs = full_forward(model, source, tokens).clone()
            lprobs[PAD] = -math.inf
            if step >= max_len:
                lprobs[torch.arange(len(lprobs)) != EOS] = -math.inf
            elif step < min_len:
                lprobs[EOS] = -math.inf
            lprobs[[model.dictionary.index(symbol) for symbol in ("<s>", "<mask>", "<pseudo>")]] = -math.inf
            values, indices = lprobs.topk(min(2 * beam, len(lprobs) - 1))
            candidates += [([*tokens, i], score + v) for v, i in zip(values.tolist(), indices.tolist(), strict=True)]
        candidates = [c for c in sorted(candidates, key=lambda c: -c[1])[: 2 * beam] if c[1] > -math.inf]
        live = []
        for rank, (tokens, score) in enumerate(candidates):
            if tokens[-1] == EOS:
                if rank < beam and len(finished) < beam:
                    finished.append((tokens, score / len(tokens) ** lenpen))
            elif len(live) < beam:
                live.append((tokens, score))
        if len(finished) == beam or step == max_len:
            break
    return sorted(finished, key=lambda f: -f[1])


def build_generator(models, **options):
    from argparse import Namespace

    from fairseq_pmlm.tasks.pmlm_seq2seq import PMLMSeq2SeqConfig, PMLMSeq2SeqTask

    task = PMLMSeq2SeqTask(PMLMSeq2SeqConfig(data="", seed=1), small_dictionary())
    return task.build_generator(models, Namespace(**{"beam": 4, "max_len_a": 0, "max_len_b": 10, **options}))


@MODES
@RELATIVE
def test_teacher_forcing_equals_full_forwards(relative, mode):
    model = small_model(relative, 1, dtype=torch.float64, finetune_mode=mode)
    tokens, lengths = sources([7, 4, 5])
    target = torch.tensor([[5, 6, 7, EOS], [8, EOS, PAD, PAD], [9, 10, EOS, PAD]])
    previous = torch.cat([torch.full((3, 1), EOS), target[:, :-1]], dim=1)
    previous[1, 2:] = PAD
    previous[2, 3:] = PAD
    output = model(src_tokens=tokens, src_lengths=lengths, prev_output_tokens=previous)
    lprobs = model.get_normalized_probs(output, log_probs=True)
    assert lprobs.shape == (3, 4, 36)
    for row in range(3):
        for t in range(int(previous[row].ne(PAD).sum())):
            source, prefix = tokens[row, : lengths[row]].tolist(), previous[row, 1 : t + 1].tolist()
            torch.testing.assert_close(lprobs[row, t], full_forward(model, source, prefix).float(), rtol=0, atol=1e-5)


@MODES
@RELATIVE
def test_the_cache_equals_teacher_forcing(relative, mode):
    model = small_model(relative, 2, dtype=torch.float64, finetune_mode=mode)
    tokens, lengths = sources([6, 9, 3])
    previous = torch.cat([torch.full((3, 1), EOS), torch.randint(4, 34, (3, 6))], dim=1)
    full = model(src_tokens=tokens, src_lengths=lengths, prev_output_tokens=previous)[0]
    encoder_out = model.encoder.forward_torchscript({"src_tokens": tokens, "src_lengths": lengths})
    state = {}
    for t in range(previous.size(1)):
        step, _ = model.decoder(previous[:, : t + 1], encoder_out, state)
        torch.testing.assert_close(step[:, 0], full[:, t], rtol=0, atol=1e-10)
    state = {}  # several tokens at once fill the cache as well as one by one
    model.decoder(previous[:, :4], encoder_out, state)
    step, _ = model.decoder(previous, encoder_out, state)
    torch.testing.assert_close(step[:, 0], full[:, -1], rtol=0, atol=1e-10)


@MODES
@RELATIVE
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("lengths", [[6], [5, 9, 3, 7]])
def test_generation_equals_a_search_by_full_forwards(relative, beam, lengths, mode):
    model = small_model(relative, 3, finetune_mode=mode)
    tokens, lengths = sources(lengths)
    generator = build_generator([model], beam=beam, max_len_b=6)
    hypotheses = generator.generate([model], {"net_input": {"src_tokens": tokens, "src_lengths": lengths}})
    assert len(hypotheses) == len(tokens)
    for row, found in enumerate(hypotheses):
        expected = beam_search(model, tokens[row, : lengths[row]].tolist(), beam, max_len=6)
        assert [h["tokens"].tolist() for h in found] == [tokens for tokens, _ in expected]
        for hypothesis, (_, score) in zip(found, expected, strict=True):
            assert hypothesis["score"].item() == pytest.approx(score, abs=1e-4)
            assert not {BOS, PAD, MASK, PSEUDO} & set(hypothesis["tokens"].tolist())


@RELATIVE
def test_beams_share_a_cache_that_drops_what_nobody_descends_from(relative, monkeypatch):
    """Random beams of random sentences, for many steps in a small cache, against forwards of each beam alone."""
    monkeypatch.setattr(Cache, "ROOM", 4)
    model = small_model(relative, 4, dtype=torch.float64)
    tokens, lengths = sources([6, 9, 3])
    rng = torch.Generator().manual_seed(1)
    cache = model.encoder.forward_torchscript({"src_tokens": tokens, "src_lengths": lengths})
    beam, state = 4, {}
    cache = model.encoder.reorder_encoder_out(cache, torch.arange(3).repeat_interleave(beam))
    owners, written = torch.arange(3).repeat_interleave(beam), torch.full((3 * beam, 1), EOS)
    for step in range(20):
        found, _ = model.decoder(written, cache, state)
        for row in range(0, len(written), 3):
            source = tokens[owners[row], : lengths[owners[row]]].tolist()
            expected = full_forward(model, source, written[row, 1:].tolist())
            torch.testing.assert_close(found[row, 0].log_softmax(0).float(), expected.float(), rtol=0, atol=1e-5)
        sentences = len(written) // beam
        kept = [i for i in range(sentences) if not (step in (7, 12) and i == 1)]  # a sentence has ended
        parents = torch.cat([beam * i + torch.randint(beam, (beam,), generator=rng) for i in kept])
        new = torch.randint(4, 34, (len(parents), 1), generator=rng)
        written, owners = torch.cat([written[parents], new], dim=1), owners[parents]
        cache = model.encoder.reorder_encoder_out(cache, parents)
    assert cache.used < cache.source + 20 * beam  # what nobody descends from is gone
    assert len(cache.lengths) == 1


def test_special_symbols_are_never_generated_though_likely():
    model = small_model(seed=4)
    with torch.no_grad():
        model.output_layer.bias[[BOS, PAD, MASK, PSEUDO]] += 50.0
    tokens, lengths = sources([5, 6])
    for options in ({"beam": 3}, {"beam": 1}, {"beam": 2, "sampling": True}):
        hypotheses = build_generator([model], **options).generate(
            [model], {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}
        )
        for found in hypotheses:
            assert len(found) == options["beam"]
            for hypothesis in found:
                assert not {BOS, PAD, MASK, PSEUDO} & set(hypothesis["tokens"].tolist())


@pytest.mark.parametrize("beam", [1, 3])
def test_no_ngram_is_repeated(beam):
    model = small_model(seed=8)
    with torch.no_grad():
        model.output_layer.bias[[5, 6]] += 20.0  # left alone, it would say nothing but these two
    tokens, lengths = sources([5, 6, 4])
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}
    for size in (2, 3):
        generator = build_generator([model], beam=beam, max_len_b=15, no_repeat_ngram_size=size)
        for found in generator.generate([model], sample):
            for hypothesis in found:
                words = hypothesis["tokens"].tolist()
                ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
                assert len(ngrams) == len(set(ngrams))


def test_an_ensemble_averages_probabilities():
    models = [small_model(seed=s) for s in (5, 6)]
    tokens, lengths = sources([5, 8])
    found = build_generator(models, beam=1, max_len_b=5).generate(
        models, {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}
    )
    for row, hypotheses in enumerate(found):
        chosen = hypotheses[0]["tokens"].tolist()
        source = tokens[row, : lengths[row]].tolist()
        for t, token in enumerate(chosen):
            mean = torch.stack([full_forward(m, source, chosen[:t]).exp() for m in models]).mean(0).log()
            assert hypotheses[0]["positional_scores"][t].item() == pytest.approx(mean[token].item(), abs=1e-4)


def test_views_own_nothing_and_share_everything():
    model = small_model()
    assert not list(model.decoder.parameters())
    assert not [key for key in model.state_dict() if key.startswith(("encoder", "decoder"))]
    tensors = [t.data_ptr() for key, t in model.state_dict().items() if key != "output_layer.weight"]  # tied, by design
    assert len(tensors) == len(set(tensors))
    assert model.encoder.model is model
    assert model.decoder.model is model
    import copy

    twin = copy.deepcopy(model)
    assert twin.encoder.model is twin
    assert twin.decoder.model is twin
