"""What counts as a detection: what is asked for, and what a model that suppresses by itself has left out already."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from segc.inference.metadata import LARGEST_SIDE, Metadata


class FilterError(ValueError):
    """A filter asks for what the model has left out already."""


class ClassError(FilterError):
    """A class that the model does not have."""


class TilingError(FilterError):
    """Something is asked of tiles where there are none."""


MASK_MEMORY = 256
"""MiB that the masks of a photograph may take where nothing else is said: two of the size of the largest image, a byte
a pixel; of tiles, whose masks are packed, a bit a pixel, five times all pixels of 20,000 x 20,000.
"""

MOST_OVERLAP = 0.9
"""Of tiles: with more, every pixel would be seen hundreds of times."""

LEAST_TILE = 32
"""Side in pixels of the smallest tile: the largest stride of a network."""

KINDS_OF_VALUES = {
    float: ((int, float), "a number"),
    int: ((int,), "a whole number"),
    bool: ((bool,), "True or False"),
}
"""What is taken for a value of a kind, and what to call it."""

ASKED_VALUES: dict[str, tuple[Any, ...]] = {
    "conf": (float, 0, 1),
    "iou": (float, 0, 1),
    "max_det": (int, 1),
    "retina": (bool,),
    "agnostic": (bool,),
    "tile": (int, LEAST_TILE, LARGEST_SIDE, 0),
    "overlap": (float, 0, MOST_OVERLAP),
    "tile_plus_whole": (bool,),
    "mask_memory": (int, 1),
    "track": (bool,),
}
"""Kind and bounds of what can be asked for, as :func:`fitting` takes them."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a picture is cut into tiles.

    Attributes:
        size: side of a tile in pixels of the picture.
        overlap: of neighbouring tiles, at least, as a share of their side.
        whole: look at the picture as a whole besides, for what is larger than a tile.
    """

    size: int = 640
    overlap: float = 0.2
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Tracking:
    """How objects are followed from frame to frame.

    Attributes:
        low: least score of a detection that goes on with a track, where it is below that of a detection to be reported.
        keep: frames that a lost object is looked for.
    """

    low: float = 0.1
    keep: int = 30


@dataclass(frozen=True, slots=True)
class Filters:
    """What counts as a detection, how finely its mask is drawn, and how pictures and films are looked at.

    Attributes:
        conf: scores at or below it are left out.
        iou: boxes of one class that overlap a better one more than this are left out.
        max_det: at most so many detections an image.
        retina: masks interpolated at the photograph's resolution, not at the frame's and then scaled.
        by_class: least scores of classes by name, and of others as ``default``, that hold beside ``conf``.
        classes: numbers of the only classes that count; None for all.
        agnostic: boxes of different classes suppress each other, too.
        tiles: how pictures are cut into tiles; None where they are not.
        track: how objects are followed through frames; None where they are not.
        mask_memory: MiB that the masks of one photograph may take; the worst detections beyond that are left out.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    retina: bool = True
    by_class: Mapping[str, float] | None = None
    classes: tuple[int, ...] | None = None
    agnostic: bool = False
    tiles: Tiling | None = None
    track: Tracking | None = None
    mask_memory: int = MASK_MEMORY

    @property
    def mask_bytes(self) -> int:
        """Bytes that the masks of one photograph may take."""
        return self.mask_memory << 20


def fitting(
    name: str, value: Any, kind: type, low: float = -math.inf, high: float = math.inf, also: float | None = None
) -> Any:
    """A value of the right kind within its bounds, as Python's own: numbers of NumPy are taken, too.

    Args:
        name: what it is called where it does not fit.
        value: what was given.
        kind: float, int or bool.
        low: the least number that fits.
        high: the greatest.
        also: a number that fits beside these.

    Raises:
        ValueError: where it is of another kind, out of its bounds, or NaN.
    """
    types, words = KINDS_OF_VALUES[kind]
    own = value.item() if getattr(value, "shape", None) == () else value
    # A truth value is a whole number to Python, but not to people.
    right = isinstance(own, types) and isinstance(own, bool) == (kind is bool)
    if right and (low <= own <= high or own == also):
        return kind(own)
    upwards = "" if low == -math.inf else f" from {low:g} up"
    bounds = upwards if high == math.inf else f" between {low:g} and {high:g}"
    beside = "" if also is None else f", or {also:g}"
    raise ValueError(f"{name} is {words}{bounds}{beside}, not {value!r:.60}")


def asked_value(given: Mapping[str, Any], name: str) -> Any:
    """What is asked for under a name of `ASKED_VALUES`; None where nothing was said.

    Raises:
        ValueError: as :func:`fitting`.
    """
    value = given.get(name)
    return None if value is None else fitting(name, value, *ASKED_VALUES[name])


def choose_filters(
    metadata: Metadata,
    given: Mapping[str, Any],
    defaults: Filters,
) -> Filters:
    """What was asked for; where nothing was, what a model that suppresses by itself has, else the defaults.

    Args:
        metadata: the model's.
        given: what `ASKED_VALUES` names, with ``tile``, ``overlap`` and ``tile_plus_whole`` as `choose_tiling` has
            them, and ``classes`` by name or number, one or several; None or absent where nothing was said.
        defaults: for what nothing says.

    Raises:
        ValueError: where a value is of another kind, or out of its bounds, see `ASKED_VALUES`.
        FilterError: where such a model has left out what is asked for, ClassError where there is no such class, or none
            is named, TilingError where something is asked of tiles and there are none.
    """
    conf, iou, max_det = (
        next(v for v in (asked_value(given, name), getattr(metadata, name), getattr(defaults, name)) if v is not None)
        for name in ("conf", "iou", "max_det")
    )
    if problem := beyond_suppression(metadata, conf=conf, iou=iou, max_det=max_det):
        raise FilterError(problem)
    finished = metadata.layout == "masks"
    if finished and asked_value(given, "retina"):
        raise FilterError("the model gives finished masks of its input's size: there is nothing to draw more finely")
    retina, agnostic, memory = (
        getattr(defaults, name) if (value := asked_value(given, name)) is None else value
        for name in ("retina", "agnostic", "mask_memory")
    )
    if agnostic and metadata.suppresses and not metadata.agnostic:
        raise FilterError("the model suppresses by itself, class by class: what that leaves is not agnostic")
    # A score that somebody asks for is asked of every class.
    by_class = defaults.by_class if given.get("conf") is None else None
    asked = given.get("classes")
    classes = defaults.classes if asked is None else class_numbers(asked, metadata.names)
    if asked is not None and not classes:
        raise ClassError("no class is named, so nothing could be found: all count where classes is left out")
    tiles = choose_tiling(given, defaults.tiles)
    asked_track = asked_value(given, "track")
    track = defaults.track if asked_track is None else (defaults.track or Tracking()) if asked_track else None
    return Filters(conf, iou, max_det, retina and not finished, by_class, classes, agnostic, tiles, track, memory)


def choose_tiling(given: Mapping[str, Any], default: Tiling | None) -> Tiling | None:
    """The tiles that are asked for; where nothing was said, the default.

    Args:
        given: ``tile``, a side in pixels or 0 for none, ``overlap`` and ``tile_plus_whole``; None or absent where
            nothing was said.
        default: for what nothing says.

    Raises:
        ValueError: where a value is of another kind, or out of its bounds, see `ASKED_VALUES`.
        TilingError: where an overlap or the whole is asked for, and there are no tiles.
    """
    size, overlap, whole = (asked_value(given, name) for name in ("tile", "overlap", "tile_plus_whole"))
    if size == 0 or (size is None and default is None):
        if overlap is None and not whole:
            return None
        what = "the whole besides tiles" if overlap is None else "an overlap of tiles"
        raise TilingError(
            f"{what} is asked for, and there are no tiles: tile gives their side, such as {Tiling().size}"
        )
    base = default or Tiling()
    return Tiling(
        base.size if size is None else size,
        base.overlap if overlap is None else overlap,
        base.whole if whole is None else whole,
    )


def search_filters(filters: Filters, metadata: Metadata) -> Filters:
    """What the network is asked for: where objects are followed, detections of poor score, too.

    A model that suppresses by itself has left out what lies below its own ``conf``.
    """
    if filters.track is None:
        return filters
    low = min(filters.conf, max(filters.track.low, metadata.conf or 0.0))
    return replace(filters, conf=low, by_class=None)


def class_numbers(asked: str | int | Iterable[str | int], names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of classes that are asked for by name or by number, rising; a name that is a number counts as a name.

    One class is meant as one, not as its letters.

    Raises:
        ClassError: where there is no such class.
    """
    places = {name: number for number, name in enumerate(names)}
    numbers = {str(number): number for number in range(len(names))}
    found = set()
    for one in [asked] if isinstance(asked, str) or not isinstance(asked, Iterable) else asked:
        number = places.get(str(one), numbers.get(str(one)))
        if number is None:
            raise ClassError(f"there is no class {str(one)!r}; {class_hint(str(one), names)}")
        found.add(number)
    return tuple(sorted(found))


def class_hint(asked: str, names: Sequence[str]) -> str:
    """Which class was probably meant, or which there are, the first twenty."""
    near = get_close_matches(asked, names, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names[:20])}{', …' * (len(names) > 20)}"


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
