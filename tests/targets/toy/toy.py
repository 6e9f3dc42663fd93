"""A toy: the ONNX model, compressed. What CONTRIBUTING.md says of a new target, done."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.targets.base import EmitRequest, Emitted, Requirement, Target, TargetOptions
from segc.targets.onnx import OnnxOptions, OnnxSession, lower


class ToyOptions(TargetOptions):
    """Options of the toy target."""

    format: Literal["toy"]
    level: int = Field(6, ge=1, le=9, description="How hard to compress.")


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fold_batch_norm

    graph, weights = fold_batch_norm(request.graph, request.weights)
    content = lower(graph, weights, OnnxOptions(format="onnx"), request.metadata)
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(gzip.compress(content, request.options.level, mtime=0))
    return Emitted(name, notes=("a toy",))


def _session(path: Path, threads: int) -> Any:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError):
        raise fail("T006", "not a compressed model", file=path) from None
    with NamedTemporaryFile(suffix=".onnx") as plain:
        plain.write(content)
        plain.flush()
        return OnnxSession(Path(plain.name), threads)


TARGET = Target(
    name="toy",
    title="Toy",
    suffix=".toy",
    options=ToyOptions,
    emit=_emit,
    session=_session,
    requirements=(Requirement("onnx-graphsurgeon", "onnx_graphsurgeon", "0.5.8"),),
    runtime=(Requirement("onnxruntime", "onnxruntime", "1.20"),),
    extra="onnx",
    scripts=(("toy.py.j2", "predict.py"),),
)
