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
from segc.targets.base import EmitRequest, Emitted, Session, Target, TargetOptions
from segc.targets.session import ArtifactSession, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

BUILD_SCRIPT = "build_engine.py"
"""The program that builds the engine, beside the model."""

MAX_BATCH, MAX_SIDES = 8, 2
"""What an engine of free sizes takes unless its build script is told otherwise: so many images a run, with sides up to
so many times the longer one of ``imgsz``."""

CHECKED_FOR = "SM89"
"""The GPUs that TensorRT-RTX builds for where it is only there as a check."""


class TensorRtOptions(TargetOptions):
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


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fold_batch_norm
    from segc.targets.script import render

    options = request.options
    graph, weights = fold_batch_norm(request.graph, request.weights)
    precise = onnx.OnnxOptions(format="onnx", half=options.half, dynamic=options.dynamic)
    model = onnx.lower(graph, weights, precise, request.metadata)
    name = f"{request.stem}{onnx.TARGET.suffix}"
    (request.folder / name).write_bytes(model)
    script = render("build_engine.py.j2", _script_values(request))
    (request.folder / BUILD_SCRIPT).write_text(script, encoding="utf-8")
    if problem := no_engine_here():
        command = f"pip install tensorrt numpy, then python {BUILD_SCRIPT} in this folder"
        notes = [f"no engine was built: {problem}", f"to be done on the machine with the GPU: {command}"]
        with suppress(ImportError, OSError):
            notes.append(_check(request, model))
        return Emitted(name, tuple(notes), deferred=True)
    return _build_here(request, model)


def _script_values(request: EmitRequest) -> dict[str, Any]:
    from segc import __version__
    from segc.targets.script import PYTHON

    return {
        "python": PYTHON,
        "segc_version": __version__,
        "stem": request.stem,
        "metadata": request.metadata,
        "workspace": request.options.workspace,
        "max_batch": MAX_BATCH,
        "max_side": MAX_SIDES * max(request.metadata["imgsz"]),
    }


def _build_settings(request: EmitRequest) -> dict[str, Any]:
    from segc.targets.engine import profile_for

    size = request.metadata["imgsz"]
    profile = profile_for(size, MAX_BATCH, MAX_SIDES * max(size)) if request.options.dynamic else None
    # An engine that says fp32 computes in fp32.
    return {"profile": profile, "workspace": request.options.workspace, "tf32": False}


def _build_here(request: EmitRequest, model: bytes) -> Emitted:
    import time

    import numpy as np

    from segc.targets.engine import Engine, EngineError, Gpu, build, load_tensorrt, with_header

    try:
        trt, gpu = load_tensorrt(), Gpu()
        started = time.perf_counter()
        engine = build(trt, model, **_build_settings(request), capability=None)
        seconds = time.perf_counter() - started
        size = request.metadata["imgsz"]
        milliseconds = Engine(trt, gpu, engine).milliseconds(np.zeros((1, 3, *size), np.float32))
    except EngineError as error:
        raise fail("T003", f"tensorrt: {error}") from None
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(with_header(engine, request.metadata))
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

    from segc.targets.engine import EngineError, build

    try:
        build(rtx, model, **_build_settings(request), capability=CHECKED_FOR)
    except EngineError as error:
        raise fail("T003", f"tensorrt: TensorRT-RTX {rtx.__version__} builds no engine of it: {error}") from None
    return f"an engine was built by TensorRT-RTX {rtx.__version__} for {CHECKED_FOR} and thrown away, it was not run"


def no_engine_here() -> str | None:
    """Why this machine cannot build an engine, or run one; None where it can. Imports nothing of NVIDIA's."""
    from segc.targets.engine import EngineError, Gpu

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
    from segc.targets.engine import EngineError, Gpu

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


class KitSession(onnx.OnnxSession):
    """The ONNX model that an engine is to be built from: what can be run of a build kit where no engine can."""

    runtime = "the ONNX model of the build kit on onnxruntime; no engine was run"


class EngineSession(ArtifactSession):
    """An engine of segc on the first NVIDIA GPU."""

    def __init__(self, path: Path) -> None:
        from segc.targets.engine import Engine, EngineError, Gpu, load_tensorrt, split_header

        try:
            text, content = split_header(path.read_bytes())
            self.metadata = parse_metadata(text, path)
            gpu = Gpu()
            trt = load_tensorrt()
            self._engine = Engine(trt, gpu, content)
        except EngineError as error:
            raise fail("T006", str(error), file=path, help="engines run where tensorrt and an NVIDIA GPU are") from None
        self.runtime = f"TensorRT {trt.__version__} on {gpu.name}"
        self._path = path

    def raw(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        from segc.targets.engine import EngineError

        try:
            return self._engine.run(images)
        except EngineError as error:
            raise fail("T006", str(error), file=self._path) from None


def _session(path: Path, threads: int) -> Session:
    return KitSession(path, threads) if path.name.endswith(onnx.TARGET.suffix) else EngineSession(path)


def _settings(options: TensorRtOptions) -> Mapping[str, Any]:
    return {"dynamic": options.dynamic, "precision": "fp16" if options.half else "fp32"}


TARGET = Target(
    name="tensorrt",
    title="TensorRT",
    suffix=".engine",
    options=TensorRtOptions,
    emit=_emit,
    session=_session,
    requirements=onnx.TARGET.requirements,
    # An engine needs tensorrt and a GPU besides, a build kit does not.
    runtime=onnx.TARGET.runtime,
    extra=onnx.TARGET.extra,
    scripts=(("tensorrt.py.j2", "predict.py"),),
    aliases=("engine",),
    remarks=_remarks,
    settings=_settings,
    tools=_tools,
)
