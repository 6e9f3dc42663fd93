"""Large pictures in overlapping tiles: where the tiles lie, and what is found on them put together again.

Where two tiles overlap, both see the same pixels, so that is where detections are compared: by their masks, and by
their boxes. A detection that ends at its tile's border is a piece; the other tile may see what is missing, and then
what both see of it decides. One that ends inside its tile is whole, and is compared with the whole of another.

Best first, what is whole stands for all that other tiles see of it, whatever class they take it for: what a tile sees
twice comes twice only where no other one is believed before it. What no tile sees whole becomes the union of its
pieces. At the end, what lies in another object goes, unless a tile shows both, and what is seen only close to borders,
or only in the picture as a whole, goes where a tile that has it well inside shows nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from segc.inference.filters import Filters, Tiling
from segc.inference.masks import Mask, common_area, united
from segc.inference.results import Prediction

SAME_OBJECT = 0.5
"""Intersection over union, of what both tiles see, from which two detections are one object; and the share of one that
must lie in another for it to be a part of that: intersection over the smaller area.
"""

BORDER_SHARE = 0.01
"""Of a tile's side: what ends so close to its border is a piece. Boxes end a pixel or two before it."""

ROOM_SHARE = 0.05
"""Of a tile's side: what is so far from its borders is seen well."""

COARSE = 64
"""Pixels: masks of fewer are too coarse to compare alone, and their boxes may say that they are the same."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture: columns x1 to x2, rows y1 to y2, ends excluded.

    Attributes:
        is_whole: it is the whole picture, seen besides its tiles.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    is_whole: bool = False


class Picture(Protocol):
    """A picture whose parts can be had."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    def region(self, x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.uint8]:
        """Columns x1 to x2 of rows y1 to y2, ends excluded, inside the picture: [y2 - y1, x2 - x1, 3] BGR.

        Raises:
            ValueError: where it cannot be decoded.
        """
        ...

    def reduced(self, longest: int) -> npt.NDArray[np.uint8]:
        """The whole of it, at a fraction of its size where that leaves its longer side ``longest`` pixels or more.

        Raises:
            ValueError: where it cannot be decoded.
        """
        ...


class DecodedPicture:
    """A picture in memory.

    Args:
        image: [h, w, 3] BGR.
    """

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        self.image = image

    @property
    def size(self) -> tuple[int, int]:
        """See `Picture`."""
        return self.image.shape[0], self.image.shape[1]

    def region(self, x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.uint8]:
        """See `Picture`."""
        return self.image[y1:y2, x1:x2]

    def reduced(self, longest: int) -> npt.NDArray[np.uint8]:
        """See `Picture`; there is no need to make it smaller."""
        del longest
        return self.image


def tile_starts(length: int, size: int, overlap: float) -> list[int]:
    """Where tiles begin along a side of ``length`` pixels: evenly spread, the first and the last at its ends.

    Args:
        length: of the side.
        size: of a tile; one that is larger than the side begins at 0.
        overlap: of neighbours, at least, as a share of ``size``, below 1.
    """
    if length <= size:
        return [0]
    step = max(1.0, size * (1 - overlap))
    # Less a rounding error, which would cost a tile.
    gaps = int(np.ceil((length - size) / step - 1e-9))
    return [round(gap * (length - size) / gaps) for gap in range(gaps + 1)]


def tile_grid(height: int, width: int, tiling: Tiling) -> list[Tile]:
    """The tiles of a picture, row by row; at the end the whole of it, where that is asked for and is no tile itself."""
    size = tiling.size
    tiles = [
        Tile(x, y, min(x + size, width), min(y + size, height))
        for y in tile_starts(height, size, tiling.overlap)
        for x in tile_starts(width, size, tiling.overlap)
    ]
    return [*tiles, Tile(0, 0, width, height, is_whole=True)] if tiling.whole and len(tiles) > 1 else tiles


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """The detections of all tiles, in pixels of the picture.

    Attributes:
        tile: [n] number of the tile,
        boxes: [n, 4] float32,
        scores: [n],
        classes: [n],
        ending: [n], WELL, CLOSE or CUT,
        masks: n.
    """

    tile: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    ending: npt.NDArray[np.int8]
    masks: Sequence[Mask]

    @property
    def is_cut(self) -> npt.NDArray[np.bool_]:
        """[n], whether it is a piece."""
        is_cut: npt.NDArray[np.bool_] = self.ending == CUT
        return is_cut


def merge_tiles(
    found: Iterable[tuple[Tile, Prediction]],
    height: int,
    width: int,
    path: str = "",
    *,
    most: int = Filters().mask_bytes,
    limit: int | None = None,
) -> Prediction:
    """What was found on the tiles of a picture as what was found on the picture.

    Masks are packed, a bit a pixel of their own regions. Where they would come to more than ``most`` bytes in all, the
    best detections are kept, and ``left_out`` counts the others.

    Args:
        found: each tile and what was found on it, in the tile's own pixels; at least one. They are taken one after
            another, and nothing of the tiles is kept but their detections.
        height: of the picture in pixels.
        width: of the picture in pixels.
        path: the name that the prediction carries.
        most: bytes that masks may take.
        limit: the most detections that a tile may have; one that has as many may have left out more.
    """
    tiles: list[Tile] = []
    held = _Held(most)
    names: tuple[str, ...] = ()
    for tile, prediction in found:
        held.add(_placed(prediction, tile), _endings(prediction.boxes, tile, height, width), len(tiles))
        tiles.append(tile)
        names = prediction.names
    pieces = held.pieces()
    groups = _groups(pieces, tiles)
    objects = [_as_one(pieces, rows) for rows in groups]
    is_left = ~_parts(pieces, groups, objects, tiles)
    if not held.left_out:
        is_left &= ~_denied(pieces, groups, objects, _Views(tiles, height, width, pieces, limit))
    objects = [objects[index] for index in np.flatnonzero(is_left)]
    order = sorted(range(len(objects)), key=lambda index: -objects[index].score)
    chosen = [objects[index] for index in order]
    return Prediction(
        path=path,
        height=height,
        width=width,
        boxes=np.array([one.box for one in chosen], np.float32).reshape(-1, 4),
        scores=np.array([one.score for one in chosen], np.float32),
        classes=np.array([one.class_id for one in chosen], np.int64),
        names=names,
        masks=tuple(one.mask for one in chosen),
        left_out=held.left_out,
    )


def _placed(prediction: Prediction, tile: Tile) -> Prediction:
    """A tile's prediction in pixels of the picture."""
    shift = np.array([tile.x1, tile.y1] * 2, np.float32)
    masks = tuple(mask.moved(tile.x1, tile.y1) for mask in prediction.masks)
    return replace(prediction, boxes=prediction.boxes + shift, masks=masks)


WELL = 0
"""Where a detection ends: well inside its tile,"""

CLOSE = 1
"""or close to a border of it that is none of the picture,"""

CUT = 2
"""or at that."""


def _endings(boxes: npt.NDArray[np.float32], tile: Tile, height: int, width: int) -> npt.NDArray[np.int8]:
    """Where boxes [n, 4], in pixels of a tile, end in it: [n]."""
    sides = np.array([tile.x2 - tile.x1, tile.y2 - tile.y1])
    is_inner = np.array([tile.x1 > 0, tile.y1 > 0, tile.x2 < width, tile.y2 < height])
    found = np.zeros(len(boxes), np.int8)
    for share in (BORDER_SHARE, ROOM_SHARE):
        near = np.maximum(2.0, share * sides)
        ends = np.concatenate([boxes[:, :2] <= near, boxes[:, 2:] >= sides - near], axis=1)
        found += (ends & is_inner).any(axis=1)
    return found


class _Held:
    """Detections as they come, their masks packed and held to ``most`` bytes by letting the worst go."""

    def __init__(self, most: int) -> None:
        self.left_out = 0
        self._most = most
        self._parts: list[tuple[Prediction, npt.NDArray[np.int8], int]] = []
        self._bytes = 0

    def add(self, prediction: Prediction, ending: npt.NDArray[np.int8], number: int) -> None:
        """Take in the detections of tile ``number``."""
        self.left_out += prediction.left_out
        masks = tuple(mask.packed() for mask in prediction.masks)
        self._parts.append((replace(prediction, masks=masks), ending, number))
        self._bytes += sum(mask.nbytes for mask in masks)
        # A quarter more, so that this is seldom done.
        if self._bytes > self._most * 5 // 4:
            self._lighten()

    def _lighten(self) -> None:
        """Keep the best whose masks come to what is allowed."""
        scores = np.concatenate([prediction.scores for prediction, _, _ in self._parts])
        sizes = np.array([mask.nbytes for prediction, _, _ in self._parts for mask in prediction.masks])
        order = np.argsort(-scores, kind="stable")
        kept = np.zeros(len(scores), np.bool_)
        kept[order[np.cumsum(sizes[order]) <= self._most]] = True
        self.left_out += int(np.count_nonzero(~kept))
        self._bytes = int(sizes[kept].sum())
        ends = np.cumsum([len(prediction) for prediction, _, _ in self._parts])
        self._parts = [
            (prediction.select(rows), ending[rows], number)
            for (prediction, ending, number), rows in zip(self._parts, np.split(kept, ends[:-1]), strict=True)
        ]

    def pieces(self) -> _Pieces:
        """All of them."""
        if self._bytes > self._most:
            self._lighten()
        return _Pieces(
            np.concatenate([np.full(len(prediction), number) for prediction, _, number in self._parts]),
            np.concatenate([prediction.boxes for prediction, _, _ in self._parts]),
            np.concatenate([prediction.scores for prediction, _, _ in self._parts]),
            np.concatenate([prediction.classes for prediction, _, _ in self._parts]),
            np.concatenate([ending for _, ending, _ in self._parts]),
            [mask for prediction, _, _ in self._parts for mask in prediction.masks],
        )


class _Match(NamedTuple):
    """What another tile shows that a detection may be; what agrees better comes later in order.

    Attributes:
        is_same: it is the same as that, as far as both tiles see it, else it lies in it.
        is_same_class: whether they are of one class.
        share: intersection over union, the mean of masks and boxes; or the share of it that lies in the other one.
        row: of the other one.
    """

    is_same: bool
    is_same_class: bool
    share: float
    row: int


Matches = Sequence[Sequence[_Match]]
"""By row what it may be, in order."""


def _groups(pieces: _Pieces, tiles: Sequence[Tile]) -> list[list[int]]:
    """Rows that are one object each; where one of them is whole, the first is what stands for them."""
    matches = _matches(pieces, tiles)
    _find_cuts(pieces, matches, tiles)
    is_cut, is_whole = pieces.is_cut, np.array([tile.is_whole for tile in tiles], np.bool_)[pieces.tile]
    groups: list[list[int]] = []
    stands: dict[int, int] = {}
    left = []
    for row in np.lexsort([-pieces.scores, is_whole, is_cut]).tolist():
        known = [match for match in matches[row] if match.row in stands and _stands_for(pieces, matches, match, row)]
        if known:
            groups[stands[max(known).row]].append(row)
        elif is_cut[row]:
            left.append(row)
        else:
            stands[row] = len(groups)
            groups.append([row])
    return groups + _joined(pieces, matches, left)


def _find_cuts(pieces: _Pieces, matches: Matches, tiles: Sequence[Tile]) -> None:
    """Make pieces of detections that end close to a border beyond which another tile sees more of them."""
    for row in np.flatnonzero(pieces.ending == CLOSE).tolist():
        tile = tiles[pieces.tile[row]]
        others = [match.row for match in matches[row] if not tiles[pieces.tile[match.row]].is_whole]
        boxes = pieces.boxes[others]
        if (boxes[:, :2] < (tile.x1, tile.y1)).any() or (boxes[:, 2:] > (tile.x2, tile.y2)).any():
            pieces.ending[row] = CUT


def _stands_for(pieces: _Pieces, matches: Matches, match: _Match, row: int) -> bool:
    """Whether what a detection may be stands for it, and neither of their tiles tells the two apart."""
    other = match.row
    best = next(one.row for one in reversed(matches[row]) if pieces.tile[one.row] == pieces.tile[other])
    # The other tile shows something beside it that this is rather.
    if best != other and common_area(pieces.masks[best], pieces.masks[other]) < SAME_OBJECT * min(
        pieces.masks[best].area, pieces.masks[other].area
    ):
        return False
    # Its own tile shows both: something of another class that lies in it, or on it.
    is_shown = any(
        one.is_same and one.row != row and pieces.tile[one.row] == pieces.tile[row] for one in matches[other]
    )
    return bool(match.is_same or match.is_same_class or pieces.ending[row] == CUT or not is_shown)


def _joined(pieces: _Pieces, matches: Matches, left: Sequence[int]) -> list[list[int]]:
    """Pieces that are one object each: each goes with what fits best in each other tile."""
    parent = {row: row for row in left}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row in left:
        best = {int(pieces.tile[match.row]): match.row for match in matches[row]}
        for other in best.values():
            if other in parent:
                first, second = sorted((root(row), root(other)))
                parent[second] = first
    groups: dict[int, list[int]] = {}
    for row in left:
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())


def _overlapping(tiles: Sequence[Tile]) -> Iterator[tuple[int, int]]:
    """Pairs of tiles that have pixels in common, each pair once."""
    sides = np.array([(tile.x1, tile.y1, tile.x2, tile.y2) for tile in tiles])
    for one in range(len(tiles)):
        later = sides[one + 1 :]
        common = (later[:, :2] < sides[one, 2:]).all(axis=1) & (later[:, 2:] > sides[one, :2]).all(axis=1)
        yield from ((one, one + 1 + int(other)) for other in np.flatnonzero(common))


def _matches(pieces: _Pieces, tiles: Sequence[Tile]) -> Matches:
    """By row what other tiles show that it may be."""
    found: list[list[_Match]] = [[] for _ in pieces.tile]
    for one, other in _overlapping(tiles):
        for pair in _pairs(pieces, tiles[one], tiles[other], one, other):
            is_same = pair.overlap >= SAME_OBJECT
            for row, beside, inside in ((pair.a, pair.b, pair.inside[0]), (pair.b, pair.a, pair.inside[1])):
                if is_same or inside >= SAME_OBJECT:
                    share = pair.likeness if is_same else inside
                    found[row].append(_Match(is_same, pair.is_same_class, share, beside))
    return [sorted(matches) for matches in found]


def _pairs(pieces: _Pieces, one: Tile, other: Tile, one_number: int, other_number: int) -> "Iterator[_Pair]":
    """Rows of two tiles whose boxes have pixels in common."""
    region = (max(one.x1, other.x1), max(one.y1, other.y1), min(one.x2, other.x2), min(one.y2, other.y2))
    rows, columns = (_reaching(pieces, number, region) for number in (one_number, other_number))
    for a in rows.tolist():
        ends = pieces.boxes[a]
        touching = (ends[:2] < pieces.boxes[columns, 2:]).all(axis=1) & (ends[2:] > pieces.boxes[columns, :2]).all(
            axis=1
        )
        yield from (_compare(pieces, a, b, region) for b in columns[touching].tolist())


Region = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, ends excluded."""


def _reaching(pieces: _Pieces, number: int, region: Region) -> npt.NDArray[np.int64]:
    """Rows of a tile whose boxes reach into a region."""
    first, last = np.searchsorted(pieces.tile, [number, number + 1])
    boxes = pieces.boxes[first:last]
    inside = (boxes[:, :2] < region[2:]).all(axis=1) & (boxes[:, 2:] > region[:2]).all(axis=1)
    rows: npt.NDArray[np.int64] = first + np.flatnonzero(inside)
    return rows


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two detections of different tiles.

    Attributes:
        a: row of the one,
        b: and of the other.
        overlap: of what both tiles can see of them, intersection over union of masks, or of boxes where that is larger
            and masks are coarse,
        likeness: and the mean of masks and boxes.
        inside: share of the one's mask that lies in the other's, and the other way round.
        is_same_class: whether they are of one class.
    """

    a: int
    b: int
    overlap: float
    likeness: float
    inside: tuple[float, float]
    is_same_class: bool


def _compare(pieces: _Pieces, a: int, b: int, region: Region) -> _Pair:
    # What ends at its own tile's border may go on: of the other one only what lies in both tiles counts against it.
    views = [region if pieces.ending[other] == CUT else None for other in (b, a)]
    mask_areas = [_mask_area(pieces.masks[row], view) for row, view in zip((a, b), views, strict=True)]
    box_areas = [_box_area(pieces.boxes[row], view) for row, view in zip((a, b), views, strict=True)]
    common = common_area(pieces.masks[a], pieces.masks[b])
    box_common = _box_area(pieces.boxes[a], tuple(pieces.boxes[b].tolist()))
    overlaps = _share(common, sum(mask_areas) - common), _share(box_common, sum(box_areas) - box_common)
    # A piece beside what is whole lies in it with all that it has, or is no piece of it.
    inside = _share(common, mask_areas[0]), _share(common, mask_areas[1])
    # Boxes of things that are not the same may agree well: a ring and what lies in it, or two that cross.
    overlap = max(overlaps) if min(pieces.masks[a].area, pieces.masks[b].area) < COARSE else overlaps[0]
    return _Pair(a, b, overlap, sum(overlaps) / 2, inside, bool(pieces.classes[a] == pieces.classes[b]))


def _mask_area(mask: Mask, region: Region | None) -> int:
    return mask.area if region is None else int(np.count_nonzero(mask.region(*region)))


def _box_area(box: npt.NDArray[np.float32], region: tuple[float, ...] | None) -> float:
    """Pixels of a box, in a region where there is one."""
    x1, y1, x2, y2 = box.tolist() if region is None else _common_box(box.tolist(), region)
    return max(0.0, x2 - x1) * max(0.0, y2 - y1)


def _common_box(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float, float]:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """An object put together."""

    box: npt.NDArray[np.float32]
    score: float
    class_id: int
    mask: Mask


def _as_one(pieces: _Pieces, rows: Sequence[int]) -> _Object:
    """One object from its detections: the first where it is whole, else all pieces together."""
    if pieces.ending[rows[0]] != CUT:
        first = rows[0]
        box, score, class_id = pieces.boxes[first], float(pieces.scores[first]), int(pieces.classes[first])
        return _Object(box, score, class_id, pieces.masks[first])
    # The larger piece shows more of what it is.
    best = max(rows, key=lambda row: (float(pieces.scores[row]) * pieces.masks[row].area, -row))
    class_id = int(pieces.classes[best])
    score = max(float(pieces.scores[row]) for row in rows if pieces.classes[row] == class_id)
    boxes = pieces.boxes[list(rows)]
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return _Object(box, score, class_id, united([pieces.masks[row] for row in rows]))


def _parts(
    pieces: _Pieces, groups: Sequence[Sequence[int]], objects: Sequence[_Object], tiles: Sequence[Tile]
) -> npt.NDArray[np.bool_]:
    """Which objects lie in a larger one without a tile that shows both: [n] bool.

    Small things that the picture as a whole does not show are no parts of what it does.
    """
    boxes = np.array([one.box for one in objects]).reshape(-1, 4)
    areas = np.array([one.mask.area for one in objects], np.int64)
    shown = [set(pieces.tile[list(rows)].tolist()) for rows in groups]
    is_part = np.zeros(len(objects), np.bool_)
    is_whole = np.array([tiles[pieces.tile[rows[0]]].is_whole for rows in groups], np.bool_)
    for index in np.argsort(areas, kind="stable").tolist():
        if areas[index] == 0:
            continue
        ends = boxes[index]
        near = (ends[:2] < boxes[:, 2:]).all(axis=1) & (ends[2:] > boxes[:, :2]).all(axis=1)
        near &= ~is_part & ~is_whole & (areas >= areas[index])
        near[index] = False
        is_part[index] = any(
            shown[index].isdisjoint(shown[other])
            and common_area(objects[index].mask, objects[other].mask) >= SAME_OBJECT * areas[index]
            for other in np.flatnonzero(near).tolist()
        )
    return is_part


class _Views:
    """What tiles see well, and would show.

    Args:
        tiles: all of them.
        height: of the picture in pixels.
        width: of the picture in pixels.
        pieces: what was found on them.
        limit: the most detections that a tile may have.
    """

    def __init__(self, tiles: Sequence[Tile], height: int, width: int, pieces: _Pieces, limit: int | None) -> None:
        sides = np.array([(tile.x1, tile.y1, tile.x2, tile.y2) for tile in tiles], np.float64)
        room = np.tile(ROOM_SHARE * (sides[:, 2:] - sides[:, :2]), 2)
        # A border of the picture hides nothing.
        room = np.where(sides == np.array([0, 0, width, height]), -np.inf, room)
        self._first, self._last = sides[:, :2] + room[:, :2], sides[:, 2:] - room[:, 2:]
        is_whole = np.array([tile.is_whole for tile in tiles], np.bool_)
        # Small things that the whole does not show may be there.
        self._shows = ~is_whole & (np.bincount(pieces.tile, minlength=len(tiles)) < (limit or np.inf))

    def of(self, box: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Numbers of the tiles that have all of a box [4] well inside."""
        inside = (self._first <= box[:2]).all(axis=1) & (box[2:] <= self._last).all(axis=1)
        found: npt.NDArray[np.int64] = np.flatnonzero(inside & self._shows)
        return found


def _denied(
    pieces: _Pieces, groups: Sequence[Sequence[int]], objects: Sequence[_Object], views: _Views
) -> npt.NDArray[np.bool_]:
    """Which objects only others see than the tiles that have them well inside: [n] bool.

    Those others see them close to a border, or coarsely, in the picture as a whole, which is for larger things.
    """
    denied = np.zeros(len(objects), np.bool_)
    for index, (rows, one) in enumerate(zip(groups, objects, strict=True)):
        seen_by = pieces.tile[list(rows)]
        well = views.of(one.box)
        denied[index] = len(well) > 0 and not np.isin(seen_by, well).any()
    return denied
