"""Which channel of an output is off, and by what factor: for quantised artifacts, whose values have no tolerance.

Eight bits move every value a little, so that no largest difference says much. But all values of a channel taken
together, against the network's own, lie on a line through nought with slope one: the least-squares factor between the
two sides averages the steps out, and shows a channel with a wrong scale, one that is dead, and a range cut short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

MOST_FACTOR = {"boxes": 1.1, "scores": 1.5, "coefficients": 1.25, "prototypes": 1.25}
"""By output: a channel's values may be so many times the network's, or that part of them."""

CERTAIN = 0.25
"""Score of the network above which an anchor shows something: only there boxes and coefficients have a meaning."""

FEWEST_VALUES = 5
"""Values of a channel below which nothing is made of its factor."""

STANDARD_ERRORS = 4
"""A factor that is off is off by so many of its standard errors at least."""

LEAST_SHARE = 0.1
"""A channel whose values are smaller than this share of the largest channel's moves little, whatever its factor."""

CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, slots=True)
class Deviation:
    """The worst channel of an output.

    Attributes:
        output: its name.
        channel: index of that channel.
        factor: its values over the network's, by least squares; not finite where the artifact gives no numbers.
        error: mean absolute difference of its values.
        size: root mean square of the network's, of boxes of their width or height.
        values: how many were compared.
        wrong: how many channels of the output have a factor that eight bits do not explain,
        compared: of so many.
    """

    output: str
    channel: int
    factor: float
    error: float
    size: float
    values: int
    wrong: int
    compared: int

    @property
    def passed(self) -> bool:
        """Whether eight bits explain it."""
        return not self.wrong

    @property
    def share(self) -> float:
        """The mean error as a share of the values' size."""
        return self.error / self.size if self.size else 0.0

    def text(self, names: Sequence[str] = ()) -> str:
        """What is off, in a phrase; ``names`` are those of the classes."""
        channel = _channel(self.output, self.channel, names)
        off = f"{self.output}, {channel}: {self.error:.3g} off on average"
        if not self.wrong:
            return f"{off} ({self.share:.1%})"
        return f"{off}, {self.factor:.2f} times what the network gives ({self.wrong} of {self.compared} channels wrong)"

    def to_json(self) -> dict[str, Any]:
        """As JSON values, numbers to three digits."""
        known = {key: _rounded(getattr(self, key)) for key in ("factor", "error", "size")}
        counts = {key: getattr(self, key) for key in ("channel", "values", "wrong", "compared")}
        return {**known, **counts}


def _channel(output: str, channel: int, names: Sequence[str]) -> str:
    words = {"boxes": CORNERS, "scores": names}.get(output, ())
    return words[channel] if channel < len(words) else f"channel {channel}"


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def deviations(cases: Sequence[str], reference: Mapping[str, Array], artifact: Mapping[str, Array]) -> list[Deviation]:
    """The worst channel of every output, as far as there is something to compare.

    Args:
        cases: names of the cases.
        reference: the network's outputs by ``<case>.<output>``: ``boxes`` [..., A, 4], ``scores`` [..., A, nc],
            ``coefficients`` [..., A, K], ``prototypes`` [N, K, h, w].
        artifact: the artifact's, of the same shapes, as far as it has them.
    """
    scores = _columns("scores", cases, reference)
    shows = scores > CERTAIN
    some = shows.max(axis=1, initial=False)[:, None]
    found = []
    there = [output for output in MOST_FACTOR if all(f"{case}.{output}" in artifact for case in cases)]
    for output in there:
        ours, theirs = _columns(output, cases, reference), _columns(output, cases, artifact)
        counts = {"scores": shows, "prototypes": np.ones_like(some, shape=(len(ours), 1))}.get(output, some)
        worst = _worst(output, ours, theirs, np.broadcast_to(counts, ours.shape))
        if worst is not None:
            found.append(worst)
    return found


def distances(cases: Sequence[str], reference: Mapping[str, Array], artifact: Mapping[str, Array]) -> dict[str, float]:
    """How far outputs are from the network's where it finds something: root mean squares, as shares of their size.

    Where it finds nothing, all anchors count. Arguments are those of :func:`deviations`.
    """
    scores = _columns("scores", cases, reference)
    shows = scores > CERTAIN
    some = shows.max(axis=1, initial=False)
    some = some if some.any() else np.ones_like(some)
    found = {}
    for output in MOST_FACTOR:
        ours, theirs = _columns(output, cases, reference), _columns(output, cases, artifact)
        if output != "prototypes":
            ours, theirs = ours[some], theirs[some]
        size = np.square(_sides(ours) if output == "boxes" else ours, dtype=np.float64).mean()
        error = np.square(theirs - ours, dtype=np.float64).mean()
        found[output] = float(np.sqrt(error / size)) if size else 0.0
    return found


def _columns(output: str, cases: Sequence[str], outputs: Mapping[str, Array]) -> Array:
    """All values of an output, a column a channel."""
    parts = [outputs[f"{case}.{output}"] for case in cases]
    if output == "prototypes":
        parts = [part.transpose(0, 2, 3, 1) for part in parts]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


def _sides(boxes: Array) -> Array:
    """Width, height, width and height: what an error of each corner is to be held against."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([sides, sides], axis=1)


def _worst(output: str, ours: Array, theirs: Array, counts: NDArray[np.bool_]) -> Deviation | None:
    """The channel that is furthest off: of those with a wrong factor, else by its error."""
    number = counts.sum(axis=0)
    if not number.any():
        return None
    weight = counts.astype(np.float64)
    squares = (weight * ours * ours).sum(axis=0)
    # What does not count may be no number either.
    kept = np.where(counts, theirs, 0).astype(np.float64)
    with np.errstate(all="ignore"):
        factor = (kept * ours).sum(axis=0) / squares
        left = (weight * (kept - factor * ours) ** 2).sum(axis=0)
        doubt = np.sqrt(left / np.maximum(number - 1, 1) / squares)
        size = np.sqrt((weight * (_sides(ours) if output == "boxes" else ours) ** 2).sum(axis=0) / number)
        error = (weight * np.abs(kept - ours)).sum(axis=0) / number
        limit = MOST_FACTOR[output]
        # Written so that what is no number is wrong.
        near = np.logical_and(factor >= 1 / limit, factor <= limit)
        right = np.logical_or(near, np.abs(factor - 1) <= STANDARD_ERRORS * doubt)
        compared = np.logical_and(number >= FEWEST_VALUES, size >= LEAST_SHARE * np.nanmax(size))
        wrong = np.logical_and(compared, np.logical_not(right))
        share = np.nan_to_num(error / size, nan=np.inf)
        distance = np.abs(np.log(np.maximum(np.nan_to_num(factor, nan=np.inf), 1e-3)))
    among, by = (wrong, distance) if wrong.any() else (compared, share) if compared.any() else (number > 0, share)
    channel = int(np.argmax(np.where(among, by, -np.inf)))
    return Deviation(
        output,
        channel,
        float(factor[channel]),
        float(error[channel]),
        float(size[channel]),
        int(number[channel]),
        int(wrong.sum()),
        int(compared.sum()),
    )
