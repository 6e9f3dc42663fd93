"""What TFLite and Edge TPU share: what makes and runs their models, and what of those computes in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segc.targets.contract import Requirement

if TYPE_CHECKING:
    from segc.graph.passes import Pass
    from segc.graph.passes.integers import Scheme

LITERT = Requirement("ai-edge-litert", "ai_edge_litert", "2.1")
"""LiteRT, and the classes of TFLite's schema that come with it."""

READS: dict[str, Any] = {
    "reads": {"type": "int8", "range": "-128..127", "last_step": "Subtract 128 from every byte."},
}
"""What is said beside models that compute in integers."""


def float_passes() -> tuple[Pass, ...]:
    """Of models that compute in fp32."""
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return fold_batch_norm, fixed_anchors


def integer_passes() -> tuple[Pass, ...]:
    """Of models that compute in int8."""
    from segc.graph.passes.integers import silu_apart

    return (*float_passes(), silu_apart)


def integers() -> Scheme:
    """What those compute so."""
    from segc.targets.litert.lowering import INTEGERS

    return INTEGERS
