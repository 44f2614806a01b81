"""Makes ``reference`` and ``golden`` importable, and imports the extension as --user-dir does, before any test."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import fairseq_pmlm  # noqa: E402, F401
