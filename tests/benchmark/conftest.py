"""Benchmarks are tested with the trained network of the targets' tests."""

from tests.targets.conftest import project, trained

__all__ = ["project", "trained"]
