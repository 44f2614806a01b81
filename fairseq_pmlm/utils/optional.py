"""Packages that only part of the work needs, and one line that says how to get the one that is missing."""

import importlib
from types import ModuleType

from .errors import PMLMError

# module -> the name that pip knows it by, and the extra of ours that brings it
EXTRAS = {
    "fairseq": ("fairseq", "fairseq"),
    "hydra": ("hydra-core", "fairseq-main"),
    "matplotlib": ("matplotlib", "plot"),
    "nltk": ("nltk", "metrics"),
    "omegaconf": ("omegaconf", "fairseq-main"),
    "rouge_score": ("rouge-score", "metrics"),
    "sacrebleu": ("sacrebleu", "metrics"),
    "scipy": ("scipy", "fairseq-main"),
    "sklearn": ("scikit-learn", "fairseq-main"),
}


def require(name: str, what: str) -> ModuleType:
    """Import the module *name* (``matplotlib.pyplot``), of a package in :data:`EXTRAS`, for *what*.

    Call it where the module is used: an import at the top of a file would stop those who need only the rest of it.

    Raises:
        PMLMError: it, or one of the others that it needs, is not installed. What is installed but broken raises as it
            does.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        found = missing(error, what)
        if found is None:
            raise
        raise found from None


def missing(error: ModuleNotFoundError, what: str) -> PMLMError | None:
    """The error that says what to install for *what*; None if the module is none of :data:`EXTRAS`."""
    if error.name not in EXTRAS:  # a module inside of one is not there: that one is broken, or another version
        return None
    package, extra = EXTRAS[error.name]
    return PMLMError(f'{what} needs {package}, which is not installed: pip install "fairseq-pmlm[{extra}]"')
