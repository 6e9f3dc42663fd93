"""TFLite: graph and weights lowered node by node to a flatbuffer; run by LiteRT, TFLite's successor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Refusal, Target
from segc.targets.int8 import Int8Options, int8_refusals, int8_weights_refusals, precision, quantised
from segc.targets.litert import LITERT, READS, float_passes, integer_passes, integers
from segc.targets.suppression import (
    SuppressionOptions,
    suppression_passes,
    suppression_refusals,
    suppression_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata


class TfliteOptions(Int8Options, SuppressionOptions):
    """Options of the TFLite target."""

    format: Literal["tflite"]
    half: bool = Field(default=False, description="Store the weights in half precision; arithmetic stays in fp32.")
    int8: bool = Field(
        default=False,
        description="Compute in int8, calibrated on images of the dataset (see `calibration`). A pixel goes in as its "
        "byte minus 128; outputs, pixels and probabilities stay in fp32.",
    )
    int8_weights: bool = Field(
        default=False, description="Store the weights of convolutions in int8, a quarter of the file; compute in fp32."
    )


def _refusals(options: TfliteOptions, size: tuple[int, int]) -> Iterable[Refusal]:
    yield from int8_refusals(options)
    yield from int8_weights_refusals(options)
    yield from suppression_refusals(options, size)


def _passes(options: TfliteOptions, metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes.integers import all_integer_weights

    first = integer_passes() if options.int8 else float_passes()
    weights = (all_integer_weights,) if options.int8_weights else ()
    return *first, *weights, *suppression_passes(options, metadata)


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.litert.lowering import lower
    from segc.targets.litert.model import with_metadata

    options = request.options
    model = lower(*quantised(request, TARGET), half=options.half, integers=options.int8)
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(with_metadata(model, request.metadata))
    return Emitted(name)


def _settings(options: TfliteOptions) -> dict[str, Any]:
    return {**suppression_settings(options), "channels": "last", "precision": precision(options)}


TARGET = Target(
    name="tflite",
    title="TFLite",
    suffix=".tflite",
    options=TfliteOptions,
    emit=_emit,
    runtime="segc.targets.litert.runtime",
    carried=("segc.archives",),
    extra="tflite",
    needed=(LITERT,),
    requirements=lambda _options: (LITERT,),
    guard="segc.targets.litert.guard",
    refusals=_refusals,
    passes=_passes,
    settings=_settings,
    values=lambda options: READS if options.int8 else {},
    scheme=lambda options: integers() if options.int8 else None,
)
