"""A whole project, as one ``project.yaml`` describes it."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from segc.files import canonical_json, digest
from segc.inference.filters import class_hint
from segc.schema import Problem, SpecModel, refuse
from segc.spec.architecture import Architecture
from segc.spec.calibration import Calibration
from segc.spec.dataset import Dataset
from segc.spec.freeze import freeze_problems
from segc.spec.hyperparameters import Hyperparameters
from segc.spec.tune import Ranges
from segc.targets import registry
from segc.targets.contract import TargetOptions

SPEC_VERSION = 1
"""The newest version of the spec that this segc reads."""

if TYPE_CHECKING:
    AnyTarget = TargetOptions
else:
    _models = registry.options_models()
    AnyTarget = Annotated[reduce(or_, _models), Field(discriminator="format")] if len(_models) > 1 else _models[0]


def _version(value: Any) -> int:
    if type(value) is int and value > SPEC_VERSION:
        way_out = f"a newer segc is needed; this one reads version {SPEC_VERSION}"
        refuse([Problem("S110", (), f"version {value} of the spec is not known here", way_out)])
    if type(value) is not int or value != SPEC_VERSION:
        refuse([Problem("S105", (), f"the version of the spec is {SPEC_VERSION}", f"write `version: {SPEC_VERSION}`")])
    return SPEC_VERSION


class Project(SpecModel):
    """A project: the network, its data, how it is trained and what it becomes."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(
        description="Version of this file's format.", examples=[SPEC_VERSION]
    )
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the project, used in file names: letters, digits, `.`, `_`, `-`.",
        examples=["shapes"],
    )
    architecture: Architecture = Field(description="The network.", examples=[{"family": "yolov8-seg", "scale": "n"}])
    dataset: Dataset = Field(description="Images, labels and classes.", examples=[{"data": "data.yaml"}])
    hyperparameters: Hyperparameters = Field(
        default=Hyperparameters(), description="Training, validation and prediction.", examples=[{"epochs": 100}]
    )
    tune: Ranges = Field(
        default={},
        description="What `segc tune` searches: hyperparameters with [low, high], [low, high, log] or choices.",
        examples=[{"lr0": [1e-4, 1e-2, "log"], "augment.mosaic": [0.0, 1.0]}],
    )
    calibration: Calibration = Field(
        default=Calibration(), description="What int8 artifacts are calibrated on.", examples=[{"number": 128}]
    )
    targets: tuple[AnyTarget, ...] = Field(
        (), strict=False, description="What to emit, one entry an artifact.", examples=[[{"format": "onnx"}]]
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(
            [
                *repeated_targets(self.targets),
                *refused_targets(self.targets, self.hyperparameters),
                *refused_freeze(self),
                *unknown_classes(self),
            ]
        )
        return self


def repeated_targets(targets: Sequence[TargetOptions]) -> list[Problem]:
    """Targets whose artifacts would have the same name, or one that is the same folder where case does not count."""
    first: dict[str, int] = {}
    found: list[Problem] = []
    names = [registry.artifact_name(target) for target in targets]
    for index, (target, name) in enumerate(zip(targets, names, strict=True)):
        folder = name.casefold()
        if folder in first:
            other = names[first[folder]]
            text = f"an artifact {other} is there already, as entry {first[folder] + 1} of the list"
            if name != other:
                text += f", and {name} would be the same folder on macOS and Windows"
            key = "format" if target.name is None else "name"
            found.append(Problem("X209", ("targets", index, key), text, "give one of them another `name`"))
        elif folder != target.format and folder in registry.targets():
            text = f"{folder} is the name of another target"
            found.append(Problem("X209", ("targets", index, "name"), text, "give it a `name` that no target has"))
        first.setdefault(folder, index)
    return found


def refused_targets(targets: Sequence[TargetOptions], hyperparameters: Hyperparameters) -> list[Problem]:
    """What the targets cannot do, from their options and the project's hyperparameters."""
    refused = [
        Problem("X210", ("targets", index, *path), f"{target.format}: {message}")
        for index, target in enumerate(targets)
        for path, message in registry.refusals(target, hyperparameters.size)
    ]
    if not isinstance(hyperparameters.conf, Mapping):
        return refused
    text = "agnostic: the project asks for a score by class, and what is below it would displace what is above"
    help_ = "leave agnostic out, or give hyperparameters.conf one score for all classes"
    return refused + [
        Problem("X210", ("targets", index, "agnostic"), f"{target.format}: {text}", help_)
        for index, target in enumerate(targets)
        if getattr(target, "agnostic", False)
    ]


def refused_freeze(project: Project) -> list[Problem]:
    """What is wrong with the scopes to freeze, given the network."""
    freeze = project.hyperparameters.freeze
    if not freeze:
        return []
    from segc.architectures import build_graph

    parameters = build_graph(project.architecture, project.dataset.nc, project.hyperparameters.size).parameters
    trained = (name for name, parameter in parameters.items() if parameter.trained)
    return [
        Problem(problem.code, ("hyperparameters", "freeze", *problem.path), problem.message, problem.help)
        for problem in freeze_problems(freeze, trained)
    ]


def unknown_classes(project: Project) -> list[Problem]:
    """Names in ``class_weights`` and ``conf`` that are no class."""
    names = project.dataset.class_names
    known = {"class_weights": names, "conf": (*names, "default")}
    given = {key: getattr(project.hyperparameters, key) for key in known}
    return [
        Problem(
            "X215", ("hyperparameters", key, name), f"there is no class `{name}`", class_hint(str(name), known[key])
        )
        for key, values in given.items()
        for name in (values if isinstance(values, dict) else ())
        if name not in known[key]
    ]


def resolved(project: Project) -> dict[str, Any]:
    """The project as JSON values, with every default and everything taken from a data file."""
    return project.model_dump(mode="json")


def spec_digest(project: Project) -> str:
    """``sha256:…`` of the resolved project: comments, order, and what is left to a default do not change it."""
    return digest(canonical_json(resolved(project)))
