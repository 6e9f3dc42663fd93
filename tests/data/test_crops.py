"""Training images cut into tiles: where crops lie, what of every object is on them, and how they are read."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data import crops
from segc.data.crops import crop_count, crops_of
from segc.data.labels import Instance, parse_labels
from segc.data.loader import TrainingLoader, TrainingSet
from segc.data.samples import Sample, read_sample
from segc.diagnostics import SegcError
from segc.inference.filters import Tiling
from segc.inference.tiles import tile_grid
from segc.spec.hyperparameters import Augment, Hyperparameters

STILL = Augment(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


def hyper(**changes) -> Hyperparameters:
    return Hyperparameters(**{"imgsz": 64, "batch": 4, "workers": 0, "augment": STILL, "cache": False, **changes})


def sample(path: Path, *polygons, size=(150, 230)) -> Sample:
    """A picture of noise with objects of class 0, whose polygons [K, 2] are in pixels."""
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    assert cv2.imwrite(str(path), image)
    scale = np.array(size[::-1], np.float64)
    shares = [(np.asarray(points, np.float64) / scale).astype(np.float32) for points in polygons]
    return Sample(path, None, tuple(Instance(0, (one,)) for one in shares))


def rectangle(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def covered(parts, points):
    """Which of points [n, 2] lie in polygons, by the rule of even and odd crossings."""
    inside = np.zeros(len(points), np.bool_)
    for part in parts:
        hit = np.zeros(len(points), np.bool_)
        for (x1, y1), (x2, y2) in zip(part, np.roll(part, -1, axis=0), strict=True):
            spans = (y1 > points[:, 1]) != (y2 > points[:, 1])
            with np.errstate(all="ignore"):
                hit ^= spans & (points[:, 0] < (x2 - x1) * (points[:, 1] - y1) / (y2 - y1) + x1)
        inside |= hit
    return inside


def in_pixels(one: Sample, part):
    x1, y1, x2, y2 = one.region or (0, 0, one.size[1], one.size[0])
    return part.astype(np.float64) * (x2 - x1, y2 - y1) + (x1, y1)


stars = st.tuples(
    st.floats(20, 210),
    st.floats(20, 130),
    st.lists(st.floats(2, 120), min_size=3, max_size=12),
    st.floats(0, 6.28),
)


@settings(max_examples=30, deadline=None)
@given(stars, st.integers(32, 100), st.sampled_from([0.0, 0.2, 0.5]))
def test_the_parts_on_all_crops_together_are_the_object(star, size, overlap):
    x, y, radii, turn = star
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) + turn
    polygon = np.stack([x + np.array(radii) * np.cos(angles), y + np.array(radii) * np.sin(angles)], 1)
    polygon = (polygon / (230, 150)).clip(0, 1).astype(np.float32)
    whole = Sample(Path("large.png"), None, (Instance(3, (polygon,)),))
    with (
        mock.patch.object(crops, "_sample_size", return_value=(150, 230)),
        mock.patch.object(crops, "LEAST_VISIBLE", 0),
    ):
        found = crops_of([whole], Tiling(size, overlap))
    grid = tile_grid(150, 230, Tiling(size, overlap))
    assert [one.region for one in found.samples] == [(t.x1, t.y1, t.x2, t.y2) for t in grid]
    assert found.left_out == 0
    outline = polygon.astype(np.float64) * (230, 150)
    near = np.random.default_rng(1).uniform(outline.min(axis=0), outline.max(axis=0), (400, 2))
    for one in found.samples:
        x1, y1, x2, y2 = one.region
        far = np.random.default_rng(2).uniform((x1, y1), (x2, y2), (100, 2))
        points = np.concatenate([near[((near > (x1, y1)) & (near < (x2, y2))).all(axis=1)], far])
        parts = [in_pixels(one, part) for instance in one.instances for part in instance.polygons]
        # Coordinates are float32: what lies within a hundredth of a pixel of an outline may go either way.
        assert np.count_nonzero(covered(parts, points) != covered([outline], points)) <= 2
        assert all(instance.class_id == 3 for instance in one.instances)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 190), st.integers(0, 110), st.integers(1, 40), st.integers(1, 40)), max_size=6)
)
def test_without_overlap_areas_add_up(boxes):
    polygons = [np.array(rectangle(x, y, x + w, y + h)) / (240, 160) for x, y, w, h in boxes]
    whole = Sample(Path("large.png"), None, tuple(Instance(0, (one.astype(np.float32),)) for one in polygons))
    with (
        mock.patch.object(crops, "_sample_size", return_value=(160, 240)),
        mock.patch.object(crops, "LEAST_VISIBLE", 0),
    ):
        found = crops_of([whole], Tiling(80, 0.0))
    parts = [in_pixels(one, p) for one in found.samples for instance in one.instances for p in instance.polygons]
    assert sum(cv2.contourArea(part.astype(np.float32)) for part in parts) == pytest.approx(
        sum(w * h for _, _, w, h in boxes), abs=0.1 * len(boxes)
    )


def test_slivers_are_left_out_and_counted_and_what_fills_a_crop_stays(tmp_path):
    sliver, large = rectangle(40, 10, 82, 30), rectangle(0, 40, 230, 150)
    found = crops_of([sample(tmp_path / "a.png", sliver, large)], Tiling(80, 0.0))
    # Tiles begin at 0, 75 and 150: of the first object 7 of 42 columns are on the second one.
    assert [len(one.instances) for one in found.samples] == [2, 2, 1, 1, 1, 1]
    narrow = rectangle(40, 10, 76, 30)
    found = crops_of([sample(tmp_path / "a.png", narrow, large)], Tiling(80, 0.0))
    assert [len(one.instances) for one in found.samples] == [2, 1, 1, 1, 1, 1]
    assert (found.left_out, found.parts) == (1, 7)
    assert "1 parts left out (less than 5%" in found.summary()
    assert "6 crops of 1 images, 1 of which" in found.summary()
    # An object of a hundred tiles has a hundredth of its area on each.
    huge = crops_of([sample(tmp_path / "b.png", rectangle(0, 0, 640, 640), size=(640, 640))], Tiling(64, 0.0))
    assert [len(one.instances) for one in huge.samples] == [1] * 100


def test_regions_of_a_crowd_are_cut_and_never_too_small(tmp_path):
    one = sample(tmp_path / "a.png", rectangle(10, 10, 77, 60))
    one = replace(one, instances=(replace(one.instances[0], is_crowd=True),))
    found = crops_of([one], Tiling(80, 0.0))
    assert [sum(i.is_crowd for i in crop.instances) for crop in found.samples] == [1, 1, 0, 0, 0, 0]
    assert (found.parts, found.left_out) == (0, 0)


def test_images_no_larger_than_a_tile_stay_and_the_whole_comes_besides_where_asked(tmp_path):
    small, large = sample(tmp_path / "s.png", size=(60, 70)), sample(tmp_path / "l.png", rectangle(5, 5, 200, 140))
    found = crops_of([small, large], Tiling(100, 0.0, whole=True))
    assert found.samples[0] is small
    assert [one.region for one in found.samples[-2:]] == [(130, 50, 230, 150), None]
    assert np.array_equal(found.samples[-1].instances[0].polygons[0], large.instances[0].polygons[0])
    assert len(found.samples) == crop_count([small.image, large.image], Tiling(100, 0.0, whole=True)) == 8


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
def test_a_crop_is_the_part_of_the_image_whatever_the_file(tmp_path, suffix):
    whole = sample(tmp_path / f"a{suffix}", rectangle(10, 10, 60, 60))
    image = read_sample(whole)
    cut = crops_of([whole], Tiling(64, 0.2)).samples
    images = TrainingSet(cut, hyper())
    for index, one in enumerate(cut):
        x1, y1, x2, y2 = one.region
        assert (read_sample(one) == image[y1:y2, x1:x2]).all()
        assert (images[0, index, (64, 64)].image == image[y1:y2, x1:x2, ::-1]).all()


def test_a_file_is_decoded_once_for_all_its_crops_and_the_cache_changes_nothing(tmp_path):
    whole = [sample(tmp_path / f"{n}.png", rectangle(10, 10, 60, 60)) for n in range(3)]
    cut = crops_of(whole, Tiling(64, 0.2, whole=True)).samples
    known = [TrainingSet(cut, hyper())[0, index, (64, 64)] for index in range(len(cut))]
    for kind in ("ram", "disk"):
        with (
            mock.patch.object(crops, "read_sample", wraps=crops.read_sample) as read,
            mock.patch.dict("os.environ", {"XDG_CACHE_HOME": str(tmp_path / "cache")}),
        ):
            images = TrainingSet(cut, hyper(cache=kind))
            for index in np.random.default_rng(0).permutation(len(cut)).tolist():
                assert (images[0, index, (64, 64)].image == known[index].image).all()
        assert read.call_count == len(whole)


def test_epochs_take_every_crop_once_and_depend_on_nothing_else(tmp_path):
    whole = [sample(tmp_path / f"{n}.png", rectangle(10, 10, 60, 60), rectangle(100, 20, 200, 90)) for n in range(2)]
    cut = crops_of(whole, Tiling(64, 0.2)).samples
    lively = hyper(augment=Augment(mosaic=0.5, copy_paste=0.5))
    batches = [list(TrainingLoader(cut, lively.model_copy(update={"workers": n})).epoch(1)) for n in (0, 1)]
    assert sum(len(batch.images) for batch in batches[0]) == len(cut)
    resumed = list(TrainingLoader(cut, lively).epoch(1, start_step=2))
    for one, other in (*zip(*batches, strict=True), *zip(batches[0][2:], resumed, strict=True)):
        assert (one.images == other.images).all()
        assert (one.masks == other.masks).all()


def turned(path: Path) -> Path:
    """A JPEG of 150 x 230 pixels that is to be turned by 90 degrees."""
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 230, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    return path


def test_turned_pictures_are_cut_as_their_labels_see_them(tmp_path):
    path = turned(tmp_path / "turned.jpg")
    upright = Sample(path, None, parse_labels("0 0.5 0.5 0.4 0.4", path, 1)[0])
    for one, shape in ((upright, (230, 150)), (replace(upright, size=(150, 230)), (150, 230))):
        assert read_sample(one).shape[:2] == shape
        cut = crops_of([one], Tiling(100, 0.0)).samples
        assert [c.region for c in cut] == [(t.x1, t.y1, t.x2, t.y2) for t in tile_grid(*shape, Tiling(100, 0.0))]
        x1, y1, x2, y2 = cut[1].region
        image = TrainingSet(cut, hyper(imgsz=[y2 - y1 + 28, x2 - x1 + 28]))._picture(1)[0]
        assert image.shape[0] / image.shape[1] == pytest.approx((y2 - y1) / (x2 - x1), abs=0.02)
        assert (read_sample(cut[1]) == read_sample(one)[y1:y2, x1:x2]).all()


def test_what_cannot_be_read_stays_whole_and_is_told_by_who_reads_it(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    broken = [Sample(tmp_path / "broken.png", None, ()), Sample(tmp_path / "gone.png", None, ())]
    good = sample(tmp_path / "good.png")
    found = crops_of([*broken, good], Tiling(100, 0.0))
    assert list(found.samples[:2]) == broken
    with pytest.raises(SegcError, match="D002"):
        list(TrainingLoader(found.samples, hyper()).epoch(0))


def test_an_image_that_changed_since_it_was_cut_is_an_error(tmp_path):
    for suffix in (".png", ".tif"):
        cut = crops_of([sample(tmp_path / f"a{suffix}")], Tiling(100, 0.0)).samples
        sample(tmp_path / f"a{suffix}", size=(140, 230))
        with pytest.raises(SegcError, match="D008"):
            list(TrainingLoader(cut, hyper()).epoch(0))
