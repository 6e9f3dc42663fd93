"""Objects followed from frame to frame: each keeps a number for as long as it is seen.

The method is ByteTrack's (arXiv 2110.06864): a Kalman filter foretells each box, detections of good score are matched
first, and those of poor score, an object half hidden, may go on with a track but start none. Added to it:

- Where boxes leave a choice, masks have a say: the overlap of a pair is then the mean of its boxes' and its masks'.
- What was lost is looked for where it was last seen as well, not only where it should have gone (the recovery of
  OC-SORT, arXiv 2203.14360): things stop behind what hides them, and come back the way they left.
- A box that is suddenly smaller is taken for an object half hidden: the side that is where it was foretold is believed,
  the other one is not. The boxes of masks end where something hides the object, and a filter that followed them would
  take the object for small and slow by the time it is gone.
- A detection of another class counts half, so that it takes a track over only where there is nothing better.

Nothing is random, and pairs are matched to the greatest sum of overlaps: the same detections give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from segc.inference.filters import Filters, Tracking
from segc.inference.masks import Mask, common_area
from segc.inference.results import Prediction
from segc.inference.thresholds import are_above

FIRST_OVERLAP = 0.2
"""Least overlap of a track's foretold box and a good detection. This and the next two are ByteTrack's."""

SECOND_OVERLAP = 0.5
"""Least overlap with a poor detection: those are often wrong."""

EARLY_OVERLAP = 0.3
"""Least overlap of a track seen once, or of a lost one's last box, and a good detection."""

OTHER_CLASS = 0.5
"""What the overlap with a detection of another class is multiplied by."""

SIGHTINGS = 2
"""Frames in a row in which an object must be seen to get a number; in the first frame all good detections get one."""

SHRINKING = 0.97
"""Of its length, what a side of an object may come to a frame later; where less is seen, something hides the rest."""

POSITION_NOISE = 1 / 20
"""Standard deviation of a box's centre and sides, as a share of its sides. This and the next are DeepSORT's."""

VELOCITY_NOISE = 1 / 160
"""Standard deviation of how their velocities change in a frame."""


@dataclass(slots=True, eq=False)
class _Track:
    """An object that is followed; its box is foretold by the row of the filter of the same place.

    Attributes:
        identity: its number; 0 until it was seen often enough.
        sightings: frames in which it was seen.
        lost: frames since it was last seen.
        box: [4] where it was last seen,
        centre: [2] where its centre was then, hidden or not,
        mask: and its mask there,
        class_id: and its class.
    """

    identity: int
    sightings: int
    lost: int
    box: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]
    mask: Mask
    class_id: int


class Tracker:
    """Gives the detections of a sequence of frames numbers that stay with the objects, 1 for the first.

    One sequence has one tracker: the frames of one camera, in their order. It keeps one mask for each object, and
    nothing of the frames. It must not be used by several threads at once.

    Args:
        settings: how objects are followed.
    """

    def __init__(self, settings: Tracking) -> None:
        self._settings = settings
        self._tracks: list[_Track] = []
        self._filter = _BoxFilter()
        self._given = 0
        self._started = False

    def update(self, prediction: Prediction, sure: npt.NDArray[np.bool_], step: int = 1) -> Prediction:
        """Number the detections of the next frame.

        Args:
            prediction: what was found on it, down to the settings' ``low``.
            sure: [n], which of the detections are good enough to be reported whether they belong to a track or not.
            step: frames since the one before, 1 where none was left out.

        Returns:
            The prediction with ``identities``, without the detections that are not sure and belong to no track.
        """
        for track in self._tracks:
            track.lost += step
        self._filter.foretell(step, np.array([track.lost > step for track in self._tracks], np.bool_))
        found = _Found(prediction, sure)
        for stage in self._stages(step):
            self._match(stage, found)
        self._drop(step)
        self._start(found)
        identities = np.array([0 if track is None else track.identity for track in found.track], np.int64)
        return replace(prediction, identities=identities).select(sure | (identities > 0))

    def _stages(self, step: int) -> "tuple[_Stage, ...]":
        """The rounds of matching: which tracks, with which detections, and by which boxes."""
        known = [row for row, track in enumerate(self._tracks) if track.identity]
        seen = [row for row in known if self._tracks[row].lost == step]
        new = [row for row, track in enumerate(self._tracks) if not track.identity]
        foretold = self._filter.boxes()
        last = np.array([track.box for track in self._tracks], np.float64).reshape(-1, 4)
        centres = np.array([track.centre for track in self._tracks], np.float64).reshape(-1, 2)
        moves = np.rint(self._filter.mean[:, :2, 0] - centres).astype(np.int64)
        return (
            _Stage(known, True, FIRST_OVERLAP, foretold, moves),
            _Stage(seen, False, SECOND_OVERLAP, foretold, moves),
            _Stage(new, True, EARLY_OVERLAP, foretold, moves),
            _Stage(known, True, EARLY_OVERLAP, last, np.zeros_like(moves)),
        )

    def _match(self, stage: "_Stage", found: "_Found") -> None:
        rows = [row for row in stage.rows if self._tracks[row].lost]
        columns = [c for c, track in enumerate(found.track) if track is None and found.sure[c] == stage.sure]
        if not rows or not columns:
            return
        class_ids = np.array([self._tracks[row].class_id for row in rows])
        weight = np.where(class_ids[:, None] == found.classes[columns], 1.0, OTHER_CLASS)
        overlap = box_overlaps(stage.boxes[rows], found.boxes[columns])
        overlap[overlap * weight < stage.least] = 0.0
        matched = [(rows[r], columns[c]) for r, c in self._pairs(overlap, weight, rows, columns, stage.moves, found)]
        self._filter.correct([row for row, _ in matched], found.boxes[[column for _, column in matched]])
        for row, column in matched:
            self._see(row, found, column)

    def _pairs(
        self,
        overlap: npt.NDArray[np.float64],
        weight: npt.NDArray[np.float64],
        rows: Sequence[int],
        columns: Sequence[int],
        moves: npt.NDArray[np.int64],
        found: "_Found",
    ) -> list[tuple[int, int]]:
        """Rows and columns of ``overlap`` that belong together: at once where there is no choice, else by masks too."""
        possible = overlap > 0
        free = possible.sum(axis=1) == 1
        only = possible & free[:, None] & (possible.sum(axis=0) == 1)
        pairs = [(int(r), int(c)) for r, c in np.argwhere(only)]
        left = possible & ~only
        r_left, c_left = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
        weights = np.zeros((r_left.size, c_left.size))
        for i, j in np.argwhere(left[np.ix_(r_left, c_left)]):
            r, c = int(r_left[i]), int(c_left[j])
            moved = self._tracks[rows[r]].mask.moved(*moves[rows[r]].tolist())
            masks = mask_overlap(moved, found.prediction.masks[columns[c]])
            weights[i, j] = weight[r, c] * (overlap[r, c] if masks is None else (overlap[r, c] + masks) / 2)
        assigned = ((int(r_left[i]), int(c_left[j])) for i, j in assignment(weights))
        return [*pairs, *((r, c) for r, c in assigned if left[r, c])]

    def _see(self, row: int, found: "_Found", column: int) -> None:
        track = self._tracks[row]
        track.sightings += 1
        track.lost = 0
        track.box, track.centre = found.boxes[column], self._filter.mean[row, :2, 0].copy()
        track.mask = found.prediction.masks[column]
        track.class_id = int(found.classes[column])
        found.track[column] = track
        if not track.identity and track.sightings >= SIGHTINGS:
            self._number(track)

    def _number(self, track: _Track) -> None:
        self._given += 1
        track.identity = self._given

    def _drop(self, step: int) -> None:
        """Forget what was lost for too long, and at once what was seen but once or so."""
        keep = self._settings.keep
        kept = [r for r, t in enumerate(self._tracks) if not t.lost or (t.identity and t.lost <= max(keep, step))]
        self._tracks = [self._tracks[row] for row in kept]
        self._filter.keep(kept)

    def _start(self, found: "_Found") -> None:
        """Follow what is sure and new."""
        columns = [column for column, track in enumerate(found.track) if track is None and found.sure[column]]
        for column in columns:
            box, mask, class_id = found.boxes[column], found.prediction.masks[column], int(found.classes[column])
            track = _Track(0, 1, 0, box, _states(box[None])[0, :2], mask, class_id)
            if not self._started:
                self._number(track)
            self._tracks.append(track)
            found.track[column] = track
        self._filter.begin(found.boxes[columns])
        self._started = True


class Follower:
    """Gives numbers to what is found on frame after frame, with a tracker for each sequence.

    Args:
        filters: what counts as a detection, with ``track``. The network is to be asked with ``search_filters`` of them.
    """

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._tracker: Tracker | None = None
        self._film: object = None
        self._index = 0

    def follow(self, prediction: Prediction, film: object = None, index: int = 0) -> Prediction:
        """Number the detections of the next frame.

        Args:
            prediction: what was found on it.
            film: what the frame belongs to, None for photographs, which are a sequence as they come; where it is
                another than before, numbers start over.
            index: number of the frame in its film.

        Returns:
            The prediction with ``identities``, of what counts as a detection or goes on with a track.
        """
        is_new = self._tracker is None or film != self._film
        step = 1 if is_new or film is None else max(1, index - self._index)
        tracker = Tracker(self._filters.track or Tracking()) if self._tracker is None or is_new else self._tracker
        self._tracker, self._film, self._index = tracker, film, index
        sure = prediction.scores > self._filters.conf
        if self._filters.by_class is not None:
            sure &= are_above(prediction, self._filters.by_class)
        return tracker.update(prediction, sure, step)


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """A round of matching: these tracks with the sure detections, or the others, by these boxes [tracks, 4].

    ``moves`` [tracks, 2] is how far their masks have moved, in whole pixels.
    """

    rows: Sequence[int]
    sure: bool
    least: float
    boxes: npt.NDArray[np.float64]
    moves: npt.NDArray[np.int64]


class _Found:
    """The detections of a frame, and the track that each turns out to belong to."""

    def __init__(self, prediction: Prediction, sure: npt.NDArray[np.bool_]) -> None:
        self.prediction = prediction
        self.boxes = prediction.boxes.astype(np.float64)
        self.classes = prediction.classes
        self.sure = sure
        self.track: list[_Track | None] = [None] * len(prediction)


class _BoxFilter:
    """Kalman filters of boxes that move evenly: centre x and y, width and height, each with its velocity.

    No two of the four have anything to do with each other in DeepSORT's model (arXiv 1703.07402), so there is one
    filter of two states for each: ``mean`` [n, 4, 2] in pixels and pixels a frame, ``covariance`` [n, 4, 2, 2].
    """

    def __init__(self) -> None:
        self.mean = np.zeros((0, 4, 2))
        self.covariance = np.zeros((0, 4, 2, 2))

    def boxes(self) -> npt.NDArray[np.float64]:
        """The boxes [n, 4] (x1, y1, x2, y2)."""
        centre, half = self.mean[:, :2, 0], np.maximum(self.mean[:, 2:, 0], 0.0) / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def begin(self, boxes: npt.NDArray[np.float64]) -> None:
        """Further boxes [k, 4] that stand still as far as is known."""
        state = _states(boxes)
        spread = _sides(state)[..., None] * np.array([2 * POSITION_NOISE, 10 * VELOCITY_NOISE])
        covariance = np.zeros((len(boxes), 4, 2, 2))
        covariance[..., [0, 1], [0, 1]] = spread**2
        self.mean = np.concatenate([self.mean, np.stack([state, np.zeros_like(state)], axis=2)])
        self.covariance = np.concatenate([self.covariance, covariance])

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other rows."""
        self.mean, self.covariance = self.mean[rows], self.covariance[rows]

    def foretell(self, step: int, lost: npt.NDArray[np.bool_]) -> None:
        """Go on by ``step`` frames; a box that was lost [n] keeps its size."""
        self.mean[lost, 2:, 1] = 0.0
        motion = np.array([[1.0, step], [0.0, 1.0]])
        noise = _sides(self.mean[..., 0])[..., None] * np.array([POSITION_NOISE, VELOCITY_NOISE])
        self.mean = self.mean @ motion.T
        self.covariance = motion @ self.covariance @ motion.T
        self.covariance[..., [0, 1], [0, 1]] += noise**2 * step

    def correct(self, rows: Sequence[int], boxes: npt.NDArray[np.float64]) -> None:
        """Take in where the boxes of these rows were seen, [k, 4]."""
        mean, covariance = self.mean[rows], self.covariance[rows]
        whole = _whole_boxes(self.boxes()[rows], boxes)
        noise = (_sides(mean[..., 0]) * POSITION_NOISE) ** 2
        spread = covariance[..., 0, 0] + noise
        gain = covariance[..., :, 0] / spread[..., None]
        self.mean[rows] = mean + gain * (_states(whole) - mean[..., 0])[..., None]
        self.covariance[rows] = covariance - gain[..., :, None] * covariance[..., 0, None, :]


def _states(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Boxes [n, 4] (x1, y1, x2, y2) as centres and sides [n, 4]."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def _sides(states: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What noise is a share of: width, height, width, height, of states [n, 4]; a pixel at least."""
    return np.maximum(states[:, [2, 3, 2, 3]], 1.0)


def _whole_boxes(foretold: npt.NDArray[np.float64], seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The boxes [n, 4] of objects, from those that were foretold and what is seen of them."""
    low, high = seen[:, :2], seen[:, 2:]
    length = np.maximum(high - low, (foretold[:, 2:] - foretold[:, :2]) * SHRINKING)
    low_is_seen = np.abs(low - foretold[:, :2]) <= np.abs(high - foretold[:, 2:])
    return np.concatenate(
        [np.where(low_is_seen, low, high - length), np.where(low_is_seen, low + length, high)], axis=1
    )


def box_overlaps(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4] (x1, y1, x2, y2); nought where both are empty."""
    corner = np.minimum(one[:, None, 2:], other[None, :, 2:]) - np.maximum(one[:, None, :2], other[None, :, :2])
    common = np.maximum(corner, 0.0).prod(axis=2, dtype=np.float64)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1, dtype=np.float64) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - common
    overlap: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def mask_overlap(one: Mask, other: Mask) -> float | None:
    """Intersection over union of two masks; None where one of them is empty."""
    areas = one.area, other.area
    if not all(areas):
        return None
    common = common_area(one, other)
    return common / (sum(areas) - common)


def assignment(weights: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of a row and a column, as many as the shorter side has, with the greatest sum of ``weights`` [n, m].

    Shortest augmenting paths (Jonker and Volgenant 1987, as Crouse, IEEE TAES 52(4), 2016, tells it); time grows with
    the cube of the sides.
    """
    if weights.shape[0] > weights.shape[1]:
        return sorted((row, column) for column, row in assignment(weights.T))
    cost = weights.max(initial=0.0) - weights
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of, row_of = np.full(rows, -1), np.full(columns, -1)
    for first in range(rows):
        shortest, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, np.bool_)
        row, length = first, 0.0
        while True:
            path = length + cost[row] - row_price[row] - column_price
            shorter = ~done & (path < shortest)
            shortest[shorter], before[shorter] = path[shorter], row
            column = int(np.where(done, np.inf, shortest).argmin())
            length = shortest[column]
            done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
        passed = np.flatnonzero(done & (row_of >= 0))
        row_price[first] += length
        row_price[row_of[passed]] += length - shortest[passed]
        column_price[done] -= length - shortest[done]
        while column >= 0:
            row = int(before[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
    return [(row, int(column)) for row, column in enumerate(column_of)]
