"""Geometry of training images: pixels and polygons land in the same place."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from segc.data.geometry import (
    LEAST_SIDE,
    area,
    blank,
    centred,
    clip,
    frame_lines,
    mosaic_places,
    paint,
    project,
    project_objects,
    random_view,
    shapes,
    shift,
    stretch,
)
from segc.data.samples import rasterise
from segc.inference.letterbox import letterbox
from segc.spec.hyperparameters import Augment

SIZE = (96, 128)
STRONG = Augment(degrees=45, translate=0.3, scale=0.5, shear=15, perspective=0.001)
FLAT = Augment(degrees=45, translate=0.3, scale=0.5, shear=15)
STRAIGHT = Augment(translate=0.3, scale=0.5)
STILL = Augment(translate=0, scale=0)


def blobs(seed: int, height: int = 90, width: int = 110):
    """An image of bright ellipses on black, and the polygon of each."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    objects = []
    for _ in range(3):
        centre, axes = generator.uniform(15, (width - 15, height - 15)), generator.uniform(6, 20, 2)
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        points = (centre + axes * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
        objects.append((np.clip(points, 0, (width, height)),))
    image[covered(objects, height, width) > 127] = 255
    return image, objects


def covered(objects, height: int, width: int) -> np.ndarray:
    """How much of each pixel objects cover, up to 255: drawn eight times as large."""
    parts = [part * 8 for parts in objects for part in parts]
    drawn = rasterise(parts, height * 8, width * 8).astype(np.uint8) * 255
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("augment", [STRONG, FLAT, STRAIGHT])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_polygons_lie_where_their_pixels_do(augment, seed):
    generator = np.random.default_rng(seed)
    image, objects = blobs(seed)
    matrix = random_view(augment, SIZE, generator) @ centred(image.shape[:2], SIZE)
    canvas = np.zeros((*SIZE, 3), np.uint8)
    paint(canvas, image, matrix)
    _, visible = project_objects(shapes(objects), matrix, SIZE, prune=False)
    pixels, drawn = canvas[..., 0] > 127, covered(visible, *SIZE) > 127
    kernel = np.ones((3, 3))
    rim = cv2.dilate(drawn.view(np.uint8), kernel) != cv2.erode(drawn.view(np.uint8), kernel)
    assert ((pixels != drawn) & ~rim).sum() <= 8
    if pixels.sum() > 400:
        assert (pixels & drawn).sum() / (pixels | drawn).sum() >= 0.88


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), augment=st.sampled_from([STRONG, FLAT, STRAIGHT, STILL]))
def test_a_mosaic_painted_at_once_is_that_of_a_larger_canvas_warped(seed, augment):
    """The slow way: four pictures on a canvas of twice the size, with room round it, and that warped."""
    generator = np.random.default_rng(seed)
    images = [
        cv2.GaussianBlur(generator.integers(0, 255, (*generator.integers(40, 97, 2), 3), np.uint8), (9, 9), 3)
        for _ in range(4)
    ]
    places = [place.round() for place in mosaic_places([i.shape[:2] for i in images], SIZE, generator)]
    view = random_view(augment, SIZE, generator)
    canvas = blank(SIZE)
    for image, place in zip(images, places, strict=True):
        paint(canvas, image, view @ place)
    large, middle = blank((600, 600)), shift(300, 300)
    for image, place in zip(images, places, strict=True):
        paint(large, image, middle @ place)
    centres = shift(-0.5, -0.5) @ view @ np.linalg.inv(middle) @ shift(0.5, 0.5)
    slow = cv2.warpPerspective(large, centres, SIZE[::-1], flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114))
    # Along the seams the slow way mixes two pictures.
    seams = np.zeros((600, 600, 1), np.uint8)
    for image, place in zip(images, places, strict=True):
        x, y = (place[:2, 2] + 300).astype(int)
        cv2.rectangle(seams, (x, y), (x + image.shape[1] - 1, y + image.shape[0] - 1), 255, 1)
    near = cv2.warpPerspective(seams, centres, SIZE[::-1], flags=cv2.INTER_LINEAR)
    clear = cv2.dilate(near, np.ones((5, 5))) == 0
    assert clear.mean() > 0.5
    assert int(np.abs(canvas.astype(int) - slow)[clear].max()) <= 6


@pytest.mark.parametrize("shape", [(96, 128), (50, 128), (96, 31), (13, 17), (95, 127)])
def test_a_view_without_changes_is_the_letterbox(shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    frame, geometry = letterbox(image, SIZE)
    height, width = geometry.resized
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas = blank(SIZE)
    view = random_view(STILL, SIZE, np.random.default_rng(1))
    assert np.array_equal(view, shift(64, 48))
    paint(canvas, resized, view @ centred((height, width), SIZE))
    assert np.array_equal(canvas, frame)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_is_clipped_is_what_lies_in_the_frame(seed):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(3, 9))
    angles = (np.arange(count) + generator.uniform(0, 0.9, count)) * 2 * np.pi / count
    spokes = generator.uniform(5, 90, count)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = generator.uniform(0, 80, 2) + spokes
    clipped = clip(points, frame_lines(np.eye(3), (64, 80)))
    whole, part = np.zeros((260, 260), np.uint8), np.zeros((260, 260), np.uint8)
    cv2.fillPoly(whole, [np.round((points + 60) * 16).astype(np.int32)], 1, shift=4)
    if len(clipped):
        assert (clipped >= -1e-9).all()
        assert (clipped <= np.array([80, 64]) + 1e-9).all()
        cv2.fillPoly(part, [np.round((clipped + 60) * 16).astype(np.int32)], 1, shift=4)
    inner = np.s_[62:122, 62:138]
    assert (whole[inner] != part[inner]).mean() < 0.03
    assert area(clipped) <= min(80 * 64, area(points)) + 1e-6


def test_a_concave_polygon_that_falls_apart_keeps_its_area():
    comb = np.array([[-5, 0], [10, 0], [10, 2], [-3, 2], [-3, 4], [10, 4], [10, 6], [-5, 6]], float)
    clipped = clip(comb, frame_lines(np.eye(3), (20, 20)))
    assert area(clipped) == pytest.approx(40)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_horizon_stays_out_of_the_frame(seed):
    size = (640, 640)
    strongest = Augment(degrees=180, translate=0.9, scale=0.9, shear=60, perspective=0.001)
    view = random_view(strongest, size, np.random.default_rng(seed))
    corners = np.linalg.inv(view) @ np.array([[0, 640, 640, 0], [0, 0, 640, 640], [1, 1, 1, 1]], float)
    # In front of the eye all over the frame: the third coordinate keeps its sign.
    assert (corners[2] * np.sign(np.linalg.inv(view)[2] @ (320, 320, 1)) > 0).all()
    assert (frame_lines(view, size) @ (corners / corners[2]) > -1e-3).all()


def test_draws_of_a_view_do_not_depend_on_the_settings():
    plain = random_view(Augment(translate=0.1, scale=0), SIZE, np.random.default_rng(3))
    turned = random_view(Augment(translate=0.1, scale=0, degrees=30), SIZE, np.random.default_rng(3))
    assert np.array_equal(plain[:2, 2], turned[:2, 2])
    assert not np.array_equal(plain, turned)


def test_mosaic_pictures_meet_in_one_point_near_the_middle():
    sizes = [(40, 50), (96, 30), (10, 128), (96, 128)]
    for seed in range(20):
        places = mosaic_places(sizes, SIZE, np.random.default_rng(seed))
        corners = [(1, 1), (0, 1), (1, 0), (0, 0)]
        meeting = [
            place[:2, 2] + np.array(size[::-1]) * corner
            for place, size, corner in zip(places, sizes, corners, strict=True)
        ]
        assert np.allclose(meeting, meeting[0])
        assert (np.abs(meeting[0]) <= (64, 48)).all()


def square(x: float, y: float, side: float):
    return (np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], np.float32),)


def test_objects_outside_and_those_that_became_too_small_are_left_out():
    objects = [square(10, 10, 20), square(-30, 10, 20), square(-19.5, 10, 20), square(40, 40, 1.5), square(70, 40, 20)]
    kept, visible = project_objects(shapes(objects), np.eye(3), (64, 80), prune=True)
    assert kept == [0, 4]
    assert visible[1][0][:, 0].max() == 80
    kept, _ = project_objects(shapes(objects), np.eye(3), (64, 80), prune=False)
    assert kept == [0, 2, 3, 4]
    assert LEAST_SIDE == 2


def test_a_share_that_is_left_counts_all_parts_of_an_object():
    far, near = square(200, 0, 30)[0], square(60, 10, 6)[0]
    assert project_objects(shapes([(near, far)]), np.eye(3), (64, 80), prune=True)[0] == []
    assert project_objects(shapes([(near, square(200, 0, 12)[0])]), np.eye(3), (64, 80), prune=True)[0] == [0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_areas_follow_the_matrix(seed):
    generator = np.random.default_rng(seed)
    view = random_view(FLAT, SIZE, generator)
    points = generator.uniform(-20, 20, (5, 2))
    assume(area(points) > 1)
    assert area(project(points, view)) == pytest.approx(area(points) * abs(np.linalg.det(view)), rel=1e-6)


def test_stretching_meets_pixel_edges():
    assert project(np.array([[1, 2]]), stretch(2, 3) @ shift(1, 1)).tolist() == [[4, 9]]
