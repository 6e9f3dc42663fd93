"""Changes of colours and objects of a scene."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.augment import MOST_HIDDEN, blend, mirror, paste_objects, recolour
from segc.data.samples import rasterise
from segc.data.scene import Scene, boxes_of
from segc.spec.hyperparameters import Augment


def square(x0: float, y0: float, x1: float, y1: float):
    return (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32),)


def painted(height: int, width: int, objects, first: int = 1) -> Scene:
    """A scene whose image shows the objects themselves, each in its own grey."""
    image = np.zeros((height, width, 3), np.uint8)
    for index, parts in enumerate(objects):
        image[rasterise(parts, height, width)] = index + first
    return Scene(image, tuple(range(len(objects))), tuple(objects))


@pytest.mark.parametrize(("sideways", "upside_down"), [(True, False), (False, True), (True, True)])
def test_polygons_follow_a_mirrored_image(sideways, upside_down):
    scene = painted(20, 30, [square(2, 3, 9, 8), square(15, 10, 29, 19)])
    changed = mirror(scene, sideways=sideways, upside_down=upside_down)
    assert not np.array_equal(changed.image, scene.image)
    for index, box in enumerate(boxes_of(changed.objects, 20, 30)):
        x0, y0, x1, y1 = box.astype(int)
        # The drawn outline is a pixel wide, so its last row and column lie outside of the box on one side.
        inner = changed.image[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
        assert inner.size
        assert (inner == index + 1).all()
    again = mirror(changed, sideways=sideways, upside_down=upside_down)
    assert np.array_equal(again.image, scene.image)
    assert np.array_equal(again.objects[0][0], scene.objects[0][0])


def test_without_mirroring_nothing_changes():
    scene = painted(8, 8, [square(1, 1, 4, 4)])
    assert mirror(scene, sideways=False, upside_down=False) is scene


def test_colours_stay_without_gains_and_move_within_them():
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    assert recolour(image, Augment(hsv_h=0, hsv_s=0, hsv_v=0), np.random.default_rng(0)) is image
    grey = np.full((4, 4, 3), 100, np.uint8)
    found = {int(recolour(grey, Augment(hsv_v=0.4), np.random.default_rng(seed))[0, 0, 0]) for seed in range(300)}
    assert 60 <= min(found) <= 64
    assert 136 <= max(found) <= 140


def test_hue_goes_round_the_circle():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    turned = [recolour(red, Augment(hsv_h=0.5, hsv_s=0, hsv_v=0), np.random.default_rng(seed)) for seed in range(50)]
    assert all(image.max() == 255 and image.min() == 0 for image in turned)
    assert len({image.argmax() for image in turned}) == 3


def test_blending_shows_both_images_and_keeps_all_objects():
    first, second = painted(8, 8, [square(0, 0, 7, 7)], 100), painted(8, 8, [square(0, 0, 7, 7)], 200)
    both = blend(first, second, np.random.default_rng(0))
    assert both.classes == (0, 0)
    assert len(both.objects) == 2
    assert 120 < both.image[3, 3, 0] < 180


def test_a_pasted_object_brings_its_pixels_and_its_polygon():
    scene, donor = painted(40, 40, [square(1, 1, 12, 12)], 50), painted(40, 40, [square(20, 20, 34, 30)], 90)
    result = paste_objects(scene, donor, 1.0, np.random.default_rng(0))
    assert result.classes == (0, 0)
    assert (result.image[rasterise(result.objects[1], 40, 40)] == 90).all()
    assert (result.image[rasterise(result.objects[0], 40, 40)] == 50).all()
    assert scene.image.max() == 50


def test_nothing_is_pasted_where_it_would_hide_too_much():
    scene, donor = painted(40, 40, [square(10, 10, 20, 20)]), painted(40, 40, [square(12, 8, 30, 30)])
    assert paste_objects(scene, donor, 1.0, np.random.default_rng(0)).classes == (0,)
    assert paste_objects(scene, donor, 0.0, np.random.default_rng(0)) is scene


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_pasted_objects_are_cut_out_of_those_they_hide(seed):
    generator = np.random.default_rng(seed)

    def some(count: int):
        corners = generator.integers(0, 40, (count, 2))
        sides = generator.integers(4, 30, (count, 2))
        return [square(*corner, *(corner + side)) for corner, side in zip(corners, sides, strict=True)]

    scene, donor = painted(64, 64, some(2), 10), painted(64, 64, some(3), 100)
    result = paste_objects(scene, donor, 1.0, generator)
    pasted = [parts for parts in result.objects if any(parts is one for one in donor.objects)]
    rest = [parts for parts in result.objects if not any(parts is one for one in donor.objects)]
    for parts in pasted[-1:]:
        mask = rasterise(parts, 64, 64)
        for other in [*rest, *pasted[:-1]]:
            overlap = rasterise(other, 64, 64) & mask
            # Outlines are drawn as well: a cut-out object reaches a pixel into what was pasted.
            inner = mask.copy()
            inner[:, 1:] &= mask[:, :-1]
            inner[:, :-1] &= mask[:, 1:]
            inner[1:] &= mask[:-1]
            inner[:-1] &= mask[1:]
            assert not (overlap & inner).any()
            assert overlap.sum() <= (MOST_HIDDEN + 0.2) * mask.sum()
