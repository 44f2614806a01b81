"""The architecture that a checkpoint stores, for ``--arch-from FILE``, and as flags of ``fairseq-train``."""

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..utils.errors import PMLMError
from .safe_load import check_readable, torch_load

# Options of the model that its parameters depend on, by shape or by meaning.
OPTIONS = (
    "encoder_layers",
    "encoder_embed_dim",
    "encoder_ffn_embed_dim",
    "encoder_attention_heads",
    "activation_fn",
    "layer_norm_eps",
    "max_positions",
    "num_segments",
    "relative_positions",
    "relative_position_bins",
    "relative_position_max_distance",
    "separate_output",
    "source_segment",
    "target_segment",
)

# options of the model -> the parameter whose shape says the same, and its axis
SIZES = {
    "encoder_embed_dim": ("backbone.embed_tokens.weight", 1),
    "max_positions": ("backbone.embed_positions.weight", 0),
    "num_segments": ("backbone.embed_segments.weight", 0),
    "encoder_ffn_embed_dim": ("backbone.layers.0.fc1.weight", 0),
}


def stored_options(path: str) -> dict[str, Any]:
    """The options of the PMLM in the checkpoint *path*, as stored.

    Raises:
        PMLMError: the file does not exist, cannot be read, or holds another model.
    """
    if os.path.isdir(path):
        raise PMLMError(f"checkpoint {path} is a directory; name a file in it, such as checkpoint_best.pt or model.pt")
    if not os.path.isfile(path):
        raise PMLMError(f"checkpoint {path} does not exist")
    check_readable(path)
    state = torch_load(path, map_location="cpu", mmap=True)  # so that the parameters are not read
    options = model_options(state)
    if not options or "identity" not in (state.get("model") or {}):
        raise PMLMError(f"checkpoint {path} does not hold a fairseq_pmlm model; see pmlm import")
    return options


def model_options(content: Any) -> dict[str, Any]:
    """The options of the model in *content*, what was read of a checkpoint; empty if it stores none."""
    cfg = content.get("cfg") if isinstance(content, dict) else None
    return as_dict(cfg.get("model")) if isinstance(cfg, Mapping) else {}


def as_dict(options: Any) -> dict[str, Any]:
    """Options as fairseq stores them, in a namespace or a mapping; of anything else, none."""
    if isinstance(options, Namespace):
        return dict(vars(options))
    return dict(options) if isinstance(options, Mapping) else {}


def check_sizes(content: Any, where: str) -> None:
    """Compare the sizes among the options of a checkpoint with its parameters, before a model of such sizes is made.

    Args:
        content: what was read; checkpoints of other models, and other things, pass.
        where: what to call the checkpoint in an error.

    Raises:
        PMLMError: they contradict each other, or the parameters are not named tensors.
    """
    parameters = content.get("model") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or "identity" not in parameters:
        return
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in parameters.items()):
        raise PMLMError(f"{where} is damaged: not all that its 'model' holds are named tensors")
    options = model_options(content)
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


def take_from(path: str, args: Namespace, named: dict[str, int]) -> None:
    """Put the architecture stored in the checkpoint *path* into *args*.

    Args:
        path: the checkpoint.
        args: options given on the command line, and no others.
        named: what the architecture given with ``--arch`` stands for.

    Raises:
        PMLMError: an option given, or ``--arch``, contradicts the checkpoint; naming both values.
    """
    stored = stored_options(path)
    for name in OPTIONS:
        if name not in stored:  # written before there was such an option
            continue
        there, here, option = stored[name], getattr(args, name, None), "--" + name.replace("_", "-")
        if name == "max_positions" and here is not None and here >= there:
            continue  # the table grows by repetition
        if here is not None and here != there:
            raise PMLMError(f"--arch-from {path}: its {option} is {there}, and the command line gives {here}")
        if named.get(name, there) != there and here is None:
            raise PMLMError(
                f"--arch-from {path}: its {option} is {there}, and --arch {args.arch} means {named[name]}; --arch pmlm "
                "leaves it open"
            )
        setattr(args, name, there)


def flags(options: dict[str, Any], named: dict[str, tuple[int, int, int]], defaults: Any) -> str:
    """The flags of ``fairseq-train`` for a model with these *options*.

    Args:
        options: of the model.
        named: architectures by name: layers, width, heads.
        defaults: the options' defaults, as attributes.
    """
    width = options["encoder_embed_dim"]
    shape = (options["encoder_layers"], width, options["encoder_attention_heads"])
    arch = next((name for name, its_shape in named.items() if its_shape == shape), "pmlm_base")
    implied = dict(zip(OPTIONS, (*named[arch][:2], 4 * width, named[arch][2]), strict=False))
    parts = [f"--arch {arch}"]
    for name in OPTIONS:
        value = options.get(name, getattr(defaults, name))
        if value != implied.get(name, getattr(defaults, name)):
            option = "--" + name.replace("_", "-")
            parts.append(option if value is True else f"{option} {value}")
    return " ".join(parts)
