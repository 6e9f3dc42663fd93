"""The trained network of the targets' tests, to make artifacts of."""

from tests.targets.conftest import trained

__all__ = ["trained"]
