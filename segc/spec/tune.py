"""Ranges that ``segc tune`` searches: for hyperparameters by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError, WithJsonSchema

from segc.schema import Problem, refuse
from segc.spec.hyperparameters import Augment, Hyperparameters

_LOG = "log"
_EXAMPLE = "for example `lr0: [1e-4, 1e-2, log]`, `batch: [4, 16]` or `optimizer: [SGD, AdamW]`"


@dataclass(frozen=True, slots=True)
class Range:
    """What a hyperparameter may be.

    Attributes:
        key: its name, such as ``lr0`` or ``augment.mosaic``.
        low: the least value of a range; None for choices.
        high: the greatest, likewise.
        log: powers of ten are as likely as each other.
        choices: the values to choose from; empty for a range.
    """

    key: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether only whole numbers lie in it."""
        return type(self.low) is int and type(self.high) is int


def as_range(key: str, values: list[Any] | tuple[Any, ...]) -> Range:
    """The range that a list means: [low, high], [low, high, log], or choices."""
    ends, rest = values[:2], tuple(values[2:])
    if rest in ((), (_LOG,)) and all(type(end) in {int, float} for end in ends):
        return Range(key, ends[0], ends[1], log=bool(rest))
    return Range(key, choices=tuple(values))


def _problem(key: Any, values: Any) -> str | None:
    """What is wrong with an entry."""
    name, _, inner = str(key).partition(".")
    known = inner in Augment.model_fields if name == "augment" else key in Hyperparameters.model_fields
    if not known or key == "augment":
        return f"`{key}` is no hyperparameter"
    if not isinstance(values, list | tuple) or len(values) < 2:
        return "a range is a list: [low, high], [low, high, log], or values to choose from"
    found = as_range(key, values)
    if found.low is not None and found.high is not None:
        if not (math.isfinite(found.low) and math.isfinite(found.high)) or found.low >= found.high:
            return f"{found.low} is not below {found.high}"
        if found.log and found.low <= 0:
            return "a logarithmic range starts above 0"
        if found.log and key == "imgsz":
            return "sides are searched in even steps: leave log out, or list those to choose from"
    for value in found.choices or (found.low, found.high):
        try:
            Hyperparameters.model_validate({name: {inner: value}} if inner else {name: value})
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].replace("Input should", "it should")
            return f"`{value}` is no value of `{key}`: {message}"
    return None


def _ranges(value: Any) -> Any:
    if not isinstance(value, Mapping):
        refuse([Problem("S103", (), "ranges are a mapping of hyperparameters", _EXAMPLE)])
    refuse([Problem("X225", (key,), text, _EXAMPLE) for key, found in value.items() if (text := _problem(key, found))])
    return {key: tuple(found) for key, found in value.items()}


Ranges = Annotated[
    dict[str, tuple[Any, ...]],
    BeforeValidator(_ranges),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "array", "minItems": 2}}),
]
