"""A checkpoint's parameters on their way into a model: checked here, before fairseq loads them strictly."""

import logging

from torch import Tensor

from ..checkpoints import context
from ..checkpoints import metadata as identity
from ..utils.errors import PMLMError
from . import heads

logger = logging.getLogger(__name__)


def prepare(model, state_dict: dict[str, Tensor]) -> None:
    """Check *state_dict* against *model*; let the position table grow, and heads come and go.

    Args:
        model: a :class:`~fairseq_pmlm.model.pmlm.PMLMModel`; it gets the heads that it lacks.
        state_dict: of the checkpoint that was read last; changed in place.

    Raises:
        PMLMError: it is no PMLM, or of another shape, or disagrees in what no shape shows (:mod:`identity`).
    """
    reading = context.current()
    where = reading.where
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
    heads.settle(model, state_dict, where, reading.finetuning)
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
