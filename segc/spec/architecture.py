"""The network: its family, how deep and wide it is, and the weights it starts from."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from segc.schema import Problem, SpecModel, refuse

WEIGHTS_SUFFIXES = (".safetensors", ".pt")
"""Own weights, and other projects' checkpoints, which are read without running their pickle."""


def _weights(value: str) -> str:
    if PurePosixPath(value).suffix not in WEIGHTS_SUFFIXES:
        way_out = f"files that end in {' or '.join(WEIGHTS_SUFFIXES)} are read"
        refuse([Problem("X207", (), f"`{value}` is no kind of weights that segc reads", way_out)])
    return value


class CustomScale(SpecModel):
    """Multipliers of the family's base network."""

    depth: float = Field(gt=0, le=4, description="Factor of the number of repeated blocks.", examples=[0.33])
    width: float = Field(gt=0, le=4, description="Factor of the number of channels.", examples=[0.25])
    max_channels: int = Field(
        ge=8, le=8192, description="Most channels of a layer before `width` is applied.", examples=[1024]
    )


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
    weights: Annotated[str, AfterValidator(_weights)] | None = Field(
        None,
        description="Weights to start from, relative to this file: own .safetensors, or another project's .pt, "
        "which is read without running anything in it.",
        examples=["weights.safetensors"],
        json_schema_extra={"pattern": r"\.(safetensors|pt)$"},
    )
