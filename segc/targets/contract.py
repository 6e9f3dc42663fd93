"""The contract of a target: options, refusals, requirements, passes, emission, and the text that runs its artifact.

A target is one folder with a row ``TARGET = Target(…)``. Importing it costs nothing: everything heavy is imported
inside the functions. What is asked of it is checked in one fixed order, each step cheaper than the next:

1. options: the pydantic model (types and ranges);
2. capabilities: ``refusals``, from the options alone, in the target's own words;
3. dependencies: ``requirements``, looked up in the installed packages' metadata without importing them;
4. environment: what the machine must have beside Python packages;
5. passes over the graph, then ``emit``, in a worker process of its own.

What runs the artifact is one text, the module ``runtime``: Python over numpy and that runtime only, with
``open_model(path, threads, device) -> segc.inference.model.Model``, and ``DEVICES``, where that can run. The predict
script carries it, and `segc predict`, `segc val`, `segc bench` and verification execute it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import Field

from segc.diagnostics import Diagnostic, SegcError
from segc.schema import ImageSize, SpecModel, sides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from segc.graph.ir import Graph
    from segc.graph.passes import Pass
    from segc.graph.passes.integers import Scheme
    from segc.graph.passes.ranges import Method, Observation
    from segc.inference.metadata import Metadata
    from segc.inference.model import Model

ARTIFACT_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
"""Names of artifacts: they are names of folders, and ``.failed`` is added to one."""


class Accept(SpecModel):
    """What an artifact may lose of the trained network's mean average precision, mAP50-95 in 0..1."""

    mask_map_drop: float = Field(0.01, ge=0, le=1, description="Most that the masks' mAP50-95 may be lower.")
    box_map_drop: float = Field(0.01, ge=0, le=1, description="Most that the boxes' mAP50-95 may be lower.")
    images: int = Field(
        300,
        ge=1,
        le=1_000_000,
        description="Images of the validation split to measure on: all where it has no more, else a seeded sample.",
    )


class TargetOptions(SpecModel):
    """What the options of every target have; a subclass narrows ``format`` to a ``Literal`` and adds its own keys."""

    format: str
    name: str | None = Field(
        None,
        pattern=ARTIFACT_NAME,
        description="Name of the artifact, its folder under artifacts/; the format if left out, with the precision "
        "where that is not fp32: onnx, onnx-fp16, tflite-int8.",
        examples=["onnx-fp16"],
    )
    imgsz: ImageSize | None = Field(
        None,
        description="Input size in pixels: one side, or [height, width]; that of the hyperparameters if left out.",
        examples=[640],
    )
    accept: Accept | bool | None = Field(
        None,
        description="What the artifact may lose of the trained network's mAP, `{mask_map_drop: 0.01, box_map_drop: "
        "0.01, images: 300}` if true, measured in its own runtime on so many images of the validation split; what "
        "loses more fails. true for int8 if left out, else false: no limit.",
        examples=[{"mask_map_drop": 0.01, "box_map_drop": 0.01}],
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
        if installed is not None and _is_older(installed, self.minimum):
            return f"{self.package} {installed} is older than {self.minimum}"
        return None

    def __str__(self) -> str:
        return f"{self.package}>={self.minimum}"


def _is_older(installed: str, minimum: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(installed).release < Version(minimum).release
    except InvalidVersion:
        # A build of somebody's own: it is there, and whoever named it so knows what it is.
        return False


def modules(requirements: Iterable[Requirement]) -> list[str]:
    """What a worker imports while it waits for its task."""
    return [name for r in requirements if (name := r.module if r.preload is None else r.preload)]


CALIBRATED = frozenset({"int8"})
"""Precisions that need images to calibrate on."""

QUANTISED = frozenset({"int8", "weight-only-int8"})
"""Precisions whose mAP is measured beside that of the float network, and judged unless ``accept`` says otherwise."""


@dataclass(frozen=True, slots=True)
class EmitRequest:
    """Everything an emitter may use. It holds no machine paths but ``folder``, where the files go.

    Attributes:
        graph: at the size and batch to emit, as the target's passes left it.
        weights: parameter name to array, complete for ``graph``.
        options: an instance of the target's own options.
        metadata: what the artifact says about itself.
        stem: file name of the model without suffix.
        folder: existing folder to write into.
        observations: what the network's feature maps hold on the images to calibrate on, by tensor, where the
            precision is in ``CALIBRATED``.
        method: how a map's 256 steps follow from that.
    """

    graph: Graph
    weights: Mapping[str, NDArray[Any]]
    options: Any
    metadata: Metadata
    stem: str
    folder: Path
    observations: Mapping[str, Observation] | None = None
    method: Method = "mse"


@dataclass(frozen=True, slots=True)
class Emitted:
    """What an emitter made.

    Attributes:
        model: name of the model's file or folder in the request's folder.
        notes: what was not done or not checked, a sentence each; they stand in ``artifact.json`` and under the table.
        deferred: what is here has to be finished on another machine, and the notes say how.
        beside: further models that were written: the name of each, and the module that opens it with ``open_model``.
    """

    model: str
    notes: tuple[str, ...] = ()
    deferred: bool = False
    beside: tuple[tuple[str, str], ...] = ()


class OpenModel(Protocol):
    """How a runtime's module opens a model."""

    def __call__(self, path: Path, threads: int, device: str | None = None) -> Model:
        """Open a model; 0 threads leave the runtime the choice.

        None as the device is the first of the module's ``DEVICES``: what artifacts are verified on. ``auto`` is the
        best that is here. Any other is that one, or an error: nothing else is run in its place.

        Raises:
            DeviceError: where the device is not here, or the runtime does not know it.
            ModelError: where the model cannot be run.
        """
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """One format that segc can emit.

    Attributes:
        name: the value of ``format`` in the spec and of ``--target``.
        title: for tables and documentation.
        suffix: ending of the model's file (or folder), with the dot; ``open_artifact`` goes by it.
        options: model of the options.
        emit: writes the model, and what belongs to it, into ``request.folder``.
        runtime: name of the module that opens a model of this target, with ``open_model`` and ``DEVICES``.
        extra: name of the extra of segc that has all packages.
        needed: packages needed to run the artifact and its predict script, beside numpy and OpenCV.
        requirements: packages needed to emit with these options.
        carried: modules whose text the predict script carries ahead of ``runtime``.
        templates: what is generated beside the model: template in ``templates/predict/`` and file name. A predict
            script in Python, first in the list, begins with the text of its template.
        files: what lies beside the model, for its README: by name, or by ending where the name is the model's own.
        values: what the templates have beside what all of them have, from the options.
        script_model: from the name of the model that is emitted to that of the one that the predict script runs.
        builder: name of the program beside the model that makes the one from the other, where they differ.
        script_needed: packages of the predict script, where they are not ``needed``.
        guard: name of a module with ``check(path)``, which looks at a stranger's model before a runtime sees it, and
            raises ``SegcError`` T006; for checks too long to be carried.
        stand_in: name of a module with ``open_model`` that evaluates this model where the runtime that people deploy
            on is not here; None where the runtime itself is used.
        aliases: other names that people type.
        without: options of other targets that this one does not have, and why.
        refusals: what these options cannot have, given the input size (height, width).
        passes: over the graph before it is emitted, given the options and, for suppression in the graph, the metadata.
        environment: a reason why this machine cannot emit with these options, or None.
        run_environment: a reason why this machine cannot run the artifact, or None.
        scheme: what computes in integers with these options; None where nothing does.
        remarks: what emitting or running comes to less than on another machine, a sentence each.
        settings: the fields of the metadata that the options decide.
        tools: versions of what it uses beside Python packages, None for what is not there.
    """

    name: str
    title: str
    suffix: str
    options: type[TargetOptions]
    emit: Callable[[EmitRequest], Emitted]
    runtime: str
    extra: str
    needed: tuple[Requirement, ...]
    requirements: Callable[[Any], tuple[Requirement, ...]]
    carried: tuple[str, ...] = ()
    templates: tuple[tuple[str, str], ...] = (("predict.py.j2", "predict.py"),)
    files: Mapping[str, str] = field(default_factory=dict)
    values: Callable[[Any], Mapping[str, Any]] = field(default=lambda _options: {})
    script_model: Callable[[str], str] = field(default=lambda name: name)
    builder: str | None = None
    script_needed: tuple[Requirement, ...] | None = None
    guard: str | None = None
    stand_in: Callable[[Path], str | None] = field(default=lambda _path: None)
    aliases: tuple[str, ...] = ()
    without: Mapping[str, str] = field(default_factory=dict)
    refusals: Callable[[Any, tuple[int, int]], Iterable[Refusal]] = field(default=lambda _options, _size: ())
    passes: Callable[[Any, Metadata], tuple[Pass, ...]] = field(default=lambda _options, _metadata: ())
    environment: Callable[[Any], str | None] = field(default=lambda _options: None)
    run_environment: Callable[[], str | None] = field(default=lambda: None)
    scheme: Callable[[Any], Scheme | None] = field(default=lambda _options: None)
    remarks: Callable[[], tuple[str, ...]] = field(default=lambda: ())
    settings: Callable[[Any], Mapping[str, Any]] = field(default=lambda _options: {})
    tools: Callable[[], Mapping[str, str | None]] = field(default=dict)

    @property
    def script(self) -> str | None:
        """Name of the predict script in Python, where there is one."""
        return next((name for _, name in self.templates if name.endswith(".py")), None)

    def default_options(self) -> TargetOptions:
        """The options where nothing is said."""
        return self.options(format=self.name)

    def precision(self, options: TargetOptions) -> str:
        """What these options compute or store in, see ``segc.inference.metadata.PRECISIONS``."""
        return str(self.settings(options).get("precision", "fp32"))

    def accepted(self, options: TargetOptions) -> Accept | None:
        """What an artifact of these options may lose; None where nothing is asked of it."""
        asked = self.precision(options) in QUANTISED if options.accept is None else options.accept
        return asked if isinstance(asked, Accept) else Accept() if asked else None

    def make(self, request: EmitRequest) -> Emitted:
        """Run the passes, and emit.

        Raises:
            SegcError: T008 where the format does not have an operator; whatever the target has to say.
        """
        from segc.graph.passes import run_passes

        passes = self.passes(request.options, request.metadata)
        graph, weights = run_passes(passes, request.graph, request.weights)
        return self.emit(replace(request, graph=graph, weights=weights))

    def opener(self, path: Path) -> OpenModel:
        """What opens a model of this target here: its runtime, or what stands in for that."""
        return cast("OpenModel", import_module(self.stand_in(path) or self.runtime).open_model)

    def check(self, path: Path) -> None:
        """Look at a stranger's model before its runtime does.

        Raises:
            SegcError: T006 where it is not one that segc writes.
        """
        if self.guard is not None:
            import_module(self.guard).check(path)


def check_packages(target: Target, requirements: Iterable[Requirement]) -> None:
    """Look for a target's packages without importing them.

    Raises:
        SegcError: F004 for every package that is missing, T002 for every one that is too old.
    """
    found = [(requirement, problem) for requirement in requirements if (problem := requirement.problem())]
    if found:
        raise SegcError(
            Diagnostic(
                "T002" if "older" in problem else "F004",
                f"{target.name}: {problem}",
                help=f"pip install 'segc[{target.extra}]', or just that package: pip install '{requirement}'",
            )
            for requirement, problem in found
        )
