"""Polygons as numbers: their areas and bounds, those without an area, and those that cross themselves.

What needs them starts fast, so this is numpy alone.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_PAIRS = 1 << 20
"""Pairs of sides that are held against each other at a time."""

_SPECK = 1e-5
"""Twice the area of a triangle, as a share of the image, that is no rounding."""


def area(points: NDArray[Any]) -> float:
    """Area of a polygon [K, 2]."""
    if not len(points):
        return 0.0
    x, y = points[:, 0], points[:, 1]
    return abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:] + x[-1] * y[0] - y[-1] * x[0])) / 2


def extents(
    objects: Sequence[Sequence[NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The boxes [n, 4] (x1, y1, x2, y2) round objects, given by their polygons, and their areas [n], parts added up."""
    if not objects:
        return np.zeros((0, 4), np.float32), np.zeros(0)
    parts = [part for one in objects for part in one]
    points = np.concatenate(parts)
    starts = np.array([0, *accumulate(map(len, parts[:-1]))])
    first = np.array([0, *accumulate(map(len, objects[:-1]))])
    x, y = points.T.astype(np.float64)
    after = np.arange(1, len(points) + 1)
    after[[*starts[1:] - 1, -1]] = starts
    areas = np.add.reduceat(np.abs(np.add.reduceat(x * y[after] - y * x[after], starts)) / 2, first)
    low, high = (end.reduceat(points, starts[first]) for end in (np.minimum, np.maximum))
    return np.concatenate([low, high], axis=1), areas


def is_flat(points: NDArray[np.floating[Any]]) -> bool:
    """Whether points [K, 2] in 0..1 lie on one line, or on one spot."""
    (x, y), (x1, y1), (x2, y2) = points[[0, len(points) // 3, 2 * len(points) // 3]].tolist()
    if abs((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) > _SPECK:
        return False  # without looking further
    points = points.astype(np.float64)
    rays = points - points[0]
    longest = rays[np.argmax((rays * rays).sum(axis=1))]
    # Twice the area of the triangle that each point makes with the longest ray; float32 carries 7 digits.
    areas = rays[:, 0] * longest[1] - rays[:, 1] * longest[0]
    return bool((np.abs(areas) <= 1e-6 * np.hypot(*longest)).all())


def crosses_itself(polygon: NDArray[np.floating[Any]]) -> bool:
    """Whether two sides of a closed polygon [K, 2] cross.

    Sides that touch, or lie on each other, do not cross: an outline may go to a hole and back on the same line.
    Only sides that share a stretch of x are held against each other, so long outlines with short sides are no trouble.
    """
    starts = polygon.astype(np.float64)
    ends = np.roll(starts, -1, axis=0)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    order = np.argsort(low[:, 0], kind="stable")
    starts, ends, low, high = starts[order], ends[order], low[order], high[order]
    # The sides behind each one, in this order, that begin before it ends.
    last = np.searchsorted(low[:, 0], high[:, 0], side="left")
    counts = np.maximum(last - np.arange(len(order)) - 1, 0)
    total = np.cumsum(counts)
    first = 0
    while first < len(order):
        before = int(total[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(total, before + _MOST_PAIRS, side="right")))
        number = counts[first:stop]
        left = np.repeat(np.arange(first, stop), number)
        right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(number) - number, number)
        near = (low[left, 1] < high[right, 1]) & (low[right, 1] < high[left, 1])
        left, right = left[near], right[near]
        if _cross(starts[left], ends[left], starts[right], ends[right]).any():
            return True
        first = stop
    return False


def _cross(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], d: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether the sides from a to b and from c to d, [n, 2], cross: each has the other's ends on both its sides."""
    return np.asarray((_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0))


def _side(a: NDArray[np.float64], b: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """On which side of the line through a and b a point lies: 1, -1, or 0 on it, as far as float32 can tell."""
    turn = (b[:, 0] - a[:, 0]) * (point[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (point[:, 0] - a[:, 0])
    reach = np.abs(b - a).max(axis=1) * np.abs(point - a).max(axis=1)
    return np.where(np.abs(turn) <= 1e-5 * reach, 0.0, np.sign(turn))
