"""Reading the files of a checkpoint: ``.bin`` or ``.safetensors``, one file or shards, its config.json, its tokenizer.

Nothing in them is executed.
"""

import os
from typing import NamedTuple, Optional

import safetensors
from torch import Tensor

from ..checkpoints.safe_load import check_readable, torch_load
from ..utils.errors import PMLMError, first_line
from ..utils.io import read_json

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
CONFIG = "config.json"
# in this order; merges.txt belongs to vocab.json, and a folder with a vocab.txt may hold a tokenizer.json as well
VOCABULARIES = ("vocab.txt", "sentencepiece.bpe.model", "sentencepiece.model", "vocab.json", "tokenizer.json")


class Checkpoint(NamedTuple):
    """Where a checkpoint's files are; None for what is not there."""

    weights: str  # a file of tensors, or the index of shards
    config: Optional[str]
    vocabulary: Optional[str]


def locate(path: str) -> Checkpoint:
    """The files that belong to the checkpoint *path*, a file or a folder.

    Beside a file ``NAME.bin``, ``NAME-config.json`` and ``NAME-vocab.txt`` are looked for first, as the authors of
    UniLM name them.

    Raises:
        PMLMError: there is no such file, or no weights in the folder.
    """
    if os.path.isdir(path):
        folder, stem = path, ""
        weights = next((os.path.join(path, name) for name in WEIGHTS if os.path.isfile(os.path.join(path, name))), None)
        if weights is None:
            raise PMLMError(f"checkpoint {path} holds none of {', '.join(WEIGHTS)}")
    elif os.path.isfile(path):
        weights, folder = path, os.path.dirname(path)
        stem = os.path.splitext(os.path.basename(path))[0] + "-"
    else:
        raise PMLMError(f"checkpoint {path}: no such file or directory")

    def beside(*names: str) -> Optional[str]:
        candidates = [os.path.join(folder, start + name) for start in (stem, "") for name in names]
        return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)

    return Checkpoint(weights, beside(CONFIG), beside(*VOCABULARIES))


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a file, or of the shards that an index (``*.index.json``) names.

    Raises:
        PMLMError: a file is missing, damaged, no checkpoint, or holds other things than tensors.
    """
    if not path.endswith(".index.json"):
        return _read_file(path)
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise PMLMError(f"{path} is no index of shards: it has no weight_map from names to files")
    tensors: dict[str, Tensor] = {}
    for shard in dict.fromkeys(weight_map.values()):
        if shard != os.path.basename(shard):
            raise PMLMError(f"{path}: the shard {shard!r} is not in the folder of the index")
        found = _read_file(os.path.join(os.path.dirname(path), shard))
        promised = {name for name, file in weight_map.items() if file == shard}
        if promised != found.keys():
            name = min(promised ^ found.keys())
            raise PMLMError(
                f"{path} and {shard} disagree: {name!r} is in the {'index' if name in promised else 'shard'} only"
            )
        tensors |= found
    return tensors


def _read_file(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise PMLMError(f"{path}: no such file")
    check_readable(path)
    if path.endswith(".safetensors"):
        try:
            with safetensors.safe_open(path, framework="pt") as f:
                return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  (it is no dictionary)
        except (safetensors.SafetensorError, OSError, ValueError, AttributeError) as error:
            # AttributeError: a type of numbers that this torch has not
            raise PMLMError(
                f"checkpoint {path} is truncated, or not a safetensors file ({first_line(error)})"
            ) from None
    try:
        content = torch_load(path, map_location="cpu")
    except OSError as error:
        raise PMLMError(f"cannot read {path}: {error.strerror or error}") from None
    tensors: dict[str, Tensor] = {}
    if isinstance(content, dict):
        tensors = {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors or len(tensors) < len(content):
        what = f"a {type(content).__name__}"
        if isinstance(content, dict):
            what = f"a dictionary with {describe_keys(k for k in content if k not in tensors)}"
        hint = "; a checkpoint of fairseq needs no import" if isinstance(content, dict) and "cfg" in content else ""
        raise PMLMError(f"checkpoint {path} holds {what} instead of named tensors alone{hint}")
    return tensors


def describe_keys(keys) -> str:
    """The first of *keys* and how many more there are."""
    keys = [str(key)[:120] for key in keys]
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
