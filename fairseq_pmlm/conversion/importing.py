"""A checkpoint of other people as a directory that fairseq's commands take: model.pt, dict.txt, the tokenizer file."""

import dataclasses
import enum
import os
import re
from typing import Any, Optional

import torch
from torch import Tensor

from ..checkpoints import metadata
from ..checkpoints.architecture import flags
from ..model.config import ARCHITECTURES, PMLMConfig, check
from ..model.pmlm import PMLM
from ..tokenizers.base import Tokenizer
from ..tokenizers.dictionary import Dictionary
from ..tokenizers.files import KINDS
from ..tokenizers.symbols import EXTRA_SYMBOLS
from ..tokenizers.wordpiece import CONFIG
from ..utils import directories
from ..utils.errors import PMLMError, first_line
from ..utils.io import read_json
from . import names, vocabulary
from .common import COMMON
from .convert import convert
from .files import VOCABULARIES, locate, read_tensors

OURS = re.compile("|".join(map(re.escape, ("model.pt", "dict.txt", *KINDS, CONFIG))))


def import_checkpoint(
    path: str,
    save_dir: str,
    kind: str = "auto",
    config: Optional[str] = None,
    vocab: Optional[str] = None,
    overwrite: bool = False,
) -> list[str]:
    """Write *save_dir*, complete or not at all.

    Args:
        path: the checkpoint, a file or a folder.
        save_dir: directory to write.
        kind: its format, or ``auto``.
        config: its config.json; by default the one beside it.
        vocab: its tokenizer file; by default the one beside it.
        overwrite: replace what an earlier import wrote.

    Returns:
        lines that say what became of the checkpoint.

    Raises:
        PMLMError: see :mod:`files`, :mod:`names`, :mod:`vocabulary` and :mod:`convert`.
    """
    found = locate(path)
    config, vocab = config or found.config, vocab or found.vocabulary
    if vocab is None:
        raise PMLMError(f"there is none of {', '.join(VOCABULARIES)} beside {found.weights}; give --vocab FILE")
    content = read_json(config) if config else {}
    where = config or "config.json, which is missing,"
    with directories.building(save_dir, overwrite, OURS, "--save-dir", "a checkpoint") as folder:
        tensors = read_tensors(found.weights)
        words = vocabulary.read(vocab, content)
        try:
            kind = names.detect(tensors, content, kind)
            options, state, report = convert(tensors, content, where, kind, words.rows(), len(words.symbols))
        except PMLMError as error:
            raise PMLMError(f"checkpoint {path}: {error}") from None
        words.write(folder)
        options, state["identity"] = describe(options, words.tokenizer, state)
        objective = "ae+par" if kind == "unilm" or "<pseudo>" in words.symbols else "ae"  # what [P] has learned
        made = fairseq_checkpoint(options, state, os.path.realpath(save_dir), objective)
        try:
            torch.save(made, os.path.join(folder, "model.pt"))
        except RuntimeError as error:  # torch does not pass on what the system said
            raise PMLMError(
                f"cannot write --save-dir {save_dir}, perhaps for want of space ({first_line(error)})"
            ) from error
    return [
        *report.lines(),
        f"model: {sum(tensor.numel() for tensor in state.values()) - redundant(options, state):,} parameters; "
        f"dictionary: {len(words.rows()):,} symbols, with {words.tokenizer.name}",
        f"to train it: --arch pmlm --arch-from {os.path.join(save_dir, 'model.pt')}",
        f"   which is: {flags(options, ARCHITECTURES, PMLMConfig())}",
    ]


def redundant(options: dict[str, Any], state: dict[str, Tensor]) -> int:
    """Numbers in *state* that are no parameters of their own: the identity, and the softmax weight where it is tied."""
    tied = 0 if options["separate_output"] else state["output_layer.weight"].numel()
    return state["identity"].numel() + tied


def describe(options: dict[str, Any], tokenizer: Tokenizer, state: dict[str, Tensor]) -> tuple[dict[str, Any], Tensor]:
    """All options of the model, and the identity of its checkpoint; compares *state* with the model it is for.

    Raises:
        PMLMError: the options contradict each other.
    """
    cfg = PMLMConfig(**options)
    dictionary = Dictionary()
    for symbol in (*tokenizer.symbols, *EXTRA_SYMBOLS):
        dictionary.add_symbol(symbol)
    check(cfg)
    with torch.device("meta"):  # shapes alone
        expected = PMLM(cfg, dictionary).state_dict()
    del expected["identity"]
    ours, theirs = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (expected, state))
    assert ours == theirs, ours.items() ^ theirs.items()
    known = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg) if field.name != "_name"}
    known = {name: str(value) if isinstance(value, enum.Enum) else value for name, value in known.items()}
    facts = metadata.facts(cfg, dictionary.symbols, tokenizer.fingerprint())
    return known, metadata.to_tensor(facts)


def fairseq_checkpoint(options: dict[str, Any], state: dict[str, Tensor], data: str, objective: str) -> dict[str, Any]:
    """What ``fairseq-generate --path`` and ``fairseq-train --finetune-from-model`` read, before any training."""
    block = min(512, options["max_positions"])
    task = {"_name": "pmlm", "data": data, "objective": objective, "tokens_per_sample": block}
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    return {
        "args": None,
        "cfg": {"common": dict(COMMON), "model": {"_name": "pmlm", **options}, "task": task},
        "model": state,
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
