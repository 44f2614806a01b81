"""Which tokenizer a file belongs to, and which file a data directory has."""

import os
from typing import Optional

from ..utils.errors import PMLMError
from .base import Tokenizer
from .byte_bpe import ByteBPE
from .sentencepiece import SentencePiece
from .wordpiece import WordPiece

# name of the file in a data directory -> its class; the first that is there counts
KINDS: dict[str, type[Tokenizer]] = {kind.file_name: kind for kind in (SentencePiece, WordPiece, ByteBPE)}


def find(data: str) -> Optional[str]:
    """The tokenizer file in the first of *data*'s colon-separated directories, or None."""
    directory = data.split(os.pathsep)[0]
    paths = (os.path.join(directory, name) for name in KINDS)
    return next((path for path in paths if os.path.isfile(path)), None)


def kind_of(path: str, name: Optional[str] = None) -> type[Tokenizer]:
    """The class of a tokenizer file; its ending says which, unless *name* does, one of :data:`KINDS`.

    Raises:
        PMLMError: the file has another ending.
    """
    if name is not None:
        return KINDS[name]
    endings = {os.path.splitext(name)[1]: kind for name, kind in KINDS.items()}
    ending = os.path.splitext(path)[1]
    if ending not in endings:
        raise PMLMError(f"{path}: a tokenizer file is named like {', '.join(KINDS)}")
    return endings[ending]


def load(path: str, name: Optional[str] = None) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
        PMLMError: see :func:`kind_of` and :meth:`Tokenizer.load`.
    """
    return kind_of(path, name).load(path)


def fingerprint(path: str, name: Optional[str] = None) -> str:
    """The fingerprint of a tokenizer file, without building the tokenizer; otherwise as :func:`load`."""
    return kind_of(path, name).fingerprint_file(path)
