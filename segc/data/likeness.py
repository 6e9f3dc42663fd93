"""Pictures that are nearly the same: pairs of marks that differ in few bits."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_BITS = 7
"""Marks of 128 bits that differ in as many are those of nearly the same picture."""

_BANDS = 8
"""Parts of a mark: of two marks that differ in less bits than there are parts, one part is the same."""

_MOST_STEPS = 2048
"""Of marks with the same part each is held against so many next ones, in their order."""


def near_twins(marks: Sequence[bytes]) -> dict[int, int]:
    """For every mark that has a near one before it in the list, the place of the first such; empty marks have none.

    Time and memory grow with the number of marks, not with its square.
    """
    first: dict[bytes, int] = {}
    twins: dict[int, int] = {}
    for place, mark in enumerate(marks):
        if mark:
            before = first.setdefault(mark, place)
            if before != place:
                twins[place] = before
    places = np.fromiter(first.values(), np.int64, len(first))
    if len(places) < 2:
        return twins
    table = np.frombuffer(b"".join(first), np.uint64).reshape(-1, 2)
    earliest = places.copy()
    for left, right in _candidates(table):
        near = np.bitwise_count(table[left] ^ table[right]).sum(axis=1) <= MOST_BITS
        low, high = np.minimum(left[near], right[near]), np.maximum(left[near], right[near])
        np.minimum.at(earliest, high, places[low])  # places rise with the rows of the table
    changed = np.flatnonzero(earliest != places)
    return twins | dict(zip(places[changed].tolist(), earliest[changed].tolist(), strict=True))


def _candidates(table: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows that may be near, in groups; a pair may come more than once."""
    parts = table.view(np.uint16)
    for band in range(_BANDS):
        order = np.lexsort((table[:, 1], table[:, 0], parts[:, band]))
        keys = parts[order, band]
        at = np.arange(len(order))
        for step in range(1, _MOST_STEPS + 1):
            at = at[: np.searchsorted(at, len(order) - step)]
            at = at[keys[at] == keys[at + step]]
            if not at.size:
                break
            yield order[at], order[at + step]
