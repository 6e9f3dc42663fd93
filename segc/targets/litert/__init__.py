"""What TFLite and Edge TPU share: what runs their models, and the passes of full-integer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segc.targets.contract import Requirement

if TYPE_CHECKING:
    from segc.graph.passes import Pass

RUNTIME = Requirement("ai-edge-litert", "ai_edge_litert", "2.0")


INTEGERS: dict[str, Any] = {
    "reads": {"type": "int8", "range": "-128..127", "last_step": "Subtract 128 from every byte."},
    "writes": "int8",
}
"""What is said of full-integer models beside them."""


def float_passes() -> tuple[Pass, ...]:
    """Of models that compute in fp32."""
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return fold_batch_norm, fixed_anchors


def integer_passes() -> tuple[Pass, ...]:
    """Of models in which all is an integer: what shares a scale then is of one kind."""
    from segc.graph.passes.quantisation import levels_apart, normalized_boxes

    return (*float_passes(), levels_apart, normalized_boxes)
