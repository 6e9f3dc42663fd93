"""Predictions drawn on the photograph: tinted masks with outlines, boxes, labels."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.masks import STRIP_PIXELS, Mask
from segc.inference.results import Prediction

SMALLEST_SIDE = 160
"""Pictures whose longer side is shorter than this are enlarged, since no text can be read on them."""

MASK_OPACITY = 0.45

SMALLEST_TEXT = 0.38
"""Font scale of the smallest text that reads well, some 8 pixels high."""

MOST_HIDDEN = 0.4
"""A label that would hide the ones before it for more than this part of its area is left out."""

Colour = tuple[int, int, int]

UNNUMBERED: Colour = (128, 128, 128)
"""Colour (BGR) of what has no number where others have one."""


def class_colour(class_id: int) -> Colour:
    """A class's colour (BGR), the same always; neighbouring classes are far apart.

    Hues step by the golden ratio, so any number of first classes is spread around the circle; brightness and
    saturation change more slowly, to tell apart hues that come close.
    """
    hue = (0.55 + class_id * 0.618034) % 1.0
    saturation = (0.75, 1.0, 0.55)[class_id // 5 % 3]
    value = (0.8, 0.6, 1.0)[class_id // 7 % 3]
    red, green, blue = (round(channel * 255) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
    return blue, green, red


def _colours(prediction: Prediction) -> list[Colour]:
    """The colour of each detection: its class's, or one of its own where it has a number that stays with it."""
    if prediction.identities is None:
        return [class_colour(int(class_id)) for class_id in prediction.classes]
    return [class_colour(int(identity)) if identity else UNNUMBERED for identity in prediction.identities]


def _label(prediction: Prediction, index: int) -> str:
    identity = 0 if prediction.identities is None else int(prediction.identities[index])
    name = prediction.names[int(prediction.classes[index])]
    return f"{f'#{identity} ' if identity else ''}{name} {prediction.scores[index]:.2f}"


def ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white (BGR), whichever is read more easily on a colour; by its luma (ITU-R BT.601)."""
    return (0, 0, 0) if 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 140 else (255, 255, 255)


def draw_prediction(image: npt.NDArray[np.uint8], prediction: Prediction) -> npt.NDArray[np.uint8]:
    """The photograph with its detections drawn on it, as a new picture.

    Args:
        image: [h, w, 3] BGR, the photograph of the prediction, or a smaller picture of it.
        prediction: what was found on it.

    Returns:
        A picture of the same size, or a whole number of times larger where the photograph is tiny.
    """
    height, width = image.shape[:2]
    prediction = _fitted(prediction, height, width)
    factor = -(-SMALLEST_SIDE // max(height, width))
    canvas = image.copy()
    if factor > 1:
        canvas = np.array(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)
    line = max(1, round(max(canvas.shape[:2]) / 500))
    # Large things first, so that small ones lie on top of them.
    order = sorted(range(len(prediction)), key=lambda index: -prediction.masks[index].area)
    colours = _colours(prediction)
    for index in order:
        _draw_mask(canvas, prediction.masks[index], colours[index], factor, line)
    for index in order:
        x1, y1, x2, y2 = _pixel_box(prediction, index, factor, canvas)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colours[index], line)
    _draw_labels(canvas, prediction, colours, factor, line)
    return canvas


def _fitted(prediction: Prediction, height: int, width: int) -> Prediction:
    """A prediction on a smaller picture (height, width) of its photograph: of each mask the pixels nearest to those."""
    if (prediction.height, prediction.width) == (height, width):
        return prediction
    across, down = width / prediction.width, height / prediction.height
    masks = []
    for mask in prediction.masks:
        ys, xs = (
            np.arange(int(start * scale), min(int((start + length) * scale) + 1, limit))
            for start, length, scale, limit in zip(
                (mask.y, mask.x), mask.shape, (down, across), (height, width), strict=True
            )
        )
        rows, columns = (
            np.clip(((at + 0.5) / scale).astype(np.int64) - start, 0, max(length - 1, 0))
            for at, scale, start, length in zip((ys, xs), (down, across), (mask.y, mask.x), mask.shape, strict=True)
        )
        is_there = mask.pixels and ys.size and xs.size
        bitmap = mask.bitmap[np.ix_(rows, columns)] if is_there else np.zeros((0, 0), np.bool_)
        masks.append(Mask(int(xs[0]) if xs.size else 0, int(ys[0]) if ys.size else 0, bitmap))
    boxes = prediction.boxes * np.array([across, down] * 2, np.float32)
    return replace(prediction, height=height, width=width, boxes=boxes, masks=tuple(masks))


def _pixel_box(
    prediction: Prediction, index: int, factor: int, canvas: npt.NDArray[np.uint8]
) -> tuple[int, int, int, int]:
    """A detection's box in whole pixels of the picture, inside it."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = (round(float(side) * factor) for side in prediction.boxes[index])
    return min(x1, width - 1), min(y1, height - 1), min(x2, width - 1), min(y2, height - 1)


def _draw_mask(canvas: npt.NDArray[np.uint8], mask: Mask, colour: Colour, factor: int, line: int) -> None:
    if not mask.pixels:
        return
    bitmap = mask.bitmap if factor == 1 else mask.bitmap.repeat(factor, axis=0).repeat(factor, axis=1)
    x, y = mask.x * factor, mask.y * factor
    region = canvas[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
    tint = np.array(colour, np.float32) * MASK_OPACITY
    # What becomes of each brightness of a channel, looked up in strips: a mask may be as large as the largest image.
    tinted = np.arange(256, dtype=np.float32)[:, None] * np.float32(1 - MASK_OPACITY) + tint + np.float32(0.5)
    table = tinted.astype(np.uint8)[None]
    rows = max(1, STRIP_PIXELS // bitmap.shape[1])
    for first in range(0, bitmap.shape[0], rows):
        strip = region[first : first + rows]
        cv2.copyTo(cv2.LUT(strip, table), bitmap[first : first + rows].view(np.uint8), strip)
    outlines, _ = cv2.findContours(bitmap.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    cv2.drawContours(canvas, outlines, -1, colour, line, cv2.LINE_AA)


def _draw_labels(
    canvas: npt.NDArray[np.uint8], prediction: Prediction, colours: Sequence[Colour], factor: int, line: int
) -> None:
    """Labels last, the best detection's first, each where it hides least of those before it, or not at all."""
    height, width = canvas.shape[:2]
    font, thickness, pad = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(line * 0.9)), max(2, line * 2)
    # In a crowd the text is smaller, down to half.
    crowd = min(1.0, max(0.5, (20 / max(1, len(prediction))) ** 0.5))
    scale = max(SMALLEST_TEXT, max(height, width) / 1500 * crowd)
    taken = np.zeros((0, 4), np.int64)
    for index in range(len(prediction)):
        text = _label(prediction, index)
        (text_width, text_height), below = cv2.getTextSize(text, font, scale, thickness)
        shrunk = scale * min(1.0, (width - 2 * pad) / max(1, text_width))
        if shrunk < scale:
            (text_width, text_height), below = cv2.getTextSize(text, font, shrunk, thickness)
        size = (text_width + 2 * pad, text_height + below + pad)
        x1, y1, x2, y2 = _pixel_box(prediction, index, factor, canvas)
        corners = ((x1, y1 - size[1]), (x1, y1), (x2 - size[0], y2 - size[1]), (x1, y2), (x2 - size[0], y1 - size[1]))
        places = np.array([_inside(corner, size, width, height) for corner in corners])
        hidden = _common_areas(places, taken)
        best = int(hidden.argmin())
        if hidden[best] > MOST_HIDDEN * size[0] * size[1]:
            continue
        place: tuple[int, int, int, int] = tuple(places[best].tolist())
        taken = np.concatenate([taken, [place]])
        colour = colours[index]
        cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), colour, cv2.FILLED)
        ink = ink_on(colour)
        at = (place[0] + pad, place[1] + pad // 2 + text_height)
        cv2.putText(canvas, text, at, font, shrunk, ink, thickness, cv2.LINE_AA)


def _inside(corner: tuple[int, int], size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """A rectangle (x1, y1, x2, y2) of ``size`` (width, height), moved into the picture."""
    x = max(0, min(corner[0], width - size[0]))
    y = max(0, min(corner[1], height - size[1]))
    return x, y, x + size[0], y + size[1]


def _common_areas(places: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pixels of rectangles [m, 4] (x1, y1, x2, y2) that lie in ``others`` [n, 4], each of these counted on its own."""
    ends = np.minimum(places[:, None, 2:], others[:, 2:])
    common = np.maximum(ends - np.maximum(places[:, None, :2], others[:, :2]), 0)
    return np.asarray(common.prod(axis=2).sum(axis=1), np.int64)
