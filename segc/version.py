"""The version of segc."""

__version__ = "0.1.0"
