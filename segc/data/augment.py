"""Random changes of scenes after their pictures have been placed: colours, mirroring, blending, pasted objects."""

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.data.contours import outlines
from segc.data.geometry import LEAST_SIDE, LEAST_VISIBLE, least_side
from segc.data.samples import rasterise
from segc.data.scene import Parts, Scene, boxes_of

if TYPE_CHECKING:
    from segc.spec.hyperparameters import Augment

MOST_HIDDEN = 0.3
"""A pasted object may cover this share of the box of another one, at most."""

_HUES = 180
"""Hues that OpenCV tells apart in eight bits: one for two degrees."""


def recolour(image: NDArray[np.uint8], augment: "Augment", generator: np.random.Generator) -> NDArray[np.uint8]:
    """An RGB image [h, w, 3] with its hue turned, and saturation and brightness scaled, all at random."""
    turn, saturation, brightness = generator.uniform(-1, 1, 3) * (augment.hsv_h, augment.hsv_s, augment.hsv_v)
    if not (turn or saturation or brightness):
        return image
    values = np.arange(256)
    tables = np.stack(
        [
            (values + round(turn * _HUES)) % _HUES,
            np.clip(values * (1 + saturation), 0, 255),
            np.clip(values * (1 + brightness), 0, 255),
        ],
        axis=-1,
    )
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, tables.astype(np.uint8)[None]), cv2.COLOR_HSV2RGB), np.uint8)


def mirror(scene: Scene, *, sideways: bool, upside_down: bool) -> Scene:
    """A scene mirrored left to right, top to bottom, both, or neither."""
    if not (sideways or upside_down):
        return scene
    height, width = scene.image.shape[:2]
    axes = np.array([-1 if sideways else 1, -1 if upside_down else 1], np.float32)
    origin = np.array([width if sideways else 0, height if upside_down else 0], np.float32)
    code = -1 if sideways and upside_down else 1 if sideways else 0
    return replace(
        scene,
        image=np.asarray(cv2.flip(scene.image, code), np.uint8),
        objects=tuple(tuple(part * axes + origin for part in parts) for parts in scene.objects),
    )


def blend(scene: Scene, other: Scene, generator: np.random.Generator) -> Scene:
    """Two scenes of one size laid over each other, about half of each, with the objects of both.

    The method is mixup (arXiv 1710.09412); the share of the first comes from a beta distribution (32, 32).
    """
    share = generator.beta(32, 32)
    image = cv2.addWeighted(scene.image, share, other.image, 1 - share, 0)
    return Scene(np.asarray(image, np.uint8), scene.classes + other.classes, scene.objects + other.objects)


def paste_objects(scene: Scene, donor: Scene, probability: float, generator: np.random.Generator) -> Scene:
    """A scene with objects of another one of its size pasted in, each with a probability.

    An object is pasted where it covers no more than ``MOST_HIDDEN`` of any object's box. What it hides is cut out of
    the others, after the method of arXiv 2012.07177; one of which too little is left goes.
    """
    chosen = np.flatnonzero(generator.random(len(donor.objects)) < probability).tolist()
    if not chosen:
        return scene
    height, width = scene.image.shape[:2]
    image, classes, objects = scene.image.copy(), list(scene.classes), list(scene.objects)
    boxes = list(boxes_of(objects, height, width))
    for index, box in zip(chosen, boxes_of([donor.objects[index] for index in chosen], height, width), strict=True):
        if boxes and float(_covered(np.stack(boxes), box).max()) > MOST_HIDDEN:
            continue
        mask = rasterise(donor.objects[index], height, width)
        cv2.copyTo(donor.image, mask.view(np.uint8), image)
        left = [_without(one, around, mask, box) for one, around in zip(objects, boxes, strict=True)]
        classes = [number for number, parts in zip(classes, left, strict=True) if parts]
        objects = [parts for parts in left if parts] + [donor.objects[index]]
        classes.append(donor.classes[index])
        boxes = list(boxes_of(objects, height, width))
    return Scene(image, tuple(classes), tuple(objects))


def _covered(boxes: NDArray[np.float32], by: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of each box [n, 4] that another box covers."""
    sides = np.minimum(boxes[:, 2:], by[2:]) - np.maximum(boxes[:, :2], by[:2])
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(sides.clip(0).prod(axis=1) / np.maximum(whole, 1e-9), np.float32)


def _without(parts: Parts, box: NDArray[np.float32], mask: NDArray[np.bool_], around: NDArray[np.float32]) -> Parts:
    """What of an object is not under a mask; nothing where that is too little. Both have their boxes."""
    if not float(_covered(box[None], around)[0]):
        return parts
    drawn = rasterise(parts, *mask.shape)
    left = drawn & ~mask
    remains = int(left.sum())
    if remains == int(drawn.sum()):
        return parts
    pieces = outlines(left)
    if not pieces or remains < LEAST_VISIBLE * int(drawn.sum()) or least_side(pieces) < LEAST_SIDE:
        return ()
    return pieces
