"""Keys and values of the slots so far, so that a step of decoding computes only those of its own slots.

The beams of a sentence are alternative continuations of the same slots. So the slots of a sentence, its source and the
targets of all its beams, lie side by side in one :class:`Cache` and do not move; a mask says which of them a beam
descends from. Reordering the beams reorders that mask, and attention is one product for all beams of a sentence.
"""

import math
from typing import Optional

import torch
from torch import Tensor

from ..data.layout import visible
from .attention import RelativePositionBias, Visibility


class Cache:
    """Keys and values of a batch of sentences in every layer, written in place: the source, then the target's slots.

    Args:
        padding: bool (sentences, source), True at <pad>.
        lengths: int64 (sentences,), of the sources.

    Attributes:
        keys, values: for each layer (sentences, heads, capacity, head_dim), of which ``used`` slots are filled.
        seen: bool (sentences, beams, used), the slots that each beam descends from.
        positions: int64 (sentences, used), of the slots.
        known: number of tokens of each target that the cache holds.
    """

    ROOM = 160  # slots, at first, for the targets of a sentence: growing copies the source as well

    def __init__(self, padding: Tensor, lengths: Tensor):
        self.lengths = lengths
        self.source = self.used = padding.size(1)
        self.seen = ~padding[:, None]
        self.positions = torch.arange(self.source, device=padding.device).expand_as(padding)
        self.known = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def forget_targets(self) -> None:
        """Drop the targets, and keep the source."""
        self.used, self.known = self.source, 0
        self.seen, self.positions = self.seen[:, :, : self.source], self.positions[:, : self.source]

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write *keys* and *values* (sentences, heads, new, head_dim) of a layer behind those that are kept.

        Returns:
            all keys and values of that layer, (sentences, heads, used + new, head_dim) each. The next slots overwrite
            what :meth:`keep` has not kept; the source, which comes first, is always kept.
        """
        if layer == len(self.keys):
            for held, new in ((self.keys, keys), (self.values, values)):
                held.append(new.new_empty(*new.shape[:2], self.source + self.ROOM, new.size(3)))
                held[-1][:, :, : self.source] = new
            return keys, values
        end = self.used + keys.size(2)
        self.keys[layer][:, :, self.used : end] = keys
        self.values[layer][:, :, self.used : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def visibility(self, positions: Tensor, steps: Tensor, bias: Optional[RelativePositionBias]) -> Visibility:
        """Masks of new slots: within their beam, they see each other and the cached slots by the visibility rule.

        Args:
            positions: int64 (sentences, new x beams), token by token, and within a token beam by beam.
            steps: int64 (new,), signed steps of the new slots of each beam.
            bias: relative position bias, if the model has one.

        Returns:
            masks with ``appended`` (sentences, heads or 1, new x beams, used + new x beams).
        """
        sentences, beams, _ = self.seen.shape
        own = torch.eye(beams, dtype=torch.bool, device=steps.device)
        rule = (visible(steps, steps)[:, None, :, None] & own[:, None]).flatten(2).flatten(0, 1)
        seen = torch.cat([self.seen.repeat(1, len(steps), 1), rule.expand(sentences, -1, -1)], dim=2)[:, None]
        if bias is None:  # not a bool mask: attention would convert that to numbers in each layer
            scores = torch.zeros(seen.shape, dtype=self.keys[0].dtype, device=seen.device)
        else:
            scores = bias(positions, torch.cat([self.positions, positions], dim=1))
        return Visibility(None, scores.masked_fill(~seen, -math.inf))

    def keep(self, tokens: int, positions: Tensor) -> None:
        """Of the slots just written, keep those of the first *tokens* tokens of each beam.

        They lie token by token, and within a token beam by beam; *positions* is int64 (sentences, their number).
        """
        beams = self.seen.size(1)
        own = torch.eye(beams, dtype=torch.bool, device=self.seen.device).repeat(1, tokens)
        self.seen = torch.cat([self.seen, own.expand(len(self.seen), -1, -1)], dim=2)
        self.positions = torch.cat([self.positions, positions], dim=1)
        self.used += tokens * beams
        self.known += tokens

    def make_room(self, new: int) -> None:
        """Make *new* more slots fit: drop target slots that no beam descends from, and grow where many are left.

        Beams soon share most of their past, so few slots of a long output are alive: about one a token.
        """
        capacity = self.keys[0].size(2)
        if self.used + new <= capacity:
            return
        alive = self.seen[:, :, self.source :].any(1)
        count = int(alive.sum(1).max())
        order = alive.long().argsort(dim=1, descending=True, stable=True)[:, :count] + self.source
        if 4 * (count + new) > 3 * (capacity - self.source):
            capacity = self.source + 2 * (count + new)
        places = order[:, None, :, None]
        for held in (self.keys, self.values):
            for layer, slots in enumerate(held):
                kept = slots.gather(2, places.expand(-1, slots.size(1), -1, slots.size(3)))
                if capacity > slots.size(2):
                    held[layer] = slots.new_empty(*slots.shape[:2], capacity, slots.size(3))
                    held[layer][:, :, : self.source] = slots[:, :, : self.source]
                held[layer][:, :, self.source : self.source + count] = kept
        order = torch.cat([torch.arange(self.source, device=order.device).expand(len(order), -1), order], dim=1)
        self.seen = self.seen.gather(2, order[:, None].expand(-1, self.seen.size(1), -1))
        self.positions = self.positions.gather(1, order)
        self.used = self.source + count

    def reorder(self, new_order: Tensor) -> None:
        """Keep the beams *new_order*, int64 (rows,), rows = sentences x beams, and the sentences that they belong to.

        Rows of a sentence stay side by side and equally many, as they do in fairseq's search.
        """
        sentences, beams, used = self.seen.shape
        kept = torch.unique_consecutive(new_order.div(beams, rounding_mode="floor"))
        self.seen = self.seen.flatten(0, 1)[new_order].view(len(kept), -1, used)
        if len(kept) < sentences:
            self.lengths, self.positions = self.lengths[kept], self.positions[kept]
            for held in (self.keys, self.values):
                for layer, slots in enumerate(held):
                    held[layer] = slots[kept]
