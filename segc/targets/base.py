"""The contract of a target: options, refusals, requirements, emission, and the session that runs its artifact.

A target is one module that ends in ``TARGET = Target(…)``. Importing it costs nothing: everything heavy is
imported inside the functions. What is asked of it is checked in one fixed order, each step cheaper than the next:

1. options: the pydantic model (types and ranges);
2. capabilities: ``refusals``, from the options alone, in the target's own words;
3. dependencies: ``requirements``, looked up in the installed packages' metadata without importing them;
4. environment: what the machine must have beside Python packages;
5. convert: ``emit``, in a worker process of its own.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import Field

from segc.diagnostics import SegcError, fail
from segc.spec.base import ImageSize, SpecModel, sides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

T = TypeVar("T")

OUTPUTS = ("boxes", "scores", "coefficients", "prototypes")
"""Names of the outputs of every session, in their order in an artifact."""


class TargetOptions(SpecModel):
    """What the options of every target have; a subclass narrows ``format`` to a ``Literal`` and adds its own keys."""

    format: str
    imgsz: ImageSize | None = Field(
        None,
        description="Input size in pixels: one side, or [height, width]; that of the hyperparameters if left out.",
        examples=[640],
    )

    def size(self, default: tuple[int, int]) -> tuple[int, int]:
        """Input size (height, width) in pixels: ``imgsz`` where given, else ``default``."""
        return default if self.imgsz is None else sides(self.imgsz)


Refusal = tuple[tuple[str, ...], str]
"""What a target cannot do: the path of the field in its options, and the reason with a way out."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package from the index that must be there.

    Attributes:
        package: its name on the index.
        module: the module by which its presence is seen, so that a build of it under another name counts too.
        minimum: the lowest version that works.
        preload: module that workers import while they wait for their task; ``module`` itself if None, none if empty.
        also: other packages that bring the same module.
    """

    package: str
    module: str
    minimum: str
    preload: str | None = None
    also: tuple[str, ...] = ()

    def version(self) -> str | None:
        """The installed version; None where it is installed under none of the known names."""
        for name in (self.package, *self.also):
            with suppress(metadata.PackageNotFoundError):
                return metadata.version(name)
        return None

    def problem(self) -> str | None:
        """What is wrong with the installed package, found without importing it; None where nothing is."""
        if find_spec(self.module) is None:
            return f"{self.package} is not installed"
        installed = self.version()
        if installed is not None and _release(installed) < _release(self.minimum):
            return f"{self.package} {installed} is older than {self.minimum}"
        return None

    def __str__(self) -> str:
        return f"{self.package}>={self.minimum}"


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (1, 20, 3) of 1.20.3rc1."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


METADATA_DEFAULTS: Mapping[str, Any] = {
    "layout": "named",
    "channels": "first",
    "boxes": "pixels",
    "batch": 1,
    "dynamic": False,
    "precision": "fp32",
}
"""What metadata say about a model's form unless ``Target.settings`` says otherwise.

- ``layout``: ``named``, ``fused`` or ``detections``, see ``segc.inference.postprocess.named_outputs``;
- ``channels``: ``first``, or ``last`` where images are [N, H, W, 3] and prototypes [N, H/4, W/4, 32] in the file;
- ``boxes``: ``pixels`` of the input, or ``normalized`` to 0..1 of its width and height;
- ``batch``, ``dynamic``: images a run, and whether batch, height and width are free;
- ``precision``: a key of ``segc.targets.verify.TOLERANCES``.

Where the layout is ``detections``, ``conf``, ``iou`` and ``max_det`` say by what the model suppresses.
"""

CALIBRATED = frozenset({"int8"})
"""Precisions that need images to calibrate on."""

MEASURED = frozenset({"int8", "int8 weights"})
"""Precisions whose mAP is recorded beside that of the float network."""


@dataclass(frozen=True, slots=True)
class EmitRequest:
    """Everything an emitter may use. It holds no machine paths but ``folder``, where the files go.

    Attributes:
        graph: the inference graph at the size and batch to emit, batch norm unfolded.
        weights: state-dict name to array, complete for ``graph``.
        options: an instance of the target's own options.
        metadata: what every artifact says about itself (JSON values).
        stem: file name of the model without suffix.
        folder: existing folder to write into.
        thresholds: the project's ``conf``, ``iou`` and ``max_det``, for a graph that suppresses by itself.
        calibration: images [n, 3, H, W] in 0..1 as the network sees them, where the precision is in ``CALIBRATED``.
    """

    graph: Graph
    weights: Mapping[str, NDArray[np.generic]]
    options: Any
    metadata: Mapping[str, Any]
    stem: str
    folder: Path
    thresholds: Mapping[str, float] = field(default_factory=dict)
    calibration: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Emitted:
    """What an emitter made.

    Attributes:
        model: name of the model's file or folder in the request's folder.
        notes: what was not done or not checked, a sentence each; they stand in ``artifact.json`` and under the table.
        deferred: what is here has to be finished on another machine, and the notes say how.
    """

    model: str
    notes: tuple[str, ...] = ()
    deferred: bool = False


class Session(Protocol):
    """An artifact, or the torch network, ready to run.

    Attributes:
        metadata: what it says about itself.
        runtime: what runs it, for people: "onnxruntime on the CPU".
    """

    metadata: dict[str, Any]
    runtime: str

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run on float32 [N, 3, H, W] RGB images in 0..1.

        Returns:
            float32 ``boxes`` [N, A, 4] (xyxy, pixels of the input), ``scores`` [N, A, nc] in 0..1,
            ``coefficients`` [N, A, 32], ``prototypes`` [N, 32, H/4, W/4], whatever the layout in the file.
        """
        ...


def lowering_of(table: Mapping[str, T], node: Node, target: str) -> T:
    """The entry of a target's operator table for a node.

    Raises:
        SegcError: T008 where the target does not have the operator.
    """
    if node.op not in table:
        raise unsupported(target, node, f"there is no {node.op}")
    return table[node.op]


def unsupported(target: str, node: Node, reason: str) -> SegcError:
    """What a target says of a node that it cannot express; to be raised by the caller."""
    return fail("T008", f"{target}: {node.name}: {reason}")


@dataclass(frozen=True, slots=True)
class Target:
    """One format that segc can emit.

    Attributes:
        name: the value of ``format`` in the spec and of ``--target``.
        title: for tables and documentation.
        suffix: ending of the model's file (or folder), with the dot; ``open_artifact`` goes by it.
        options: model of the options.
        emit: writes the model, and what belongs to it, into ``request.folder``.
        session: opens a model; its second argument is the number of threads, 0 for the runtime's choice.
        requirements: packages needed to emit.
        runtime: packages needed to run the artifact and its predict script, beside numpy and OpenCV.
        extra: name of the extra of segc that has both.
        scripts: what is generated beside the model: template in ``templates/predict/`` and file name, the predict
            script first.
        aliases: other names that people type.
        refusals: what these options cannot have, given the input size (height, width).
        environment: a reason why this machine cannot emit, or None.
        run_environment: a reason why this machine cannot run the artifact, or None.
        remarks: what emitting or running comes to less than on another machine, a sentence each.
        settings: what the options change of ``METADATA_DEFAULTS``.
        tools: versions of what it uses beside Python packages, None for what is not there.
    """

    name: str
    title: str
    suffix: str
    options: type[TargetOptions]
    emit: Callable[[EmitRequest], Emitted]
    session: Callable[[Path, int], Session]
    requirements: tuple[Requirement, ...]
    runtime: tuple[Requirement, ...]
    extra: str
    scripts: tuple[tuple[str, str], ...]
    aliases: tuple[str, ...] = ()
    refusals: Callable[[Any, tuple[int, int]], Iterable[Refusal]] = field(default=lambda _options, _size: ())
    environment: Callable[[], str | None] = field(default=lambda: None)
    run_environment: Callable[[], str | None] = field(default=lambda: None)
    remarks: Callable[[], tuple[str, ...]] = field(default=lambda: ())
    settings: Callable[[Any], Mapping[str, Any]] = field(default=lambda _options: {})
    tools: Callable[[], Mapping[str, str | None]] = field(default=dict)
