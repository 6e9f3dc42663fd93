"""Core ML: graph and weights lowered node by node to an ML program; run by Core ML on macOS, elsewhere evaluated."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Requirement, Target
from segc.targets.suppression import (
    SuppressionOptions,
    suppression_passes,
    suppression_refusals,
    suppression_settings,
)

if TYPE_CHECKING:
    from pathlib import Path

    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata

APPLE = sys.platform == "darwin"
"""Whether Core ML is here."""

NOTE = (
    "Core ML runs on macOS and iOS only: here the saved program is evaluated operation by operation in numpy, and "
    "Apple's runtime is not involved"
)

TOOLS = "segc.targets.coreml.tools"


class CoremlOptions(SuppressionOptions):
    """Options of the Core ML target."""

    format: Literal["coreml"]
    half: bool = Field(default=False, description="Compute in 16 bits, all but the decoding of boxes and scores.")
    int8: bool = Field(
        default=False, description="Store the weights of convolutions in 8 bits; needs iOS 16 or macOS 13."
    )


def _passes(options: CoremlOptions, metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm, half_precision

    # Core ML has no outputs of eight bits.
    suppression = suppression_passes(options, metadata, masks="float32")
    return fold_batch_norm, fixed_anchors, *suppression, *([half_precision] if options.half else [])


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.coreml.lowering import lower
    from segc.targets.coreml.package import write_package

    model, values = lower(request.graph, request.weights, request.metadata, system=oldest_system(request.options))
    name = f"{request.stem}{TARGET.suffix}"
    write_package(request.folder / name, model, values)
    return Emitted(name, () if APPLE else (NOTE,))


def oldest_system(options: CoremlOptions) -> int:
    """The first version of iOS that has all of a program's operations; that of macOS is three less."""
    return 16 if options.int8 else 15


def _settings(options: CoremlOptions) -> dict[str, Any]:
    precision = "weight-only-int8" if options.int8 else "fp16" if options.half else "fp32"
    return {**suppression_settings(options), "precision": precision}


def _values(options: CoremlOptions) -> dict[str, Any]:
    """For what stands beside it: the first version of iOS, and what goes in."""
    from segc.targets.coreml.lowering import INPUT

    reads = {
        "name": INPUT,
        "type": "image",
        "shape": "H x W",
        "range": "RGB, 8 bits",
        "last_step": "Nothing more: the program takes the image, and divides by 255 itself.",
    }
    return {"system": oldest_system(options), "reads": reads, "mask_writes": "float32"}


def _stand_in(_path: Path) -> str | None:
    return None if APPLE else "segc.targets.coreml.stand_in"


TARGET = Target(
    name="coreml",
    title="Core ML",
    suffix=".mlpackage",
    options=CoremlOptions,
    emit=_emit,
    runtime="segc.targets.coreml.runtime",
    extra="coreml",
    needed=(
        Requirement("coremltools", "coremltools", "9.0", preload=TOOLS if APPLE else ""),
        # Images in Core ML's Python interface are Pillow's.
        Requirement("pillow", "PIL", "10.0", preload=None if APPLE else ""),
    ),
    requirements=lambda _options: (Requirement("coremltools", "coremltools", "9.0", preload=TOOLS),),
    templates=(("predict.py.j2", "predict.py"), ("coreml.md.j2", "SWIFT.md")),
    values=_values,
    stand_in=_stand_in,
    refusals=suppression_refusals,
    passes=_passes,
    settings=_settings,
    remarks=lambda: () if APPLE else (NOTE,),
)
