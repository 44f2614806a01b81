"""Errors, files, cleaning of text, worker processes: what every other room may use."""
