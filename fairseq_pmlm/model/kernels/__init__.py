"""Faster versions of functions that torch has, too."""
