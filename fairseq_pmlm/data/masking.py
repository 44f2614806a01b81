"""Block-wise masking and corruption (paper, Algorithm 1 and section 4.1): numpy in, numpy out.

The masked positions of a text are drawn as blocks of one to six tokens; the order in which the blocks were drawn is the
factorization order of the partially autoregressive objective. Everything here is a function of the generator it is
given, and :func:`generator` makes that from (seed, epoch, index) alone: a mask does not depend on the number of
data-loader workers, processes or restarts.
"""

from typing import NamedTuple

import numpy as np

from ..tokenizers.symbols import SPECIAL

MIN_NGRAM = 2  # a block that is not a single token holds 2..6 of them (paper, section 4.1)
MAX_NGRAM = 6


class Mask(NamedTuple):
    """Masked positions in factorization order; within a block from left to right.

    positions: int64 (masked,), places in the text, all different.
    steps: int64 (masked,), non-decreasing, the step 1..k that each place is predicted in.
    """

    positions: np.ndarray
    steps: np.ndarray


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one example in one epoch; all three are non-negative."""
    return np.random.default_rng((seed, epoch, index))


def max_masked(tokens, mask_prob: float = 0.15):
    """Upper bound of the masked positions of a text of *tokens* tokens (an int or an array of them).

    The last block may start one token short of the wanted share, and holds at most six tokens.
    """
    return np.ceil(mask_prob * np.asarray(tokens)).astype(np.int64) + MAX_NGRAM - 1


def draw_mask(
    maskable: np.ndarray,
    rng: np.random.Generator,
    mask_prob: float = 0.15,
    ngram_prob: float = 0.4,
    one_token_steps: bool = False,
) -> Mask:
    """Draw blocks until at least *mask_prob* of the maskable tokens are masked (at least one, where there is one).

    Args:
        maskable: bool (tokens,), False for tokens that are never masked ([SOS], [EOS], padding).
        rng: source of all randomness.
        mask_prob: share of the maskable tokens to mask, in (0, 1].
        ngram_prob: probability that a block is an n-gram of 2..6 tokens instead of a single token.
        one_token_steps: split each block into one-token steps, left to right (the ``ar`` objective).

    Returns:
        The mask; empty where nothing is maskable.
    """
    candidates = np.flatnonzero(maskable)
    if not len(candidates):
        return Mask(np.zeros(0, np.int64), np.zeros(0, np.int64))
    # The paper draws starts over the whole text. A start that is not maskable is rejected there without further effect,
    # so drawing among the maskable ones gives the same blocks, and always ends.
    wanted = max(1, int(np.ceil(mask_prob * len(candidates) - 1e-9)))
    taken = bytearray((~np.asarray(maskable, bool)).tobytes())  # 1: masked already, or never to be
    starts, lengths, masked = [], [], 0
    while masked < wanted:
        draws = wanted // 2 + 16  # most often enough: a block holds 2.2 tokens on average
        for start, length in zip(
            candidates[rng.integers(len(candidates), size=draws)].tolist(),
            np.where(
                rng.random(draws) < ngram_prob, rng.integers(MIN_NGRAM, MAX_NGRAM, size=draws, endpoint=True), 1
            ).tolist(),
            strict=True,
        ):
            end = start + length
            if end > len(taken) or taken.find(1, start, end) >= 0:
                continue
            taken[start:end] = b"\x01" * length
            starts.append(start)
            lengths.append(length)
            masked += length
            if masked >= wanted:
                break
    repeats = np.array(lengths)
    first_of_block = np.cumsum(repeats) - repeats
    positions = np.arange(masked) + np.repeat(np.array(starts) - first_of_block, repeats)
    steps = np.arange(1, masked + 1) if one_token_steps else np.repeat(np.arange(1, len(repeats) + 1), repeats)
    return Mask(positions, steps)


def corrupt(
    tokens: np.ndarray,
    symbol: int,
    random_types: np.ndarray,
    rng: np.random.Generator,
    leave_unmasked_prob: float = 0.1,
    random_token_prob: float = 0.1,
) -> np.ndarray:
    """What is shown in place of *tokens*: *symbol* (80 %), a random type (10 %) or the token itself (10 %).

    Args:
        tokens: int64 (masked,), the original tokens.
        symbol: index of [M] (or [P]).
        random_types: int64 (types,), the types that a random token is drawn from, uniformly.
        rng: source of all randomness.
        leave_unmasked_prob: probability that the token itself is shown.
        random_token_prob: probability that a random token is shown.

    Returns:
        int64 (masked,)
    """
    draw = rng.random(len(tokens))
    shown = np.full(len(tokens), symbol, np.int64)
    shown = np.where(
        draw < leave_unmasked_prob + random_token_prob,
        random_types[rng.integers(len(random_types), size=len(tokens))],
        shown,
    )
    return np.where(draw < leave_unmasked_prob, tokens, shown)


def ordinary_types(dictionary) -> np.ndarray:
    """int64 (types,): indices of the symbols that text can hold: neither special nor ``madeupword`` padding."""
    return np.array(
        [i for i, s in enumerate(dictionary.symbols) if s not in SPECIAL and not s.startswith("madeupword")], np.int64
    )
