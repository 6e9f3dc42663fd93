"""The list of targets, as data: a module each, imported when it is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from segc.diagnostics import fail

if TYPE_CHECKING:
    from segc.targets.contract import Refusal, Target, TargetOptions

MODULES = (
    "segc.targets.torchscript",
    "segc.targets.onnx",
    "segc.targets.openvino",
    "segc.targets.tensorrt",
    "segc.targets.coreml",
    "segc.targets.tensorflow.saved_model",
    "segc.targets.tensorflow.graphdef",
    "segc.targets.litert.tflite",
    "segc.targets.litert.edgetpu",
    "segc.targets.tfjs",
    "segc.targets.paddle",
    "segc.targets.ncnn",
)
"""Modules with a ``TARGET``, in the order of tables and documentation."""


@cache
def targets() -> dict[str, Target]:
    """Every target by its name. Imports no framework."""
    found: dict[str, Target] = {}
    for module in MODULES:
        target: Target = import_module(module).TARGET
        found[target.name] = target
    return found


def find_target(name: str, artifacts: tuple[str, ...] = ()) -> Target:
    """The target with this name or alias.

    Args:
        name: as somebody wrote it.
        artifacts: names that would have done as well.

    Raises:
        SegcError: T001 where there is none, with what may have been meant.
    """
    target = next((t for t in targets().values() if name == t.name or name in t.aliases), None)
    if target is None:
        known = [*artifacts, *(word for t in targets().values() for word in (t.name, *t.aliases))]
        near = get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise fail("T001", f"no such target: {name}", help=f"{meant}there are {', '.join(targets())}")
    return target


def options_models() -> tuple[type[TargetOptions], ...]:
    """The models of the spec's ``targets`` union, discriminated by ``format``."""
    return tuple(target.options for target in targets().values())


def refusals(options: TargetOptions, size: tuple[int, int]) -> tuple[Refusal, ...]:
    """What the target of these options cannot do, from the options alone.

    Args:
        options: the options of one target.
        size: the project's input size (height, width), used where the options have none of their own.

    Returns:
        Pairs of a field's path within the options and the reason.
    """
    return tuple(targets()[options.format].refusals(options, options.size(size)))


def artifact_name(options: TargetOptions) -> str:
    """Name of the artifact that these options make: its own, else the format, with a precision that is not fp32."""
    if options.name is not None:
        return options.name
    precision = targets()[options.format].precision(options)
    return options.format if precision == "fp32" else f"{options.format}-{precision}"
