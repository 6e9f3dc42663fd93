"""Geometry of scenes: polygons follow the image, boxes and masks follow the polygons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.dataset import rasterise
from segc.data.scene import Scene, boxes_of, changes, index_map, object_masks
from segc.spec.hyperparameters import Augment


def square(x0: float, y0: float, x1: float, y1: float):
    return (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32),)


def painted(height: int, width: int, objects) -> Scene:
    """A scene whose image shows the objects themselves, each in its own grey."""
    image = np.zeros((height, width, 3), np.uint8)
    for index, parts in enumerate(objects):
        image[rasterise(parts, height, width)] = index + 1
    return Scene(image, tuple(range(len(objects))), tuple(objects))


@pytest.mark.parametrize(
    "augment", [Augment(fliplr=1, flipud=0), Augment(fliplr=0, flipud=1), Augment(fliplr=1, flipud=1)]
)
def test_polygons_follow_a_mirrored_image(augment):
    scene = painted(20, 30, [square(2, 3, 9, 8), square(15, 10, 29, 19)])
    generator = np.random.default_rng(0)
    changed = scene
    for change in changes(augment):
        changed = change(changed, generator)
    assert not np.array_equal(changed.image, scene.image)
    for index, box in enumerate(boxes_of(changed.objects, 20, 30)):
        x0, y0, x1, y1 = box.astype(int)
        # The drawn outline is a pixel wide, so its last row and column lie outside of the box on one side.
        inner = changed.image[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
        assert inner.size
        assert (inner == index + 1).all()


def test_without_probability_nothing_changes():
    scene = painted(8, 8, [square(1, 1, 4, 4)])
    generator = np.random.default_rng(0)
    for change in changes(Augment(fliplr=0, flipud=0)):
        assert change(scene, generator) is scene


def test_a_probability_is_met():
    scene = painted(4, 4, [])
    mirror = changes(Augment(fliplr=0.3, flipud=0))[1]
    generator = np.random.default_rng(0)
    assert sum(mirror(scene, generator) is not scene for _ in range(2000)) == pytest.approx(600, abs=60)


def test_mirroring_twice_gives_the_first_image():
    scene = painted(8, 8, [square(1, 1, 4, 4)])
    mirror = changes(Augment(fliplr=1, flipud=0))[1]
    generator = np.random.default_rng(0)
    again = mirror(mirror(scene, generator), generator)
    assert np.array_equal(again.image, scene.image)
    assert np.array_equal(again.objects[0][0], scene.objects[0][0])


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
