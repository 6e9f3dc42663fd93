"""OpenVINO: graph and weights lowered node by node to opset 13 calls; run by OpenVINO's CPU plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Requirement, Target, TargetOptions

if TYPE_CHECKING:
    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata

DESCRIPTION = "metadata.yaml"
"""What the model is, for people and for deployment code that looks for this file beside the .xml."""


class OpenVinoOptions(TargetOptions):
    """Options of the OpenVINO target."""

    format: Literal["openvino"]
    half: bool = Field(
        default=False,
        description="Store the weights in fp16. In which precision a device then computes is its own setting "
        "(INFERENCE_PRECISION_HINT); the decoding is written in fp32.",
    )
    dynamic: bool = Field(default=False, description="Leave batch, height and width free at run time.")


def _passes(options: OpenVinoOptions, _metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return (fold_batch_norm,) if options.dynamic else (fold_batch_norm, fixed_anchors)


def _emit(request: EmitRequest) -> Emitted:
    from segc.inference.metadata import metadata_text
    from segc.targets.openvino.lowering import lower
    from segc.targets.openvino.runtime import METADATA_PLACE, import_openvino

    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    folder.mkdir()
    model = lower(request.graph, request.weights, dynamic=request.options.dynamic)
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


def _settings(options: OpenVinoOptions) -> dict[str, Any]:
    return {"dynamic": options.dynamic, "precision": "fp16" if options.half else "fp32"}


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
    passes=_passes,
    settings=_settings,
)
