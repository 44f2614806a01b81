"""The one place where the version stands: setuptools reads it from here without importing the package."""

__version__ = "0.1.0"
