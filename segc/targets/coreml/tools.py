"""The package coremltools, imported when this module is, so that a worker can do that while it waits for its task."""

from typing import Any

from segc.targets.coreml.runtime import load_coremltools

coremltools: Any = load_coremltools()
"""The package."""
