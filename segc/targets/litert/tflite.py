"""TFLite: the shared TensorFlow lowering, converted; run by LiteRT, TFLite's successor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Refusal, Target, TargetOptions
from segc.targets.litert import INTEGERS, RUNTIME, float_passes, integer_passes
from segc.targets.tensorflow import REQUIREMENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata


class TfliteOptions(TargetOptions):
    """Options of the TFLite target."""

    format: Literal["tflite"]
    half: bool = Field(default=False, description="Store the weights in half precision; arithmetic stays in fp32.")
    int8: bool = Field(
        default=False,
        description="Full integer: int8 weights, values, input and outputs, calibrated on images of the dataset. "
        "A pixel goes in as its byte minus 128; boxes come out in 0..1 of the image, limited to it.",
    )


def _refusals(options: TfliteOptions, _size: tuple[int, int]) -> Iterable[Refusal]:
    if options.half and options.int8:
        yield ("half",), "half and int8 exclude each other: choose one"


def _precision(options: TfliteOptions) -> str:
    return "int8" if options.int8 else "fp16" if options.half else "fp32"


def _passes(options: TfliteOptions, _metadata: Metadata) -> tuple[Pass, ...]:
    return integer_passes() if options.int8 else float_passes()


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.litert.conversion import convert, with_metadata

    model = convert(request.graph, request.weights, request.metadata.precision, request.calibration)
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(with_metadata(model, request.metadata))
    return Emitted(name)


def _settings(options: TfliteOptions) -> dict[str, Any]:
    boxes = "normalized" if options.int8 else "pixels"
    return {"channels": "last", "boxes": boxes, "precision": _precision(options)}


TARGET = Target(
    name="tflite",
    title="TFLite",
    suffix=".tflite",
    options=TfliteOptions,
    emit=_emit,
    runtime="segc.targets.litert.runtime",
    carried=("segc.archives",),
    extra="tflite",
    needed=(RUNTIME,),
    requirements=lambda _options: (REQUIREMENT,),
    guard="segc.targets.litert.guard",
    refusals=_refusals,
    passes=_passes,
    settings=_settings,
    values=lambda options: INTEGERS if options.int8 else {},
    sees_images=True,
)
