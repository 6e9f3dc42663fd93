"""What the targets that are made with TensorFlow share: the package, and the passes that their graphs go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segc.targets.contract import Requirement
from segc.targets.suppression import SuppressionOptions, suppression_passes, suppression_settings

if TYPE_CHECKING:
    from segc.graph.ir import Dtype
    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata

REQUIREMENT = Requirement("tensorflow", "tensorflow", "2.18", also=("tensorflow-cpu", "tensorflow-macos"))
"""TensorFlow, whichever package brings it; ``tensorflow-cpu`` is the same without what only GPUs need."""


def passes(options: SuppressionOptions, metadata: Metadata, masks: Dtype = "uint8") -> tuple[Pass, ...]:
    """Batch norms folded, sizes fixed; suppression where it is asked for, with finished masks of a type."""
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return fold_batch_norm, fixed_anchors, *suppression_passes(options, metadata, masks)


def settings(options: SuppressionOptions) -> dict[str, Any]:
    """Fields of the metadata: the channels come last, and thresholds where it suppresses."""
    return {"channels": "last", **suppression_settings(options)}
