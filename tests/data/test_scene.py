"""Boxes and masks of scenes follow the polygons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.samples import rasterise
from segc.data.scene import boxes_of, index_map, object_masks


def square(x0: float, y0: float, x1: float, y1: float):
    return (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32),)


def test_boxes_are_clipped_to_the_frame():
    boxes = boxes_of([square(-5, 2, 12, 30)], 20, 10)
    assert boxes.tolist() == [[0, 2, 10, 20]]
    assert boxes_of([], 20, 10).shape == (0, 4)


def test_a_box_goes_round_all_parts():
    assert boxes_of([(*square(1, 1, 2, 2), *square(6, 7, 8, 9))], 20, 20).tolist() == [[1, 1, 8, 9]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), ratio=st.sampled_from([1, 2, 4, 8]))
def test_a_mask_is_what_covers_half_a_cell(seed, ratio):
    generator = np.random.default_rng(seed)
    points = generator.uniform(-4, 68, (generator.integers(3, 8), 2)).astype(np.float32)
    full = rasterise([points], 64, 64).reshape(64 // ratio, ratio, 64 // ratio, ratio).mean(axis=(1, 3))
    (mask,) = object_masks([(points,)], 64, 64, ratio)
    if full.max() >= 0.5:
        # Cells that are covered by half to within rounding may go either way.
        clear = np.abs(full - 0.5) > 0.01
        assert np.array_equal(mask[clear] != 0, full[clear] >= 0.5)
    elif full.max() > 0:
        assert mask.any()


def test_an_object_smaller_than_a_cell_has_a_mask():
    (mask,) = object_masks([square(9, 9, 10, 10)], 32, 32, 8)
    assert np.argwhere(mask).tolist() == [[1, 1]]


@pytest.mark.parametrize("box", [(32, 32, 32, 32), (0, 0, 0, 0), (31.5, 5, 40, 6), (-9, -9, -5, -5), (40, 40, 50, 50)])
def test_objects_at_and_over_the_edge_are_no_trouble(box):
    assert object_masks([square(*box)], 32, 32, 4).shape == (1, 8, 8)


def test_smaller_objects_lie_on_top():
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, 1:3, 1:3] = 1
    masks[1] = 1
    masks[2, 1, 1] = 1
    assert index_map(masks).tolist() == [[2, 2, 2, 2], [2, 3, 1, 2], [2, 1, 1, 2], [2, 2, 2, 2]]


def test_an_image_without_objects_has_an_empty_map():
    masks = object_masks([], 8, 8, 4)
    assert masks.shape == (0, 2, 2)
    assert index_map(masks).tolist() == [[0, 0], [0, 0]]
