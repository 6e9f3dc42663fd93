"""Outlines that cross themselves: what they enclose depends on who fills them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_PAIRS = 1 << 20
"""Pairs of sides that are held against each other at a time."""


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
