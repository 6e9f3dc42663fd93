"""Core ML: graph and weights lowered node by node to an ML program; run by Core ML on macOS, elsewhere evaluated."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Refusal, Requirement, Target
from segc.targets.int8 import KeepFloatOptions, quantised
from segc.targets.suppression import (
    SuppressionOptions,
    suppression_passes,
    suppression_refusals,
    suppression_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from segc.graph.ir import Graph
    from segc.graph.passes import Pass
    from segc.graph.passes.integers import Scheme
    from segc.inference.metadata import Metadata

APPLE = sys.platform == "darwin"
"""Whether Core ML is here."""

NOTE = (
    "Core ML runs on macOS and iOS only: here the saved program is evaluated operation by operation in numpy, and "
    "Apple's runtime is not involved"
)

TOOLS = "segc.targets.coreml.tools"


class CoremlOptions(KeepFloatOptions, SuppressionOptions):
    """Options of the Core ML target."""

    format: Literal["coreml"]
    half: bool = Field(default=False, description="Compute in 16 bits, all but the decoding of boxes and scores.")
    int8: bool = Field(
        default=False, description="Store the weights of convolutions in 8 bits; needs iOS 16 or macOS 13."
    )
    int8_activations: bool = Field(
        default=False,
        description="Round what convolutions read to 8 bits, too, calibrated on images of the dataset (see "
        "`calibration`), for chips that compute on both in integers; needs iOS 17 or macOS 14.",
    )


def _passes(options: CoremlOptions, metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm, half_precision

    # Core ML has no outputs of eight bits.
    suppression = suppression_passes(options, metadata, masks="float32")
    # Feature maps are rounded, and named as they were seen, before they have another type.
    half = options.half and not options.int8_activations
    return fold_batch_norm, fixed_anchors, *suppression, *([half_precision] if half else [])


def _refusals(options: CoremlOptions, size: tuple[int, int]) -> Iterable[Refusal]:
    if options.kept and not options.int8_activations:
        yield ("keep_float",), "nothing is rounded but weights: set int8_activations to true, or leave it out"
    if options.nms and options.int8_activations:
        yield (
            ("nms",),
            (
                "nms and int8_activations exclude each other: the suppression of iOS 17, which rounded feature maps "
                "need, takes no threshold of scores and does not say how many boxes it found"
            ),
        )
    yield from suppression_refusals(options, size)


def _scheme(options: CoremlOptions) -> Scheme | None:
    from segc.targets.coreml.lowering import INTEGERS

    return INTEGERS if options.int8_activations else None


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.coreml.lowering import lower
    from segc.targets.coreml.package import write_package

    graph, weights = request.graph, request.weights
    if request.options.int8_activations:
        graph, weights = _rounded(request)
    model, values = lower(graph, weights, request.metadata, system=oldest_system(request.options))
    name = f"{request.stem}{TARGET.suffix}"
    write_package(request.folder / name, model, values)
    return Emitted(name, () if APPLE else (NOTE,))


def _rounded(request: EmitRequest) -> tuple[Graph, dict[str, NDArray[Any]]]:
    """The graph with rounded feature maps; how weights are kept is said by the lowering."""
    from segc.graph.passes import half_precision
    from segc.graph.passes.integers import float_weights

    graph, weights = float_weights(*quantised(request, TARGET))
    return half_precision(graph, weights) if request.options.half else (graph, weights)


def oldest_system(options: CoremlOptions) -> int:
    """The first version of iOS that has all of a program's operations; that of macOS is three less."""
    return 17 if options.int8_activations else 16 if options.int8 else 15


def _settings(options: CoremlOptions) -> dict[str, Any]:
    asked = {
        "int8": options.int8_activations,
        "weight-only-int8": options.int8,
        "fp16": options.half,
        "fp32": True,
    }
    precision = next(name for name, wanted in asked.items() if wanted)
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
    files={"SWIFT.md": "code in Swift for an app"},
    values=_values,
    stand_in=_stand_in,
    refusals=_refusals,
    passes=_passes,
    scheme=_scheme,
    settings=_settings,
    remarks=lambda: () if APPLE else (NOTE,),
)
