"""Tiles: where they lie, and objects put together again, with a detector that knows what is drawn."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from segc.inference.masks import Mask, united
from segc.inference.results import Prediction
from segc.inference.tiles import Tile, Tiling, merge_tiles, tile_grid, tile_starts


def predicted(size, masks, classes=None, scores=None, boxes=None):
    ends = [(m.x, m.y, m.x + m.bitmap.shape[1], m.y + m.bitmap.shape[0]) for m in masks] if boxes is None else boxes
    return Prediction(
        path="",
        height=size[0],
        width=size[1],
        boxes=np.array(ends, np.float32).reshape(-1, 4),
        scores=np.array([0.9] * len(masks) if scores is None else scores, np.float32),
        classes=np.array([0] * len(masks) if classes is None else classes, np.int64),
        names=("a", "b"),
        masks=tuple(masks),
    )


def disc(x, y, radius):
    down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return Mask(x - radius, y - radius, down**2 + across**2 <= radius**2)


def seen(tile, objects, least=1):
    """What a perfect detector finds on a tile: the visible part of every object, as (mask, class, score)."""
    masks, classes, scores = [], [], []
    for mask, class_id, score in objects:
        x1, y1 = max(mask.x, tile.x1), max(mask.y, tile.y1)
        part = mask.region(tile.x1, tile.y1, tile.x2, tile.y2)
        if part.size and np.count_nonzero(part) >= least:
            masks.append(Mask(x1 - tile.x1, y1 - tile.y1, part).trimmed())
            classes.append(class_id)
            scores.append(score)
    return predicted((tile.y2 - tile.y1, tile.x2 - tile.x1), masks, classes, scores)


def merged(objects, size, tiling, least=1):
    return merge_tiles([(t, seen(t, objects, least)) for t in tile_grid(*size, tiling)], *size)


def full(prediction):
    return sorted(
        (int(c), mask.full(prediction.height, prediction.width).tobytes())
        for c, mask in zip(prediction.classes, prediction.masks, strict=True)
    )


@pytest.mark.parametrize("length", [1, 99, 100, 101, 180, 181, 640, 1000, 6000])
@pytest.mark.parametrize("overlap", [0, 0.2, 0.5])
def test_tiles_cover_a_side_and_overlap_as_asked(length, overlap):
    starts = tile_starts(length, 100, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - 100)
    steps = np.diff(starts)
    assert (steps <= np.ceil(100 * (1 - overlap))).all()
    assert len(starts) == 1 or (len(starts) - 2) * 100 * (1 - overlap) < length - 100


def test_a_grid_is_the_product_of_its_sides_with_the_whole_at_the_end_where_asked():
    grid = tile_grid(150, 250, Tiling(100, 0.2))
    assert len(grid) == 2 * 3
    assert grid[0] == Tile(0, 0, 100, 100)
    assert grid[-1] == Tile(150, 50, 250, 150)
    assert tile_grid(150, 250, Tiling(100, 0.2, whole=True))[-1] == Tile(0, 0, 250, 150, is_whole=True)
    assert tile_grid(90, 80, Tiling(100, 0.2, whole=True)) == [Tile(0, 0, 80, 90)]


def test_objects_in_an_overlap_come_once_and_cut_ones_are_whole_again():
    rng = np.random.default_rng(0)
    objects, taken = [], np.zeros((500, 620), np.bool_)
    while len(objects) < 40:
        mask = disc(int(rng.integers(-10, 630)), int(rng.integers(-10, 510)), int(rng.integers(4, 40)))
        mask = Mask(max(0, mask.x), max(0, mask.y), mask.bitmap[max(0, -mask.y) :, max(0, -mask.x) :][:500, :620])
        mask = Mask(mask.x, mask.y, mask.bitmap[: 500 - mask.y, : 620 - mask.x])
        if not mask.area or (mask.trimmed().full(500, 620) & taken).any():
            continue
        taken |= mask.full(500, 620)
        objects.append((mask.trimmed(), int(rng.integers(2)), 0.9))
    expected = full(predicted((500, 620), [m for m, _, _ in objects], [c for _, c, _ in objects]))
    for tiling in (Tiling(160, 0.2), Tiling(128, 0.4), Tiling(160, 0.2, whole=True)):
        assert full(merged(objects, (500, 620), tiling)) == expected


def test_an_object_larger_than_several_tiles_is_the_union_of_its_pieces():
    bar = Mask(20, 90, np.ones((40, 560), np.bool_))
    found = merged([(bar, 1, 0.8)], (200, 600), Tiling(160, 0.2))
    assert full(found) == full(predicted((200, 600), [bar], [1]))
    assert found.boxes.tolist() == [[20, 90, 580, 130]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_the_whole_picture_brings_what_the_tiles_do_not_find():
    large, small = disc(150, 150, 120), disc(40, 280, 8)
    size, tiling = (320, 320), Tiling(160, 0.2, whole=True)
    found = [
        (tile, seen(tile, [(large, 0, 0.9)] if tile.is_whole else [(small, 1, 0.7)]))
        for tile in tile_grid(*size, tiling)
    ]
    assert full(merge_tiles(found, *size)) == full(predicted(size, [large, small], [0, 1]))


def test_what_the_whole_picture_takes_for_one_large_thing_swallows_nothing_that_tiles_see():
    wall = Mask(10, 10, np.ones((300, 300), np.bool_))
    things = [disc(40, 40, 8), disc(152, 100, 6), disc(250, 260, 9)]
    size, tiling = (320, 320), Tiling(160, 0.2, whole=True)
    found = [
        (tile, seen(tile, [(wall, 0, 0.9)] if tile.is_whole else [(thing, 1, 0.7) for thing in things]))
        for tile in tile_grid(*size, tiling)
    ]
    assert full(merge_tiles(found, *size)) == full(predicted(size, [wall, *things], [0, 1, 1, 1]))


def test_a_tile_that_sees_all_of_an_object_is_believed_before_the_whole_picture():
    fine, coarse = disc(60, 60, 20), disc(62, 60, 20)
    size, tiling = (320, 320), Tiling(160, 0.2, whole=True)
    found = [(t, seen(t, [(coarse, 0, 0.99)] if t.is_whole else [(fine, 0, 0.5)])) for t in tile_grid(*size, tiling)]
    assert full(merge_tiles(found, *size)) == full(predicted(size, [fine]))


def test_a_piece_taken_for_another_class_is_no_object_of_its_own():
    square = Mask(120, 50, np.ones((50, 50), np.bool_))
    left, right = Tile(0, 0, 160, 160), Tile(128, 0, 288, 160)
    # The right tile sees 42 of its 50 columns; the left one 40, and calls them another class.
    whole = Tile(100, 0, 260, 160)
    pieces = [(left, replace(seen(left, [(square, 1, 0.95)]))), (whole, seen(whole, [(square, 0, 0.8)]))]
    found = merge_tiles(pieces, 160, 288)
    assert found.classes.tolist() == [0]
    assert full(found) == full(predicted((160, 288), [square]))
    assert len(merge_tiles([(left, seen(left, [(square, 1, 0.95)])), (right, seen(right, []))], 160, 288)) == 1


def test_a_sliver_beyond_the_border_goes_with_its_object():
    # Seven columns reach into the second tile, which sees nothing but them.
    square = Mask(85, 50, np.ones((50, 50), np.bool_))
    first, second = Tile(0, 0, 160, 160), Tile(128, 0, 288, 160)
    sliver = Mask(0, 52, np.ones((30, 6), np.bool_))
    for class_id in (0, 1):
        found = merge_tiles(
            [(first, seen(first, [(square, 0, 0.9)])), (second, predicted((160, 160), [sliver], [class_id], [0.4]))],
            160,
            288,
        )
        assert full(found) == full(predicted((160, 288), [square]))


def test_neighbours_of_one_class_stay_two():
    one, other = Mask(120, 40, np.ones((50, 24), np.bool_)), Mask(144, 40, np.ones((50, 30), np.bool_))
    found = merged([(one, 0, 0.9), (other, 0, 0.8)], (160, 288), Tiling(160, 0.2))
    assert full(found) == full(predicted((160, 288), [one, other]))


def test_a_small_thing_on_a_large_one_of_its_class_stays_its_own():
    hole = disc(150, 80, 10)
    pixels = np.ones((100, 100), np.bool_)
    pixels[hole.y - 30 : hole.y - 9, hole.x - 100 : hole.x - 79] &= ~hole.bitmap
    plate = Mask(100, 30, pixels)
    found = merged([(plate, 0, 0.9), (hole, 0, 0.8)], (160, 288), Tiling(160, 0.2))
    assert full(found) == full(predicted((160, 288), [plate, hole]))


def test_boxes_make_one_of_what_small_masks_are_too_coarse_for():
    tile, other = Tile(0, 0, 160, 160), Tile(128, 0, 288, 160)
    one, coarse = Mask(140, 60, np.eye(6, dtype=np.bool_)), Mask(12, 60, np.eye(6, dtype=np.bool_)[::-1])
    found = merge_tiles(
        [(tile, predicted((160, 160), [one])), (other, predicted((160, 160), [coarse], scores=[0.5]))], 160, 288
    )
    assert len(found) == 1
    assert found.scores.tolist() == pytest.approx([0.9])


def test_detections_without_a_mask_and_tiles_without_detections_are_taken():
    empty = Mask(0, 0, np.zeros((0, 0), np.bool_))
    tile, other = Tile(0, 0, 160, 160), Tile(128, 0, 288, 160)
    pieces = [(tile, predicted((160, 160), [empty], boxes=[(130, 20, 160, 50)])), (other, predicted((160, 160), []))]
    assert len(merge_tiles(pieces, 160, 288)) == 1
    pieces = [pieces[0], (other, predicted((160, 160), [empty], boxes=[(0, 20, 32, 50)]))]
    assert merge_tiles(pieces, 160, 288).boxes.tolist() == [[128, 20, 160, 50]]
    assert len(merge_tiles([(tile, predicted((160, 160), []))], 160, 160)) == 0


def test_the_best_are_first():
    objects = [(disc(40 + 60 * n, 60, 20), n % 2, 0.5 + 0.1 * n) for n in range(4)]
    found = merged(objects, (160, 300), Tiling(160, 0.2))
    assert found.scores.tolist() == pytest.approx([0.8, 0.7, 0.6, 0.5])


def test_masks_of_a_huge_picture_are_held_to_a_bound_and_no_more_is_left_out_than_that_asks_for():
    objects = [(Mask(200 * n, 20, np.ones((30, 100), np.bool_)), 0, 0.3 + 0.05 * n) for n in range(10)]
    size, one = (100, 2000), 30 * -(-100 // 8)
    for kept in (3, 7, 10):
        found = merge_tiles(
            [(t, seen(t, objects)) for t in tile_grid(*size, Tiling(100, 0))], *size, most=one * (kept + 1) - 1
        )
        assert (len(found), found.left_out) == (kept, 10 - kept)
        assert found.scores.tolist() == pytest.approx([0.3 + 0.05 * n for n in range(9, 9 - kept, -1)])
        assert ("--mask-memory" in found.summary()) == (kept < 10)


def test_no_mask_is_ever_as_large_as_the_picture():
    size = (20_000, 20_000)
    objects = [(disc(int(x), int(y), 30), 0, 0.9) for x, y in np.random.default_rng(0).integers(100, 19_900, (200, 2))]
    tiling = Tiling(2000, 0.1)
    tracemalloc.start()
    found = merged(objects, size, tiling)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 190 < len(found) <= 200
    assert peak < 50e6


def test_the_union_of_masks_holds_every_pixel_of_them():
    one, other = disc(10, 10, 5), disc(30, 12, 8)
    assert (united([one, other]).full(40, 40) == one.full(40, 40) | other.full(40, 40)).all()
    empty = Mask(0, 0, np.zeros((0, 0), np.bool_))
    assert united([empty, one]) is one
    assert united([empty]) is empty


def test_what_lies_between_two_objects_that_a_tile_tells_apart_does_not_join_them():
    left, right = (Mask(x, 20, np.ones((40, 30), np.bool_)) for x in (60, 90))
    grid = [Tile(0, 0, 160, 100), Tile(70, 0, 230, 100), Tile(65, 0, 225, 100)]
    # The other tiles see something of both, each more of another one, and much in common.
    some, more = Mask(0, 20, np.ones((40, 35), np.bool_)), Mask(15, 20, np.ones((40, 40), np.bool_))
    seen = [([left, right], [0.9, 0.8]), ([some], [0.6]), ([more], [0.5])]
    found = [
        (tile, predicted((100, 160), masks, scores=scores)) for tile, (masks, scores) in zip(grid, seen, strict=True)
    ]
    assert full(merge_tiles(found, 100, 230)) == full(predicted((100, 230), [left, right]))


def shape(rng):
    """A disc, a bar, a ring or a horseshoe, [h, w] bool, all in one piece."""
    radius = int(rng.integers(3, 45))
    down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    far = down**2 + across**2
    match rng.integers(4):
        case 0:
            found = far <= radius**2
        case 1:
            found = np.abs(down - rng.uniform(-1, 1) * across) <= 1 + radius // 4
        case 2:
            found = (far <= radius**2) & (far >= (radius // 2) ** 2)
        case _:
            found = (far <= radius**2) & ((far >= (radius // 2) ** 2) & (down < radius // 2))
    return np.rot90(found, int(rng.integers(4)))


def scattered(rng, height, width, count):
    """Masks that have no pixel in common, none on the picture's border, and their classes."""
    taken = np.zeros((height, width), np.bool_)
    found = []
    for _ in range(count):
        bitmap = shape(rng)
        y, x = (int(rng.integers(1, max(2, side - part))) for side, part in zip(taken.shape, bitmap.shape, strict=True))
        place = taken[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
        if place.shape == bitmap.shape and not (place & bitmap).any():
            place |= bitmap
            found.append((Mask(x, y, bitmap).trimmed(), int(rng.integers(2)), round(float(rng.uniform(0.3, 1)), 2)))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_masks_cut_by_any_grid_are_the_masks_again(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 400, 2).tolist()
    objects = scattered(rng, height, width, 30)
    tiling = Tiling(int(rng.integers(30, 200)), float(rng.uniform(0.05, 0.6)), whole=bool(rng.integers(2)))
    expected = predicted((height, width), [mask for mask, _, _ in objects], [class_id for _, class_id, _ in objects])
    assert full(merged(objects, (height, width), tiling)) == full(expected)


def seen_badly(tile, objects, rng):
    """What a poor detector finds on a tile: of what a border cuts less than there is, of any class."""
    masks, classes, scores = [], [], []
    for mask, class_id, score in objects:
        part = mask.region(tile.x1, tile.y1, tile.x2, tile.y2)
        if np.count_nonzero(part) < 12:
            continue
        place = Mask(max(mask.x, tile.x1) - tile.x1, max(mask.y, tile.y1) - tile.y1, part).trimmed()
        if place.area == mask.area:
            masks.append(place)
            classes.append(class_id)
            scores.append(score)
            continue
        rows, columns = (max(1, side - int(rng.integers(7))) for side in place.shape)
        top, left = (int(rng.integers(0, s - p + 1)) for s, p in zip(place.shape, (rows, columns), strict=True))
        less = Mask(place.x + left, place.y + top, place.bitmap[top : top + rows, left : left + columns]).trimmed()
        if less.area:
            masks.append(less)
            classes.append(int(rng.integers(2)))
            scores.append(float(rng.uniform(0.3, 1)))
    return predicted((tile.y2 - tile.y1, tile.x2 - tile.x1), masks, classes, scores)


@pytest.mark.parametrize("seed", range(12))
def test_of_what_one_tile_shows_whole_no_piece_is_left(seed):
    rng = np.random.default_rng(seed)
    size, tiling = (400, 430), Tiling(200, 0.5)
    objects = scattered(rng, *size, 30)
    found = [(tile, seen_badly(tile, objects, rng)) for tile in tile_grid(*size, tiling)]
    expected = predicted(size, [mask for mask, _, _ in objects], [class_id for _, class_id, _ in objects])
    assert full(merge_tiles(found, *size)) == full(expected)


def test_what_one_tile_sees_twice_comes_once_where_another_tile_is_believed():
    square = Mask(100, 50, np.ones((40, 40), np.bool_))
    left, right = Tile(0, 0, 160, 160), Tile(80, 0, 240, 160)
    twice = replace(seen(left, [(square, 0, 0.8), (square, 1, 0.7)]))
    once = seen(right, [(square, 0, 0.9)])
    assert full(merge_tiles([(left, twice), (right, once)], 160, 240)) == full(predicted((160, 240), [square]))
    # The network saw two, and nothing speaks against it.
    assert len(merge_tiles([(left, twice), (right, seen(right, []))], 160, 240)) == 2


def test_a_thing_of_another_class_on_an_object_stays_where_a_tile_shows_both():
    person, tie = Mask(90, 30, np.ones((90, 50), np.bool_)), Mask(110, 50, np.ones((30, 8), np.bool_))
    left, right = Tile(0, 0, 160, 160), Tile(80, 0, 240, 160)
    one, both = seen(right, [(person, 0, 0.9)]), seen(left, [(person, 0, 0.8), (tie, 1, 0.95)])
    found = merge_tiles([(left, both), (right, one)], 160, 240)
    assert full(found) == full(predicted((160, 240), [person, tie], [0, 1]))
    # One that sees no more than the thing takes a part for a whole.
    found = merge_tiles([(left, seen(left, [(tie, 1, 0.95)])), (right, one)], 160, 240)
    assert full(found) == full(predicted((160, 240), [person]))


def test_what_is_seen_only_close_to_a_border_is_believed_unless_another_tile_has_it_well_inside():
    thing = Mask(132, 60, np.ones((20, 20), np.bool_))
    left, right = Tile(0, 0, 160, 160), Tile(80, 0, 240, 160)
    found = seen(left, [(thing, 0, 0.9)])
    assert len(merge_tiles([(left, found), (right, seen(right, []))], 160, 240)) == 1
    near = Tile(0, 0, 155, 160)
    found = [(near, seen(near, [(thing, 0, 0.9)])), (right, seen(right, []))]
    assert len(merge_tiles(found, 160, 240)) == 0
    # A tile with as many detections as it may have may have left it out.
    full_tile = (right, seen(right, [(Mask(200, 20, np.ones((20, 20), np.bool_)), 0, 0.9)]))
    assert len(merge_tiles([found[0], full_tile], 160, 240, limit=1)) == 2
    assert len(merge_tiles([found[0], full_tile], 160, 240, limit=2)) == 1
