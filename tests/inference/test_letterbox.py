import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.inference.letterbox import (
    PADDING_GREY,
    boxes_to_frame,
    boxes_to_image,
    letterbox,
    letterbox_geometry,
    to_input,
)

sides = st.integers(1, 12_000)
frame_sides = st.integers(1, 60).map(lambda n: 32 * n)


@given(sides, sides, frame_sides, frame_sides)
def test_the_photograph_lies_inside_the_frame_and_touches_two_of_its_sides(h, w, frame_h, frame_w):
    geometry = letterbox_geometry((h, w), (frame_h, frame_w))
    height, width = geometry.resized
    assert 0 <= geometry.top <= frame_h - height
    assert 0 <= geometry.left <= frame_w - width
    assert height == frame_h or width == frame_w
    assert abs(frame_h - height - 2 * geometry.top) <= 1
    assert abs(frame_w - width - 2 * geometry.left) <= 1


@given(sides, sides, frame_sides, frame_sides, st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_boxes_come_back_from_the_frame(h, w, frame_h, frame_w, corners):
    geometry = letterbox_geometry((h, w), (frame_h, frame_w))
    boxes = (np.array([corners], np.float32) * np.array([w, h, w, h], np.float32)).astype(np.float32)
    back = boxes_to_image(boxes_to_frame(boxes, geometry), geometry)
    # A thousandth of a pixel of the photograph, or what fp32 can tell apart in the frame where that is coarser.
    spacing = np.spacing(np.float32(max(frame_h, frame_w))) * 4
    tolerance = max(1e-3, spacing / geometry.ratio_x, spacing / geometry.ratio_y)
    assert np.abs(back - boxes).max() <= tolerance


def test_boxes_are_clipped_to_the_photograph():
    geometry = letterbox_geometry((480, 640), (320, 320))
    boxes = boxes_to_image(np.array([[-50, -50, 900, 900]], np.float32), geometry)
    assert boxes.tolist() == [[0, 0, 640, 480]]


def test_an_odd_remainder_of_padding_goes_right_and_down():
    assert letterbox_geometry((320, 321), (320, 320)).resized == (319, 320)
    assert letterbox_geometry((320, 321), (320, 320)).top == 0
    assert letterbox_geometry((640, 481), (320, 320)).left == 40


def test_the_ratio_is_the_one_after_rounding():
    geometry = letterbox_geometry((640, 481), (320, 320))
    assert geometry.ratio_x == 240 / 481
    assert geometry.ratio_y == 0.5


@pytest.mark.parametrize("shape", [(1, 12_000), (12_000, 1), (1, 1)])
def test_the_thinnest_photographs_keep_a_pixel(shape):
    frame, geometry = letterbox(np.zeros((*shape, 3), np.uint8), (320, 320))
    assert frame.shape == (320, 320, 3)
    assert min(geometry.resized) >= 1


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="positive"):
        letterbox_geometry((0, 10), (320, 320))


def test_padding_is_grey_and_a_photograph_of_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (160, 320, 3), dtype=np.uint8)
    frame, geometry = letterbox(image, (320, 320))
    assert geometry.top == 80
    assert (frame[:80] == PADDING_GREY).all()
    assert (frame[240:] == PADDING_GREY).all()
    assert (frame[80:240] == image).all()


def test_input_is_planar_and_divided_by_255_exactly():
    frame = np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)
    images = to_input([frame, frame[::-1]])
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == np.float32
    assert (images[0, 1] == frame[..., 1].astype(np.float32) / np.float32(255)).all()
    assert (images[1] == images[0][:, ::-1]).all()
    assert (to_input(frame) == images[:1]).all()


def test_the_recorded_photograph_is_letterboxed_to_the_same_bytes(peer, coco):
    import cv2

    with np.load(peer / "overfit32_expected.npz") as recorded:
        expected, name = recorded["in_photo320_u8_rgb_chw"][0], str(recorded["photo_name"])
    frame, _ = letterbox(cv2.imread(str(coco / "images" / "train" / name)), (320, 320))
    assert (frame[..., ::-1].transpose(2, 0, 1) == expected).all()
