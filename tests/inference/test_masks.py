import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segc.inference import masks as masks_module
from segc.inference.letterbox import letterbox_geometry
from segc.inference.masks import (
    Mask,
    bilinear_positive,
    frame_masks,
    image_masks,
    join_polygons,
    masks_to_image,
    sample_axis,
    united,
)

bitmaps = hnp.arrays(np.bool_, st.tuples(st.integers(0, 9), st.integers(0, 9)))


def pixels_in_box(box, height, width):
    xs, ys = np.arange(width)[None, :], np.arange(height)[:, None]
    return (xs >= box[0]) & (xs < box[2]) & (ys >= box[1]) & (ys < box[3])


def torch_interpolated(grid, size):
    torch = pytest.importorskip("torch")
    return torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], size, mode="bilinear", align_corners=False
    )[0, 0].numpy()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.lists(st.floats(-40, 170, width=32), min_size=4, max_size=4),
)
def test_a_region_is_interpolated_as_torch_interpolates_the_whole_frame(seed, tiles, corners):
    rng = np.random.default_rng(seed)
    size = (32 * tiles[0], 32 * tiles[1])
    prototypes = rng.normal(size=(32, size[0] // 4, size[1] // 4)).astype(np.float32)
    coefficients = rng.normal(size=(1, 32)).astype(np.float32)
    box = np.array([min(corners[:2]), min(corners[2:]), max(corners[:2]), max(corners[2:])], np.float32)
    logits = torch_interpolated(np.tensordot(coefficients[0], prototypes, axes=1), size)
    found = frame_masks(coefficients, prototypes, box[None], size)[0].full(*size)
    inside = pixels_in_box(box, *size)
    assert not (found & ~inside).any()
    # The last bits of a product depend on the region's shape: pixels at logit nought may fall on either side.
    certain = inside & (np.abs(logits) > 1e-4)
    assert (found == (logits > 0))[certain].all()


@settings(max_examples=100, deadline=None)
@given(
    # Thirds and sevenths meet nought only by rounding.
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.integers(-9, 9).map(lambda value: np.float32(value / 21)),
    ),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.data(),
)
def test_a_part_of_a_grid_is_interpolated_by_the_plain_formula_to_the_last_bit(grid, size, data):
    axes = [sample_axis(side, cells / side, 0.0, cells) for side, cells in zip(size, grid.shape, strict=True)]
    rows, columns = ((axis.lower, axis.upper, axis.fraction) for axis in axes)
    wide = grid[:, columns[0]] * (1 - columns[2]) + grid[:, columns[1]] * columns[2]
    whole = wide[rows[0]] * (1 - rows[2][:, None]) + wide[rows[1]] * rows[2][:, None] > 0
    (y0, y1), (x0, x1) = (
        sorted([data.draw(st.integers(0, side - 1)), data.draw(st.integers(0, side - 1))]) for side in size
    )
    ys, xs = axes
    top, left = int(ys.lower[y0]), int(xs.lower[x0])
    region = np.ascontiguousarray(grid[top : ys.upper[y1] + 1, left : xs.upper[x1] + 1])
    found = bilinear_positive(region, ys.part(y0, y1 + 1, top), xs.part(x0, x1 + 1, left))
    np.testing.assert_array_equal(found, whole[y0 : y1 + 1, x0 : x1 + 1])


def test_retina_masks_read_the_prototypes_at_the_photographs_own_pixels():
    rng = np.random.default_rng(3)
    geometry = letterbox_geometry((150, 230), (64, 64))
    prototypes = rng.normal(size=(32, 16, 16)).astype(np.float32)
    coefficients = rng.normal(size=(1, 32)).astype(np.float32)
    whole = np.array([[0, 0, 64, 64]], np.float32)
    grid = np.tensordot(coefficients[0], prototypes, axes=1)
    expected = np.empty((150, 230))
    for y in range(150):
        for x in range(230):
            v = min(max(((y + 0.5) * geometry.ratio_y + geometry.top) / 4 - 0.5, 0), 15)
            u = min(max(((x + 0.5) * geometry.ratio_x + geometry.left) / 4 - 0.5, 0), 15)
            i, j = int(v), int(u)
            below, right = min(i + 1, 15), min(j + 1, 15)
            upper = grid[i, j] * (1 - u + j) + grid[i, right] * (u - j)
            lower = grid[below, j] * (1 - u + j) + grid[below, right] * (u - j)
            expected[y, x] = upper * (1 - v + i) + lower * (v - i)
    found = image_masks(coefficients, prototypes, whole, geometry, retina=True)[0].full(150, 230)
    certain = np.abs(expected) > 1e-4
    assert (found == (expected > 0))[certain].all()


@pytest.mark.parametrize("retina", [False, True])
def test_strips_do_not_show(monkeypatch, retina):
    rng = np.random.default_rng(4)
    prototypes, coefficients = rng.normal(size=(32, 80, 80)).astype("f4"), rng.normal(size=(3, 32)).astype("f4")
    boxes = np.array([[5.5, 20, 300, 290], [0, 0, 320, 320], [100, 100, 101, 200]], np.float32)
    geometry = letterbox_geometry((700, 900), (320, 320))
    whole = image_masks(coefficients, prototypes, boxes, geometry, retina=retina)
    monkeypatch.setattr(masks_module, "STRIP_PIXELS", 1000)
    strips = image_masks(coefficients, prototypes, boxes, geometry, retina=retina)
    for one, other in zip(whole, strips, strict=True):
        assert (one.full(700, 900) == other.full(700, 900)).all()


@given(st.integers(20, 500), st.integers(20, 500), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_frame_mask_lands_where_its_pixels_belong(height, width, seed):
    geometry = letterbox_geometry((height, width), (96, 128))
    rng = np.random.default_rng(seed)
    x, y = int(rng.integers(0, 100)), int(rng.integers(0, 80))
    mask = Mask(x, y, np.ones((int(rng.integers(1, 17)), int(rng.integers(1, 29))), np.bool_))
    found = masks_to_image([mask], geometry)[0].full(height, width)
    # Nearest neighbour says the same wherever the pixel's centre is clear of the mask's edge.
    v = (np.arange(height) + 0.5) * geometry.ratio_y + geometry.top
    u = (np.arange(width) + 0.5) * geometry.ratio_x + geometry.left
    rows, columns = mask.bitmap.shape
    inside = ((v > y) & (v < y + rows))[:, None] & ((u > x) & (u < x + columns))
    near = lambda at, edge: np.abs(at - edge) < 0.51  # noqa: E731
    doubtful = (near(v, y) | near(v, y + rows))[:, None] | (near(u, x) | near(u, x + columns))
    assert (found == inside)[~doubtful].all()


def test_a_photograph_of_the_frames_size_keeps_its_masks():
    geometry = letterbox_geometry((64, 64), (64, 64))
    bitmap = np.random.default_rng(5).random((20, 30)) > 0.5
    mask = Mask(7, 11, bitmap)
    assert (masks_to_image([mask], geometry)[0].full(64, 64) == mask.full(64, 64)).all()


@pytest.mark.parametrize(
    "box", [[10, 10, 10, 40], [10.1, 10, 10.9, 40], [-20, 0, -5, 9], [70, 70, 90, 90], [9, 9, 3, 3]]
)
@pytest.mark.parametrize("retina", [False, True])
def test_a_box_without_a_pixel_has_an_empty_mask(box, retina):
    prototypes = np.ones((32, 16, 16), np.float32)
    geometry = letterbox_geometry((64, 64), (64, 64))
    mask = image_masks(np.ones((1, 32), np.float32), prototypes, np.array([box], np.float32), geometry, retina=retina)[
        0
    ]
    assert mask.area == 0
    assert mask.polygons() == []
    assert mask.run_lengths(64, 64) == [64 * 64]
    assert not mask.full(64, 64).any()


def test_many_masks_on_a_large_photograph_stay_small_in_memory():
    import tracemalloc

    rng = np.random.default_rng(6)
    geometry = letterbox_geometry((3000, 4000), (640, 640))
    centre = rng.random((300, 2)) * [640, 480] + [0, 80]
    half = rng.random((300, 2)) * 30 + 5
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    prototypes, coefficients = rng.normal(size=(32, 160, 160)).astype("f4"), rng.normal(size=(300, 32)).astype("f4")
    tracemalloc.start()
    masks = image_masks(coefficients, prototypes, boxes, geometry, retina=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(masks) == 300
    assert peak < 100e6  # 300 full frames would be 3.6 GB


@given(bitmaps, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_run_lengths_give_the_mask_back(bitmap, x, y, right, below):
    height, width = y + bitmap.shape[0] + below, x + bitmap.shape[1] + right
    if not height * width:
        return
    mask = Mask(x, y, bitmap)
    runs = mask.run_lengths(height, width)
    assert sum(runs) == height * width
    assert all(length > 0 for length in runs[1:])
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    assert (mask.full(height, width) == flat.reshape(width, height).T).all()


@given(bitmaps)
def test_trimming_keeps_the_pixels_and_drops_the_margin(bitmap):
    mask = Mask(2, 3, bitmap)
    tight = mask.trimmed()
    assert (tight.full(20, 20) == mask.full(20, 20)).all()
    if tight.bitmap.size:
        assert tight.bitmap[0].any()
        assert tight.bitmap[-1].any()
        assert tight.bitmap[:, 0].any()
        assert tight.bitmap[:, -1].any()


@given(bitmaps)
def test_filled_polygons_with_cuts_give_the_mask_back(bitmap):
    import cv2

    mask = Mask(4, 5, bitmap)
    canvas = np.zeros((24, 24), np.uint8)
    for polygon in mask.cut_polygons():
        cv2.fillPoly(canvas, [polygon], 1)
    assert (canvas.astype(bool) == mask.full(24, 24)).all()


def test_parts_of_one_pixel_and_parts_in_holes_are_kept_beside_holes():
    import cv2

    bitmap = np.zeros((20, 20), bool)
    bitmap[2:15, 2:15] = True
    bitmap[4:13, 4:13] = False
    bitmap[8, 8] = bitmap[18, 18] = bitmap[18, 1] = bitmap[18, 2] = True
    canvas = cv2.fillPoly(np.zeros((20, 20), np.uint8), Mask(0, 0, bitmap).cut_polygons()[:1], 1)
    assert canvas.sum() == 13 * 13 - 9 * 9
    for polygon in Mask(0, 0, bitmap).cut_polygons()[1:]:
        cv2.fillPoly(canvas, [polygon], 1)
    assert (canvas.astype(bool) == bitmap).all()


def filled_without_holes(mask):
    import cv2

    canvas = mask.full(24, 24).astype(np.uint8)
    outlines, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(canvas), outlines, -1, 1, cv2.FILLED).astype(bool)


@given(bitmaps)
def test_filled_polygons_give_the_mask_back_but_for_holes(bitmap):
    import cv2

    mask = Mask(4, 5, bitmap)
    polygons = mask.polygons()
    canvas = np.zeros((24, 24), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [polygon], 1)
    assert (canvas.astype(bool) == filled_without_holes(mask)).all()
    areas = [cv2.contourArea(polygon) for polygon in polygons]
    assert areas == sorted(areas, reverse=True)


def test_joined_polygons_hold_every_part_and_little_else():
    import cv2

    bitmap = np.zeros((30, 60), np.bool_)
    bitmap[2:12, 3:20] = bitmap[15:28, 30:50] = bitmap[5:9, 52:58] = True
    polygons = Mask(0, 0, bitmap).polygons()
    assert len(polygons) == 3
    canvas = cv2.fillPoly(np.zeros(bitmap.shape, np.uint8), [join_polygons(polygons)], 1).astype(bool)
    assert canvas[bitmap].all()
    assert (canvas & ~bitmap).sum() < 30


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (3, 8), (17, 29), (40, 64)])
def test_a_packed_mask_is_the_same_one_in_an_eighth_of_the_memory(shape):
    rng = np.random.default_rng(sum(shape))
    mask = Mask(3, 5, rng.random(shape) < 0.4)
    packed = mask.packed().moved(2, 1).moved(-2, -1)
    assert packed.nbytes == shape[0] * -(-shape[1] // 8)
    assert (packed.bitmap == mask.bitmap).all()
    assert (packed.x, packed.y, packed.shape, packed.area) == (mask.x, mask.y, mask.shape, mask.area)
    assert packed.run_lengths(60, 90) == mask.run_lengths(60, 90)
    full = mask.full(60, 90)
    assert (packed.full(60, 90) == full).all()
    for ends in ((0, 0, 90, 60), (4, 7, 20, 30), (70, 50, 90, 60), (0, 0, 3, 60), (10, 10, 10, 10)):
        x1, y1, x2, y2 = ends
        assert (packed.region(*ends) == mask.region(*ends)).all()
        assert (packed.within(*ends) == full[y1:y2, x1:x2]).all()


def test_a_union_in_bands_is_the_union(monkeypatch):
    monkeypatch.setattr(masks_module, "STRIP_PIXELS", 100)
    rng = np.random.default_rng(1)
    pieces = [Mask(int(x), int(y), rng.random((9, 13)) < 0.5) for x, y in rng.integers(0, 40, (6, 2))]
    expected = np.any([piece.full(60, 60) for piece in pieces], axis=0)
    assert (united([piece.packed() for piece in pieces]).full(60, 60) == expected).all()
