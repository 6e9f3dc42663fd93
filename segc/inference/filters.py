"""What counts as a detection: what is asked for, and what a model that suppresses by itself has left out already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from segc.inference.metadata import Metadata


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


def choose_filters(
    metadata: Metadata,
    given: Mapping[str, Any],
    defaults: Filters,
) -> Filters:
    """What was asked for; where nothing was, what a model that suppresses by itself has, else the defaults.

    Args:
        metadata: the model's.
        given: ``conf``, ``iou``, ``max_det``, ``retina``, ``agnostic``, ``classes`` by name or number, ``track``,
            ``mask_memory``, and ``tile``, ``overlap`` and ``tile_plus_whole`` as `choose_tiling` has them, as asked;
            None or absent where nothing was said.
        defaults: for what nothing says.

    Raises:
        FilterError: where such a model has left out what is asked for, ClassError where there is no such class,
            TilingError where something is asked of tiles and there are none.
    """
    conf, iou, max_det = (
        next(v for v in (given.get(name), getattr(metadata, name), getattr(defaults, name)) if v is not None)
        for name in ("conf", "iou", "max_det")
    )
    if problem := beyond_suppression(metadata, conf=conf, iou=iou, max_det=max_det):
        raise FilterError(problem)
    finished = metadata.layout == "masks"
    if finished and given.get("retina"):
        raise FilterError("the model gives finished masks of its input's size: there is nothing to draw more finely")
    retina, agnostic = (
        getattr(defaults, name) if given.get(name) is None else bool(given[name]) for name in ("retina", "agnostic")
    )
    if agnostic and metadata.suppresses and not metadata.agnostic:
        raise FilterError("the model suppresses by itself, class by class: what that leaves is not agnostic")
    # A score that somebody asks for is asked of every class.
    by_class = defaults.by_class if given.get("conf") is None else None
    asked = given.get("classes")
    classes = defaults.classes if asked is None else class_numbers(asked, metadata.names)
    tiles = choose_tiling(given, defaults.tiles)
    asked_track = given.get("track")
    track = defaults.track if asked_track is None else (defaults.track or Tracking()) if asked_track else None
    memory = defaults.mask_memory if given.get("mask_memory") is None else int(given["mask_memory"])
    return Filters(conf, iou, max_det, retina and not finished, by_class, classes, agnostic, tiles, track, memory)


def choose_tiling(given: Mapping[str, Any], default: Tiling | None) -> Tiling | None:
    """The tiles that are asked for; where nothing was said, the default.

    Args:
        given: ``tile``, a side in pixels or 0 for none, ``overlap`` and ``tile_plus_whole``; None or absent where
            nothing was said.
        default: for what nothing says.

    Raises:
        TilingError: where an overlap or the whole is asked for, and there are no tiles.
    """
    size, overlap, whole = (given.get(name) for name in ("tile", "overlap", "tile_plus_whole"))
    if size == 0 or (size is None and default is None):
        if overlap is None and not whole:
            return None
        option = "tile-plus-whole" if overlap is None else "overlap"
        raise TilingError(f"--{option} asks for tiles, and there are none: say --tile {Tiling().size}")
    base = default or Tiling()
    return Tiling(
        base.size if size is None else size,
        base.overlap if overlap is None else overlap,
        base.whole if whole is None else bool(whole),
    )


def search_filters(filters: Filters, metadata: Metadata) -> Filters:
    """What the network is asked for: where objects are followed, detections of poor score, too.

    A model that suppresses by itself has left out what lies below its own ``conf``.
    """
    if filters.track is None:
        return filters
    low = min(filters.conf, max(filters.track.low, metadata.conf or 0.0))
    return replace(filters, conf=low, by_class=None)


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
