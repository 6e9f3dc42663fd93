"""Core ML: graph and weights lowered node by node to an ML program; run by Core ML on macOS, elsewhere evaluated."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Requirement, Target, TargetOptions

if TYPE_CHECKING:
    from pathlib import Path

    from segc.graph.ir import Graph
    from segc.graph.passes import Pass, Weights
    from segc.inference.metadata import Metadata

APPLE = sys.platform == "darwin"
"""Whether Core ML is here."""

NOTE = (
    "Core ML runs on macOS and iOS only: here the saved program is evaluated operation by operation in numpy, and "
    "Apple's runtime is not involved"
)

TOOLS = "segc.targets.coreml.tools"


class CoremlOptions(TargetOptions):
    """Options of the Core ML target."""

    format: Literal["coreml"]
    half: bool = Field(default=False, description="Compute in 16 bits, all but the decoding of boxes and scores.")
    int8: bool = Field(
        default=False, description="Store the weights of convolutions in 8 bits; needs iOS 16 or macOS 13."
    )
    nms: bool = Field(
        default=False,
        description="Suppress overlapping boxes in the model, by conf, iou and max_det of the hyperparameters: outputs "
        "are boxes [1, max_det, 4], scores and classes [1, max_det], coefficients [1, max_det, 32] and prototypes.",
    )


def _passes(options: CoremlOptions, metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm, half_precision

    found: list[Pass] = [fold_batch_norm, fixed_anchors]
    if options.nms:
        found.append(partial(_suppress, metadata))
    if options.half:
        found.append(half_precision)
    return tuple(found)


def _suppress(metadata: Metadata, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    from segc.graph.passes import append_suppression

    conf, iou, most = metadata.conf, metadata.iou, metadata.max_det
    if conf is None or iou is None or most is None:
        raise ValueError("a model that suppresses has thresholds")
    return append_suppression(graph, conf=conf, iou=iou, max_det=most), weights


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
    return {"layout": "detections" if options.nms else "named", "precision": precision}


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
    return {"system": oldest_system(options), "reads": reads}


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
    passes=_passes,
    settings=_settings,
    remarks=lambda: () if APPLE else (NOTE,),
)
