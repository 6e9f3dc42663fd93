import numpy as np
import pytest

from segc.inference.draw import class_colour, draw_prediction
from segc.inference.masks import Mask
from segc.inference.results import Prediction


def prediction(height, width, boxes, names=("a",)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = [Mask(int(x1), int(y1), np.ones((int(y2 - y1), int(x2 - x1)), bool)) for x1, y1, x2, y2 in boxes]
    n = len(boxes)
    scores = np.full(n, 0.5, np.float32)
    return Prediction("", height, width, boxes, scores, np.arange(n) % len(names), tuple(names), tuple(masks))


def test_the_first_twenty_classes_have_colours_far_apart():
    colours = np.array([class_colour(i) for i in range(20)], float)
    gaps = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 999 * np.eye(20)
    assert gaps.min() > 55
    assert class_colour(7) == class_colour(7)


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (400, 3), (48, 64), (320, 320), (2000, 3000)])
def test_any_size_is_drawn_on_and_small_ones_are_enlarged(shape):
    height, width = shape
    image = np.full((height, width, 3), 90, np.uint8)
    picture = draw_prediction(image, prediction(height, width, [[0, 0, width, height]], ["a name that is long"]))
    factor = picture.shape[0] // height
    assert picture.shape == (height * factor, width * factor, 3)
    assert max(picture.shape) >= 160
    assert (factor == 1) == (max(shape) >= 160)
    # All is object: tinted, or under the outline and the name.
    assert not (picture == 90).all(axis=2).any()
    tinted = 90 * 0.55 + np.array(class_colour(0)) * 0.45
    assert min(shape) < 100 or (np.abs(picture - tinted).max(axis=2) <= 1).mean() > 0.5


def test_the_photograph_is_not_drawn_on_and_nothing_found_leaves_it_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    before = image.copy()
    draw_prediction(image, prediction(200, 300, [[10, 20, 100, 150]]))
    assert (image == before).all()
    assert (draw_prediction(image, prediction(200, 300, [])) == image).all()


def test_a_mask_tints_its_own_pixels_only():
    image = np.full((400, 400, 3), 200, np.uint8)
    picture = draw_prediction(image, prediction(400, 400, [[100, 100, 300, 300]]))
    assert (picture[350:, 350:] == 200).all()
    expected = 200 * 0.55 + np.array(class_colour(0)) * 0.45
    assert np.abs(picture[200, 200] - expected).max() <= 1


def test_names_beyond_ascii_and_boxes_on_the_edge_are_drawn():
    image = np.zeros((240, 320, 3), np.uint8)
    boxes = [[0, 0, 320, 240], [319, 239, 320, 240], [0, 200, 40, 240]]
    first, second, third = (
        draw_prediction(image, prediction(240, 320, boxes[:1], [name]))
        for name in ("Straßenbahn", "猫", "Strassenbahn")
    )
    assert (first != second).any()
    assert (first != third).any()
    everything = draw_prediction(image, prediction(240, 320, boxes, ["Straßenbahn", "猫", "\N{CAT FACE}"]))
    outlines = [everything[239, 160], everything[120, 0], everything[220, 39]]
    assert all(pixel.max() > 100 for pixel in outlines), outlines
