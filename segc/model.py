"""A model that is opened once and then called with frames.

import segc

model = segc.load("build/artifacts/onnx")  # or a project.yaml, or weights
prediction = model("photo.jpg")  # a file, an address, [H, W, 3] uint8 in BGR order, a PIL image; lists of these
print(prediction.labels, prediction.boxes, prediction.masks.shape)
for prediction in model.stream("clip.mp4"):  # folders, patterns, videos, cameras, streams
    ...
"""

from __future__ import annotations

import numbers
import os
import threading
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from segc.diagnostics import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    from segc.inference.filters import Filters
    from segc.inference.frames import Frame as ReadFrame
    from segc.inference.frames import Reading
    from segc.inference.metadata import Metadata
    from segc.inference.sources import Source
    from segc.inference.tracking import Follower
    from segc.results import Prediction
    from segc.sessions import Session

    Frame = str | os.PathLike[str] | NDArray[np.uint8] | PIL.Image.Image
    """One frame: a file or an address, [H, W, 3] uint8, or a PIL image."""


class Asked(TypedDict, total=False):
    """What counts as a detection, and how finely its mask is drawn, as a call may ask for it.

    Attributes:
        conf: in 0..1; scores at or below it are left out. One of its own for a class is a project's to say.
        iou: in 0..1; boxes of one class that overlap a better one more than this are left out.
        max_det: at most so many detections a frame, 1 or more.
        classes: names or numbers of the only classes that count, one or several.
        agnostic: boxes of different classes suppress each other, too.
        retina: masks interpolated at the frame's own resolution, the default, or scaled from the network's.
        tile: side in pixels, 32..8192, of the tiles that frames are cut into, each letterboxed to the network's size; 0
            for none.
        overlap: of neighbouring tiles, at least, as a share of their side, in 0..0.9.
        tile_plus_whole: look at the frame as a whole besides.
        mask_memory: MiB, 1 or more, that the masks of one frame may take, 256 where not given: the worst detections
            beyond that are left out, which ``left_out`` counts.
        track: follow objects: of a stream each keeps a number, ``identities``. Without effect on single frames.
    """

    conf: float
    iou: float
    max_det: int
    classes: str | int | Sequence[str | int]
    agnostic: bool
    retina: bool
    tile: int
    overlap: float
    tile_plus_whole: bool
    mask_memory: int
    track: bool


class Model:
    """A model that is open; calling it predicts. Made by :func:`segc.load`, and by ``Project.model``.

    Threads may share it: they take turns with the network, and prepare frames and masks at the same time.

    Args:
        session: what runs it.
        filters: what counts as a detection where a call does not say.
        imgsz: side, or (height, width), in pixels of the frames that the network sees, where it leaves that open.

    Attributes:
        session: what runs it.
        filters: what counts as a detection where a call does not say.

    Raises:
        SegcError: X201 where it cannot have this size.
        ValueError: where this is no size.
    """

    def __init__(self, session: Session, filters: Filters, imgsz: int | tuple[int, int] | None = None) -> None:
        self.session = session
        self.filters = filters
        from segc.prediction import resized

        self._metadata = resized(session.metadata, _sides(imgsz))
        self._turn = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its classes, in the order of their numbers."""
        return self._metadata.names

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the frames that the network sees; pictures of any size are fitted into it."""
        return self._metadata.imgsz

    @property
    def runtime(self) -> str:
        """What runs it, for people: "onnxruntime on the CPU"."""
        return self.session.runtime

    @property
    def metadata(self) -> Metadata:
        """What it says about itself."""
        return self._metadata

    def __repr__(self) -> str:
        height, width = self.size
        count = len(self.names)
        classes = f"{count} class{'' if count == 1 else 'es'}"
        return f"<Model of {classes}, {width}x{height}, {self._metadata.precision}, {self.runtime}>"

    @overload
    def __call__(self, frame: Frame, *, rgb: bool = False, **asked: Unpack[Asked]) -> Prediction: ...
    @overload
    def __call__(
        self, frame: list[Any] | tuple[Frame, ...], *, rgb: bool = False, **asked: Unpack[Asked]
    ) -> list[Prediction]: ...
    def __call__(
        self, frame: Frame | list[Any] | tuple[Frame, ...], *, rgb: bool = False, **asked: Unpack[Asked]
    ) -> Prediction | list[Prediction]:
        """Segment one frame, or each of a list or tuple.

        Args:
            frame: the name of an image file or an http(s) address; an array [H, W, 3] uint8 in BGR order, as OpenCV
                has it; a PIL image, turned as its EXIF orientation says; or a list or tuple of these.
            rgb: arrays are in RGB order.
            **asked: of :class:`Asked`, for this call; what the model was opened with where not given.

        Returns:
            What was found; of a list or tuple a list, in its order.

        Raises:
            SegcError: I001 where a name is that of nothing, or of more than one image, I002 where an image cannot be
                read, I005 where the model has left out already what is asked for, T006 where it cannot be run,
                X215 where there is no such class, I008 where something is asked of tiles and there are none.
            TypeError: where a frame is something else, or nothing is called as what is asked for.
            ValueError: where an array is of another shape or type, or a value that is asked for of another kind, or out
                of its bounds.
        """
        filters = self._asked(asked)
        if isinstance(frame, list | tuple):
            return [self._one(each, rgb, filters) for each in frame]
        return self._one(frame, rgb, filters)

    def stream(
        self,
        source: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str] | int],
        *,
        every: Literal["frame", "latest"] | None = None,
        stride: int = 1,
        **asked: Unpack[Asked],
    ) -> Iterator[Prediction]:
        """Segment what sources give, one by one: memory stays flat, whatever their length.

        Sources are found at once; they are read ahead by a thread of their own while the network runs.

        Args:
            source: files, folders, patterns, addresses, videos, numbers of cameras: what ``segc predict`` takes, one or
                a list.
            every: ``latest``, which holds where nothing is said, drops frames of live sources that are older than the
                newest one, ``frame`` has them wait. Of files nothing is ever dropped.
            stride: every such-and-such frame of videos and streams is taken.
            **asked: as for a call.

        Raises:
            SegcError: I001 where there are no sources; I002 where one cannot be read; I006 where the latest frames of
                files are asked for; else as for a call.
            TypeError: where a source is something else, or nothing is called as what is asked for.
            ValueError: as for a call; where ``every`` is something else, or ``stride`` no whole number from 1 up.
        """
        from segc.inference.filters import fitting
        from segc.prediction import reading

        one_of("every", every, (None, "frame", "latest"))
        stride = fitting("stride", stride, int, 1)
        filters = self._asked(asked)
        found = found_sources(
            [source] if isinstance(source, str | bytes) or not isinstance(source, Iterable) else source
        )
        taken = replace(reading(found, every, stride), in_parts=filters.tiles is not None)
        return self._stream(found, filters, taken)

    def _stream(self, found: Sequence[Source], filters: Filters, reading: Reading) -> Iterator[Prediction]:
        from segc.inference.filters import search_filters
        from segc.inference.frames import Ended, Unread, read_frames
        from segc.inference.pipeline import Line
        from segc.inference.tracking import Follower
        from segc.prediction import image_problem

        image_id = _image_ids(found)
        follower = None if filters.track is None else Follower(filters)
        searched = search_filters(filters, self._metadata)
        with Line() as line:
            for item in line.stage(read_frames(found, line, reading, lambda text: warnings.warn(text, stacklevel=2))):
                if isinstance(item, Unread):
                    raise image_problem(item.error)
                if isinstance(item, Ended):
                    for remark in item.tally.remarks():
                        warnings.warn(f"{item.source.name}: {remark}", stacklevel=2)
                    continue
                for remark in item.remarks():
                    warnings.warn(f"{item.source.name}: {remark}", stacklevel=2)
                yield self._predict(item.image, searched, item, image_id(item), follower)

    def _one(self, frame: Frame, rgb: bool, filters: Filters) -> Prediction:
        if isinstance(frame, str) or hasattr(frame, "__fspath__"):
            from segc.prediction import frame_of

            read = frame_of(str(frame), in_parts=filters.tiles is not None)
            for remark in read.remarks():
                warnings.warn(f"{read.source.name}: {remark}", stacklevel=3)
            return self._predict(read.image, filters, read, _image_ids([read.source])(read))
        return self._predict(_pixels(frame, rgb), filters)

    def _predict(
        self,
        image: NDArray[np.uint8],
        filters: Filters,
        frame: ReadFrame | None = None,
        image_id: int | str | None = None,
        follower: Follower | None = None,
    ) -> Prediction:
        from segc.inference.metadata import ModelError
        from segc.inference.predict import predict_image, predict_tiled
        from segc.inference.sources import ImageError
        from segc.prediction import image_problem
        from segc.results import Prediction

        name = "" if frame is None else frame.source.name
        picture = None if frame is None else frame.picture
        try:
            if picture is None or filters.tiles is None:
                found = predict_image(image, self._run, self._metadata, filters, name)
            else:
                found = predict_tiled(picture, self._run, self._metadata, filters, filters.tiles, path=name)
        except ModelError as error:
            raise fail("T006", str(error)) from None
        except ImageError as error:
            raise image_problem(error) from None
        is_still = frame is None or frame.seconds is None
        if follower is not None and frame is not None:
            found = follower.follow(found, None if is_still else frame.source, frame.index)
        if frame is None or is_still:
            return Prediction(found, image, picture=picture, image_id=image_id)
        return Prediction(found, image, frame=frame.index, seconds=frame.seconds, image_id=image_id)

    def _run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with self._turn:
            return self.session.run(images)

    def _asked(self, asked: Asked) -> Filters:
        """The model's filters with what a call asks for.

        Raises:
            SegcError: as ``segc.prediction.chosen_filters``.
            TypeError, ValueError: as :func:`named`.
        """
        given = named(asked)
        if not given:
            return self.filters
        from segc.prediction import chosen_filters

        own = {name: getattr(self.filters, name) for name in ("conf", "iou", "max_det")}
        chosen = chosen_filters(self._metadata, own | given, self.filters)
        return chosen if "conf" in given else replace(chosen, by_class=self.filters.by_class)


def _image_ids(sources: Sequence[Source]) -> Callable[[ReadFrame], int | str]:
    """What COCO's results call frames of these sources, as ``segc predict`` writes it."""
    from segc.inference.output import output_stems
    from segc.inference.writers import coco_image_id, coco_image_ids

    stems = dict(zip(sources, output_stems(sources), strict=True))
    given = coco_image_ids(list(stems.values()))

    def image_id(frame: ReadFrame) -> int | str:
        stem = stems[frame.source]
        return coco_image_id(stem, given[stem], None if frame.seconds is None else frame.index)

    return image_id


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """See that a value is one of these.

    Raises:
        ValueError: where it is not, with those that there are.
    """
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r:.60}")


def found_sources(sources: Iterable[object]) -> list[Source]:
    """What these name, see ``segc.prediction.find``.

    Raises:
        SegcError: I001 where there are none, or one names nothing.
        TypeError: where one is neither a path, an address nor a number.
    """
    from segc.prediction import find

    names = [_source_name(one) for one in sources]
    if not names:
        raise fail("I001", "no sources are given", help="name files, folders, patterns, addresses or cameras")
    return find(names)


def _source_name(source: object) -> str:
    if not isinstance(source, str | os.PathLike | numbers.Integral):
        raise TypeError(
            "a source is a path, an address or the number of a camera, or a list of these; "
            f"one of type {type(source).__name__} is none, but may be a frame to call the model with"
        )
    return str(source)


def _sides(imgsz: object) -> tuple[int, int] | None:
    """(height, width) of what is asked for as a side, or as both.

    Raises:
        ValueError: where it is neither.
    """
    if imgsz is None:
        return None
    from segc.inference.filters import fitting

    both = imgsz if isinstance(imgsz, list | tuple) else (imgsz, imgsz)
    if len(both) != 2:
        raise ValueError(f"imgsz is a side in pixels, or (height, width), not {imgsz!r:.60}")
    height, width = (fitting("imgsz", side, int, 1) for side in both)
    return height, width


def named(asked: Asked) -> dict[str, Any]:
    """What is asked for, by name, without what is None; numbers and truth values as Python's own.

    Raises:
        TypeError: where nothing is called so.
        ValueError: where a value is of another kind, or out of its bounds.
    """
    from segc.inference.filters import ASKED_VALUES, asked_value

    if unknown := asked.keys() - Asked.__annotations__.keys():
        raise TypeError(f"nothing called {min(unknown)!r} can be asked for, but {', '.join(Asked.__annotations__)}")
    given = {name: value for name, value in asked.items() if value is not None}
    return {name: asked_value(given, name) if name in ASKED_VALUES else value for name, value in given.items()}


def _pixels(frame: Any, rgb: bool) -> NDArray[np.uint8]:
    """A frame in memory as an image [h, w, 3] BGR.

    Raises:
        TypeError: where it is neither an array nor a PIL image.
        ValueError: where an array is of another shape or type.
    """
    import numpy as np

    if isinstance(frame, np.ndarray):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise ValueError(
                f"an array is [H, W, 3] uint8, with BGR or rgb=True; this is {list(frame.shape)} {frame.dtype}"
            )
        return frame[:, :, ::-1] if rgb else frame
    # Without importing PIL: whoever has made one of its images has done so.
    if hasattr(frame, "convert") and hasattr(frame, "getexif"):
        from PIL import ImageOps

        turned = ImageOps.exif_transpose(frame).convert("RGB")
        return np.asarray(turned, np.uint8)[:, :, ::-1]
    raise TypeError(
        "a frame is a path, an address, an array [H, W, 3] uint8 or a PIL image, or a list of these; "
        f"this is of type {type(frame).__name__}"
    )
