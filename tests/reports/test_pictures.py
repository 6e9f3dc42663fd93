"""What is drawn sits where the object is."""

import base64
from pathlib import Path

import cv2
import numpy as np

from segc.data.labels import Instance
from segc.data.samples import Sample
from segc.inference.masks import Mask
from segc.inference.results import Prediction
from segc.reports.pictures import Drawn, data_uri, draw, fit, mosaic, predicted, truth

NAMES = ("cat", "dog")
CORNERS = np.float32([[0.25, 0.5], [0.5, 0.5], [0.5, 0.75], [0.25, 0.75]])


def test_truth_and_prediction_of_one_object_are_drawn_in_the_same_place() -> None:
    bitmap = np.ones((50, 100), np.bool_)  # in a photograph of 400 x 200
    found = Prediction(
        path="",
        height=200,
        width=400,
        boxes=np.float32([[100, 100, 200, 150]]),
        scores=np.float32([0.9]),
        classes=np.int64([1]),
        names=NAMES,
        masks=(Mask(100, 100, bitmap),),
    )
    size = (100, 200)
    (label,) = truth(Sample(Path("a.png"), None, (Instance(1, (CORNERS,)),)), size, NAMES)
    (guess,) = predicted(found, size)
    assert guess.box == label.box == (50, 50, 100, 75)
    # Outlines belong to a drawn polygon: one row and one column more.
    assert np.logical_xor(guess.mask, label.mask).sum() <= 50 + 25 + 1
    assert (label.label, guess.label) == ("dog", "dog 0.90")


def test_a_crowd_says_so() -> None:
    (label,) = truth(Sample(Path("a.png"), None, (Instance(0, (CORNERS,), is_crowd=True),)), (80, 80), NAMES)
    assert label.label == "cat (crowd)"


def test_drawing_tints_the_mask_and_leaves_the_image_alone() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    mask = np.zeros((100, 100), np.bool_)
    mask[40:60, 40:60] = True
    picture = draw(image, [Drawn(0, "cat", (40, 40, 60, 60), mask)])
    assert (image == 200).all()
    assert (picture[45:55, 45:55] != 200).any(axis=2).all()
    assert (picture[80:, 80:] == 200).all()


def test_pictures_fit_and_small_ones_are_at_most_doubled() -> None:
    assert fit(np.zeros((300, 600, 3), np.uint8), 200).shape == (100, 200, 3)
    assert fit(np.zeros((3, 60, 3), np.uint8), 200).shape == (6, 120, 3)
    assert fit(np.zeros((1, 6000, 3), np.uint8), 200).shape == (1, 200, 3)


def test_a_mosaic_has_room_for_all() -> None:
    picture = mosaic([np.full((10, 20, 3), 7 * i, np.uint8) for i in range(5)], columns=4)
    assert picture.shape == (24, 92, 3)
    assert picture[14, 0].tolist() == [28, 28, 28]
    assert picture[14, 30].tolist() == [255, 255, 255]


def test_a_data_uri_is_a_picture() -> None:
    head, _, body = data_uri(np.full((8, 9, 3), 100, np.uint8)).partition(",")
    assert head == "data:image/jpeg;base64"
    assert cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), 1).shape == (8, 9, 3)
