"""What every part of a spec has in common: closed, frozen, strictly typed models, and the size of an image."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from segc.inference.metadata import LARGEST_SIDE

LARGEST_STRIDE = 32
"""Image sides are multiples of this: the coarsest feature map has one cell for 32 x 32 pixels."""


class SpecModel(BaseModel):
    """Base of everything a ``project.yaml`` can say: unknown keys, converted types and later changes are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=False,
        use_attribute_docstrings=False,
    )


class Problem:
    """One finding about a combination of values.

    Attributes:
        code: Code of the diagnostic, ``X2xx``.
        path: Keys and indices from the model that was checked down to the value to point at.
        message: What is wrong.
        help: What to do about it, or None.
        at_key: Point at the key rather than at the value.
        fix: What to write in place of the value, where that is safe to do unasked.
    """

    __slots__ = ("at_key", "code", "fix", "help", "message", "path")

    def __init__(
        self,
        code: str,
        path: Sequence[str | int],
        message: str,
        help: str | None = None,  # noqa: A002
        *,
        at_key: bool = False,
        fix: str | None = None,
    ) -> None:
        self.code, self.path, self.message, self.help = code, tuple(path), message, help
        self.at_key, self.fix = at_key, fix


PROBLEMS = "segc_problems"
"""Type of the pydantic error that carries `Problem` objects, under the same name, in its context."""


def refuse(problems: Sequence[Problem]) -> None:
    """Raise one pydantic error for all ``problems``, or return where there are none.

    Raises:
        PydanticCustomError: of type ``segc_problems``; the loader shows each problem at its own place.
    """
    if problems:
        text = "; ".join(problem.message for problem in problems).replace("{", "(").replace("}", ")")
        raise PydanticCustomError(PROBLEMS, text, {PROBLEMS: tuple(problems)})


def _side_problem(side: Any, path: tuple[int, ...]) -> Problem | None:
    if type(side) is not int:
        return Problem(
            "S103", path, f"an image side is a whole number of pixels, not `{side}`", "for example `imgsz: 640`"
        )
    if not LARGEST_STRIDE <= side <= LARGEST_SIDE:
        return Problem(
            "S104", path, f"an image side lies between {LARGEST_STRIDE} and {LARGEST_SIDE} pixels, {side} does not"
        )
    if side % LARGEST_STRIDE:
        below = side // LARGEST_STRIDE * LARGEST_STRIDE
        return Problem(
            "X201",
            path,
            f"{side} is not a multiple of {LARGEST_STRIDE}, the largest stride of the network",
            f"the nearest sizes are {below} and {below + LARGEST_STRIDE}",
        )
    return None


def _image_size(value: Any) -> int | tuple[int, int]:
    """A legal ``imgsz``: a side, or (height, width); refused otherwise with all that is wrong about it."""
    if isinstance(value, list | tuple):
        if len(value) != 2:
            text = f"a size has two sides, [height, width], not {len(value)}"
            refuse([Problem("S107", (), text, "for example `imgsz: [480, 640]`")])
        found = [_side_problem(side, (index,)) for index, side in enumerate(value)]
        refuse([problem for problem in found if problem])
        return (value[0], value[1])
    problem = _side_problem(value, ())
    refuse([problem] if problem else [])
    return value  # type: ignore[no-any-return]


_SIDE_SCHEMA = {
    "type": "integer",
    "minimum": LARGEST_STRIDE,
    "maximum": LARGEST_SIDE,
    "multipleOf": LARGEST_STRIDE,
}

ImageSize = Annotated[
    int | tuple[int, int],
    BeforeValidator(_image_size),
    WithJsonSchema(
        {
            "anyOf": [_SIDE_SCHEMA, {"type": "array", "items": _SIDE_SCHEMA, "minItems": 2, "maxItems": 2}],
        }
    ),
]
"""One side of a square, or ``[height, width]``, in pixels: multiples of 32 from 32 to 8192."""


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an `ImageSize`."""
    return (size, size) if isinstance(size, int) else size
