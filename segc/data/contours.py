"""Masks as polygons and COCO's run-length codes as masks.

A polygon of a mask runs along the edges of its pixels. A hole is joined to the outline round it by a cut that goes
there and back, so that one closed line says it all to everything that fills polygons by the even-odd rule.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int32]
"""A closed line [K, 2] along the edges of pixels, x and y, one step a point."""


def outlines(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], ...]:
    """The polygons of a mask [h, w], one a piece: filled, they give the mask again.

    Returns:
        Each [K, 2], x and y in pixels, 0 at the outer edge of the first one. None where the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return ()
    top, left = int(rows[0]), int(columns[0])
    cut = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    rings, tree = _rings(cut)
    pieces = []
    for index, (_, _, _, parent) in enumerate(tree):
        if parent < 0:
            holes = [ring for ring, (*_, above) in zip(rings, tree, strict=True) if above == index]
            merged = _joined(rings[index], holes) if holes else rings[index]
            pieces.append(_corners(merged).astype(np.float32) + np.array([left, top], np.float32))
    return tuple(pieces)


def fill(polygons: Sequence[NDArray[np.floating[Any]]], height: int, width: int) -> NDArray[np.bool_]:
    """The mask [height, width] of polygons [K, 2], in pixels: what :func:`outlines` undoes.

    A pixel belongs to it where its centre lies inside one of the polygons by the even-odd rule; lines have no width.
    """
    mask = np.zeros((height, width), np.bool_)
    for polygon in polygons:
        points = polygon.astype(np.float64)
        top, bottom = (int(np.clip(side, 0, height)) for side in (points[:, 1].min(), points[:, 1].max() + 1))
        left, right = (int(np.clip(side, 0, width)) for side in (points[:, 0].min(), points[:, 0].max() + 1))
        if top < bottom and left < right:
            mask[top:bottom, left:right] |= _inside(points - (left, top), bottom - top, right - left)
    return mask


def _inside(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Where the centres of pixels lie inside a polygon: right of an odd number of its sides in their row."""
    after = np.roll(points, -1, axis=0)
    upper = np.where((points[:, 1] <= after[:, 1])[:, None], points, after)
    lower = np.where((points[:, 1] <= after[:, 1])[:, None], after, points)
    # Rows whose centre line, at i + 0.5, a side crosses: its upper end counts, its lower one does not.
    first, last = (np.clip(np.ceil(ends[:, 1] - 0.5), 0, height).astype(np.int64) for ends in (upper, lower))
    counts = last - first
    side = np.repeat(np.arange(len(points)), counts)
    row = np.arange(len(side)) - np.repeat(np.cumsum(counts) - counts, counts) + first[side]
    slope = (lower[side, 0] - upper[side, 0]) / (lower[side, 1] - upper[side, 1])
    x = upper[side, 0] + (row + 0.5 - upper[side, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = np.zeros((height, width + 1), np.int32)
    np.add.at(crossings, (row, column), 1)
    return np.asarray(np.cumsum(crossings[:, :width], axis=1) % 2 == 1)


def _rings(mask: NDArray[np.bool_]) -> tuple[list[Ring], list[list[int]]]:
    """All outlines, and OpenCV's table of which lies in which.

    On a grid with a point for every corner, side and middle of a pixel, the border of the pixels is a line of points.
    """
    height, width = mask.shape
    fine = np.zeros((2 * height + 3, 2 * width + 3), np.uint8)
    fine[2 : 2 * height + 1 : 2, 2 : 2 * width + 1 : 2] = mask
    cv2.dilate(fine, np.ones((3, 3), np.uint8), dst=fine)
    found, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [_lattice(np.asarray(ring[:, 0] - 1, np.int32)) for ring in found], tree[0].tolist()


def _lattice(ring: Ring) -> Ring:
    """The corners of pixels on a line of the finer grid; OpenCV cuts those where the line bends inwards."""
    after = np.roll(ring, -1, axis=0)
    # Of the two points that a diagonal step passes by, the corner of a pixel has even coordinates.
    turn = np.where(ring % 2 == 0, ring, after)
    diagonal = (ring != after).all(axis=1)
    at_corner = (ring % 2 == 0).all(axis=1)
    points = np.stack([ring, turn], axis=1)[np.stack([at_corner, diagonal], axis=1)]
    return np.asarray(points // 2, np.int32)


def _joined(outline: Ring, holes: Sequence[Ring]) -> Ring:
    """One line round a piece and its holes, each joined from its top upwards."""
    for hole in sorted(holes, key=lambda ring: int(ring[:, 1].min())):
        start = int(np.lexsort((hole[:, 0], hole[:, 1]))[0])
        x, y = hole[start]
        above = np.flatnonzero((outline[:, 0] == x) & (outline[:, 1] <= y))
        meet = int(above[np.argmax(outline[above, 1])])
        round_hole = np.concatenate([hole[start:], hole[: start + 1]])
        outline = np.concatenate([outline[: meet + 1], round_hole, outline[meet:]])
    return outline


def _corners(ring: Ring) -> Ring:
    """A line without the points that it goes straight through."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return np.asarray(ring[(np.sign(before) != np.sign(after)).any(axis=1)], np.int32)


def run_lengths(counts: str) -> NDArray[np.int64]:
    """The run lengths of COCO's compressed form.

    It has five bits a character, and each length from the fourth on is written less the last but one.

    Raises:
        ValueError: where the text is no such code.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    more = (codes & 32) != 0
    if codes.min() < 0 or codes.max() > 63 or more[-1]:
        raise ValueError("the counts are no text of COCO's compressed form")
    ends = np.flatnonzero(~more)
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError("the counts have a number of more than 35 bits")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) != 0
    values -= np.where(negative, 1 << (5 * lengths), 0)
    # Even and odd runs are two chains of differences; the first two, and the third, stand as they are.
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def mask_of(runs: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """The mask [height, width] of run lengths, column by column, background first.

    Raises:
        ValueError: where a length is negative, or they do not fill the mask.
    """
    # Bounds come first: sums of numbers that are too large could come round to the right one.
    if len(runs) and (runs.min() < 0 or runs.max() > height * width):
        raise ValueError("a run is negative or longer than the mask")
    if runs.sum() != height * width:
        raise ValueError(f"the runs have {runs.sum()} pixels, the mask {height * width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T
