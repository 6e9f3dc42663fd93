"""What predictions are written as: files for each picture, and tables with something of every picture."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.draw import draw_prediction
from segc.inference.frames import Frame
from segc.inference.masks import Mask
from segc.inference.output import (
    crop_place,
    encode_picture,
    frame_place,
    index_place,
    label_place,
    mask_place,
    overlay_suffix,
)
from segc.inference.results import Prediction, json_line, json_record, json_text, label_text
from segc.inference.tiles import DecodedPicture

PictureFiles = Iterable[tuple[PurePosixPath, bytes]]
"""Places and contents of files, made one by one as they are asked for."""

MOST_NUMBERED = 65_535
"""Objects that a PNG of 16 bits has numbers for."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame with what was found on it, as writers want it.

    Attributes:
        frame: the frame.
        prediction: what was found.
        stem: name of the source, as no other source of the run has it.
        runtime: what ran the model.
        image_id: what COCO's results call a photograph, see `coco_image_ids`.
    """

    frame: Frame
    prediction: Prediction
    stem: str
    runtime: str = ""
    image_id: int | str = ""

    @property
    def place(self) -> str:
        """Path without a suffix for what is written of this frame: that of a video has the frame's number in it."""
        return self.stem if self.frame.seconds is None else frame_place(self.stem, self.frame.index)

    def objects(self) -> list[tuple[int, str, Mask]]:
        """Number (from 1, in the order of the records), class name and mask of each detection."""
        found = self.prediction
        names = [found.names[int(class_id)] for class_id in found.classes]
        return list(zip(range(1, len(found) + 1), names, found.masks, strict=True))


def overlay_file(shown: Shown) -> PictureFiles:
    """The photograph with its detections drawn on it. A video gets one annotated video instead."""
    if shown.frame.seconds is not None:
        return []
    suffix = overlay_suffix(shown.frame.source)
    picture = draw_prediction(shown.frame.image, shown.prediction)
    return [(PurePosixPath(shown.place + suffix), encode_picture(picture, suffix))]


def label_file(shown: Shown) -> PictureFiles:
    """A YOLO label file."""
    return [(label_place(shown.place), label_text(shown.prediction).encode())]


def pixel_boxes(boxes: npt.NDArray[np.float32], height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Boxes [n, 4] as (x1, y1, x2, y2) of the whole pixels that they touch, at least one, inside [height, width]."""
    found = []
    for x1, y1, x2, y2 in boxes:
        left, top = min(int(x1), width - 1), min(int(y1), height - 1)
        found.append((left, top, max(int(np.ceil(x2)), left + 1), max(int(np.ceil(y2)), top + 1)))
    return found


def crop_files(shown: Shown) -> PictureFiles:
    """What each box holds of the picture, in a folder a class."""
    suffix = overlay_suffix(shown.frame.source)
    picture = shown.frame.picture or DecodedPicture(shown.frame.image)
    boxes = pixel_boxes(shown.prediction.boxes, *picture.size)
    for (number, name, _), ends in zip(shown.objects(), boxes, strict=True):
        content = encode_picture(np.ascontiguousarray(picture.region(*ends)), suffix)
        yield crop_place(name, shown.place, number, suffix), content


def mask_pictures(shown: Shown) -> PictureFiles:
    """A PNG an object, white where it is, in a folder a picture: what ``format: masks`` of a dataset reads."""
    canvas = np.zeros((shown.prediction.height, shown.prediction.width), np.uint8)
    for number, name, mask in shown.objects():
        area = canvas[mask.y : mask.y + mask.shape[0], mask.x : mask.x + mask.shape[1]]
        np.multiply(mask.bitmap, np.uint8(255), out=area)
        yield mask_place(name, shown.place, number), encode_picture(canvas, ".png")
        area[:] = 0


def index_picture(shown: Shown) -> PictureFiles:
    """One PNG of 16 bits with the numbers of the objects, 0 elsewhere; where two overlap, the better one's."""
    found = shown.prediction
    if len(found) > MOST_NUMBERED:
        raise ValueError(
            f"{len(found)} objects, and a PNG of 16 bits numbers {MOST_NUMBERED}: a higher --conf leaves fewer"
        )
    canvas = np.zeros((found.height, found.width), np.uint16)
    for number, _, mask in reversed(shown.objects()):
        rows, columns = mask.shape
        canvas[mask.y : mask.y + rows, mask.x : mask.x + columns][mask.bitmap] = number
    return [(index_place(shown.place), encode_picture(canvas, ".png"))]


def frame_fields(frame: Frame) -> dict[str, Any]:
    """Where a record's frame stands in its video; nothing for a photograph."""
    return {} if frame.seconds is None else {"frame": frame.index, "seconds": frame.seconds}


def record_text(shown: Shown) -> list[str]:
    """The frame's record, on several lines."""
    return [json_record(_head(shown), shown.prediction.records())]


def record_line(shown: Shown) -> list[str]:
    """The frame's record on one line."""
    return [json_line(_head(shown), shown.prediction.records())]


def _head(shown: Shown) -> dict[str, Any]:
    return {**shown.prediction.head(), **frame_fields(shown.frame), "runtime": shown.runtime}


def coco_results(shown: Shown) -> list[str]:
    """COCO's results, one object a line."""
    index = None if shown.frame.seconds is None else shown.frame.index
    image_id = coco_image_id(shown.stem, shown.image_id, index)
    return [json_text(row) for row in coco_rows(shown.prediction, image_id)]


def coco_image_id(stem: str, image_id: int | str, index: int | None) -> int | str:
    """What COCO's results call a frame: that of a video has the video's stem and its number, ``clip/000025``.

    Args:
        stem: name of the source, as no other source of the run has it.
        image_id: of a photograph, see `coco_image_ids`.
        index: number of the frame in a video or stream; None for a photograph.
    """
    return image_id if index is None else frame_place(stem, index)


def coco_image_ids(stems: Sequence[str]) -> dict[str, int | str]:
    """What COCO's results call photographs, by the stems of their files, which are all different.

    It is the number that a stem is, else the stem; so, too, where several are the same number: ``7`` and ``007``.
    """
    numbers = {stem: int(stem) for stem in stems if stem.isascii() and stem.isdigit()}
    times = Counter(numbers.values())
    return {stem: numbers[stem] if times[numbers.get(stem, -1)] == 1 else stem for stem in stems}


def coco_rows(
    found: Prediction, image_id: int | str, categories: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """COCO's results of one image.

    Args:
        found: what was found.
        image_id: the image's.
        categories: ids of the classes' categories, in the order of the classes; where not given they are counted from
            1, as ``segc data convert --to coco`` counts them.

    Yields:
        A row an object; where objects are followed with ``track_id``, its number, where it has one.
    """
    identities = [0] * len(found) if found.identities is None else found.identities.tolist()
    for mask, class_id, score, box, identity in zip(
        found.masks, found.classes, found.scores, found.boxes, identities, strict=True
    ):
        x1, y1, x2, y2 = (float(side) for side in box)
        counts = compressed_counts(mask.run_lengths(found.height, found.width))
        yield {
            "image_id": image_id,
            "category_id": int(class_id) + 1 if categories is None else categories[int(class_id)],
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(score), 5),
            "segmentation": {"size": [found.height, found.width], "counts": counts},
            **({"track_id": identity} if identity else {}),
        }


def compressed_counts(runs: list[int]) -> str:
    """COCO's compressed form of run lengths.

    Each is written, from the fourth on as the difference to the one before the last, in digits of five bits and one
    that says whether more follow, least first, as characters from ``0`` on.
    """
    text = []
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            digit, value = value & 31, value >> 5
            is_last = value == (-1 if digit & 16 else 0)
            text.append(chr(48 + (digit if is_last else digit | 32)))
            if is_last:
                break
    return "".join(text)


CSV_HEAD = "image,frame,seconds,object,track,class_id,class,score,x1,y1,x2,y2,area\n"
"""The table's columns; ``object`` counts from 1 in the order of the records."""


def csv_rows(shown: Shown) -> list[str]:
    """A row an object; a picture without any has none."""
    found, fields = shown.prediction, frame_fields(shown.frame)
    rows = []
    for (number, name, mask), class_id, score, box in zip(
        shown.objects(), found.classes, found.scores, found.boxes, strict=True
    ):
        identity = 0 if found.identities is None else int(found.identities[number - 1])
        place = [found.path, fields.get("frame", ""), fields.get("seconds", ""), number, identity or ""]
        sides = [f"{side:.2f}" for side in box]
        rows.append(csv_row([*place, int(class_id), name, f"{score:.5f}", *sides, mask.area]))
    return rows


def csv_row(values: "list[Any] | tuple[Any, ...]") -> str:
    """One row, quoted where it must be, without its end."""
    line = io.StringIO()
    end = "\r\n"  # what is in it is quoted elsewhere
    csv.writer(line, lineterminator=end).writerow(values)
    return line.getvalue().removesuffix(end)


@dataclass(frozen=True, slots=True)
class Table:
    """A file with something of every picture.

    Attributes:
        name: of the file.
        rows: its texts for a picture.
        head: what it begins with.
        between: what parts one text from the next.
        foot: what it ends with.
        empty: what it is where there are no texts.
        grows: it is written line by line, and whole lines are all that is in it at any time; else it is there whole
            once everything is predicted, or not at all.
    """

    name: str
    rows: Callable[[Shown], list[str]]
    head: str = ""
    between: str = "\n"
    foot: str = "\n"
    empty: str = ""
    grows: bool = True


JSON_LIST: Mapping[str, Any] = {"head": "[\n", "between": ",\n", "foot": "\n]\n", "empty": "[]\n", "grows": False}
"""How a list of JSON is put together."""

PICTURES: Mapping[str, Callable[[Shown], PictureFiles]] = {
    "overlay": overlay_file,
    "txt": label_file,
    "crops": crop_files,
    "masks": mask_pictures,
    "index": index_picture,
}
"""What is written for every picture, by what ``--save`` calls it."""


@cache
def tables() -> dict[str, Table]:
    """What is written for all pictures together, by what ``--save`` calls it."""
    return {
        "json": Table("predictions.json", record_text, **JSON_LIST),
        "jsonl": Table("predictions.jsonl", record_line),
        "coco": Table("coco_results.json", coco_results, **JSON_LIST),
        "csv": Table("predictions.csv", csv_rows, head=CSV_HEAD),
    }


SAVED = {
    "overlay": "pictures and videos with what was found drawn on them",
    "json": "predictions.json, everything found",
    "jsonl": "predictions.jsonl, a line a frame, valid at any time",
    "coco": "coco_results.json, as COCO's tools read results",
    "csv": "predictions.csv, a row an object",
    "txt": "labels/, YOLO label files",
    "crops": "crops/, what each box holds",
    "masks": "masks/, a PNG an object",
    "index": "index/, a PNG with the objects' numbers",
}
"""What can be written, for whoever is asked."""
