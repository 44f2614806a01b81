"""Makes ``reference``, ``golden`` and the scripts importable; imports the extension as --user-dir does."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "scripts")]

import fairseq_pmlm  # noqa: E402, F401
