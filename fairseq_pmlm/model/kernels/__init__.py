"""Faster ways to compute what torch has as well."""
