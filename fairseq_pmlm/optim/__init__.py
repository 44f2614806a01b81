"""Optimizers that fairseq registers."""
