"""Sequences that are too long, cut to a limit."""

import torch
from torch import Tensor


def first_part(tokens: Tensor, eos: int) -> int:
    """Number of tokens of A, with its </s>, in ``A </s> B </s>``, int64 (tokens,); 0 if there is only one part."""
    ends = tokens[:-1].eq(eos).nonzero()
    return int(ends[0]) + 1 if len(ends) else 0


def cut(tokens: Tensor, limit: int, keep: str, eos: int) -> Tensor:
    """At most *limit* of *tokens*, int64 (tokens,), which end in </s>, as the result does.

    Of a sequence with two parts, ``A </s> B </s>``, only B is cut: A, the question, stays whole.

    Args:
        tokens: the sequence.
        limit: in tokens, with </s>; at least two more than A has.
        keep: which part of a longer sequence stays: ``head``, ``tail``, or ``middle`` (both ends go).
        eos: index of </s>.
    """
    surplus = len(tokens) - limit
    if surplus <= 0:
        return tokens
    whole = first_part(tokens, eos)
    room = limit - 1 - whole
    start = whole + {"head": 0, "tail": surplus, "middle": surplus // 2}[keep]
    return torch.cat([tokens[:whole], tokens[start : start + room], tokens[-1:]])
