"""Large pictures in overlapping tiles: where the tiles lie, and what is found on them put together again.

Where two tiles overlap, both see the same pixels, so that is where detections are compared: by their masks, and by
their boxes. A detection that ends at its tile's border is a piece; the other tile may see what is missing, and then
what both see of it decides. One that ends inside its tile is whole, and is compared with the whole of another. An
object that one tile sees whole is taken from there; one that no tile does becomes the union of its pieces.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segc.inference.filters import Filters, Tiling
from segc.inference.masks import Mask, common_area, united
from segc.inference.results import Prediction

SAME_OBJECT = 0.5
"""Intersection over union, of what both tiles see, from which two detections are one object; and the share of a piece
that must lie in another detection for it to be a piece of that.
"""

BORDER_SHARE = 0.01
"""Of a tile's side: what ends so close to its border is a piece. Boxes end a pixel or two before it."""


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
        is_cut: [n], whether it ends at a border of its tile that is none of the picture,
        masks: n.
    """

    tile: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    is_cut: npt.NDArray[np.bool_]
    masks: Sequence[Mask]


def merge_tiles(
    found: Iterable[tuple[Tile, Prediction]],
    height: int,
    width: int,
    path: str = "",
    *,
    most: int = Filters().mask_bytes,
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
    """
    tiles: list[Tile] = []
    held = _Held(most)
    names: tuple[str, ...] = ()
    for tile, prediction in found:
        held.add(_placed(prediction, tile), _cut(prediction.boxes, tile, height, width), len(tiles))
        tiles.append(tile)
        names = prediction.names
    pieces = held.pieces()
    objects = [_as_one(pieces, rows, tiles) for rows in _groups(pieces, tiles)]
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


def _cut(boxes: npt.NDArray[np.float32], tile: Tile, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Which boxes [n, 4], in pixels of a tile, end at a border of it that is none of the picture."""
    sides = np.array([tile.x2 - tile.x1, tile.y2 - tile.y1])
    near = np.maximum(2.0, BORDER_SHARE * sides)
    is_inner = np.array([tile.x1 > 0, tile.y1 > 0, tile.x2 < width, tile.y2 < height])
    ends = np.concatenate([boxes[:, :2] <= near, boxes[:, 2:] >= sides - near], axis=1)
    cut: npt.NDArray[np.bool_] = (ends & is_inner).any(axis=1)
    return cut


class _Held:
    """Detections as they come, their masks packed and held to ``most`` bytes by letting the worst go."""

    def __init__(self, most: int) -> None:
        self.left_out = 0
        self._most = most
        self._parts: list[tuple[Prediction, npt.NDArray[np.bool_], int]] = []
        self._bytes = 0

    def add(self, prediction: Prediction, is_cut: npt.NDArray[np.bool_], number: int) -> None:
        """Take in the detections of tile ``number``."""
        self.left_out += prediction.left_out
        masks = tuple(mask.packed() for mask in prediction.masks)
        self._parts.append((replace(prediction, masks=masks), is_cut, number))
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
            (prediction.select(rows), is_cut[rows], number)
            for (prediction, is_cut, number), rows in zip(self._parts, np.split(kept, ends[:-1]), strict=True)
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
            np.concatenate([is_cut for _, is_cut, _ in self._parts]),
            [mask for prediction, _, _ in self._parts for mask in prediction.masks],
        )


def _groups(pieces: _Pieces, tiles: Sequence[Tile]) -> list[list[int]]:
    """Rows that are one object each.

    What agrees best is joined first, but no two objects that one tile sees whole and apart from each other, whatever
    lies between them.
    """
    parent = list(range(len(pieces.tile)))
    whole = [[] if cut else [row] for row, cut in enumerate(pieces.is_cut)]

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    links = [link for one, other in _overlapping(tiles) for link in _same(pieces, tiles[one], tiles[other], one, other)]
    for _, a, b in sorted(links):
        first, second = sorted((root(a), root(b)))
        if first != second and not _told_apart(pieces, whole[first], whole[second]):
            parent[second] = first
            whole[first] += whole[second]
    groups: dict[int, list[int]] = {}
    for row in range(len(parent)):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())


def _told_apart(pieces: _Pieces, one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a tile shows two whole detections, of which less than half of the smaller one lies in the other."""
    return any(
        pieces.tile[a] == pieces.tile[b]
        and common_area(pieces.masks[a], pieces.masks[b])
        < SAME_OBJECT * min(pieces.masks[a].area, pieces.masks[b].area)
        for a in one
        for b in other
    )


def _overlapping(tiles: Sequence[Tile]) -> Iterator[tuple[int, int]]:
    """Pairs of tiles that have pixels in common, each pair once."""
    sides = np.array([(tile.x1, tile.y1, tile.x2, tile.y2) for tile in tiles])
    for one in range(len(tiles)):
        later = sides[one + 1 :]
        common = (later[:, :2] < sides[one, 2:]).all(axis=1) & (later[:, 2:] > sides[one, :2]).all(axis=1)
        yield from ((one, one + 1 + int(other)) for other in np.flatnonzero(common))


Link = tuple[float, int, int]
"""Two rows that are the same object; what agrees better comes first."""


def _same(pieces: _Pieces, one: Tile, other: Tile, one_number: int, other_number: int) -> Iterator[Link]:
    """Pairs of rows, one of each tile, that are the same object.

    First one of a tile goes with one of the other at most, those that agree best first. A piece that is left over then
    goes with what it lies in.
    """
    region = (max(one.x1, other.x1), max(one.y1, other.y1), min(one.x2, other.x2), min(one.y2, other.y2))
    rows, columns = (_reaching(pieces, number, region) for number in (one_number, other_number))
    pairs = [_compare(pieces, int(a), int(b), region) for a in rows for b in columns if _touch(pieces, int(a), int(b))]
    taken: set[int] = set()
    for pair in sorted(pairs, key=lambda pair: (not pair.is_same_class, -pair.overlap, pair.a, pair.b)):
        one_class = pair.is_same_class or pieces.is_cut[pair.a] or pieces.is_cut[pair.b]
        if one_class and pair.overlap >= SAME_OBJECT and not {pair.a, pair.b} & taken:
            taken |= {pair.a, pair.b}
            yield -1 - pair.overlap, pair.a, pair.b
    for pair in sorted(pairs, key=lambda pair: (not pair.is_same_class, -max(pair.inside), pair.a, pair.b)):
        for piece, rest, inside in ((pair.a, pair.b, pair.inside[0]), (pair.b, pair.a, pair.inside[1])):
            may_be = pair.is_same_class or not pieces.is_cut[rest]
            if may_be and inside >= SAME_OBJECT and pieces.is_cut[piece] and piece not in taken:
                taken.add(piece)
                yield -inside, piece, rest


Region = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, ends excluded."""


def _reaching(pieces: _Pieces, number: int, region: Region) -> npt.NDArray[np.int64]:
    """Rows of a tile whose boxes reach into a region."""
    first, last = np.searchsorted(pieces.tile, [number, number + 1])
    boxes = pieces.boxes[first:last]
    inside = (boxes[:, :2] < region[2:]).all(axis=1) & (boxes[:, 2:] > region[:2]).all(axis=1)
    rows: npt.NDArray[np.int64] = first + np.flatnonzero(inside)
    return rows


def _touch(pieces: _Pieces, a: int, b: int) -> bool:
    one, other = pieces.boxes[a], pieces.boxes[b]
    return bool((one[:2] < other[2:]).all() and (one[2:] > other[:2]).all())


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two detections of different tiles.

    Attributes:
        a: row of the one,
        b: and of the other.
        overlap: of what both tiles can see of them, intersection over union of masks or of boxes, whichever is larger.
        inside: share of the one's mask that lies in the other's, and the other way round.
        is_same_class: whether they are of one class.
    """

    a: int
    b: int
    overlap: float
    inside: tuple[float, float]
    is_same_class: bool


def _compare(pieces: _Pieces, a: int, b: int, region: Region) -> _Pair:
    # What ends at its own tile's border may go on: of the other one only what lies in both tiles counts against it.
    views = [region if pieces.is_cut[other] else None for other in (b, a)]
    mask_areas = [_mask_area(pieces.masks[row], view) for row, view in zip((a, b), views, strict=True)]
    box_areas = [_box_area(pieces.boxes[row], view) for row, view in zip((a, b), views, strict=True)]
    common = common_area(pieces.masks[a], pieces.masks[b])
    box_common = _box_area(pieces.boxes[a], tuple(pieces.boxes[b].tolist()))
    overlap = max(_share(common, sum(mask_areas) - common), _share(box_common, sum(box_areas) - box_common))
    # A piece beside what is whole lies in it with all that it has, or is no piece of it.
    inside = _share(common, mask_areas[0]), _share(common, mask_areas[1])
    return _Pair(a, b, overlap, inside, bool(pieces.classes[a] == pieces.classes[b]))


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


def _as_one(pieces: _Pieces, rows: Sequence[int], tiles: Sequence[Tile]) -> _Object:
    """One object from its detections: the best that is whole, from a tile if there is one, else all pieces together."""
    whole = [row for row in rows if not pieces.is_cut[row]]
    if whole:
        best = min(whole, key=lambda row: (tiles[int(pieces.tile[row])].is_whole, -pieces.scores[row], row))
        return _Object(pieces.boxes[best], float(pieces.scores[best]), int(pieces.classes[best]), pieces.masks[best])
    # The larger piece shows more of what it is.
    best = max(rows, key=lambda row: (float(pieces.scores[row]) * pieces.masks[row].area, -row))
    class_id = pieces.classes[best]
    score = max(float(pieces.scores[row]) for row in rows if pieces.classes[row] == class_id)
    boxes = pieces.boxes[list(rows)]
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return _Object(box, score, int(class_id), united([pieces.masks[row] for row in rows]))
