"""The tokenizer that lies beside a dictionary: which file it is, and which bpe it stands for."""

import hashlib
import json
import os
import shutil
from argparse import Namespace
from typing import Optional

from ..utils.errors import PMLMError
from . import wordpiece
from .byte_bpe import PMLMByteBPE
from .sentencepiece import PMLMSentencepiece
from .wordpiece import PMLMWordPiece

# name of the file -> name of the bpe, its class, and the option of its file
KINDS = {
    "sentencepiece.model": ("pmlm_sentencepiece", PMLMSentencepiece, "sentencepiece_model"),
    "vocab.txt": ("pmlm_wordpiece", PMLMWordPiece, "wordpiece_vocab"),
    "tokenizer.json": ("pmlm_byte_bpe", PMLMByteBPE, "byte_bpe_tokenizer"),
}


def find(data: str) -> Optional[str]:
    """The tokenizer file beside the dictionary in the first of *data*'s colon-separated directories, or None."""
    directory = data.split(os.pathsep)[0]
    paths = (os.path.join(directory, name) for name in KINDS)
    return next((path for path in paths if os.path.isfile(path)), None)


def kind(path: str) -> str:
    """What the tokenizer file *path* is called beside a dictionary; its ending says it.

    Raises:
        PMLMError: it has another ending.
    """
    endings = {os.path.splitext(name)[1]: name for name in KINDS}
    ending = os.path.splitext(path)[1]
    if ending not in endings:
        raise PMLMError(f"{path}: a tokenizer file is named like {', '.join(KINDS)}")
    return endings[ending]


def load(path: str, name: Optional[str] = None):
    """The bpe of a tokenizer file.

    Args:
        path: the file.
        name: one of :data:`KINDS`, where the file's ending does not say it.

    Raises:
        PMLMError: the file is missing or broken.
    """
    _, bpe, option = KINDS[name or kind(path)]
    return bpe(Namespace(**{option: path}))


def copy(path: str, folder: str, name: Optional[str] = None) -> str:
    """Copy a tokenizer file, with its settings, into *folder*, under its name there; otherwise as :func:`load`."""
    target = os.path.join(folder, name or kind(path))
    if os.path.basename(target) == "vocab.txt":
        pieces = wordpiece.read_vocabulary(path)
        wordpiece.write_vocabulary(target, pieces, wordpiece.read_settings(path, pieces))
    else:
        shutil.copyfile(path, target)
    return target


def fingerprint(path: str, name: Optional[str] = None) -> str:
    """SHA-256 of a tokenizer file, as hexadecimal digits; otherwise as :func:`load`.

    Of a ``vocab.txt``, it is that of its pieces, whatever the line ends, and of settings that they do not imply.
    """
    if (name or kind(path)) != "vocab.txt":
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    pieces = wordpiece.read_vocabulary(path)
    settings = wordpiece.read_settings(path, pieces)
    text = "".join(f"{piece}\n" for piece in pieces)
    if settings != wordpiece.implied_settings(pieces):
        text += json.dumps(settings)
    return hashlib.sha256(text.encode()).hexdigest()


def symbols(path: str) -> list[str]:
    """The dictionary's types for a tokenizer file, in the order of its numbers: what stands between ``<unk>`` and
    ``<mask>``."""
    return list(load(path).pieces)
