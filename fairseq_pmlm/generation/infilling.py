"""Masked places of a text filled in any order, by beam search, and scored under any factorization order.

The context, with [M] at all masked places, is encoded once. A step of the search feeds the tokens that were chosen at
the step before, whose keys and values are kept, and the [P] slots of the step's own places, whose keys and values are
dropped. This is decoding as in :mod:`fairseq_pmlm.model.incremental`, with places in the middle of the text and
several of them a step. Tokens of one step are predicted independently of each other (paper, section 3.1).

Scoring needs no search: one forward pass of the slots of pre-training holds all steps.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data import layout
from ..data.collate import collate
from ..data.masking import Mask, ordinary_types
from ..model.incremental import encode, extend
from ..model.pmlm import PMLM, Predict
from ..utils.batching import batches

MAX_TOKENS = 4000  # slots of a batch


class Gapped(NamedTuple):
    """A text with masked places.

    tokens: int64 (tokens,), with its special symbols; those at the masked places matter only for scoring.
    segments: int64 (tokens,).
    mask: the places, in their factorization order, and the steps 1..k that they are predicted in.
    """

    tokens: np.ndarray
    segments: np.ndarray
    mask: Mask


class Filling(NamedTuple):
    """Tokens for the masked places of a text, int64 (masked,), and the log-probability of each; in the mask's order."""

    tokens: np.ndarray
    logprobs: np.ndarray


@torch.no_grad()
def infill(
    model: PMLM, texts: Sequence[Gapped], beam: int = 5, autoencoding: bool = False, max_tokens: int = MAX_TOKENS
) -> list[list[Filling]]:
    """The best fillings of each text, the best one first: at most *beam*.

    Args:
        model: in evaluation mode.
        texts: what to fill. Those whose steps have the same sizes share a batch.
        beam: width of the search.
        autoencoding: predict all places at once at their [M] slots, as BERT does, whatever the steps.
        max_tokens: slots of a batch, with padding and beams.

    Special symbols are never chosen; probabilities are not normalized again without them.
    """
    allowed = torch.from_numpy(ordinary_types(model.dictionary)).to(model.device)
    fill = fill_at_once if autoencoding else fill_by_steps
    found: list[list[Filling]] = [[] for _ in texts]
    groups = defaultdict(list)
    for i, text in enumerate(texts):
        groups[tuple(np.bincount(text.mask.steps)[1:].tolist())].append(i)
    for sizes, members in groups.items():
        if not sizes:  # nothing to fill
            for i in members:
                found[i] = [Filling(np.zeros(0, np.int64), np.zeros(0))]
            continue
        appended = 0 if autoencoding else 2 * sum(sizes) * beam
        for rows in batches([len(texts[i].tokens) + appended for i in members], max_tokens):
            rows = [members[row] for row in rows]
            for i, fillings in zip(rows, fill(model, [texts[i] for i in rows], beam, allowed), strict=True):
                found[i] = fillings
    return found


@torch.no_grad()
def score(
    model: PMLM, texts: Sequence[Gapped], autoencoding: bool = False, max_tokens: int = MAX_TOKENS
) -> list[np.ndarray]:
    """Log-probabilities of the tokens at the masked places: for each text float64 (masked,), in the order of its mask.

    Args:
        model: in evaluation mode.
        texts: what to score; tokens are the originals.
        autoencoding: predict at the [M] slots, each place from the context alone, whatever the steps.
        max_tokens: slots of a batch, with padding.
    """
    found: list[np.ndarray] = [np.zeros(0)] * len(texts)
    mask, pseudo = model.dictionary.index("<mask>"), model.pseudo_index
    slots = []
    for text in texts:
        shown, predicting = (np.full(len(text.mask.positions), symbol) for symbol in (mask, pseudo))
        slots.append(layout.pretraining_layout(*text, shown, predicting, autoencoding, not autoencoding))
    objectives = ("ae",) if autoencoding else ("par",)
    for rows in batches([len(s.tokens) for s in slots], max_tokens):
        rows = [row for row in rows if len(slots[row].targets)]
        if not rows:
            continue
        sample = collate([{"id": row, "slots": slots[row]} for row in rows], objectives, model.dictionary.pad())
        net_input = {k: x.to(model.device) if isinstance(x, Tensor) else x for k, x in sample["net_input"].items()}
        predict = Predict(select=net_input.pop("select"), target=sample["target"].to(model.device))
        nll = model.losses(net_input, predict).nll.double().cpu().numpy()
        ends = np.cumsum([len(slots[row].targets) for row in rows])[:-1]
        for row, values in zip(rows, np.split(-nll, ends), strict=True):
            found[row] = values
    return found


def with_masks(model: PMLM, texts: Sequence[Gapped]) -> tuple[Tensor, Tensor]:
    """Tokens, with [M] at the masked places, and segments: int64 (texts, longest) each, padded on the right."""
    rows = []
    for text in texts:
        masked = text.tokens.copy()
        masked[text.mask.positions] = model.dictionary.index("<mask>")
        rows.append(torch.from_numpy(masked))
    device = model.device
    tokens = pad_sequence(rows, batch_first=True, padding_value=model.dictionary.pad())
    segments = pad_sequence([torch.from_numpy(text.segments) for text in texts], batch_first=True)
    return tokens.to(device), segments.to(device)


def fill_by_steps(model: PMLM, texts: Sequence[Gapped], beam: int, allowed: Tensor) -> list[list[Filling]]:
    """Fillings of texts whose steps have the same sizes, step by step at [P] slots; *allowed* is int64 (types,)."""
    tokens, segments = with_masks(model, texts)
    device, steps = tokens.device, texts[0].mask.steps
    places = torch.from_numpy(np.stack([text.mask.positions for text in texts])).to(device)
    place_segments = segments.gather(1, places)
    cache = encode(model, tokens, segments, torch.tensor([len(text.tokens) for text in texts], device=device))
    chosen = tokens.new_zeros(len(texts), 0)  # (rows, filled), rows = texts x beams
    logprobs = torch.zeros(len(texts), 0, device=device)
    before = 0  # places that were filled before the step that came last
    for step in range(1, int(steps.max(initial=0)) + 1):
        filled = chosen.size(1)
        size = int((steps == step).sum())
        new = slice(before, filled + size)
        feed = torch.cat([chosen[:, before:], chosen.new_full((len(chosen), size), model.pseudo_index)], dim=1)
        signs = torch.tensor([step - 1] * (filled - before) + [-step] * size, device=device)
        x = extend(model, cache, feed, place_segments[:, new], places[:, new], signs, filled - before, predicting=size)
        own = torch.log_softmax(model.output_layer(x).float(), dim=-1)[:, :, allowed]
        words, gains = best_combinations(own, beam)  # (rows, combinations, size)
        totals = (logprobs.sum(1)[:, None] + gains.sum(2)).view(len(texts), -1)
        best = totals.topk(min(beam, totals.size(1)), dim=1).indices
        rows = torch.arange(len(texts), device=device)[:, None] * totals.size(1)
        best = (best + rows).flatten()  # among all rows' combinations
        parents = best.div(words.size(1), rounding_mode="floor")
        chosen = torch.cat([chosen[parents], allowed[words.flatten(0, 1)[best]]], dim=1)
        logprobs = torch.cat([logprobs[parents], gains.flatten(0, 1)[best]], dim=1)
        cache.reorder(parents)
        before = filled
    return split(chosen, logprobs, len(texts))


def fill_at_once(model: PMLM, texts: Sequence[Gapped], beam: int, allowed: Tensor) -> list[list[Filling]]:
    """Fillings of texts with equally many masked places, all of them predicted at [M] slots."""
    tokens, segments = with_masks(model, texts)
    places = torch.from_numpy(np.stack([text.mask.positions for text in texts])).to(tokens.device)
    positions = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
    x = model.backbone(tokens, positions, segments, torch.zeros_like(tokens), tokens.size(1), places, places.size(1))
    words, logprobs = best_combinations(torch.log_softmax(model.output_layer(x).float(), dim=-1)[:, :, allowed], beam)
    return split(allowed[words.flatten(0, 1)], logprobs.flatten(0, 1), len(texts))


def split(tokens: Tensor, logprobs: Tensor, texts: int) -> list[list[Filling]]:
    """(texts x beams, masked) each, the best beam of a text first -> its fillings."""
    parts = (x.cpu().numpy().reshape(texts, -1, x.size(1)) for x in (tokens, logprobs.double()))
    return [list(map(Filling, *rows)) for rows in zip(*parts, strict=True)]


def best_combinations(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The *count* best ways to choose a type for each of several places, independently of each other.

    A best combination begins, at each prefix of the places, with one of that prefix's best, so one place at a time will
    do.

    Args:
        logprobs: (rows, places, types).
        count: how many; fewer where there are not as many.

    Returns:
        types, int64 (rows, combinations, places), and their log-probabilities; the best combination first.
    """
    rows, places, types = logprobs.shape
    words = torch.zeros(rows, 1, 0, dtype=torch.long, device=logprobs.device)
    totals = logprobs.new_zeros(rows, 1)
    for place in range(places):
        values, candidates = logprobs[:, place].topk(min(count, types), dim=1)
        both = (totals[:, :, None] + values[:, None]).flatten(1)
        totals, best = both.topk(min(count, both.size(1)), dim=1)
        parents = best.div(values.size(1), rounding_mode="floor")[:, :, None].expand(-1, -1, place)
        last = candidates.gather(1, best.remainder(values.size(1)))
        words = torch.cat([words.gather(1, parents), last[:, :, None]], dim=2)
    return words, logprobs.gather(2, words.transpose(1, 2)).transpose(1, 2)
