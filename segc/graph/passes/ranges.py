"""Where a tensor's values lie, as seen on photographs, and the 256 whole numbers that stand for them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Method = Literal["min-max", "percentile", "mse"]

BINS = 8192
"""Bins of an observation, over all that the values reach on both sides of nought."""

PERCENTILE = 99.999
"""``percentile``: so many of a hundred values lie below the upper bound, and as many above the lower one."""

CANDIDATES = 48
"""``mse``: shares of the whole range that are tried, evenly from a quarter on."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The values of a tensor over many images.

    Attributes:
        low: the smallest.
        high: the largest.
        reach: a power of two that no value's magnitude exceeds.
        counts: [BINS], how many values, or of how many a sample, lie in each of the equal parts of -reach..reach.
    """

    low: float
    high: float
    reach: float
    counts: NDArray[np.int64]

    def widened(self, reach: float) -> Self:
        """The same values over a longer reach, as it takes to add two of them."""
        counts, here = self.counts, self.reach
        while here < reach:
            inner = counts.reshape(-1, 2).sum(axis=1)
            counts, here = np.pad(inner, BINS // 4), here * 2
        return type(self)(self.low, self.high, here, counts)

    def joined(self, other: Self) -> Self:
        """The values of both."""
        reach = max(self.reach, other.reach)
        counts = self.widened(reach).counts + other.widened(reach).counts
        return type(self)(min(self.low, other.low), max(self.high, other.high), reach, counts)

    def to_array(self) -> NDArray[np.float64]:
        """All of it in one array, as it is kept in a file."""
        return np.concatenate([[self.low, self.high, self.reach], self.counts.astype(np.float64)])

    @classmethod
    def from_array(cls, values: NDArray[np.float64]) -> Self:
        """What :meth:`to_array` made."""
        low, high, reach = (float(value) for value in values[:3])
        return cls(low, high, reach, values[3:].astype(np.int64))


def reach_of(low: float, high: float) -> float:
    """The ``reach`` of an observation of values from low to high."""
    largest = max(abs(low), abs(high))
    return 2.0 ** ceil(log2(largest)) if largest > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers that whole ones stand for: ``(q - zero) * scale`` for q from low to high. Nought is among them.

    Attributes:
        scale: from one to the next.
        zero: what stands for nought.
        low: the smallest q.
        high: the largest.
    """

    scale: float
    zero: int
    low: int
    high: int

    def rounded(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The nearest of its numbers for each value."""
        whole: NDArray[np.float64] = np.clip(np.rint(values / self.scale) + self.zero, self.low, self.high)
        return (whole - self.zero) * self.scale


def grid(low: float, high: float, *, signed: bool) -> Grid:
    """The grid for values from low to high.

    Args:
        low: the smallest value.
        high: the largest.
        signed: -128..127 with nought at 0, as far to both sides; otherwise 0..255 with nought where it has to be.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    span = max(-low, high) / 127 if signed else (high - low) / 255
    # A step is kept in fp32; of a tensor that is nought throughout any will do.
    scale = float(np.float32(span)) if np.float32(span) > 0 else 1.0
    if signed:
        return Grid(scale, 0, -128, 127)
    return Grid(scale, int(np.clip(np.rint(-low / scale), 0, 255)), 0, 255)


def chosen_grid(observation: Observation, method: Method, *, signed: bool) -> Grid:
    """The grid of a tensor by one of the methods of calibration.

    ``min-max``: all values that were seen. ``percentile``: all but the outermost ones. ``mse``: the one of least mean
    squared error over the values that were seen, those beyond it included (as in arXiv 2106.08295, section 3.1).
    """
    centres = (np.arange(BINS) + 0.5) * (2 * observation.reach / BINS) - observation.reach
    present = observation.counts > 0
    values = np.clip(centres[present], observation.low, observation.high)
    counts = observation.counts[present].astype(np.float64)
    low, high = observation.low, observation.high
    if not len(values):
        return grid(low, high, signed=signed)
    if method == "percentile":
        below = np.cumsum(counts) / counts.sum()
        outside = 1 - PERCENTILE / 100
        low, high = values[np.searchsorted(below, outside)], values[np.searchsorted(below, 1 - outside)]
    elif method == "mse":
        shares = np.linspace(0.25, 1.0, CANDIDATES)

        def best(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
            return min(ranges, key=lambda one: _error(grid(*one, signed=signed), values, counts))

        low, high = best([(low, high * share) for share in shares[::-1]])
        low, high = best([(low * share, high) for share in shares[::-1]])
    return grid(float(low), float(high), signed=signed)


def _error(tried: Grid, values: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    return float(counts @ (tried.rounded(values) - values) ** 2)


def read_observations(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, Observation]:
    """Observations by the name of the tensor, from what a file holds."""
    return {name: Observation.from_array(values) for name, values in arrays.items()}
