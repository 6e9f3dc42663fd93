"""Predicting sources, with what is wrong as diagnostics: the way of ``segc predict`` and of the Python API.

What is done stands in ``segc.inference.jobs``, which predict scripts carry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import Diagnostic, SegcError, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from segc.inference.filters import Filters, Tiling
    from segc.inference.frames import Frame, Reading
    from segc.inference.metadata import Metadata
    from segc.inference.results import Prediction
    from segc.inference.sources import ImageError, Source, SourceError
    from segc.inference.writing import Plan
    from segc.sessions import Session
    from segc.spec.load import LoadedProject
    from segc.spec.project import Project


def find(items: Sequence[str], failed: "Callable[[SegcError], None] | None" = None) -> "list[Source]":
    """The sources that arguments name: files, folders, patterns, lists, addresses, cameras, ``-``.

    Args:
        items: the arguments.
        failed: takes what is wrong with one that names nothing, where others do.

    Raises:
        SegcError: I001 where there are none, or, without ``failed``, where an argument names nothing.
    """
    from segc.inference.sources import SourceError, find_sources

    if any("://" in item for item in items):
        from segc.remote import is_remote, remote_sources

        if any(map(is_remote, items)):
            found: dict[Source, None] = {}
            problems: list[SegcError] = []
            for item in items:
                try:
                    found |= dict.fromkeys(remote_sources(item) if is_remote(item) else find([item], problems.append))
                except SegcError as error:
                    problems.append(error)
            for one in problems:
                if failed is None or not found:
                    raise one
                failed(one)
            return list(found)

    def problem(error: SourceError) -> SegcError:
        return fail(
            "I001", str(error), help="give image or video files, folders, quoted patterns, addresses, cameras or -"
        )

    try:
        return find_sources(items, failed and (lambda error: failed(problem(error))))
    except SourceError as error:
        raise problem(error) from None


def frame_of(name: str, *, in_parts: bool) -> "Frame":
    """The one image of a file or an address.

    Args:
        name: of the file, or the address.
        in_parts: it is seen in tiles: read it in parts where it can be, and however large it is.

    Raises:
        SegcError: I001 where this names nothing or more than one image, I002 where it cannot be read.
    """
    from segc.inference.frames import Unread, read_still

    found = find([name])
    if len(found) != 1 or not found[0].is_still:
        what = f"{len(found)} images" if len(found) != 1 else "a video or a stream"
        raise fail("I001", f"{name} is {what}, not one image", help="the model's stream() gives one after another")
    frame = read_still(found[0], in_parts=in_parts)
    if isinstance(frame, Unread):
        raise image_problem(frame.error)
    return frame


def tiling(given: Mapping[str, Any], project: "Project") -> "Tiling | None":
    """The tiles that are asked for; where nothing is said, the project's.

    Args:
        given: see ``segc.inference.filters.choose_tiling``.
        project: the project.

    Raises:
        SegcError: I008 where something is asked of tiles and there are none.
    """
    from segc.inference.filters import TilingError, choose_tiling

    chosen = project.hyperparameters.tiles
    try:
        return choose_tiling(given, None if chosen is None else chosen.tiling)
    except TilingError as error:
        raise _no_tiles(error) from None


def _no_tiles(error: Exception) -> SegcError:
    return fail("I008", str(error), help="or write tiles: into the project's hyperparameters")


def filters_of(session: "Session", given: Mapping[str, Any], loaded: "LoadedProject | None") -> "Filters":
    """What is asked for; where nothing is said, what a model that suppresses by itself has, else the project's.

    Raises:
        SegcError: I005 where such a model has left out what is asked for, X215 where it has no such class, I008 where
            something is asked of tiles and there are none.
    """
    from segc.inference.filters import Filters

    return chosen_filters(session.metadata, given, Filters() if loaded is None else project_filters(loaded.project))


def without_effect(metadata: "Metadata", given: Mapping[str, Any], loaded: "LoadedProject | None") -> list[Diagnostic]:
    """Thresholds that the project gives and a model that suppresses by itself does not follow, where nothing else was
    asked for: what it was emitted with is its own.
    """  # noqa: D205 - the first sentence is long
    if loaded is None or not metadata.suppresses:
        return []
    wanted, said = project_filters(loaded.project), loaded.project.hyperparameters.model_fields_set
    return [
        Diagnostic(
            "X224",
            f"hyperparameters.{name} has no effect: the model suppresses by itself, with {own:g}",
            "warning",
            help=f"--{name.replace('_', '-')} asks for less than that; for more, emit it again",
        )
        for name in ("conf", "iou", "max_det")
        if name in said and given.get(name) is None and (own := getattr(metadata, name)) != getattr(wanted, name)
    ]


def chosen_filters(metadata: "Metadata", given: Mapping[str, Any], defaults: "Filters") -> "Filters":
    """What is asked for, see ``segc.inference.filters.choose_filters``.

    Raises:
        SegcError: I005 where such a model has left out what is asked for, X215 where it has no such class, I008 where
            something is asked of tiles and there are none.
    """
    from segc.inference.filters import ClassError, FilterError, TilingError, choose_filters

    try:
        return choose_filters(metadata, given, defaults)
    except ClassError as error:
        raise fail("X215", str(error)) from None
    except TilingError as error:
        raise _no_tiles(error) from None
    except FilterError as error:
        raise fail(
            "I005", str(error), help="emit it again with other thresholds in the project, or without nms"
        ) from None


def project_filters(project: "Project") -> "Filters":
    """What a project asks of detections: the smallest of its least scores, and those by class beside it."""
    from segc.inference.filters import Filters
    from segc.inference.thresholds import least_scores

    chosen = project.hyperparameters
    filters = Filters(
        iou=chosen.iou,
        max_det=chosen.max_det,
        tiles=None if chosen.tiles is None else chosen.tiles.tiling,
        track=None if chosen.track is None else chosen.track.tracking,
    )
    if isinstance(chosen.conf, float):
        return replace(filters, conf=chosen.conf)
    return replace(filters, conf=min(least_scores(chosen.conf, project.dataset.class_names)), by_class=chosen.conf)


def resized(metadata: "Metadata", imgsz: int | tuple[int, int] | None) -> "Metadata":
    """A model's metadata with another size.

    Raises:
        SegcError: X201 where it cannot have that.
    """
    if imgsz is None:
        return metadata
    from segc.inference.metadata import LARGEST_SIDE

    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if (height, width) == metadata.imgsz:
        return metadata
    if not metadata.dynamic:
        own = "{1}x{0}".format(*metadata.imgsz)
        raise fail(
            "X201", f"the model is made for {own} and takes nothing else", help="emit it with `dynamic: true`, or again"
        )
    step = metadata.strides[-1]
    if any(side < step or side > LARGEST_SIDE or side % step for side in (height, width)):
        text = f"the sides of {width}x{height} are not multiples of {step} up to {LARGEST_SIDE}"
        nearest = [min(max(round(side / step), 1), LARGEST_SIDE // step) * step for side in (width, height)]
        raise fail("X201", text, help=f"{nearest[0]}x{nearest[1]} is near")
    return replace(metadata, imgsz=(height, width))


def predict(source: "Source", session: "Session", filters: "Filters") -> "tuple[NDArray[np.uint8], Prediction]":
    """One image [h, w, 3] in BGR order, and what was found on it.

    Raises:
        SegcError: I002 where it cannot be read, T006 where the model cannot be run.
    """
    from segc.inference.metadata import ModelError
    from segc.inference.predict import predict_image
    from segc.inference.sources import ImageError

    try:
        image = source.read()
        return image, predict_image(image, session.run, session.metadata, filters, source.name)
    except ImageError as error:
        raise image_problem(error) from None
    except ModelError as error:
        raise fail("T006", str(error)) from None


def image_problem(error: "ImageError") -> SegcError:
    """What is wrong with an image, as a diagnostic."""
    from segc.inference.writing import PictureError

    if isinstance(error, PictureError):
        return fail("I004", str(error), help="--no-overlay leaves pictures out, --save takes other kinds")
    return fail("I002", str(error))


def plan(sources: "Sequence[Source]", folder: Path, kinds: "Iterable[str]") -> "Plan":
    """What is written of sources, no two files the same and none in place of a source, of its label or of another file.

    Raises:
        SegcError: I003 where the output folder would have such a file replaced, or files come among labels.
    """
    from segc.data.samples import label_path
    from segc.inference.sources import SourceError
    from segc.inference.writing import plan_files

    images = [source.path.absolute() for source in sources if source.path is not None]
    try:
        return plan_files(sources, folder, kinds, kept=map(label_path, images))
    except SourceError as error:
        raise output_problem(error, folder) from None


def output_problem(error: "SourceError", folder: Path) -> SegcError:
    """Why nothing is written into an output folder, as a diagnostic."""
    return fail("I003", str(error), file=folder)


def reading(sources: "Sequence[Source]", every: str | None, stride: int) -> "Reading":
    """How frames are taken.

    Raises:
        SegcError: I006 where frames of files would have to be dropped.
    """
    from segc.inference.frames import reading_of
    from segc.inference.sources import SourceError

    try:
        return reading_of(sources, every, stride)
    except SourceError as error:
        raise fail("I006", str(error), help="--stride N takes each N-th frame") from None
