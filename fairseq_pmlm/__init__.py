"""Pseudo-masked language models (UniLMv2, arXiv 2002.12804) for fairseq: what ``--user-dir fairseq_pmlm`` imports.

Importing the package mends fairseq for current Python and torch (:mod:`~fairseq_pmlm.compat`, first) and registers the
tasks, criterions, models, tokenizers and scorers. Importing it twice, or in spawned workers, is harmless.
"""

__version__ = "0.1.0"
