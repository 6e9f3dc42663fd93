"""What a model found on one frame, as people work with it: arrays, tables, pictures, other libraries' objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import supervision
    from numpy.typing import NDArray

    from segc.inference.results import Prediction as Found
    from segc.inference.tiles import Picture


_Array = TypeVar("_Array", bound="NDArray[Any]")


def _read_only(array: _Array) -> _Array:
    """The same memory, as an array through which it cannot be written."""
    view = array.view()
    view.setflags(write=False)
    return view


class Prediction:
    """Objects found on one frame, best score first. Never changes: selecting gives another one, arrays are read-only.

    ``prediction[0]``, ``prediction[2:5]`` and ``prediction[prediction.scores > 0.5]`` are predictions with those
    objects alone; iterating gives one for each object. In a notebook it shows itself as a picture.

    Args:
        found: what the model found.
        image: [h, w, 3] uint8 BGR, the frame; not copied. Of a picture that was read in parts, a smaller one of it.
        picture: what such a picture is read from.
        frame: number of the frame in a video or stream, from 0; None for a photograph.
        seconds: since the beginning of the video or stream; None for a photograph.
        image_id: what COCO's results call the frame; made of the path where it is not given, see :meth:`to_coco`.

    Attributes:
        found: everything that was found, as ``segc.inference.results.Prediction``: its ``masks`` are bitmaps of the
            regions that hold them, which take far less memory than ``masks`` here.
        image: [h, w, 3] uint8 BGR, the frame. Of a file that was read in parts, for its tiles, it is a smaller picture:
            its longer side has 2,048 pixels or more; all else here is in pixels of the whole one.
        frame: number of the frame in a video or stream, from 0; None for a photograph.
        seconds: since the beginning of the video or stream; None for a photograph.
    """

    __slots__ = ("_image_id", "_picture", "found", "frame", "image", "seconds")

    def __init__(
        self,
        found: Found,
        image: NDArray[np.uint8],
        *,
        picture: Picture | None = None,
        frame: int | None = None,
        seconds: float | None = None,
        image_id: int | str | None = None,
    ) -> None:
        self.found = replace(
            found,
            boxes=_read_only(found.boxes),
            scores=_read_only(found.scores),
            classes=_read_only(found.classes),
            identities=None if found.identities is None else _read_only(found.identities),
        )
        self.image = _read_only(image)
        self._picture = picture
        self.frame = frame
        self.seconds = seconds
        self._image_id = image_id

    @property
    def path(self) -> str:
        """The source as it was named; empty for an array or a picture in memory."""
        return self.found.path

    @property
    def height(self) -> int:
        """Of the frame in pixels."""
        return self.found.height

    @property
    def width(self) -> int:
        """Of the frame in pixels."""
        return self.found.width

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes, in the order of their numbers."""
        return self.found.names

    @property
    def boxes(self) -> NDArray[np.float32]:
        """[n, 4] float32 (x1, y1, x2, y2) in pixels of the frame, inside it."""
        return self.found.boxes

    @property
    def scores(self) -> NDArray[np.float32]:
        """[n] float32 in 0..1, falling."""
        return self.found.scores

    @property
    def classes(self) -> NDArray[np.int64]:
        """[n] int64, numbers of the classes."""
        return self.found.classes

    @property
    def labels(self) -> list[str]:
        """Names of the n objects' classes."""
        return [self.names[int(number)] for number in self.classes]

    @property
    def identities(self) -> NDArray[np.int64] | None:
        """[n] int64 where objects are followed from frame to frame, 0 for one without a number yet; else None."""
        return self.found.identities

    @property
    def left_out(self) -> int:
        """How many more were found whose masks would take more memory than ``mask_memory`` allows."""
        return self.found.left_out

    @property
    def masks(self) -> NDArray[np.bool_]:
        """[n, h, w] bool, made anew each time: n times as many bytes as the frame has pixels. See :meth:`mask`."""
        full = np.zeros((len(self), self.height, self.width), np.bool_)
        for canvas, mask in zip(full, self.found.masks, strict=True):
            rows, columns = mask.shape
            canvas[mask.y : mask.y + rows, mask.x : mask.x + columns] = mask.bitmap
        return full

    def mask(self, index: int) -> NDArray[np.bool_]:
        """[h, w] bool, the mask of one object.

        Raises:
            IndexError: where there is no such object.
        """
        return self.found.masks[index].full(self.height, self.width)

    @property
    def areas(self) -> NDArray[np.int64]:
        """[n] int64, pixels of the masks."""
        return np.array([mask.area for mask in self.found.masks], np.int64)

    @property
    def polygons(self) -> list[list[NDArray[np.int32]]]:
        """For each object its outer outlines, largest first: int32 [k, 2] of pixels (x, y); holes are left out."""
        return [mask.polygons() for mask in self.found.masks]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Prediction]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[Any]) -> Prediction:
        """The objects of these rows: one, a slice, numbers, or [n] bool.

        Raises:
            IndexError: where there is no such row.
        """
        chosen = np.atleast_1d(np.arange(len(self))[rows if isinstance(rows, int | slice) else np.asarray(rows)])
        return Prediction(
            self.found.select(chosen),
            self.image,
            picture=self._picture,
            frame=self.frame,
            seconds=self.seconds,
            image_id=self._image_id,
        )

    def filter(
        self,
        classes: str | int | Sequence[str | int] | None = None,
        *,
        score: float | None = None,
        area: tuple[float, float] | float | None = None,
    ) -> Prediction:
        """The objects that meet all of these.

        Args:
            classes: names or numbers of classes, one or several.
            score: in 0..1; scores at or below it are left out.
            area: least pixels of a mask, or the least and the most.

        Raises:
            ValueError: where there is no such class, score or area, or the least area is above the most.
        """
        from segc.inference.filters import class_numbers, fitting

        kept = np.ones(len(self), np.bool_)
        if classes is not None:
            kept &= np.isin(self.classes, class_numbers(classes, self.names))
        if score is not None:
            kept &= self.scores > fitting("score", score, float, 0, 1)
        if area is not None:
            bounds = area if isinstance(area, tuple) else (area, np.inf)
            if len(bounds) != 2:
                raise ValueError(f"area is the least pixels of a mask, or the least and the most, not {area!r:.60}")
            least, most = (fitting("area", bound, float, 0) for bound in bounds)
            if least > most:
                raise ValueError(f"area is the least pixels of a mask and the most, not {area!r:.60}")
            kept &= (self.areas >= least) & (self.areas <= most)
        return self[kept]

    def counts(self) -> dict[str, int]:
        """Objects by class name, in class order."""
        return self.found.counts()

    def __repr__(self) -> str:
        place = f"{self.path!r}, " if self.path else ""
        moment = "" if self.frame is None else f"frame {self.frame}, "
        found = replace(self.found, left_out=0).summary()
        more = f"; {self.left_out} more left out, whose masks mask_memory does not allow" if self.left_out else ""
        return f"<Prediction {place}{moment}{self.width}x{self.height}: {found}{more}>"

    def plot(self) -> NDArray[np.uint8]:
        """[h, w, 3] uint8 BGR: the frame with masks, boxes and labels drawn on it; tiny frames are enlarged."""
        from segc.inference.draw import draw_prediction

        return draw_prediction(self.image, self.found)

    def crop(self, *, background: tuple[int, int, int] | None = None) -> list[NDArray[np.uint8]]:
        """What each box holds of the frame: n copies [h, w, 3] uint8 BGR of at least one pixel.

        Args:
            background: colour (blue, green, red) in 0..255 of what does not belong to the object; None leaves it.
        """
        from segc.inference.tiles import DecodedPicture
        from segc.inference.writers import pixel_boxes

        picture = self._picture or DecodedPicture(self.image)
        crops = []
        for ends, mask in zip(pixel_boxes(self.boxes, self.height, self.width), self.found.masks, strict=True):
            part = picture.region(*ends).copy()
            if background is not None:
                part[~mask.within(*ends)] = background
            crops.append(part)
        return crops

    def to_json(self) -> dict[str, Any]:
        """As JSON values: ``image``, ``height``, ``width``, ``frame`` and ``seconds`` of a video, and ``detections``.

        A detection has ``class_id``, ``class``, ``score``, ``box`` [x1, y1, x2, y2], ``area``, ``polygons`` and
        ``mask``, COCO's uncompressed run lengths; where objects are followed ``track`` as well, null for one without a
        number yet.
        """
        record = self.found.to_json()
        found = record.pop("detections")
        moment = {} if self.frame is None else {"frame": self.frame, "seconds": self.seconds}
        return {**record, **moment, "detections": found}

    def to_coco(
        self, image_id: int | str | None = None, categories: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results, an object each: ``image_id``, ``category_id``, ``bbox``, ``score``, ``segmentation``.

        Args:
            image_id: the image's; where it is not given, what ``segc predict --save coco`` writes for the same sources:
                the number that the file's name is, else its stem, and of a video the frame's number behind it,
                ``clip/000025``.
            categories: ids of the classes' categories in the order of the classes; counted from 1 where not given, as
                ``segc data convert --to coco`` does.

        Returns:
            ``bbox`` is [x, y, width, height] in pixels, ``segmentation`` compressed run lengths,
            ``{"size": [height, width], "counts": text}``; all of it values for JSON. An object that is followed and has
            its number has it as ``track_id``.

        Raises:
            ValueError: where there are not as many categories as classes, or an id is no whole number or that of two.
        """
        from segc.inference.filters import fitting
        from segc.inference.writers import coco_rows

        given = self._own_image_id() if image_id is None else image_id
        # JSON holds no numbers of NumPy.
        own = given if isinstance(given, str) else fitting("image_id", given, int)
        if categories is not None:
            if len(categories) != len(self.names):
                raise ValueError(f"there are {len(categories)} categories for {len(self.names)} classes")
            categories = [fitting("a category's id", one, int) for one in categories]
            if shared := [one for one, times in Counter(categories).items() if times > 1]:
                raise ValueError(f"{shared[0]} is the category of several classes: each has one of its own")
        return list(coco_rows(self.found, own, categories))

    def _own_image_id(self) -> int | str:
        if self._image_id is not None:
            return self._image_id
        from pathlib import PurePath

        from segc.inference.writers import coco_image_id, coco_image_ids

        stem = PurePath(self.path).stem
        return coco_image_id(stem, coco_image_ids([stem])[stem], self.frame)

    def to_supervision(self) -> supervision.Detections:
        """As supervision's detections, ``class_name`` among their data; needs ``pip install 'segc[supervision]'``.

        ``tracker_id`` is an array wherever objects are followed, -1 for one without a number yet; else None.
        """
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=self.masks,
            confidence=self.scores.copy(),
            class_id=self.classes.copy(),
            tracker_id=None if self.identities is None else np.where(self.identities > 0, self.identities, -1),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    def to_pandas(self) -> pd.DataFrame:
        """A row an object; needs ``pip install 'segc[pandas]'``.

        Columns: ``class_id``, ``class``, ``score``, ``x1``, ``y1``, ``x2``, ``y2`` and ``area`` in pixels; ``identity``
        (Int64, missing for one without a number yet) where objects are followed, ``frame`` and ``seconds`` of a video.
        """
        import pandas as pd

        columns: dict[str, Any] = {"class_id": self.classes, "class": self.labels, "score": self.scores}
        columns |= dict(zip(("x1", "y1", "x2", "y2"), self.boxes.T, strict=True))
        columns["area"] = self.areas
        if self.identities is not None:
            columns["identity"] = pd.Series(self.identities, dtype="Int64").where(self.identities > 0)
        if self.frame is not None:
            columns |= {"frame": self.frame, "seconds": self.seconds}
        return pd.DataFrame(columns)

    def _repr_png_(self) -> bytes:
        from segc.inference.output import encode_picture

        return encode_picture(self.plot(), ".png")
