"""Packages that only part of the work needs, and one line that says how to get the one that is missing."""

import importlib
from types import ModuleType

from .errors import PMLMError

# module -> the name that pip knows it by, and the extra of ours that brings it
EXTRAS = {
    "matplotlib": ("matplotlib", "plot"),
    "nltk": ("nltk", "metrics"),
    "rouge_score": ("rouge-score", "metrics"),
    "sacrebleu": ("sacrebleu", "metrics"),
    "sklearn": ("scikit-learn", "fairseq-main"),
    "scipy": ("scipy", "fairseq-main"),
}


def require(name: str, what: str) -> ModuleType:
    """Import the module *name* (``matplotlib.pyplot``), of a package in :data:`EXTRAS`, for *what*.

    Call it where the module is used: an import at the top of a file would stop whoever needs only the rest of it.

    Raises:
        PMLMError: the package is not installed. One that is installed but broken raises what it raises.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package, extra = EXTRAS.get(error.name or "", ("", ""))
        if not package:
            raise
        raise PMLMError(f'{what} needs {package}: pip install "fairseq-pmlm[{extra}]"') from None
