"""ncnn: graph and weights written straight into its two files; run by ncnn on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.targets.contract import EmitRequest, Emitted, Requirement, Target
from segc.targets.int8 import Int8Options, int8_refusals, quantised
from segc.targets.suppression import SUPPRESSION

if TYPE_CHECKING:
    from segc.graph.ir import Graph
    from segc.graph.passes import Pass, Weights
    from segc.graph.passes.integers import Scheme
    from segc.inference.metadata import Metadata


class NcnnOptions(Int8Options):
    """Options of the ncnn target."""

    format: Literal["ncnn"]
    half: bool = Field(
        default=False, description="Convolution weights in fp16: half the file; what is computed stays fp32."
    )


def _passes(options: NcnnOptions, _metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return (fold_batch_norm, fixed_anchors, *([_half_stored] if options.half else []))


def _half_stored(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    from segc.graph.passes import half_stored

    try:
        return half_stored(graph, weights)
    except OverflowError as error:
        raise fail("T008", f"ncnn: {error}", help="set half to false") from None


def _emit(request: EmitRequest) -> Emitted:
    from segc.files import canonical_json, digest
    from segc.inference.metadata import SIDECAR
    from segc.targets.ncnn.lowering import lower
    from segc.targets.ncnn.runtime import BIN, BLOBS, PARAM
    from segc.targets.sidecar import FILES

    model = lower(*quantised(request, TARGET))
    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    folder.mkdir()
    files = {PARAM: model.param().encode(), BIN: model.weights}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    described = {
        **request.metadata.to_json(),
        BLOBS: {"inputs": list(request.graph.inputs), "outputs": list(request.graph.outputs)},
        FILES: {name: digest(content) for name, content in files.items()},
    }
    (folder / SIDECAR).write_text(canonical_json(described), encoding="utf-8")
    return Emitted(folder.name)


def _values(_options: NcnnOptions) -> dict[str, Any]:
    """What the program in C++ has in common with the text in Python."""
    from segc.inference.draw import class_colour
    from segc.targets.ncnn.runtime import BIN, FP16_SWITCHES, PARAM

    return {"class_colour": class_colour, "param": PARAM, "bin": BIN, "fp16_switches": FP16_SWITCHES}


def _scheme(options: NcnnOptions) -> Scheme | None:
    from segc.targets.ncnn.lowering import INTEGERS

    return INTEGERS if options.int8 else None


def _settings(options: NcnnOptions) -> dict[str, Any]:
    return {"precision": "int8" if options.int8 else "fp16" if options.half else "fp32"}


TARGET = Target(
    name="ncnn",
    title="ncnn",
    suffix="_ncnn_model",
    options=NcnnOptions,
    emit=_emit,
    runtime="segc.targets.ncnn.runtime",
    extra="ncnn",
    without=dict.fromkeys(
        SUPPRESSION,
        "ncnn's layers that suppress decode boxes of other networks, and do not say which anchors are left, whose "
        "coefficients masks are made of; the host suppresses",
    ),
    needed=(Requirement("ncnn", "ncnn", "1.0.20240102"),),
    requirements=lambda _options: (),
    carried=("segc.targets.sidecar",),
    templates=(
        ("predict.py.j2", "predict.py"),
        ("ncnn.cpp.j2", "predict.cpp"),
        ("ncnn_cmake.txt.j2", "CMakeLists.txt"),
    ),
    files={"predict.cpp": "runs the model, in C++", "CMakeLists.txt": "builds predict.cpp"},
    guard="segc.targets.ncnn.guard",
    refusals=lambda options, _size: int8_refusals(options),
    passes=_passes,
    scheme=_scheme,
    settings=_settings,
    values=_values,
)
