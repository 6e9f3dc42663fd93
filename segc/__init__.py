"""segc: a declarative compiler for instance segmentation."""

__version__ = "0.1.0"
