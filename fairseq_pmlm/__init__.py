"""Pseudo-masked language models (UniLMv2, arXiv 2002.12804) for fairseq: what ``--user-dir fairseq_pmlm`` imports.

Where fairseq has been imported, importing the package mends it and registers tasks, criterions, models, tokenizers and
scorers with it (:mod:`fairseq_pmlm.tasks`). Without fairseq, trained models can be used all the same:
``fairseq_pmlm.PMLMModel.from_pretrained``.
"""

import sys
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .interface import PMLMModel

if "fairseq" in sys.modules:
    from . import tasks  # noqa: F401

__all__ = ["PMLMModel", "__version__"]


def __getattr__(name: str):
    if name == "PMLMModel":  # late, as it imports torch
        from .interface import PMLMModel

        return PMLMModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
