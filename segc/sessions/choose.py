"""Opening the model that a command runs: trained weights, or an artifact in its own runtime."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args

from segc.diagnostics import Diagnostic, fail

if TYPE_CHECKING:
    from segc.sessions import Session
    from segc.spec.load import LoadedProject
    from segc.weights.alone import Network

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
    half: bool = False,
    warn: Warn,
) -> "Session":
    """Trained weights with batch norms folded, with any size and number of images a run.

    Args:
        loaded: the project.
        build_dir: where its trained weights are.
        weights: a file to use instead.
        runtime: what runs them. On a CPU onnxruntime is faster than PyTorch, and there sooner; the outputs differ by
            rounding.
        device: where they run: ``auto``, a device of PyTorch or of onnxruntime, whichever runs them; the project's
            where not given.
        half: in fp16, in PyTorch on a GPU; else in fp32.
        warn: told what there is to say about the weights.

    Raises:
        SegcError: as ``segc.weights.resolve.trained_weights``; R007 where there is no such device, or none that
            computes in fp16; F004 and T002 where a package of the chosen runtime is missing or too old.
    """
    from segc.build import model_metadata, project_graph
    from segc.weights.alone import Network
    from segc.weights.resolve import trained_weights

    graph = project_graph(loaded.project)
    trained = trained_weights(loaded, build_dir, graph, weights)
    network = Network(graph, trained, model_metadata(loaded.project))
    return _session(network, runtime, device, loaded.project.hyperparameters.device, half=half, warn=warn)


def file_session(
    file: Path, *, runtime: Runtime = "torch", device: str | None = None, half: bool = False, warn: Warn
) -> "Session":
    """Weights without a project, as :func:`weights_session` opens those of one.

    Raises:
        SegcError: as ``segc.weights.alone.read_network``, else as :func:`weights_session`.
    """
    from segc.weights.alone import read_network

    return _session(read_network(file), runtime, device, "auto", half=half, warn=warn)


def _session(
    network: "Network", runtime: Runtime, device: str | None, usual: str, *, half: bool, warn: Warn
) -> "Session":
    """``usual`` is PyTorch's device where none is asked for."""
    if network.weights.warnings:
        warn(network.weights.warnings)
    wanted = usual if device is None else device.lower()
    # The project's device is PyTorch's.
    if not half and ((runtime == "auto" and _suits_onnxruntime(wanted)) or runtime == "onnx"):
        return _in_onnxruntime(network, device)
    if half and runtime == "onnx":
        raise fail(
            "R007",
            "weights are run in fp16 by PyTorch on a GPU, not by onnxruntime",
            help="ask for the runtime torch, or leave half out",
        )
    return _in_torch(network, wanted, half=half)


def _suits_onnxruntime(device: str) -> bool:
    from segc.targets.onnx import LOWERING, RUNTIME

    on_cpu = device == "cpu" or (
        device == "auto" and sys.platform == "linux" and not any(Path(file).exists() for file in _GPU_DEVICES)
    )
    there = all(requirement.problem() is None for requirement in (*LOWERING, RUNTIME))
    return on_cpu and there


def _in_torch(network: "Network", wanted: str, *, half: bool) -> "Session":
    from segc.network.device import choose_device
    from segc.network.session import TorchSession

    device = choose_device(wanted)
    if half and device.type == "cpu":
        raise fail("R007", "fp16 is for GPUs: this runs on a processor", help="leave half out")
    metadata = replace(network.metadata, dynamic=True)
    return TorchSession(network.graph, network.weights.tensors, metadata, str(device), fused=True, half=half)


def _in_onnxruntime(network: "Network", device: str | None) -> "Session":
    from segc.sessions.artifact import open_target
    from segc.targets.contract import EmitRequest, check_packages
    from segc.targets.onnx import TARGET, OnnxOptions

    options = OnnxOptions(format="onnx", dynamic=True)
    check_packages(TARGET, TARGET.requirements(options))
    metadata = replace(network.metadata, **TARGET.settings(options))
    with TemporaryDirectory(prefix="segc-") as name:
        folder = Path(name)
        request = EmitRequest(network.graph, network.weights.tensors, options, metadata, "model", folder)
        return open_target(TARGET, folder / TARGET.make(request).model, device=device)


def refuse_half(*, half: bool) -> None:
    """Refuse fp16 where an artifact is run.

    Raises:
        SegcError: R007.
    """
    if half:
        text = "an artifact is run in the precision that it was emitted in, not in fp16 because that is asked for"
        raise fail("R007", text, help="emit it with `half: true`")


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
