"""Pictures of a report: objects drawn on images, and images as data URIs."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.data.samples import Sample, rasterise
from segc.inference.draw import class_colour, ink_on
from segc.inference.results import Prediction

_OPACITY = 0.45
_QUALITY = 82
"""JPEG quality: the pictures are for looking at."""

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An object to draw.

    Attributes:
        class_id: gives the colour.
        label: written at the box.
        box: (x1, y1, x2, y2) in pixels of the picture.
        mask: [h, w] of the picture.
    """

    class_id: int
    label: str
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


def draw(image: Image, objects: Sequence[Drawn]) -> Image:
    """A copy of an image [h, w, 3] BGR with tinted masks, their outlines, boxes and labels; large objects below."""
    canvas = image.copy()
    ordered = sorted(objects, key=lambda one: -int(one.mask.sum()))
    for one in ordered:
        colour = class_colour(one.class_id)
        canvas[one.mask] = (canvas[one.mask] * (1 - _OPACITY) + np.array(colour) * _OPACITY).astype(np.uint8)
        outlines, _ = cv2.findContours(one.mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, outlines, -1, colour, 1, cv2.LINE_AA)
    for one in ordered:
        x1, y1, x2, y2 = (round(side) for side in one.box)
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), class_colour(one.class_id), 1)
    for one in ordered:
        _write(canvas, one)
    return canvas


def _write(canvas: Image, one: Drawn) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.36
    (width, height), below = cv2.getTextSize(one.label, font, scale, 1)
    x = max(0, min(round(one.box[0]), canvas.shape[1] - width - 4))
    y = max(round(one.box[1]), height + below + 2)
    colour = class_colour(one.class_id)
    cv2.rectangle(canvas, (x, y - height - below - 1), (x + width + 4, y), colour, cv2.FILLED)
    cv2.putText(canvas, one.label, (x + 2, y - below + 1), font, scale, ink_on(colour), 1, cv2.LINE_AA)


def fit(image: Image, longest: int) -> Image:
    """An image whose longer side is ``longest`` pixels, but for small ones, which are at most doubled."""
    height, width = image.shape[:2]
    ratio = min(2.0, longest / max(height, width))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def truth(sample: Sample, size: tuple[int, int], names: Sequence[str]) -> list[Drawn]:
    """The labelled objects of an image, for a picture of it of (height, width)."""
    height, width = size
    drawn = []
    for instance in sample.instances:
        parts = [polygon * np.array([width, height], np.float32) for polygon in instance.polygons]
        points = np.concatenate(parts)
        box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        label = f"{names[instance.class_id]}{' (crowd)' if instance.is_crowd else ''}"
        drawn.append(Drawn(instance.class_id, label, box, rasterise(parts, height, width)))
    return drawn


def predicted(prediction: Prediction, size: tuple[int, int]) -> list[Drawn]:
    """What was found on an image, for a picture of it of (height, width)."""
    height, width = size
    ratio = np.array([width / prediction.width, height / prediction.height] * 2)
    drawn = []
    for index, mask in enumerate(prediction.masks):
        full = mask.full(prediction.height, prediction.width).view(np.uint8)
        small = np.asarray(cv2.resize(full * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA)) > 127
        x1, y1, x2, y2 = (prediction.boxes[index] * ratio).tolist()
        class_id = int(prediction.classes[index])
        label = f"{prediction.names[class_id]} {prediction.scores[index]:.2f}"
        drawn.append(Drawn(class_id, label, (x1, y1, x2, y2), small))
    return drawn


def mosaic(images: Sequence[Image], columns: int) -> Image:
    """Images of one size side by side in rows, on white where the last row is not full."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    gap = 4
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = index // columns * (height + gap), index % columns * (width + gap)
        canvas[y : y + height, x : x + width] = image
    return canvas


def data_uri(image: Image) -> str:
    """An image [h, w, 3] BGR as a JPEG that a page can hold."""
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
