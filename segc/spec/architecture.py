"""The network: its family, how deep and wide it is, and the weights it starts from."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from segc.architectures.published import PUBLISHED, Published
from segc.schema import Problem, SpecModel, refuse
from segc.spec.licences import allows
from segc.spec.weights import SHA256, NoReferenceError, WeightsReference, parse_reference


def _weights(value: str) -> str:
    try:
        parse_reference(value)
    except NoReferenceError as error:
        refuse([Problem("X207", (), error.message, error.way_out)])
    return value


_PATTERN = rf"^({'|'.join(map(re.escape, PUBLISHED))})$|[./\\\\]"

WeightsName = Annotated[str, AfterValidator(_weights), Field(json_schema_extra={"pattern": _PATTERN})]
"""A published name, an address or a file."""


class WeightsSource(SpecModel):
    """Weights with the digest that they must have."""

    source: WeightsName = Field(
        description="A published name, an address or a file, as `weights` takes them.",
        examples=["https://example.org/start.safetensors"],
    )
    sha256: str = Field(
        pattern=f"^{SHA256.pattern}$",
        description="SHA-256 of the file, 64 hex digits in lower case.",
    )


class CustomScale(SpecModel):
    """Multipliers of the family's base network."""

    depth: float = Field(gt=0, le=4, description="Factor of the number of repeated blocks.", examples=[0.33])
    width: float = Field(gt=0, le=4, description="Factor of the number of channels.", examples=[0.25])
    max_channels: int = Field(
        ge=8, le=8192, description="Most channels of a layer before `width` is applied.", examples=[1024]
    )


def _weights_tag(value: Any) -> str:
    return "checked" if isinstance(value, Mapping | WeightsSource) else "named"


def _scale_tag(value: Any) -> str:
    return "custom" if isinstance(value, Mapping | CustomScale) else "letter"


class Architecture(SpecModel):
    """What network is built."""

    family: Literal["yolov8-seg"] = Field(description="Family of networks.", examples=["yolov8-seg"])
    scale: Annotated[
        Annotated[Literal["n", "s", "m", "l", "x"], Tag("letter")] | Annotated[CustomScale, Tag("custom")],
        Discriminator(_scale_tag),
    ] = Field(
        description="Size of the network: n, s, m, l or x from smallest to largest, or {depth, width, max_channels}.",
        examples=["n", {"depth": 0.33, "width": 0.25, "max_channels": 1024}],
    )
    weights: (
        Annotated[
            Annotated[WeightsName, Tag("named")] | Annotated[WeightsSource, Tag("checked")],
            Discriminator(_weights_tag),
        ]
        | None
    ) = Field(
        None,
        description="Weights to start from: a published name (`segc weights list`), an address (https://, "
        "hf://owner/repository/file, file://), or a file, relative to this one: own .safetensors, or a PyTorch "
        "checkpoint, which is read without running anything in it. {source, sha256} states the digest it must have.",
        examples=["yolov8n-seg", "start.safetensors"],
    )
    licences: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        description="Licences, by their SPDX names, that weights to start from, and all that these descend from, may "
        "have; others, and weights that do not say, are refused.",
        examples=[["Apache-2.0", "MIT"]],
    )

    @property
    def start(self) -> WeightsReference | None:
        """What `weights` names."""
        if self.weights is None:
            return None
        if isinstance(self.weights, str):
            return parse_reference(self.weights)
        return parse_reference(self.weights.source, self.weights.sha256)

    @model_validator(mode="after")
    def _check(self) -> Self:
        start = self.start
        if start is not None and start.path is None:
            refuse(start_problems(self))
        return self


def start_problems(architecture: Architecture) -> list[Problem]:
    """Why published weights cannot be started from, as far as their row tells; they need not be fetched then."""
    start = architecture.start
    row = None if start is None else start.published
    return [] if row is None else [*_other_network(architecture, row), *_other_licence(architecture, row)]


def _other_network(architecture: Architecture, row: Published) -> list[Problem]:
    """Weights of another family or scale: nothing of them would fit."""
    if (architecture.family, architecture.scale) == (row.family, row.scale):
        return []
    here = f"scale {architecture.scale}" if isinstance(architecture.scale, str) else "a custom scale"
    text = f"{row.name} is {row.family} of scale {row.scale}; this is {architecture.family} of {here}"
    fitting = [
        other.name
        for other in PUBLISHED.values()
        if (other.family, other.scale) == (architecture.family, architecture.scale)
    ]
    ways = [f"`scale: {row.scale}`"] * (row.family == architecture.family) + [f"`weights: {name}`" for name in fitting]
    return [Problem("X217", ("weights",), text, f"write {' or '.join(ways)}" if ways else None)]


def _other_licence(architecture: Architecture, row: Published) -> list[Problem]:
    if allows(architecture.licences, row.licence):
        return []
    allowed = ", ".join(architecture.licences or ())
    text = f"{row.name} has the licence {row.licence}; `licences` allows {allowed}"
    return [Problem("X218", ("weights",), text, "start from other weights, or from none")]
