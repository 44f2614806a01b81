"""A checkpoint's parameters on their way into a model: checked here, before fairseq loads them strictly."""

import logging
import re
from argparse import Namespace
from typing import Any

from torch import Tensor

from ..checkpoints import metadata as identity
from ..fairseq_patches import compat
from ..utils.errors import PMLMError
from . import heads

logger = logging.getLogger(__name__)

# options of the model -> the parameter whose shape says the same, and its axis
SIZES = {
    "encoder_embed_dim": ("backbone.embed_tokens.weight", 1),
    "max_positions": ("backbone.embed_positions.weight", 0),
    "num_segments": ("backbone.embed_segments.weight", 0),
    "encoder_ffn_embed_dim": ("backbone.layers.0.fc1.weight", 0),
}


def check_sizes(content: Any, where: str) -> None:
    """Compare the sizes among the options of one of our checkpoints with its parameters, before a model of such sizes
    is made.

    Args:
        content: what was read; checkpoints of other models, and other things, pass.
        where: what to call the checkpoint in an error.

    Raises:
        PMLMError: they contradict each other, or what should be parameters are none.
    """
    parameters = content.get("model") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or "identity" not in parameters:
        return
    cfg = content.get("cfg")
    options = cfg.get("model") if isinstance(cfg, dict) else None
    options = vars(options) if isinstance(options, Namespace) else options
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in parameters.items()):
        raise PMLMError(f"{where} is damaged: not all that its 'model' holds are named tensors")
    if not isinstance(options, dict):
        return
    found = {
        option: parameters[name].shape[axis : axis + 1] for option, (name, axis) in SIZES.items() if name in parameters
    }
    layers = {match[1] for match in (re.match(r"backbone\.layers\.(\d+)\.", name) for name in parameters) if match}
    for option, size in [*found.items(), ("encoder_layers", (len(layers),))]:
        if option in options and (options[option],) != tuple(size):
            raise PMLMError(
                f"{where} is damaged: its options give {option} {str(options[option])[:100]}, its parameters "
                f"{size[0] if size else 'none'}"
            )


def prepare(model, state_dict: dict[str, Tensor]) -> None:
    """Check *state_dict* against *model*; let the position table grow, and heads come and go.

    Args:
        model: a :class:`~fairseq_pmlm.model.pmlm.PMLMModel`; it gets the heads that it lacks.
        state_dict: of the checkpoint that was read last; changed in place.

    Raises:
        PMLMError: it is no PMLM, or of another shape, or disagrees in what no shape shows (:mod:`identity`).
    """
    where = compat.last_checkpoint or "the checkpoint"
    ours = model.state_dict()
    if "identity" not in state_dict:
        raise PMLMError(
            f"{where} does not hold a fairseq_pmlm model; its parameters are "
            f"{', '.join(list(state_dict)[:3])} and {max(0, len(state_dict) - 3)} more"
        )
    identity.check(identity.from_tensor(state_dict["identity"], where), identity.from_tensor(ours["identity"]), where)
    state_dict["identity"] = ours["identity"]
    table = "backbone.embed_positions.weight"
    if table in state_dict and len(state_dict[table]) < len(ours[table]):
        old, rows = state_dict[table], len(ours[table])
        logger.info(f"the position table grows from {len(old)} to {rows} rows; rows are repeated from the start")
        state_dict[table] = old.repeat(-(-rows // len(old)), 1)[:rows].clone()
    heads.settle(model, state_dict, where, compat.finetuning)
    ours = model.state_dict()
    for key in dict.fromkeys([*ours, *state_dict]):
        if key not in state_dict or key not in ours:
            here, there = ("this model", where) if key in ours else (where, "this model")
            raise PMLMError(
                f"{where} is of another architecture: {here} has {key!r}, {there} has not; "
                "give the --arch and the model options that it was trained with"
            )
        if ours[key].shape != state_dict[key].shape:
            raise PMLMError(
                f"{where} is of another architecture: {key!r} is {tuple(state_dict[key].shape)} there and "
                f"{tuple(ours[key].shape)} here; give the --arch and the model options that it was trained with"
            )
