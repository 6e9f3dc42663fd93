"""Sequences of frames with known identities, and how well a tracker kept them apart: IDF1, HOTA.

The objects are drawn shapes that move in straight lines; nearer ones hide those behind them. IDF1 is that of
arXiv 1609.01775, HOTA that of arXiv 2009.07736, both over boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.inference.masks import Mask
from segc.inference.results import Prediction
from segc.inference.tracking import assignment, box_overlaps

HEIGHT, WIDTH = 360, 480
NAMES = ("disc", "square", "triangle")
LEAST_SEEN = 0.15
"""Share of an object that must be seen for a detector to find it."""

Outline = Callable[[float], NDArray[np.float64]]


@dataclass(frozen=True)
class Thing:
    """An object: its way is a function of the frame's number, giving its centre, or None where it is not there."""

    class_id: int
    radius: float
    way: Callable[[int], tuple[float, float] | None]
    turn: float = 0.0


@dataclass
class Scene:
    """A sequence: its frames' truths, as predictions whose ``identities`` are the true ones, 1 for the first."""

    name: str
    frames: list[Prediction] = field(default_factory=list)
    seen: list[NDArray[np.float64]] = field(default_factory=list)


def outline(class_id: int, radius: float, angle: float) -> NDArray[np.float64]:
    """Corners [n, 2] of an object around the origin."""
    corners = (48, 4, 3)[class_id]
    turns = angle + np.arange(corners) * (2 * np.pi / corners)
    return radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def bitmap(thing: Thing, number: int) -> NDArray[np.bool_]:
    """Where a thing is on the frame of this number, hidden or not."""
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    place = thing.way(number)
    if place is not None:
        corners = outline(thing.class_id, thing.radius, thing.turn * number) + place
        cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], 1)
    return canvas.view(np.bool_)


def film(name: str, things: Sequence[Thing], count: int, wall: tuple[int, int] | None = None) -> Scene:
    """Truths of a sequence. Later things are nearer; ``wall`` are columns that hide everything."""
    scene = Scene(name)
    for number in range(count):
        hidden = np.zeros((HEIGHT, WIDTH), np.bool_)
        if wall is not None:
            hidden[:, wall[0] : wall[1]] = True
        rows = []
        for identity, thing in reversed(list(enumerate(things, 1))):
            whole = bitmap(thing, number)
            visible = whole & ~hidden
            hidden |= whole
            area, full = int(visible.sum()), int(np.pi * thing.radius**2 * (1.0, 2 / np.pi, 0.41)[thing.class_id])
            if area < max(20, LEAST_SEEN * full):
                continue
            mask = Mask(0, 0, visible).trimmed()
            height, width = mask.bitmap.shape
            box = (mask.x, mask.y, mask.x + width, mask.y + height)
            rows.append((identity, thing.class_id, box, mask, min(1.0, area / full)))
        rows.reverse()
        scene.frames.append(
            prediction(
                [row[2] for row in rows],
                [0.9] * len(rows),
                [row[1] for row in rows],
                [row[3] for row in rows],
                [row[0] for row in rows],
            )
        )
        scene.seen.append(np.array([row[4] for row in rows]))
    return scene


def prediction(
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float],
    classes: Sequence[int],
    masks: Sequence[Mask],
    identities: Sequence[int] | None = None,
) -> Prediction:
    """A frame's detections, or its truths."""
    return Prediction(
        "",
        HEIGHT,
        WIDTH,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
        NAMES,
        tuple(masks),
        identities=None if identities is None else np.array(identities, np.int64),
    )


def straight(
    start: tuple[float, float], step: tuple[float, float], first: int = 0, last: int = 10_000
) -> Callable[[int], tuple[float, float] | None]:
    """A way in a line from the frame ``first`` on."""
    return lambda n: (start[0] + step[0] * (n - first), start[1] + step[1] * (n - first)) if first <= n < last else None


def bouncing(
    start: tuple[float, float], step: tuple[float, float], margin: float
) -> Callable[[int], tuple[float, float]]:
    """A way that comes back at borders ``margin`` pixels outside the picture (inside where negative)."""

    def along(n: int, a: float, v: float, side: float) -> float:
        length = side + 2 * margin
        at = (a + margin + v * n) % (2 * length)
        return (at if at < length else 2 * length - at) - margin

    return lambda n: (along(n, start[0], step[0], WIDTH), along(n, start[1], step[1], HEIGHT))


@cache
def crossings() -> Scene:
    """Pairs of one class that run across each other, head on, at an angle, and one that overtakes."""
    return film(
        "crossings",
        [
            Thing(0, 30, straight((40, 60), (4, 0.2))),
            Thing(0, 30, straight((440, 66), (-4, -0.2))),
            Thing(1, 34, straight((60, 140), (3.2, 1.6)), 0.02),
            Thing(1, 34, straight((60, 320), (3.2, -1.4)), 0.01),
            Thing(2, 32, straight((40, 300), (3, 0))),
            Thing(2, 32, straight((-120, 310), (5, 0))),
        ],
        100,
    )


@cache
def occlusion() -> Scene:
    """Things that pass behind a wall, ten frames and more, and one that turns round behind it."""
    turning = lambda n: (60 + 4.0 * n if n < 42 else 60 + 4.0 * (84 - n), 310.0)  # noqa: E731
    return film(
        "occlusion",
        [
            Thing(0, 26, straight((50, 50), (4, 0))),
            Thing(0, 26, straight((430, 110), (-3.5, 0))),
            Thing(1, 28, straight((40, 180), (5, 0)), 0.02),
            Thing(2, 28, straight((440, 240), (-5, 0))),
            Thing(0, 24, turning),
        ],
        100,
        wall=(225, 260),
    )


@cache
def returning() -> Scene:
    """Things that leave the picture and are back after some twenty frames, where they left."""
    return film(
        "leaving and coming back",
        [
            Thing(0, 28, bouncing((100, 60), (4, 0), 60)),
            Thing(1, 28, bouncing((300, 150), (-5, 0), 70), 0.02),
            Thing(2, 30, bouncing((200, 230), (6, 0), 80)),
            Thing(0, 26, bouncing((330, 300), (-3.5, 0), 50)),
        ],
        200,
    )


@cache
def crowd(count: int = 14, frames: int = 150, seed: int = 0) -> Scene:
    """Many things of one size that go criss-cross and bounce, so that somebody is nearly always half hidden."""
    rng = np.random.default_rng(seed)
    things = []
    for _ in range(count):
        start, angle, speed = (
            rng.uniform((30, 30), (WIDTH - 30, HEIGHT - 30)),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(1.5, 5),
        )
        step = (float(np.cos(angle) * speed), float(np.sin(angle) * speed))
        way = bouncing((float(start[0]), float(start[1])), step, -20)
        things.append(Thing(int(rng.integers(3)), float(rng.uniform(18, 30)), way, float(rng.uniform(-0.05, 0.05))))
    return film("crowd", things, frames)


SCENES: tuple[Callable[[], Scene], ...] = (crossings, occlusion, returning, crowd)


def poor_detections(scene: Scene, seed: int = 0) -> list[Prediction]:
    """What a middling detector makes of a sequence, without identities.

    Boxes are off by some pixels, 4 of 100 objects are missed, scores fall with what is hidden, and there is a false
    detection every third frame.
    """
    rng = np.random.default_rng(seed)
    found = []
    for frame, seen in zip(scene.frames, scene.seen, strict=True):
        rows = []
        for box, class_id, mask, share in zip(frame.boxes, frame.classes, frame.masks, seen, strict=True):
            if rng.random() < 0.04:
                continue
            side = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
            score = float(np.clip(0.95 * share**0.8 + rng.normal(0, 0.05), 0.05, 0.99))
            x, y = (int(v) for v in np.rint(rng.normal(0, 0.02 * side, 2)))
            jitter = rng.normal(0, 0.03 * side, 4)
            rows.append((np.clip(box + jitter, 0, [WIDTH, HEIGHT] * 2), score, int(class_id), mask.moved(x, y)))
        if rng.random() < 1 / 3:
            x, y, size = rng.uniform(0, WIDTH - 60), rng.uniform(0, HEIGHT - 60), rng.uniform(20, 60)
            mask = Mask(int(x), int(y), np.ones((int(size), int(size)), np.bool_))
            rows.append(
                (np.array([x, y, x + size, y + size]), float(rng.uniform(0.1, 0.6)), int(rng.integers(3)), mask)
            )
        rows.sort(key=lambda row: -row[1])
        found.append(prediction(*([row[i] for row in rows] for i in range(4))))  # type: ignore[arg-type]
    return found


@dataclass(frozen=True)
class Kept:
    """How well identities were kept: IDF1 and HOTA, 0..1, and how often a true object's number changed."""

    idf1: float
    hota: float
    switches: int


def measure(truth: Sequence[Prediction], found: Sequence[Prediction]) -> Kept:
    """Compare numbered detections with the truth; those without a number do not count."""
    pairs = [_numbered(t, f) for t, f in zip(truth, found, strict=True)]
    true_ids = np.unique(np.concatenate([ids for ids, _, _ in pairs]))
    given_ids = np.unique(np.concatenate([ids for _, ids, _ in pairs]))
    frames = [
        (np.searchsorted(true_ids, ids), np.searchsorted(given_ids, numbers), overlap)
        for ids, numbers, overlap in pairs
    ]
    shape = (len(true_ids), len(given_ids))
    return Kept(_idf1(frames, shape), _hota(frames, shape), _switches(frames))


Frames = Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]


def _numbered(truth: Prediction, found: Prediction) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    assert truth.identities is not None
    assert found.identities is not None
    rows = np.flatnonzero(found.identities)
    overlap = box_overlaps(truth.boxes, found.boxes[rows])
    return truth.identities, found.identities[rows], overlap


def _totals(frames: Frames, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    true, given = np.zeros(shape[0]), np.zeros(shape[1])
    for ids, numbers, _ in frames:
        true[ids] += 1
        given[numbers] += 1
    return true, given


def _idf1(frames: Frames, shape: tuple[int, int]) -> float:
    together = np.zeros(shape)
    for ids, numbers, overlap in frames:
        r, c = np.nonzero(overlap >= 0.5)
        np.add.at(together, (ids[r], numbers[c]), 1)
    matched = sum(together[pair] for pair in assignment(together))
    true, given = _totals(frames, shape)
    return float(2 * matched / max(1, true.sum() + given.sum()))


def _hota(frames: Frames, shape: tuple[int, int]) -> float:
    true, given = _totals(frames, shape)
    potential = np.zeros(shape)
    for ids, numbers, overlap in frames:
        union = overlap.sum(axis=0)[None] + overlap.sum(axis=1)[:, None] - overlap
        share = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
        np.add.at(potential, (ids[:, None], numbers[None]), share)
    alignment = potential / np.maximum(true[:, None] + given[None] - potential, 1e-9)
    matched = []
    for ids, numbers, overlap in frames:
        pairs = assignment(alignment[ids[:, None], numbers[None]] * overlap)
        matched += [(ids[r], numbers[c], overlap[r, c]) for r, c in pairs]
    scores = []
    for least in np.arange(0.05, 0.99, 0.05):
        counts = np.zeros(shape)
        for identity, number, overlap in matched:
            counts[identity, number] += overlap >= least - 1e-9
        found = counts.sum()
        detection = found / max(1.0, true.sum() + given.sum() - found)
        association = (counts**2 / np.maximum(true[:, None] + given[None] - counts, 1)).sum() / max(1.0, found)
        scores.append(np.sqrt(detection * association))
    return float(np.mean(scores))


def _switches(frames: Frames) -> int:
    last: dict[int, int] = {}
    switches = 0
    for ids, numbers, overlap in frames:
        for r, c in assignment(overlap):
            if overlap[r, c] < 0.5:
                continue
            switches += int(last.get(int(ids[r]), int(numbers[c])) != numbers[c])
            last[int(ids[r])] = int(numbers[c])
    return switches
