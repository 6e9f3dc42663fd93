"""Emission is tested with the trained network of the targets' tests."""

from tests.targets.conftest import emit_twice, photographs, project, reference, trained

__all__ = ["emit_twice", "photographs", "project", "reference", "trained"]
