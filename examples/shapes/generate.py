"""Draw the shapes data set: textured pictures of overlapping shapes with YOLO polygon labels.

    python generate.py [--train 960] [--val 96] [--seed 0] [--output FOLDER]

Six classes, drawn at random place, size, rotation, colour and texture on random textures, under stray lines, blur and
noise. Later shapes hide parts of earlier ones, and a label outlines only what can be seen of its object, as one
polygon without holes; a shape that would cut another one in pieces, pierce it or hide most of it is put elsewhere.
Every picture has a random stream of its own, taken from (seed, split, number): the same arguments give the same bytes.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SIZES = ((176, 176), (160, 192), (192, 160))
"""Heights and widths of the pictures, in pixels."""
DETAIL = 4
"""Masks are drawn this many times finer than the picture, which gives soft edges and exact outlines."""
SMALLEST_AREA = 120.0
"""Fewest visible pixels that a labelled object may have."""
LEAST_VISIBLE = 0.7
"""Share of an object that must be seen: of less, nobody could tell what it is."""
LEAST_CONTRAST = 100.0
"""Distance (0..441) of an object's colour from what it covers."""

Mask = NDArray[np.uint8]
Picture = NDArray[np.float32]


def _turned(radii: NDArray[np.float64], start: float = 0.0) -> NDArray[np.float64]:
    """Corners at these distances from the centre, at even angles."""
    angles = start + np.arange(len(radii)) * (2 * np.pi / len(radii))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _circle(rng: Generator) -> NDArray[np.float64]:
    return _turned(np.ones(72)) * [1.0, rng.uniform(0.75, 1.0)]


def _square(rng: Generator) -> NDArray[np.float64]:
    return _turned(np.ones(4), np.pi / 4) * [1.0, rng.uniform(0.75, 1.0)]


def _triangle(rng: Generator) -> NDArray[np.float64]:
    return _turned(np.ones(3)) * [1.0, rng.uniform(0.8, 1.1)]


def _star(rng: Generator) -> NDArray[np.float64]:
    return _turned(np.tile([1.0, rng.uniform(0.4, 0.5)], 5))


def _cross(rng: Generator) -> NDArray[np.float64]:
    a, b = 0.95, rng.uniform(0.28, 0.38)
    quarter = np.array([[a, -b], [a, b], [b, b]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _crescent(rng: Generator) -> NDArray[np.float64]:
    """A disc less a smaller disc: the outer arc one way, the inner arc back between the same two points."""
    tip = rng.uniform(0.8, 1.0)
    outer = np.linspace(tip, 2 * np.pi - tip, 48)
    centre, radius = 0.55, float(np.hypot(np.cos(tip) - 0.55, np.sin(tip)))
    bend = np.arctan2(np.sin(tip), np.cos(tip) - centre)
    inner = np.linspace(2 * np.pi - bend, bend, 32)
    back = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), back])


CLASSES: dict[str, Callable[[Generator], NDArray[np.float64]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
}
"""Each class with the function that gives its outline in the unit circle; the order gives the class numbers."""


@dataclass
class Shape:
    """One object: its class, what can still be seen of it, and its whole area; both in fine pixels."""

    class_id: int
    visible: Mask
    whole_area: int


def _filled(outline: NDArray[np.int32], height: int, width: int) -> Mask:
    return np.asarray(cv2.fillPoly(np.zeros((height, width), np.uint8), [outline], 1), np.uint8)


def _outline(visible: Mask) -> tuple[NDArray[np.int32], float] | None:
    """Outline of the largest visible piece, and how much of the visible area it stands for (holes count against it)."""
    contours, _ = cv2.findContours(visible, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    largest = np.asarray(max(contours, key=cv2.contourArea), np.int32)
    filled = _filled(largest, *visible.shape)
    union = cv2.countNonZero(filled | visible)
    outline = cv2.approxPolyDP(largest, 1.0, closed=True)[:, 0].astype(np.int32)
    return outline, cv2.countNonZero(filled & visible) / union


def _labelled_well(shape: Shape, visible: Mask) -> bool:
    """Whether one polygon says truly what would be left to see of a shape."""
    area = cv2.countNonZero(visible)
    if area < SMALLEST_AREA * DETAIL**2 or area < LEAST_VISIBLE * shape.whole_area:
        return False
    found = _outline(visible)
    return found is not None and len(found[0]) >= 3 and found[1] >= 0.97


def _place(rng: Generator, shapes: list[Shape], height: int, width: int) -> Mask | None:
    """Try to lay one more shape on the others. Returns its mask, or None where it would spoil one of them."""
    class_id = int(rng.integers(len(CLASSES)))
    corners = tuple(CLASSES.values())[class_id](rng)
    radius = 14.0 * (40.0 / 14.0) ** rng.random()
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(-0.1, 1.1, 2) * [width, height] * 0.9 + np.array([width, height]) * 0.05
    points = np.rint((corners @ turn * radius + centre) * DETAIL).astype(np.int32)

    whole = cv2.contourArea(points.reshape(-1, 1, 2))
    mask = _filled(points, height * DETAIL, width * DETAIL)
    new = Shape(class_id, mask, int(whole))
    remaining = [shape.visible & (1 - mask) for shape in shapes]
    changed = [
        (shape, visible)
        for shape, visible in zip(shapes, remaining, strict=True)
        if cv2.countNonZero(shape.visible & mask)
    ]
    if not all(_labelled_well(shape, visible) for shape, visible in [*changed, (new, mask)]):
        return None
    for shape, visible in zip(shapes, remaining, strict=True):
        shape.visible = visible
    shapes.append(new)
    return mask


def _noise(rng: Generator, height: int, width: int, cells: int) -> Picture:
    """Smooth grey noise in -1..1 with about ``cells`` bumps along a side."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _texture(rng: Generator, height: int, width: int) -> Picture:
    """A grey pattern in about -1..1: noise, stripes, checks or dots, with finer noise over it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 24)
    u = (np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period)
    v = (-np.sin(angle) * x + np.cos(angle) * y) * (2 * np.pi / period)
    pattern = (
        lambda: _noise(rng, height, width, int(rng.integers(3, 9))),
        lambda: np.sin(u + 1.5 * _noise(rng, height, width, 4)),
        lambda: np.sign(np.sin(u) * np.sin(v)),
        lambda: 2 * (np.sin(u) * np.sin(v)) ** 2 - 1,
    )[int(rng.integers(4))]()
    return np.asarray(0.7 * pattern + 0.3 * _noise(rng, height, width, 24), np.float32)


def _painted(rng: Generator, colour: NDArray[np.float64], height: int, width: int, strength: float) -> Picture:
    """A surface of one colour under a texture and a slanted light. Values 0..255, channels last."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = rng.uniform(-30, 30) * (x / width - 0.5) + rng.uniform(-30, 30) * (y / height - 0.5)
    tint = rng.uniform(0.5, 1.0, 3)
    surface = colour + (strength * _texture(rng, height, width))[..., None] * tint + light[..., None]
    return np.asarray(surface, np.float32)


def _ground(rng: Generator, height: int, width: int) -> Picture:
    """The background: two painted surfaces that run into each other."""
    one, two = (_painted(rng, rng.uniform(20, 235, 3), height, width, rng.uniform(10, 45)) for _ in range(2))
    share = np.clip(0.5 + 2.0 * _noise(rng, height, width, int(rng.integers(1, 4))), 0, 1)[..., None]
    return np.asarray(one + share * (two - one), np.float32)


def _colour_unlike(rng: Generator, other: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
    """A random colour at least so far (0..441) from another one."""
    while True:
        colour = rng.uniform(10, 245, 3)
        if np.linalg.norm(colour - other) >= distance:
            return colour


def _lay(rng: Generator, picture: Picture, mask: Mask) -> None:
    """Paint a shape's fine mask on the picture, in a colour that stands out from what it covers."""
    height, width = picture.shape[:2]
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    x, y, w, h = cv2.boundingRect((cover > 0).astype(np.uint8))
    below, cover = picture[y : y + h, x : x + w], cover[y : y + h, x : x + w, None]
    mean = (below * cover).sum(axis=(0, 1)) / cover.sum()
    below += cover * (_painted(rng, _colour_unlike(rng, mean, LEAST_CONTRAST), h, w, rng.uniform(5, 40)) - below)


def draw(rng: Generator) -> tuple[NDArray[np.uint8], list[Shape]]:
    """One picture [H, W, 3] BGR and its objects, the lowest first."""
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    picture = _ground(rng, height, width)
    shapes: list[Shape] = []
    wanted = int(rng.integers(2, 8))
    for _ in range(8 * wanted):
        if len(shapes) == wanted:
            break
        mask = _place(rng, shapes, height, width)
        if mask is not None:
            _lay(rng, picture, mask)

    for _ in range(int(rng.integers(0, 4))):
        start, end = (tuple(int(v) for v in rng.uniform(0, 1, 2) * [width, height]) for _ in range(2))
        cv2.line(picture, start, end, tuple(float(v) for v in rng.uniform(0, 255, 3)), 1, cv2.LINE_AA)
    if rng.random() < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.1)).astype(np.float32)
    picture += rng.normal(0, rng.uniform(2, 12), picture.shape).astype(np.float32)

    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), shapes


def label_row(shape: Shape) -> str:
    """The object as a row of a YOLO label file: class number and outline, with x and y in 0..1 of the picture."""
    found = _outline(shape.visible)
    if found is None:
        raise ValueError("nothing is to be seen of the shape")
    height, width = shape.visible.shape
    # findContours names the centres of border pixels: half a fine pixel from the pixel's corner.
    points = (found[0] + 0.5) / [width, height]
    return f"{shape.class_id} " + " ".join(f"{v:.5f}" for v in points.ravel()) + "\n"


def write_split(folder: Path, split: str, count: int, seed: int) -> int:
    """Write ``images/<split>`` and ``labels/<split>`` under a folder, and remove files of an earlier run.

    Returns:
        The number of objects.
    """
    images, labels = folder / "images" / split, folder / "labels" / split
    for path, suffix in ((images, ".jpg"), (labels, ".txt")):
        path.mkdir(parents=True, exist_ok=True)
        for old in path.glob(f"*{suffix}"):
            if not (old.stem.isdecimal() and int(old.stem) < count and len(old.stem) == 5):
                old.unlink()
    objects = 0
    for number in range(count):
        picture, shapes = draw(np.random.default_rng([seed, sum(split.encode()), number]))
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (images / f"{number:05}.jpg").write_bytes(encoded.tobytes())
        rows = "".join(map(label_row, shapes))
        (labels / f"{number:05}.txt").write_bytes(rows.encode())
        objects += len(shapes)
    return objects


def main() -> None:
    """Read the command line and write both splits."""
    parser = argparse.ArgumentParser(description="Draw the shapes data set: pictures and YOLO polygon labels.")
    parser.add_argument("--train", type=int, default=960, help="training pictures (default: %(default)s)")
    parser.add_argument("--val", type=int, default=96, help="validation pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another data set (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent, help="where to write")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # the pictures are too small to be worth sharing out
    for split, count in (("train", options.train), ("val", options.val)):
        objects = write_split(options.output, split, count, options.seed)
        print(f"{split}: {count} pictures, {objects} objects")
    print(f"classes: {', '.join(CLASSES)}")


if __name__ == "__main__":
    main()
