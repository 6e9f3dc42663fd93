"""What the targets that are made with TensorFlow share: the package, and the passes that their graphs go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segc.targets.contract import Requirement

if TYPE_CHECKING:
    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata

REQUIREMENT = Requirement("tensorflow", "tensorflow", "2.18", also=("tensorflow-cpu", "tensorflow-macos"))
"""TensorFlow, whichever package brings it; ``tensorflow-cpu`` is the same without what only GPUs need."""


def passes(_options: Any, _metadata: Metadata) -> tuple[Pass, ...]:
    """Batch norms folded, sizes fixed."""
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return fold_batch_norm, fixed_anchors
