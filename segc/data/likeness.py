"""Pictures that are nearly the same: pairs of marks that differ in few bits."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_BITS = 7
"""Marks of 128 bits that differ in as many are those of nearly the same picture."""

_BANDS = 8
"""Parts of a mark: of two marks that differ in less bits than there are parts, one part is the same."""

_LARGEST_BUCKET = 2048
"""Marks with the same part that are all held against each other; of more, each against the next ones in their order."""

_NEXT = 32


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
    for left, right in _candidates(table):
        bits = np.bitwise_count(table[left] ^ table[right]).sum(axis=1)
        near = bits <= MOST_BITS
        pairs = np.sort(np.stack([places[left[near]], places[right[near]]]), axis=0)
        for earlier, later in zip(*pairs.tolist(), strict=True):
            twins[later] = min(twins.get(later, earlier), earlier)
    return twins


def _candidates(table: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows that may be near, in groups; a pair may come more than once."""
    parts = table.view(np.uint16)
    for band in range(_BANDS):
        order = np.lexsort((table[:, 1], table[:, 0], parts[:, band]))
        keys = parts[order, band]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        for bucket in np.split(order, starts[1:]):
            if 1 < len(bucket) <= _LARGEST_BUCKET:
                left, right = np.triu_indices(len(bucket), 1)
                yield bucket[left], bucket[right]
            elif len(bucket) > _LARGEST_BUCKET:
                for step in range(1, _NEXT):
                    yield bucket[:-step], bucket[step:]
