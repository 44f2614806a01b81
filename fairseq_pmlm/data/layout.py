"""Slots, and the one rule that says who sees whom (paper, section 3.2; the seq2seq case follows the authors' code).

A PMLM example is a row of slots, each with a token, a position, a segment and a signed *step* w:

===========================================  ======
context tokens, and [M] at masked places       0
original tokens of step i                      +i
[P] slots of step i                            -i
===========================================  ======

[M], [P] and the original carry the position and the segment of the place they stand for. Pre-training, seq2seq
fine-tuning, understanding and decoding are ways to lay slots out; :func:`visible` holds for all of them. Context slots
come first, appended ones (w != 0) behind them, so the context's part of the attention needs no mask.
"""

from typing import NamedTuple

import numpy as np

from .masking import Mask


def visible(query_steps, key_steps):
    """Which slots may attend which, padding aside.

    A query w_q >= 0 sees the keys 0 <= w_k <= w_q; a query w_q < 0 sees 0 <= w_k < -w_q, and w_k == w_q.

    Args:
        query_steps: integers (..., queries), a numpy array or a torch tensor.
        key_steps: integers (..., keys), of the same kind.

    Returns:
        bool (..., queries, keys): True where the query may attend the key.
    """
    query = query_steps[..., :, None]
    key = key_steps[..., None, :]
    return (key == query) | ((key >= 0) & (key < -query)) | ((key >= 0) & (key <= query))


class Slots(NamedTuple):
    """One example laid out; all arrays int64 (slots,).

    ``context_length`` leading slots are context. ``queries`` (predictions,) are the slots whose outputs are
    predictions, and ``targets`` (predictions,) what they are to predict; the first ``context_queries`` of them lie in
    the context.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    steps: np.ndarray
    context_length: int
    queries: np.ndarray
    targets: np.ndarray
    context_queries: int


def pretraining_layout(
    tokens: np.ndarray,
    segments: np.ndarray,
    mask: Mask,
    shown: np.ndarray,
    pseudo: np.ndarray,
    autoencoding: bool = True,
    autoregressive: bool = True,
) -> Slots:
    """Lay out one text for the joint objective (paper, Fig. 4).

    Slots: the corrupted text; one [P] for each masked place; the originals of all steps but the last, as no later step
    sees those. Predictions: the [M] slots (autoencoding), then the [P] slots (partially autoregressive), both in the
    order of *mask*.

    Args:
        tokens: int64 (tokens,), the original text with its special tokens.
        segments: int64 (tokens,), segment ids.
        mask: masked places and their steps.
        shown: int64 (masked,), what the [M] slots show.
        pseudo: int64 (masked,), what the [P] slots show.
        autoencoding: predict at the [M] slots.
        autoregressive: append [P] and original slots and predict at the [P] slots.
    """
    context = tokens.copy()
    context[mask.positions] = shown
    length, masked = len(tokens), len(mask.positions)
    queries, targets = [], []
    if autoencoding:
        queries.append(mask.positions)
        targets.append(tokens[mask.positions])
    if autoregressive and masked:
        earlier = mask.steps < mask.steps[-1]
        places = np.concatenate([mask.positions, mask.positions[earlier]])
        steps = np.concatenate([-mask.steps, mask.steps[earlier]])
        appended = np.concatenate([pseudo, tokens[mask.positions[earlier]]])
        queries.append(length + np.arange(masked))
        targets.append(tokens[mask.positions])
    else:
        places = steps = appended = np.zeros(0, np.int64)
    return Slots(
        tokens=np.concatenate([context, appended]),
        positions=np.concatenate([np.arange(length), places]),
        segments=np.concatenate([segments, segments[places]]),
        steps=np.concatenate([np.zeros(length, np.int64), steps]),
        context_length=length,
        queries=np.concatenate(queries) if queries else np.zeros(0, np.int64),
        targets=np.concatenate(targets) if targets else np.zeros(0, np.int64),
        context_queries=masked if autoencoding else 0,
    )


def seq2seq_layout(
    source: np.ndarray,
    target: np.ndarray,
    pseudo: np.ndarray,
    source_segment: int = 0,
    target_segment: int = 1,
) -> Slots:
    """Lay out one pair: the source is context, target token t = 1, 2, ... has w = +t, its [P] has w = -t.

    This is the partially autoregressive layout with one-token steps in order. The last token's own slot is left out,
    as no slot sees it. Positions of the target continue those of the source.

    Args:
        source: int64 (source,), [SOS] ... [EOS].
        target: int64 (target,), ... [EOS].
        pseudo: int64 (target,), what the [P] slots show.
        source_segment: segment id of the source.
        target_segment: segment id of the target.
    """
    length, predicted = len(source), len(target)
    order = np.arange(1, predicted + 1)
    return Slots(
        tokens=np.concatenate([source, pseudo, target[:-1]]),
        positions=np.concatenate([np.arange(length), length + order - 1, length + order[:-1] - 1]),
        segments=np.concatenate([np.full(length, source_segment), np.full(2 * predicted - 1, target_segment)]),
        steps=np.concatenate([np.zeros(length, np.int64), -order, order[:-1]]),
        context_length=length,
        queries=length + np.arange(predicted),
        targets=target,
        context_queries=0,
    )
