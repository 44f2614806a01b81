"""The facts that a checkpoint states about its model, and the checks against them.

Strict loading compares names and shapes. It cannot see the number of heads, the LayerNorm epsilon, the activation, or
that an equally large dictionary orders its symbols differently; a model loaded across such a difference is silently
wrong. So every model carries these facts in its state dict, as the bytes of a JSON text in an integer buffer: the one
place that every way of loading reads (resuming, ``--finetune-from-model``, generation, validation), and that survives
averaging checkpoints.
"""

import hashlib
import json
import logging
from typing import Any, Iterable, Optional

import torch

from ..tokenizers import files as tokenizer_files
from ..utils.errors import PMLMError

logger = logging.getLogger(__name__)

# Model options that change what the same weights compute, but no name or shape.
OPTIONS = (
    "encoder_attention_heads",
    "layer_norm_eps",
    "activation_fn",
    "relative_positions",
    "relative_position_max_distance",
    "separate_output",
    "source_segment",
    "target_segment",
)


def hash_symbols(symbols: Iterable[str]) -> str:
    """SHA-256 of a dictionary's symbols in order, as hexadecimal digits."""
    return hashlib.sha256("\n".join(symbols).encode("utf-8", "surrogatepass")).hexdigest()


def facts(cfg, symbols: Iterable[str], tokenizer: Optional[str]) -> dict[str, Any]:
    """The facts of a model with options *cfg*, a dictionary of *symbols*, and a tokenizer's fingerprint (or None)."""
    known = {option: getattr(cfg, option) for option in OPTIONS}
    known["layer_norm_eps"] = float(known["layer_norm_eps"])
    known["activation_fn"] = str(known["activation_fn"])
    if not known["relative_positions"]:
        del known["relative_position_max_distance"]
    known["dictionary"] = hash_symbols(symbols)
    known["tokenizer"] = tokenizer
    return known


def to_tensor(known: dict[str, Any]) -> torch.Tensor:
    """Facts as int64 (bytes,)."""
    return torch.tensor(list(json.dumps(known, sort_keys=True).encode()), dtype=torch.int64)


def from_tensor(stored: torch.Tensor, where: str = "the checkpoint", name: str = "identity") -> dict[str, Any]:
    """The inverse of :func:`to_tensor`.

    Args:
        stored: int64 (bytes,).
        where: what to call the checkpoint in an error.
        name: of the buffer.

    Raises:
        PMLMError: the buffer does not hold facts.
    """
    try:
        known = json.loads(bytes(stored.tolist()))
        if not isinstance(known, dict):
            raise ValueError("no JSON object")
        return known
    except (ValueError, TypeError, RecursionError) as error:
        raise PMLMError(f"{where} is damaged: {name!r} is not readable; it was not written by fairseq_pmlm") from error


def check(stored: dict[str, Any], ours: dict[str, Any], where: str) -> None:
    """Compare the facts of a checkpoint with those of the model it is loaded into.

    Args:
        stored: facts of the checkpoint.
        ours: facts of the model, as built from the options, the dictionary and the tokenizer at hand.
        where: what to call the checkpoint in an error.

    Raises:
        PMLMError: naming the first fact that differs, and both values.
    """
    for name in sorted(stored.keys() & ours.keys()):
        theirs, here = stored[name], ours[name]
        if theirs == here:
            continue
        if name == "tokenizer" and (theirs is None or here is None):
            logger.warning(
                f"{where} was trained {'without' if theirs is None else 'with'} a tokenizer file next to dict.txt, "
                f"and the data has {'none' if here is None else 'one'} now: nothing to compare"
            )
        elif name in ("dictionary", "tokenizer"):
            what = {"dictionary": "dict.txt", "tokenizer": " or ".join(tokenizer_files.KINDS)}[name]
            raise PMLMError(
                f"{where} was trained with another {name} (sha256 {str(theirs)[:12]}) than the one of this data "
                f"directory (sha256 {str(here)[:12]}); use the {what} that it was trained with"
            )
        else:
            option = "--" + name.replace("_", "-")
            remedy = f"give {option} {theirs}"
            if isinstance(theirs, bool):
                remedy = f"add {option}" if theirs else f"leave out {option}"
            raise PMLMError(f"{where} has {option} {theirs}, this model has {here}; {remedy}")
