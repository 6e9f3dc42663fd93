"""Opening the model that a command runs: trained weights, or an artifact in its own runtime."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from segc.diagnostics import Diagnostic, fail
from segc.locks import TemporaryFolder

if TYPE_CHECKING:
    from segc.graph.ir import Graph
    from segc.sessions import Session
    from segc.spec.load import LoadedProject
    from segc.weights.store import Weights

Runtime = Literal["auto", "torch", "onnx"]
"""What runs trained weights. ``auto``: onnxruntime on a machine without a GPU where it is installed, else PyTorch."""

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

Warn = Callable[[Sequence[Diagnostic]], None]
"""Told what the user should hear about the weights."""

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Files by which a GPU that PyTorch can use is seen on Linux, without importing it."""


def weights_session(
    loaded: "LoadedProject",
    build_dir: Path,
    weights: Path | None,
    *,
    runtime: Runtime = "torch",
    device: str | None = None,
    warn: Warn,
) -> "Session":
    """Trained weights with batch norms folded, in fp32, with any size and number of images a run.

    Args:
        loaded: the project.
        build_dir: where its trained weights are.
        weights: a file to use instead.
        runtime: what runs them. On a CPU onnxruntime is faster than PyTorch, and there sooner; the outputs differ by
            rounding.
        device: where they run: ``auto``, a device of PyTorch or of onnxruntime, whichever runs them; the project's
            where not given.
        warn: told what there is to say about the weights.

    Raises:
        SegcError: as ``segc.weights.resolve.trained_weights``; R007 where there is no such device; F004 and T002 where
            a package of the chosen runtime is missing or too old.
    """
    from segc.build import project_graph
    from segc.weights.resolve import trained_weights

    graph = project_graph(loaded.project)
    trained = trained_weights(loaded, build_dir, graph, weights)
    if trained.warnings:
        warn(trained.warnings)
    wanted = loaded.project.hyperparameters.device if device is None else device.lower()
    if (runtime == "auto" and _suits_onnxruntime(wanted)) or runtime == "onnx":
        # The project's device is PyTorch's.
        return _in_onnxruntime(loaded, graph, trained, device)
    return _in_torch(loaded, graph, trained, wanted)


def _suits_onnxruntime(device: str) -> bool:
    from segc.targets.onnx import LOWERING, RUNTIME

    on_cpu = device == "cpu" or (
        device == "auto" and sys.platform == "linux" and not any(Path(file).exists() for file in _GPU_DEVICES)
    )
    there = all(requirement.problem() is None for requirement in (*LOWERING, RUNTIME))
    return on_cpu and there


def _in_torch(loaded: "LoadedProject", graph: "Graph", trained: "Weights", wanted: str) -> "Session":
    from segc.build import model_metadata
    from segc.network.device import choose_device
    from segc.network.session import TorchSession

    device = str(choose_device(wanted))
    metadata = replace(model_metadata(loaded.project), dynamic=True)
    return TorchSession(graph, trained.tensors, metadata, device, fused=True)


def _in_onnxruntime(loaded: "LoadedProject", graph: "Graph", trained: "Weights", device: str | None) -> "Session":
    from segc.build import model_metadata
    from segc.sessions.artifact import open_target
    from segc.targets.contract import EmitRequest, check_packages
    from segc.targets.onnx import TARGET, OnnxOptions

    options = OnnxOptions(format="onnx", dynamic=True)
    check_packages(TARGET, TARGET.requirements(options))
    metadata = replace(model_metadata(loaded.project), **TARGET.settings(options))
    with TemporaryFolder("session") as folder:
        request = EmitRequest(graph, trained.tensors, options, metadata, loaded.project.name, folder)
        return open_target(TARGET, folder / TARGET.make(request).model, device=device)


def artifact_session(loaded: "LoadedProject", build_dir: Path, artifact: Path, device: str | None = None) -> "Session":
    """An artifact in its own runtime, if it has the project's classes.

    Args:
        loaded: the project.
        build_dir: where artifacts are found by their names.
        artifact: the name of one, or its folder or model.
        device: where its runtime is to run it; None for where it was verified.

    Raises:
        SegcError: E002 where it has others; else as ``segc.sessions.artifact.open_artifact``.
    """
    from segc.sessions.artifact import find_artifact, open_artifact
    from segc.weights.resolve import name_differences

    session = open_artifact(find_artifact(artifact, build_dir), build_dir=build_dir, device=device)
    there, here = session.metadata.names, loaded.project.dataset.class_names
    if there != here:
        raise fail(
            "E002",
            f"the artifact and the project have different classes: {name_differences(there, here)}",
            file=artifact,
            help="evaluate it with the project that it was emitted from",
        )
    return session
