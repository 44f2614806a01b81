"""The formats of other people's checkpoints, told apart by their keys, and one naming for all of them.

That naming is Hugging Face's for BERT with its LM head: ``bert.encoder.layer.0.attention.self.query.weight``,
``cls.predictions.bias``, and ``bert.rel_pos_bias.weight`` as the authors of UniLM call theirs.
"""

import re
from typing import Any, Mapping, Optional

from torch import Tensor

from ..utils.errors import PMLMError
from .files import describe_keys

FORMATS = ("unilm", "bert", "minilm", "roberta", "xlm-roberta", "electra")
PREFIXES = {"roberta": "roberta.", "xlm-roberta": "roberta.", "electra": "electra."}  # the others: "bert."
# of each format, what its config.json may call the model
MODEL_TYPES = {
    "unilm": ("unilm", "minilm", "bert"),
    "bert": ("bert",),
    "minilm": ("minilm", "unilm", "bert"),
    "roberta": ("roberta", "xlm-roberta", "camembert"),
    "xlm-roberta": ("xlm-roberta", "roberta", "camembert"),
    "electra": ("electra",),
}
BARE = ("embeddings.", "encoder.", "pooler.", "rel_pos_bias.")  # how keys begin in files of an encoder alone

# of each format, how its LM head is called
HEADS = {
    "roberta": {
        "lm_head.dense.": "cls.predictions.transform.dense.",
        "lm_head.layer_norm.": "cls.predictions.transform.LayerNorm.",
        "lm_head.": "cls.predictions.",
    },
    "electra": {
        "generator_predictions.": "cls.predictions.transform.",
        "generator_lm_head.": "cls.predictions.decoder.",
    },
}
HEADS["xlm-roberta"] = HEADS["roberta"]

# What holds no weight of this model, and why.
IGNORED = (
    (r"bert\.embeddings\.(position_ids|token_type_ids)", "a constant, not a weight"),
    (r"bert\.pooler\..*", "pools the first token for a classifier, which this model has not"),
    (r"cls\.seq_relationship\..*", "next-sentence prediction, which this model is not trained for"),
    (r"lm_head\..*", "an LM head under names that are not those of this format"),
    (
        r"(classifier|qa_outputs|score|logits_proj|sequence_summary|discriminator_predictions|generator_predictions"
        r"|generator_lm_head)\..*",
        "the head of another task",
    ),
)


def detect(tensors: Mapping[str, Tensor], config: dict[str, Any], wanted: str = "auto") -> str:
    """The format of a checkpoint with these *tensors*: one of :data:`FORMATS`.

    Args:
        tensors: under the names that the file gives them.
        config: its config.json; ``model_type`` decides what keys without a prefix mean, and names the family.
        wanted: the format that the user has named, or ``auto``.

    Raises:
        PMLMError: the keys are of no known format, not of the one named, or contradict ``model_type``.
    """
    model_type = config.get("model_type")
    seen = f"its keys are {describe_keys(tensors)}"
    if any(key.startswith(PREFIXES["roberta"]) for key in tensors):
        family = [name for name, prefix in PREFIXES.items() if prefix == PREFIXES["roberta"]]
        found = next((name for name in (wanted, model_type) if name in family), "roberta")
    elif any(key.startswith(PREFIXES["electra"]) for key in tensors):
        found = "electra"
    elif any(key.endswith((".self.qkv_linear.weight", "rel_pos_bias.weight")) for key in tensors):
        found = "unilm"
    elif any(key.startswith("bert.") for key in tensors):
        found = wanted if wanted in ("unilm", "minilm") else "bert"
    elif any(key.startswith("embeddings.word_embeddings.") for key in tensors):
        found = wanted if wanted != "auto" else _bare_format(tensors, config)
    else:
        raise PMLMError(f"the checkpoint is none of {', '.join(FORMATS)}: {seen}")
    if wanted not in ("auto", found):
        raise PMLMError(f"--format {wanted}, but the checkpoint is {found}: {seen}")
    if model_type is not None and model_type not in MODEL_TYPES[found]:
        raise PMLMError(
            f"config.json: model_type is {model_type!r}, but {'--format' if wanted == found else 'by its keys the'} "
            f"{found if wanted == found else 'checkpoint is ' + found}, which is {' or '.join(MODEL_TYPES[found])}"
        )
    return found


def _bare_format(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> str:
    """The format of keys without a prefix: they are the same in all formats, whose positions begin at 0 or at 2."""
    model_type = config.get("model_type")
    if model_type is None:
        table = tensors.get("embeddings.token_type_embeddings.weight")
        types = config.get("type_vocab_size", table.shape[0] if table is not None and table.dim() else 0)
        if types == 1 or config.get("pad_token_id") == 1:
            raise PMLMError(
                "config.json has no model_type, and the keys have no prefix: one token type, or pad_token_id 1, may be "
                "RoBERTa's, whose positions begin at 2; give --format"
            )
        return "bert"
    found = next((name for name, types in MODEL_TYPES.items() if model_type == types[0]), None)
    if found is None and model_type in MODEL_TYPES["roberta"]:
        found = "roberta"
    if found is None:
        known = sorted({name for types in MODEL_TYPES.values() for name in types})
        raise PMLMError(f"config.json: model_type is {model_type!r}; what can be imported is {', '.join(known)}")
    return found


def canonical(name: str, kind: str) -> str:
    """The one name of the tensor *name* of a checkpoint of format *kind*."""
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
    for theirs, ours in HEADS.get(kind, {}).items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    prefix = PREFIXES.get(kind, "bert.")
    if name.startswith(prefix):
        name = "bert." + name.removeprefix(prefix)
    elif name.startswith(BARE):
        name = "bert." + name
    if name == "bert.encoder.rel_pos_bias.weight":
        name = "bert.rel_pos_bias.weight"
    return name.replace("cls.predictions.decoder_weight", "cls.predictions.decoder.weight")


def reason_to_ignore(name: str) -> Optional[str]:
    """Why the tensor with this canonical name has no place in the model; None if there is no reason."""
    return next((reason for pattern, reason in IGNORED if re.fullmatch(pattern, name)), None)
