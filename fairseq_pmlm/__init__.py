"""Pseudo-masked language models (UniLMv2, arXiv 2002.12804) for fairseq: what ``--user-dir fairseq_pmlm`` imports.

As soon as fairseq has been imported, before or after this package, it is patched, and tasks, criterions, models,
tokenizers and scorers are registered with it (:mod:`fairseq_pmlm.tasks`). Trained models can be used without fairseq:
``fairseq_pmlm.PMLMModel.from_pretrained``.
"""

import sys
from typing import TYPE_CHECKING

from ._version import __version__
from .utils.after_import import AfterImport

if TYPE_CHECKING:
    from .interface import PMLMModel

if sys.modules.get("fairseq"):
    from . import tasks  # noqa: F401
else:
    sys.meta_path.insert(0, AfterImport("fairseq", f"{__name__}.tasks"))

__all__ = ["PMLMModel", "__version__"]


def __getattr__(name: str):
    if name == "PMLMModel":  # late, as it imports torch
        from .interface import PMLMModel

        return PMLMModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
