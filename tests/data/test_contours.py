"""Masks as polygons that fill to the same mask, and run-length codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.contours import mask_of, outlines, run_lengths
from segc.evaluation.rle import encode_mask, encode_polygons


def drawn(polygons, height: int, width: int) -> np.ndarray:
    """Even-odd filling of the union, point by point: whether a ray from a pixel's centre crosses an odd number."""
    y, x = np.mgrid[:height, :width] + 0.5
    result = np.zeros((height, width), bool)
    for polygon in polygons:
        inside = np.zeros((height, width), bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y0 != y1:
                inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        result |= inside
    return result


def masks():
    shape = st.tuples(st.integers(1, 14), st.integers(1, 14))
    return st.builds(
        lambda size, seed, density: np.random.default_rng(seed).random(size) < density,
        shape,
        st.integers(0, 2**31),
        st.sampled_from([0.1, 0.5, 0.8, 0.95, 1.0]),
    )


@settings(max_examples=150, deadline=None)
@given(masks())
def test_outlines_fill_to_the_mask_they_were_taken_from(mask):
    polygons = outlines(mask)
    assert np.array_equal(drawn(polygons, *mask.shape), mask)
    assert all((polygon == polygon.round()).all() for polygon in polygons)


@settings(max_examples=150, deadline=None)
@given(masks())
def test_cocos_rasteriser_fills_them_to_the_same_mask(mask):
    if mask.any():
        assert encode_polygons(outlines(mask), *mask.shape) == encode_mask(mask)


def test_a_ring_is_one_polygon_and_an_island_in_it_another():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    assert sorted(len(polygon) for polygon in outlines(mask)) == [4, 10]


def test_a_rectangle_has_four_corners_on_the_edges_of_its_pixels():
    mask = np.zeros((5, 8), bool)
    mask[1:3, 2:7] = True
    (polygon,) = outlines(mask)
    assert sorted(polygon.tolist()) == [[2, 1], [2, 3], [7, 1], [7, 3]]


def test_an_empty_mask_has_no_outline():
    assert outlines(np.zeros((4, 4), bool)) == ()


@settings(max_examples=100, deadline=None)
@given(masks())
def test_run_length_codes_are_read_as_coco_writes_them(mask):
    code = encode_mask(mask)
    runs = run_lengths(code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"])
    assert np.array_equal(mask_of(runs, *mask.shape), mask)


def test_long_runs_are_read_too():
    mask = np.zeros((3000, 2000), bool)
    mask[10, 1999] = mask[0, 3] = True
    code = encode_mask(mask)
    counts = code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"]
    assert np.array_equal(mask_of(run_lengths(counts), 3000, 2000), mask)


@pytest.mark.parametrize("text", ["P", "0o", " ", "é", "oooooooooo0", "~"])
def test_texts_that_are_no_code_are_refused(text):
    with pytest.raises(ValueError, match="counts"):
        run_lengths(text)


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=40))
def test_any_text_is_refused_or_gives_a_mask_of_the_size(text):
    try:
        mask = mask_of(run_lengths(text), 7, 5)
    except ValueError:
        return
    assert mask.shape == (7, 5)


@pytest.mark.parametrize("runs", [[3], [10, 10], [-1, 10], [2**62, 2**62, 2**62, 2**62, 9]])
def test_runs_that_do_not_fill_the_mask_are_refused(runs):
    with pytest.raises(ValueError, match="run"):
        mask_of(np.array(runs, np.int64), 3, 3)
