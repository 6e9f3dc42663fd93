"""A toy: the ONNX model, compressed. What CONTRIBUTING.md says of a new target, done."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Requirement, Target, TargetOptions

if TYPE_CHECKING:
    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata


class ToyOptions(TargetOptions):
    """Options of the toy target."""

    format: Literal["toy"]
    level: int = Field(6, ge=1, le=9, description="How hard to compress.")


def _passes(_options: ToyOptions, _metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return (fold_batch_norm, fixed_anchors)


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.onnx import OnnxOptions
    from segc.targets.onnx.lowering import lower

    content = lower(request.graph, request.weights, OnnxOptions(format="onnx"), request.metadata)
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(gzip.compress(content, request.options.level, mtime=0))
    return Emitted(name, notes=("a toy",))


TARGET = Target(
    name="toy",
    title="Toy",
    suffix=".toy",
    options=ToyOptions,
    emit=_emit,
    runtime="segc.targets.toy.runtime",
    extra="onnx",
    needed=(Requirement("onnxruntime", "onnxruntime", "1.20"),),
    requirements=lambda _options: (Requirement("onnx-graphsurgeon", "onnx_graphsurgeon", "0.5.8"),),
    passes=_passes,
)
