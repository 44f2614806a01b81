"""Slots of several examples as one batch."""

import numpy as np
import torch

OBJECTIVES = {"ae": ("ae",), "par": ("par",), "ar": ("ar",), "ae+par": ("ae", "par"), "ae+ar": ("ae", "ar")}


def collate(samples: list[dict], objectives: tuple[str, ...], pad: int) -> dict:
    """Batch the slots of *samples*, ``{"id": int, "slots": Slots}`` each, laid out for *objectives*.

    Context, [P] and originals are padded apart, so that the same columns mean the same everywhere.

    Returns:
        ``id`` (batch,); ``ntokens``, ``nslots``, ``nsentences``, without padding; ``objectives``; ``target``
        (predictions,), those of all texts for one objective after the other; and ``net_input`` with ``tokens``,
        ``positions``, ``segments``, ``steps`` (batch, slots), ``context_length``, ``queries`` (batch, selected), the
        slots that predict, padded; ``context_queries``, how many of its leading columns lie in the context; and
        ``select`` (predictions,), where in ``queries``, flattened, the slots for ``target`` are.
    """
    slots = [sample["slots"] for sample in samples]
    groups = len(objectives)
    masked = np.array([len(s.targets) // groups for s in slots])
    context = np.array([s.context_length for s in slots])
    pseudo = masked if objectives != ("ae",) else np.zeros_like(masked)
    parts = np.stack([context, pseudo, [len(s.tokens) for s in slots] - context - pseudo], axis=1)
    starts = np.cumsum([0, *parts.max(axis=0)])  # columns where context, [P] and originals start; and their end
    length, width = int(starts[1]), int(masked.max())
    fields = np.zeros((4, len(slots), starts[-1]), np.int64)
    tokens, positions, segments, steps = fields
    tokens[:] = pad
    positions[:, :length] = np.arange(length)  # under the padding too: attention needs the same positions in all rows
    queries = np.full((len(slots), groups, width), length)  # of [P], padding must lie behind the context as well
    queries[:, : context_queries(objectives, 1)] = 0
    for row, s in enumerate(slots):
        own = np.stack(s[:4])
        taken = 0
        for start, count in zip(starts, parts[row], strict=False):
            fields[:, row, start : start + count] = own[:, taken : taken + count]
            taken += count
        columns = np.where(s.queries < s.context_length, s.queries, s.queries + length - s.context_length)
        queries[row, :, : masked[row]] = columns.reshape(groups, -1)
    real = np.arange(width) < masked[:, None]
    select = [np.flatnonzero(real[:, None] & (np.arange(groups) == group)[:, None]) for group in range(groups)]
    leading = context_queries(objectives, width)
    if not width:  # nothing to predict; the last layer computes one slot all the same, which is ignored
        queries, leading = np.zeros((len(slots), 1), np.int64), 1
    target = [
        s.targets[group * n : (group + 1) * n] for group in range(groups) for s, n in zip(slots, masked, strict=True)
    ]
    return {
        "id": torch.tensor([sample["id"] for sample in samples]),
        "nsentences": len(samples),
        "ntokens": int(parts[:, 0].sum()),
        "nslots": int(parts.sum()),
        "objectives": objectives,
        "target": torch.from_numpy(np.concatenate(target)),
        "net_input": {
            "tokens": torch.from_numpy(tokens),
            "positions": torch.from_numpy(positions),
            "segments": torch.from_numpy(segments),
            "steps": torch.from_numpy(steps),
            "context_length": length,
            "queries": torch.from_numpy(queries.reshape(len(slots), -1)),
            "context_queries": leading,
            "select": torch.from_numpy(np.concatenate(select)),
        },
    }


def context_queries(objectives: tuple[str, ...], masked: int) -> int:
    """How many of the predicting slots lie in the context: the [M] slots, where autoencoding is an objective."""
    return masked if "ae" in objectives else 0
