"""The architecture that a checkpoint stores, for ``--arch-from FILE``, and as flags of ``fairseq-train``."""

import os
from argparse import Namespace
from typing import Any

from ..conversion.files import check_readable
from ..utils.errors import PMLMError
from .safe_load import torch_load

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


def stored_options(path: str) -> dict[str, Any]:
    """The options of the PMLM in the checkpoint *path*, as stored.

    Raises:
        PMLMError: there is no such file, it cannot be read, or it holds no such model.
    """
    if os.path.isdir(path):
        raise PMLMError(f"checkpoint {path} is a directory; name a file in it, such as checkpoint_best.pt or model.pt")
    if not os.path.isfile(path):
        raise PMLMError(f"checkpoint {path} does not exist")
    check_readable(path)
    state = torch_load(path, map_location="cpu", mmap=True)  # of all its bytes, only these are wanted
    cfg = state.get("cfg") if isinstance(state, dict) else None
    options = cfg.get("model") if cfg else None
    options = vars(options) if isinstance(options, Namespace) else options
    if not options or "identity" not in state.get("model", {}):
        raise PMLMError(f"checkpoint {path} does not hold a fairseq_pmlm model; see pmlm import")
    return dict(options)


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
                f"--arch-from {path}: its {option} is {there}, and --arch {args.arch} stands for {named[name]}; "
                "--arch pmlm stands for no size"
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
