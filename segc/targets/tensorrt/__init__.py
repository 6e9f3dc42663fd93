"""TensorRT: an engine where there is a GPU to build it on, elsewhere all that it takes to build one.

Precision lives in the ONNX model that the engine is built from, as strongly typed networks, the only ones that
TensorRT 11 knows, want it. An engine fits one kind of GPU and one version of TensorRT: the ONNX model and the program
that builds it are always part of the artifact.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata as installed
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.targets import onnx
from segc.targets.contract import EmitRequest, Emitted, Refusal, Requirement, Target
from segc.targets.int8 import Int8Options, int8_refusals, quantised
from segc.targets.suppression import SUPPRESSION, SuppressionOptions, suppression_refusals, suppression_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata

BUILD_SCRIPT = "build_engine.py"
"""The program that builds the engine, beside the model."""

CHECKED_FOR = "SM89"
"""The GPUs that TensorRT-RTX builds for where it is only there as a check."""


class TensorRtOptions(Int8Options, SuppressionOptions):
    """Options of the TensorRT target."""

    format: Literal["tensorrt"]
    half: bool = Field(
        default=False,
        description="Weights and activations in fp16; inputs, outputs, pixels and probabilities stay in fp32.",
    )
    dynamic: bool = Field(
        default=False,
        description="Leave batch, height and width free at run time, up to 8 images with sides of twice `imgsz`.",
    )
    workspace: float | None = Field(
        None, gt=0, le=1024, description="Most GiB of GPU memory for a layer's scratch space; all there is if left out."
    )


def _onnx_options(options: TensorRtOptions) -> onnx.OnnxOptions:
    """Those of the model that the engine is built from."""
    return onnx.OnnxOptions(
        format="onnx",
        half=options.half,
        dynamic=options.dynamic,
        int8=options.int8,
        deployment="tensorrt" if options.int8 else "cpu",
        **{name: getattr(options, name) for name in SUPPRESSION},
    )


def _refusals(options: TensorRtOptions, size: tuple[int, int]) -> Iterable[Refusal]:
    yield from int8_refusals(options)
    yield from suppression_refusals(options, size, dynamic=options.dynamic)


def _passes(options: TensorRtOptions, metadata: Metadata) -> tuple[Pass, ...]:
    # TensorRT's outputs of eight bits have conditions; floats have none.
    return onnx.passes(_onnx_options(options), metadata, masks="float32")


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.onnx.lowering import lower

    model = lower(*quantised(request, TARGET), _onnx_options(request.options), request.metadata)
    name = f"{request.stem}{onnx.TARGET.suffix}"
    (request.folder / name).write_bytes(model)
    if problem := no_engine_here():
        command = f"pip install tensorrt numpy, then python {BUILD_SCRIPT} in this folder"
        notes = [f"no engine was built: {problem}", f"to be done on the machine with the GPU: {command}"]
        if request.options.nms:
            notes.append("no engine was tried: TensorRT-RTX, which needs no GPU for that, has no NonMaxSuppression")
        else:
            with suppress(ImportError, OSError):
                notes.append(_check(request, model))
        return Emitted(name, tuple(notes), deferred=True)
    return _build_here(request, model)


def _build_settings(request: EmitRequest) -> dict[str, Any]:
    from segc.targets.tensorrt.build import profile_for

    about = request.metadata
    profile = profile_for(about.imgsz, about.strides[-1]) if about.dynamic else None
    # An engine that says fp32 computes in fp32.
    return {"profile": profile, "workspace": request.options.workspace, "tf32": False}


def _build_here(request: EmitRequest, model: bytes) -> Emitted:
    import time

    import numpy as np

    from segc.inference.metadata import metadata_text
    from segc.targets.tensorrt.build import build, with_header
    from segc.targets.tensorrt.engine import Engine, EngineError, Gpu, load_tensorrt

    try:
        trt, gpu = load_tensorrt(), Gpu()
        started = time.perf_counter()
        engine = build(trt, model, **_build_settings(request), capability=None)
        seconds = time.perf_counter() - started
        milliseconds = Engine(trt, gpu, engine).milliseconds(np.zeros((1, 3, *request.metadata.imgsz), np.float32))
    except EngineError as error:
        raise fail("T003", f"tensorrt: {error}") from None
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(with_header(engine, metadata_text(request.metadata)))
    note = (
        f"built by TensorRT {trt.__version__} on {gpu.name} in {seconds:.0f} s, {milliseconds:.2f} ms an image: "
        f"it fits that kind of GPU and that version, python {BUILD_SCRIPT} builds it for another"
    )
    return Emitted(name, (note,))


def _check(request: EmitRequest, model: bytes) -> str:
    """Build the engine with TensorRT-RTX, which needs no GPU for that, and say what came of it.

    Raises:
        ImportError: where it is not there.
    """
    import tensorrt_rtx_bindings as rtx

    from segc.targets.tensorrt.build import build
    from segc.targets.tensorrt.engine import EngineError

    try:
        build(rtx, model, **_build_settings(request), capability=CHECKED_FOR)
    except EngineError as error:
        raise fail("T003", f"tensorrt: TensorRT-RTX {rtx.__version__} builds no engine of it: {error}") from None
    return f"an engine was built by TensorRT-RTX {rtx.__version__} for {CHECKED_FOR} and thrown away, it was not run"


def no_engine_here() -> str | None:
    """Why this machine cannot build an engine, or run one; None where it can. Imports nothing of NVIDIA's."""
    from segc.targets.tensorrt.engine import EngineError, Gpu

    try:
        Gpu()
    except EngineError as error:
        return str(error)
    return None if find_spec("tensorrt") else "the package tensorrt is not installed"


def _remarks() -> tuple[str, ...]:
    problem = no_engine_here()
    return (f"writes a build kit in place of an engine: {problem}",) if problem else ()


def _tools() -> dict[str, str | None]:
    """What decides whether an engine is built, and for what it is."""
    from segc.targets.tensorrt.engine import EngineError, Gpu

    gpu = None
    with suppress(EngineError):
        gpu = Gpu().name
    found: dict[str, str | None] = {"GPU": gpu}
    for package, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx-cu13-bindings", "tensorrt_rtx_bindings")):
        found[package] = _version(package) if find_spec(module) else None
    return found


def _version(package: str) -> str:
    try:
        return installed.version(package)
    except installed.PackageNotFoundError:
        return "of unknown version"


def _is_kit(path: Path) -> bool:
    return path.name.endswith(onnx.TARGET.suffix)


def _engine_of(model: str) -> str:
    return model.removesuffix(onnx.TARGET.suffix).removesuffix(TARGET.suffix) + TARGET.suffix


def _values(options: TensorRtOptions) -> dict[str, Any]:
    """For what stands beside the model: the engine's limits, too."""
    from segc.targets.tensorrt.build import profile_for

    return {"workspace": options.workspace, "mask_writes": "float32", "profile_for": profile_for}


def _settings(options: TensorRtOptions) -> Mapping[str, Any]:
    precision = "int8" if options.int8 else "fp16" if options.half else "fp32"
    return {**suppression_settings(options), "dynamic": options.dynamic, "precision": precision}


TARGET = Target(
    name="tensorrt",
    title="TensorRT",
    suffix=".engine",
    options=TensorRtOptions,
    emit=_emit,
    runtime="segc.targets.tensorrt.runtime",
    carried=("segc.targets.tensorrt.engine",),
    extra=onnx.TARGET.extra,
    # An engine needs tensorrt and a GPU besides, a build kit does not.
    needed=onnx.TARGET.needed,
    requirements=lambda options: onnx.TARGET.requirements(_onnx_options(options)),
    templates=(("predict.py.j2", "predict.py"), ("build_engine.py.j2", BUILD_SCRIPT)),
    files={
        BUILD_SCRIPT: "builds the engine on a machine with a GPU",
        onnx.TARGET.suffix: "what the engine is built from",
    },
    values=_values,
    script_model=_engine_of,
    builder=BUILD_SCRIPT,
    script_needed=(Requirement("tensorrt", "tensorrt", "10.0"),),
    stand_in=lambda path: "segc.targets.tensorrt.stand_in" if _is_kit(path) else None,
    aliases=("engine",),
    refusals=_refusals,
    passes=_passes,
    scheme=lambda options: onnx.TARGET.scheme(_onnx_options(options)),
    remarks=_remarks,
    settings=_settings,
    tools=_tools,
)
