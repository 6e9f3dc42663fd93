"""ONNX: graph and weights lowered node by node with onnx-graphsurgeon; run by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.inference.metadata import MOST_IMAGES
from segc.targets.contract import EmitRequest, Emitted, Refusal, Requirement, Target
from segc.targets.int8 import Int8Options, int8_refusals, quantised
from segc.targets.suppression import (
    SuppressionOptions,
    suppression_passes,
    suppression_refusals,
    suppression_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.graph.ir import Dtype
    from segc.graph.passes import Pass
    from segc.graph.passes.integers import Scheme
    from segc.inference.metadata import Metadata

OLDEST_OPSET, NEWEST_OPSET = 11, 22
"""11 is the first whose Resize and Range say what is needed here; 22 the last that IR version 10 may carry."""


QUANTISING_OPSET = 13
"""The first in which weights have a scale a channel."""


class OnnxOptions(Int8Options, SuppressionOptions):
    """Options of the ONNX target."""

    format: Literal["onnx"]
    opset: int = Field(17, ge=OLDEST_OPSET, le=NEWEST_OPSET, description="Version of the ONNX operator set, 11 to 22.")
    batch: int = Field(1, ge=1, le=MOST_IMAGES, description="Images a run, where the size is fixed.")
    dynamic: bool = Field(default=False, description="Leave batch, height and width free at run time.")
    half: bool = Field(
        default=False,
        description="Weights and activations in fp16; inputs, outputs, pixels and probabilities stay in fp32.",
    )
    deployment: Literal["cpu", "tensorrt"] = Field(
        "cpu",
        description="Where an int8 model is to run. cpu: unsigned values, all operators that onnxruntime has on "
        "integers, and weights of 7 bits, which no processor can make overflow. tensorrt: what convolutions read, "
        "signed and even to both sides of nought, as TensorRT wants it; onnxruntime runs it, but slowly.",
    )
    simplify: bool = Field(
        default=False,
        description="Compute what is constant, let equal constants share one initializer, drop what nothing reads. A "
        "graph that is lowered directly holds little of that: the arithmetic stays as it is.",
    )
    layout: Literal["named", "fused"] = Field(
        "named",
        description="named: boxes, scores, coefficients, prototypes. fused: output0 [N, 4 + nc + 32, A] (xywh in "
        "pixels, scores, coefficients) and output1 (prototypes), with the metadata that existing deployment code "
        "for this network family reads; with nms, output0 [N, max_det, 6 + 32] (xyxy in pixels, score, class, "
        "coefficients).",
    )


def _refusals(options: OnnxOptions, size: tuple[int, int]) -> Iterable[Refusal]:
    if options.dynamic and options.batch != 1:
        yield ("batch",), "a dynamic model takes every batch size: leave batch out, or set dynamic to false"
    yield from int8_refusals(options)
    if options.int8 and options.opset < QUANTISING_OPSET:
        yield ("opset",), f"int8 needs a scale a channel, which opset {QUANTISING_OPSET} is the first to have"
    if options.deployment == "tensorrt" and not options.int8:
        yield ("deployment",), "only int8 models differ by where they run: set int8 to true, or leave it out"
    if options.nms and options.masks and options.layout == "fused":
        yield ("masks",), "the layout fused ends in prototypes, of which its clients make masks: masks go with named"
    yield from suppression_refusals(options, size, batch=options.batch, dynamic=options.dynamic)


def passes(
    options: OnnxOptions, metadata: Metadata, masks: Dtype = "uint8", *, merges: bool = False
) -> tuple[Pass, ...]:
    """Passes of a model in ONNX; ``masks`` is the type of finished masks, ``merges`` puts convolutions together."""
    from segc.graph.passes import fixed_anchors, fold_batch_norm, half_precision, merge_transposed
    from segc.graph.passes.integers import silu_apart

    found: list[Pass] = [fold_batch_norm]
    if merges:
        found.append(merge_transposed)
    if not options.dynamic:
        found.append(fixed_anchors)
    found += suppression_passes(options, metadata, masks)
    if options.half:
        found.append(half_precision)
    if options.int8 and options.deployment == "cpu":
        found.append(silu_apart)
    return tuple(found)


def _passes(options: OnnxOptions, metadata: Metadata) -> tuple[Pass, ...]:
    # Measured in fp32. In int8 onnxruntime has a plain convolution on integers, and no transposed one.
    return passes(options, metadata, merges=not (options.dynamic or options.half or options.int8))


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.onnx.lowering import lower

    name, options = f"{request.stem}{TARGET.suffix}", request.options
    graph, weights = quantised(request, TARGET)
    (request.folder / name).write_bytes(lower(graph, weights, options, request.metadata))
    return Emitted(name)


def _scheme(options: OnnxOptions) -> Scheme | None:
    from segc.targets.onnx.lowering import SCHEMES

    return SCHEMES[options.deployment] if options.int8 else None


def _settings(options: OnnxOptions) -> dict[str, Any]:
    precision = "int8" if options.int8 else "fp16" if options.half else "fp32"
    layout = {"layout": options.layout, **suppression_settings(options)}
    if options.nms and options.layout == "fused":
        layout["layout"] = "rows"
    return {**layout, "batch": options.batch, "dynamic": options.dynamic, "precision": precision}


LOWERING = (Requirement("onnx", "onnx", "1.17"), Requirement("onnx-graphsurgeon", "onnx_graphsurgeon", "0.5.8"))
"""Packages that write models."""

RUNTIME = Requirement("onnxruntime", "onnxruntime", "1.21", also=("onnxruntime-gpu",))

TARGET = Target(
    name="onnx",
    title="ONNX",
    suffix=".onnx",
    options=OnnxOptions,
    emit=_emit,
    runtime="segc.targets.onnx.runtime",
    extra="onnx",
    needed=(RUNTIME,),
    requirements=lambda _options: LOWERING,
    refusals=_refusals,
    passes=_passes,
    scheme=_scheme,
    settings=_settings,
)
