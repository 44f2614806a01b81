"""The formats of other people's checkpoints, told apart by their keys, and one naming for all of them.

That naming is Hugging Face's for BERT with its LM head: ``bert.encoder.layer.0.attention.self.query.weight``,
``cls.predictions.bias``, and ``bert.rel_pos_bias.weight`` as the authors of UniLM call theirs.
"""

import re
from typing import Any, Iterable, Optional

from ..errors import PMLMError
from .files import describe_keys

FORMATS = ("unilm", "bert", "minilm", "roberta", "xlm-roberta", "electra")
PREFIXES = {"roberta": "roberta.", "xlm-roberta": "roberta.", "electra": "electra."}  # the others: "bert."
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
    (r"(?!bert\.|cls\.predictions\.).*", "the head of another task"),
)


def detect(keys: Iterable[str], config: dict[str, Any], wanted: str = "auto") -> str:
    """The format of a checkpoint with these *keys*: one of :data:`FORMATS`.

    Args:
        keys: names of its tensors.
        config: its config.json; ``model_type`` decides what keys without a prefix mean, and names the family.
        wanted: the format that the user has named, or ``auto``.

    Raises:
        PMLMError: the keys are of no known format, or not of the one named.
    """
    keys = list(keys)
    model_type = config.get("model_type")
    seen = f"its keys are {describe_keys(keys)}"
    if any(key.startswith(PREFIXES["roberta"]) for key in keys):
        family = [name for name, prefix in PREFIXES.items() if prefix == PREFIXES["roberta"]]
        found = next((name for name in (wanted, model_type) if name in family), "roberta")
    elif any(key.startswith(PREFIXES["electra"]) for key in keys):
        found = "electra"
    elif any(key.endswith((".self.qkv_linear.weight", "rel_pos_bias.weight")) for key in keys):
        found = "unilm"
    elif any(key.startswith("bert.") for key in keys):
        found = wanted if wanted in ("unilm", "minilm") else "bert"
    elif any(key.startswith("embeddings.word_embeddings.") for key in keys):
        found = wanted if wanted != "auto" else model_type if model_type in FORMATS else "bert"
    else:
        raise PMLMError(f"the checkpoint is none of {', '.join(FORMATS)}: {seen}")
    if wanted not in ("auto", found):
        raise PMLMError(f"--format {wanted}, but the checkpoint is {found}: {seen}")
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
