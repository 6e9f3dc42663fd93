"""OpenVINO: graph and weights lowered node by node to opset 13 calls; run by OpenVINO's CPU plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Refusal, Requirement, Target
from segc.targets.int8 import Int8Options, int8_refusals, int8_weights_refusals, precision, quantised
from segc.targets.suppression import (
    SuppressionOptions,
    suppression_passes,
    suppression_refusals,
    suppression_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.graph.passes import Pass
    from segc.graph.passes.integers import Scheme
    from segc.inference.metadata import Metadata

DESCRIPTION = "metadata.yaml"
"""What the model is, for people and for deployment code that looks for this file beside the .xml."""


class OpenVinoOptions(Int8Options, SuppressionOptions):
    """Options of the OpenVINO target."""

    format: Literal["openvino"]
    half: bool = Field(
        default=False,
        description="Store the weights in fp16. In which precision a device then computes is its own setting "
        "(INFERENCE_PRECISION_HINT); the decoding is written in fp32.",
    )
    int8_weights: bool = Field(
        default=False, description="Store the weights of convolutions in int8, a quarter of the file; compute in fp32."
    )
    dynamic: bool = Field(default=False, description="Leave batch, height and width free at run time.")


def _refusals(options: OpenVinoOptions, size: tuple[int, int]) -> Iterable[Refusal]:
    yield from int8_refusals(options)
    yield from int8_weights_refusals(options)
    yield from suppression_refusals(options, size, dynamic=options.dynamic)


def _passes(options: OpenVinoOptions, metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm, merge_transposed
    from segc.graph.passes.integers import all_integer_weights

    found: list[Pass] = [fold_batch_norm]
    if not (options.dynamic or options.half or options.int8 or options.int8_weights):
        found.append(merge_transposed)
    if not options.dynamic:
        found.append(fixed_anchors)
    found += suppression_passes(options, metadata)
    if options.int8_weights:
        found.append(all_integer_weights)
    return tuple(found)


def _emit(request: EmitRequest) -> Emitted:
    from segc.inference.metadata import metadata_text
    from segc.targets.openvino.lowering import lower
    from segc.targets.openvino.runtime import METADATA_PLACE, import_openvino

    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    folder.mkdir()
    model = lower(*quantised(request, TARGET), dynamic=request.options.dynamic)
    model.set_rt_info(metadata_text(request.metadata), METADATA_PLACE)
    # The compression reaches the constants of the decode region too, of which fp16 has every value: bins, strides, and
    # cell centres up to 1024 cells. The arithmetic there stays in fp32.
    save = import_openvino().save_model
    save(model, folder / f"{request.stem}.xml", compress_to_fp16=request.options.half)
    (folder / DESCRIPTION).write_text(_description(request.metadata), encoding="utf-8")
    return Emitted(folder.name)


def _description(metadata: Metadata) -> str:
    """Metadata as YAML, with the keys that existing deployment code of this network family reads."""
    from io import StringIO

    from ruamel.yaml import YAML

    known = {"names": dict(enumerate(metadata.names)), "stride": max(metadata.strides)}
    writer, text = YAML(typ="safe", pure=True), StringIO()
    writer.default_flow_style = False
    writer.dump({**metadata.to_json(), **known}, text)
    return text.getvalue()


def _scheme(options: OpenVinoOptions) -> Scheme | None:
    from segc.targets.openvino.lowering import INTEGERS

    return INTEGERS if options.int8 else None


def _settings(options: OpenVinoOptions) -> dict[str, Any]:
    return {**suppression_settings(options), "dynamic": options.dynamic, "precision": precision(options)}


OPENVINO = Requirement("openvino", "openvino", "2025.0")

TARGET = Target(
    name="openvino",
    title="OpenVINO",
    suffix="_openvino_model",
    options=OpenVinoOptions,
    emit=_emit,
    runtime="segc.targets.openvino.runtime",
    extra="openvino",
    needed=(OPENVINO,),
    requirements=lambda _options: (OPENVINO,),
    refusals=_refusals,
    passes=_passes,
    scheme=_scheme,
    settings=_settings,
)
