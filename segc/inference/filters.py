"""What counts as a detection: what is asked for, and what a model that suppresses by itself has left out already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from segc.inference.metadata import Metadata


class FilterError(ValueError):
    """A filter asks for what the model has left out already."""


class ClassError(FilterError):
    """A class that the model does not have."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What counts as a detection, and how finely its mask is drawn.

    Attributes:
        conf: scores at or below it are left out.
        iou: boxes of one class that overlap a better one more than this are left out.
        max_det: at most so many detections an image.
        retina: masks interpolated at the photograph's resolution, not at the frame's and then scaled.
        by_class: least scores of classes by name, and of others as ``default``, that hold beside ``conf``.
        classes: numbers of the only classes that count; None for all.
        agnostic: boxes of different classes suppress each other, too.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    retina: bool = True
    by_class: Mapping[str, float] | None = None
    classes: tuple[int, ...] | None = None
    agnostic: bool = False


def choose_filters(
    metadata: Metadata,
    given: Mapping[str, Any],
    defaults: Filters,
) -> Filters:
    """What was asked for; where nothing was, what a model that suppresses by itself has, else the defaults.

    Args:
        metadata: the model's.
        given: ``conf``, ``iou``, ``max_det``, ``retina``, ``agnostic``, and ``classes`` by name or number, as asked;
            None or absent where nothing was said.
        defaults: for what nothing says.

    Raises:
        FilterError: where such a model has left out what is asked for, ClassError where there is no such class.
    """
    conf, iou, max_det = (
        next(v for v in (given.get(name), getattr(metadata, name), getattr(defaults, name)) if v is not None)
        for name in ("conf", "iou", "max_det")
    )
    if problem := beyond_suppression(metadata, conf=conf, iou=iou, max_det=max_det):
        raise FilterError(problem)
    retina, agnostic = (
        getattr(defaults, name) if given.get(name) is None else bool(given[name]) for name in ("retina", "agnostic")
    )
    if agnostic and metadata.conf is not None:
        raise FilterError("the model suppresses by itself, class by class: what that leaves is not agnostic")
    # A score that somebody asks for is asked of every class.
    by_class = defaults.by_class if given.get("conf") is None else None
    asked = given.get("classes")
    classes = defaults.classes if asked is None else class_numbers(asked, metadata.names)
    return Filters(conf, iou, max_det, retina, by_class, classes, agnostic)


def class_numbers(asked: Sequence[str | int], names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of classes that are asked for by name or by number, rising; a name that is a number counts as a name.

    Raises:
        ClassError: where there is no such class.
    """
    places = {name: number for number, name in enumerate(names)}
    numbers = {str(number): number for number in range(len(names))}
    found = set()
    for one in asked:
        number = places.get(str(one), numbers.get(str(one)))
        if number is None:
            near = get_close_matches(str(one), names, 1)
            hint = (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(names[:20])}{', …' * (len(names) > 20)}"
            )
            raise ClassError(f"there is no class {str(one)!r}; {hint}")
        found.add(number)
    return tuple(sorted(found))


def beyond_suppression(metadata: Metadata, *, conf: float, iou: float, max_det: int) -> str | None:
    """What a model that suppresses by itself has left out already of what is asked for; None where it has all."""
    if metadata.conf is None or metadata.iou is None or metadata.max_det is None:
        return None
    for name, low, high, own in (
        ("conf", conf, metadata.conf, metadata.conf),
        ("iou", metadata.iou, iou, metadata.iou),
        ("max_det", metadata.max_det, max_det, metadata.max_det),
    ):
        if low < high:
            return f"the model suppresses by itself, with {name} {own:g}: what that leaves out is gone"
    return None
