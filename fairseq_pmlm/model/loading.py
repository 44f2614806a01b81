"""A checkpoint's parameters on their way into a model: checked here, before they are loaded strictly."""

import logging
from typing import Any, Optional

from torch import Tensor

from ..checkpoints import metadata
from ..checkpoints.architecture import as_dict, check_sizes, model_options
from ..checkpoints.safe_load import torch_load
from ..utils.errors import PMLMError
from . import config
from .heads import KINDS, ClassificationHead, SpanHead
from .pmlm import PMLM, Symbols

logger = logging.getLogger(__name__)


def load(
    path: str, dictionary: Symbols, tokenizer: Optional[str], kind: type[PMLM] = PMLM
) -> tuple[PMLM, dict[str, Any]]:
    """The model in a checkpoint, for use: in evaluation mode, with packed weights.

    Args:
        path: a checkpoint of ``fairseq-train`` or of ``pmlm import``.
        dictionary: that it was trained with; has <mask> and <pseudo>.
        tokenizer: fingerprint of the tokenizer that belongs to the dictionary.
        kind: class of the model.

    Returns:
        the model, and the options of the task that it was trained for ("_name" is its name; empty where that is not
        stored).

    Raises:
        PMLMError: the file is missing or damaged, holds another model, or does not belong to the dictionary.
    """
    where = f"checkpoint {path}"
    try:
        state = torch_load(path, map_location="cpu")
    except FileNotFoundError as error:
        raise PMLMError(f"{where} does not exist") from error
    except OSError as error:
        raise PMLMError(f"{where} cannot be read: {error.strerror or error}") from error
    check_sizes(state, where)
    options = model_options(state)
    if not options or not state.get("model") or not isinstance(state["model"], dict):
        raise PMLMError(f"{where} does not hold a fairseq_pmlm model")
    cfg = config.from_stored(options, where)
    config.check(cfg)
    model = kind(cfg, dictionary, tokenizer)
    prepare(model, state["model"], where)
    model.load_state_dict(state["model"], strict=True)
    model.pack()
    return model.eval(), as_dict(state["cfg"].get("task"))


def prepare(model: PMLM, state_dict: dict[str, Tensor], where: str, finetuning: bool = False) -> None:
    """Check *state_dict* against *model*; let the position table grow, and heads come and go.

    Args:
        model: it gets the heads that it lacks.
        state_dict: of the checkpoint; changed in place.
        where: what to call the checkpoint.
        finetuning: whether a training starts from it, rather than resumes it.

    Raises:
        PMLMError: it is not a PMLM, its shapes are others, or its metadata differ.
    """
    ours = model.state_dict()
    if "identity" not in state_dict:
        raise PMLMError(
            f"{where} does not hold a fairseq_pmlm model; its parameters are "
            f"{', '.join(map(str, list(state_dict)[:3]))} and {max(0, len(state_dict) - 3)} more"
        )
    theirs = metadata.from_tensor(state_dict["identity"], where)
    metadata.check(theirs, metadata.from_tensor(ours["identity"]), where)
    state_dict["identity"] = ours["identity"]
    table = "backbone.embed_positions.weight"
    if table in state_dict and len(state_dict[table]) < len(ours[table]):
        old, rows = state_dict[table], len(ours[table])
        logger.info(f"the position table grows from {len(old)} to {rows} rows; rows are repeated from the start")
        state_dict[table] = old.repeat(-(-rows // len(old)), 1)[:rows].clone()
    settle_heads(model, state_dict, where, finetuning)
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


def path_of(key: str) -> Optional[str]:
    """The path of the head that a key of the state dict belongs to, or None."""
    parts = key.split(".")
    if parts[0] not in KINDS:
        return None
    return ".".join(parts[:2]) if parts[0] == "classification_heads" else parts[0]


def find_heads(state_dict: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Path of each head in *state_dict* -> its tensors, by their names within the head."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        path = path_of(key)
        if path is not None:
            found.setdefault(path, {})[key[len(path) + 1 :]] = tensor
    return found


def settle_heads(model: PMLM, state_dict: dict[str, Tensor], where: str, finetuning: bool) -> None:
    """Make *model* and a checkpoint that is being loaded into it agree on their heads.

    A head that only the checkpoint has is registered. At the start of a fine-tuning, a head that only the model has, or
    that is of another kind in the checkpoint, keeps its initial weights.

    Args:
        model: it gets the heads that it lacks.
        state_dict: of the checkpoint; changed in place.
        where: what to call the checkpoint.
        finetuning: whether a training starts from it, rather than resumes it.

    Raises:
        PMLMError: it lacks a head, or has one of another kind, and this is not the start of a fine-tuning; its tensors
            do not make a head.
    """
    theirs = find_heads(state_dict)
    for path, tensors in theirs.items():
        try:
            like = KINDS[path.split(".")[0]].like(model.cfg, tensors)
            fits = {name: tensor.shape for name, tensor in like.state_dict().items()}
        except (KeyError, ValueError) as error:
            raise PMLMError(f"{where}: the tensors of {path!r} are not those of a head") from error
        if fits != {name: tensor.shape for name, tensor in tensors.items()}:
            raise PMLMError(f"{where}: the tensors of {path!r} do not fit each other")
        ours = find_heads(model.state_dict()).get(path)
        if ours is None:
            model.register_head(path, like)
            continue
        head = model.get_submodule(path)
        assert isinstance(head, ClassificationHead | SpanHead)
        difference = head.differs(tensors)
        if difference and not finetuning:
            raise PMLMError(
                f"{where}: its head {path!r} differs: {difference}; only fine-tuning can give it other classes"
            )
        if difference:
            logger.warning(f"{where}: its head {path!r} differs: {difference}; initialized again")
            for name in tensors:
                del state_dict[f"{path}.{name}"]
        state_dict.update({f"{path}.{name}": ours[name] for name in ours if difference or name == "facts"})
    for path, tensors in find_heads(model.state_dict()).items():
        if path in theirs:
            continue
        if not finetuning:
            raise PMLMError(f"{where} has no head {path!r} (its heads: {', '.join(theirs) or 'none'})")
        logger.info(f"{where} has no head {path!r}: it starts with random weights")
        state_dict.update({f"{path}.{name}": tensor for name, tensor in tensors.items()})
