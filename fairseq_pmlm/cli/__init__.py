"""The ``pmlm`` command: :mod:`~fairseq_pmlm.cli.main` has the table of subcommands, each a module with a ``main``."""
