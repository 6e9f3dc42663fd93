"""Labels written in one format and read again: what comes back, and that the rest is told."""

import json
import os

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.contours import fill, outlines
from segc.data.convert import convert
from segc.data.dataset import read_split
from segc.data.exif import as_stored, upright_points
from segc.data.labels import Instance
from segc.data.opening import open_dataset
from segc.data.samples import read_sample
from segc.diagnostics import SegcError
from segc.evaluation.rle import encode_mask, encode_polygons
from segc.spec.layouts import ACCOUNT
from segc.spec.load import check_text

HEIGHT, WIDTH = 48, 64
NAMES = ("cat", "hot dog", "dog")
FORMATS = ("yolo", "coco", "labelme", "cvat", "voc", "masks")


def load(folder, dataset):
    spec = {"version": 1, "name": "t", "architecture": {"family": "yolov8-seg", "scale": "n"}, "dataset": dataset}
    loaded, diagnostics = check_text(json.dumps(spec), folder / "project.yaml")
    assert loaded is not None, diagnostics
    return loaded


def written(folder):
    """The dataset that a conversion made, as the section that it recommends reads it."""
    section = json.loads((folder / ACCOUNT).read_text())["dataset"]
    section.setdefault("val", section.get("train"))
    if "annotations" in section:
        section["annotations"].setdefault("val", section["annotations"]["train"])
    return load(folder, section)


def mask(instance):
    return fill([polygon * np.array([WIDTH, HEIGHT]) for polygon in instance.polygons], HEIGHT, WIDTH)


def iou(first, second):
    return (first & second).sum() / max(1, (first | second).sum())


def test_what_outlines_a_mask_fills_it_again():
    generator = np.random.default_rng(1)
    for density in (0.2, 0.5, 0.9):
        pixels = generator.random((HEIGHT, WIDTH)) < density
        assert (fill(outlines(pixels), HEIGHT, WIDTH) == pixels).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-10, 70), st.floats(-10, 60)), min_size=3, max_size=12))
def test_a_polygon_fills_the_pixels_whose_centres_it_encloses(points):
    polygon = np.array(points)
    filled = fill([polygon], HEIGHT, WIDTH)
    for y, x in ((0, 0), (10, 20), (47, 63), (24, 31)):
        crossings = 0
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                at = x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                if abs(at - (x + 0.5)) < 1e-9:
                    return  # on the line itself either is right
                crossings += at < x + 0.5
        assert filled[y, x] == (crossings % 2 == 1)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "images" / "sub").mkdir(parents=True)
    path = folder / "images" / "sub" / "a.b.png"
    assert cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return path


def blob(generator):
    """A mask of a few rectangles, some taken out again: with holes and parts."""
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    for value in (True, True, False):
        y, x = generator.integers(0, HEIGHT - 8), generator.integers(0, WIDTH - 8)
        pixels[y : y + generator.integers(3, 20), x : x + generator.integers(3, 24)] = value
    return pixels


def objects(seed):
    generator = np.random.default_rng(seed)
    made = []
    for number in range(generator.integers(1, 5)):
        kind, class_id = generator.integers(0, 5), int(generator.integers(0, len(NAMES)))
        scale = np.array([WIDTH, HEIGHT])
        if kind == 0:
            (x0, x1), (y0, y1) = (np.sort(generator.choice(side, 2, replace=False)) for side in (WIDTH, HEIGHT))
            corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            made.append(Instance(class_id, ((corners / scale).astype(np.float32),), is_box=True, origin=number))
        elif kind == 1:
            polygon = generator.random((int(generator.integers(3, 12)), 2)).astype(np.float32)
            made.append(Instance(class_id, (polygon,), origin=number))
        elif kind == 4:  # parts that lie over each other
            triangles = generator.random((2, 3, 2)).astype(np.float32)
            made.append(Instance(class_id, tuple(triangles), origin=number))
        else:
            pieces = tuple((piece / scale).astype(np.float32) for piece in outlines(blob(generator)))
            if pieces:
                made.append(Instance(class_id, pieces, is_crowd=bool(kind == 3 and number == 0), origin=number))
    return tuple(made)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize("form", FORMATS)
def test_objects_come_through_or_are_told(form, seed, picture, tmp_path_factory):
    from segc.data import convert as module
    from segc.data.samples import Sample

    target = tmp_path_factory.mktemp("out") / form
    given_objects = objects(seed)
    sample = Sample(picture, None, given_objects, (HEIGHT, WIDTH))
    dataset = {"path": str(picture.parents[1]), "train": "images", "val": "images", "names": list(NAMES)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_split", lambda *_: (sample,))
        done = convert(load(target.parent, dataset), ["train"], form, target)
    told = {loss.origin: loss for loss in done.losses}
    if all(told.get(one.origin) and told[one.origin].kind == "left out" for one in given_objects):
        return
    (back,) = read_split(written(target), "train")
    assert back.image.name == "a.b.png"
    rest = list(back.instances)
    for one in given_objects:
        loss = told.get(one.origin)
        if loss is not None and loss.kind == "left out":
            continue
        ours = mask(one)
        alike = [other for other in rest if other.class_id == one.class_id and other.is_crowd == one.is_crowd]
        assert alike
        other = max(alike, key=lambda other: iou(ours, mask(other)))
        rest = [kept for kept in rest if kept is not other]
        if loss is None or loss.kind == "joined":
            assert ours.sum() < 9 or iou(ours, mask(other)) >= 0.99
            assert other.is_box == one.is_box
        elif loss.iou is not None:
            assert iou(ours, mask(other)) == pytest.approx(loss.iou, abs=0.02)
    assert not rest


def coco_document():
    """Polygons, holes in run-length codes of both forms, parts, boxes and crowds."""
    ring = np.zeros((HEIGHT, WIDTH), bool)
    ring[5:30, 6:40] = True
    ring[12:20, 15:25] = False
    parts = ring.copy()
    parts[36:44, 50:60] = True
    runs = []
    flat = parts.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    code = encode_mask(ring)
    counts = code["counts"] if isinstance(code["counts"], str) else code["counts"].decode()
    size = [HEIGHT, WIDTH]
    common = {"image_id": 3, "iscrowd": 0}
    return {
        "images": [{"id": 3, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {**common, "id": 101, "category_id": 18, "segmentation": [[3, 2, 22, 2, 22, 30.5, 4, 28.25]]},
            {**common, "id": 102, "category_id": 7, "segmentation": {"size": size, "counts": counts}},
            {**common, "id": 103, "category_id": 7, "segmentation": {"size": size, "counts": runs}},
            {**common, "id": 104, "category_id": 18, "segmentation": [[1, 1, 9, 1, 9, 9], [40, 30, 60, 30, 60, 45]]},
            {**common, "id": 105, "category_id": 7, "bbox": [3, 4, 16, 18]},
            {
                **common,
                "id": 107,
                "category_id": 18,
                "segmentation": [[1.3, 2.1, 40.2, 1.3, 41.1, 38.4], [9.2, 2.4, 60.1, 3.3, 30.2, 45.1]],
            },
            {**common, "id": 106, "category_id": 7, "iscrowd": 1, "segmentation": {"size": size, "counts": runs}},
        ],
    }


def test_coco_to_yolo_and_back_keeps_every_mask_that_yolo_can_carry(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / "instances.json").write_text(json.dumps(coco_document()))
    loaded, splits = open_dataset(tmp_path / "instances.json")
    assert loaded.project.dataset.names == ("cat", "dog")
    first = convert(loaded, splits, "yolo", tmp_path / "yolo")
    second = convert(written(tmp_path / "yolo"), ["train"], "coco", tmp_path / "coco")
    told = [("joined", 103), ("joined", 104), ("joined", 107), ("left out", 106)]
    assert [(loss.kind, loss.origin) for loss in first.losses] == told
    assert second.losses == []
    (before,) = read_split(loaded, "train")
    (after,) = read_split(written(tmp_path / "coco"), "train")
    kept = [one for one in before.instances if not one.is_crowd]
    assert len(kept) == len(after.instances) == 6
    for one, other in zip(kept, after.instances, strict=True):
        assert (one.class_id, one.is_box) == (other.class_id, other.is_box)
        assert iou(mask(one), mask(other)) == 1.0
        # By COCO's own rasteriser too.
        scale = np.array([WIDTH, HEIGHT])
        codes = [
            encode_polygons([polygon * scale for polygon in each.polygons], HEIGHT, WIDTH) for each in (one, other)
        ]
        from faster_coco_eval.core import mask as tools

        assert tools.iou([codes[0]], [codes[1]], [0])[0, 0] >= 0.99
    annotations = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())["annotations"]
    assert [one["iscrowd"] for one in annotations] == [0] * 6


def test_yolo_to_coco_and_back_keeps_every_number(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text = "0 0.1 0.2 0.55 0.23 0.3333333 0.9\n2 0.5 0.5 0.25 0.125\n"
    (tmp_path / "labels" / "a.txt").write_text(text)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    loaded, splits = open_dataset(tmp_path)
    convert(loaded, splits, "coco", tmp_path / "coco")
    convert(written(tmp_path / "coco"), ["train"], "yolo", tmp_path / "yolo")
    back = (tmp_path / "yolo" / "labels" / "train" / "a.txt").read_text()
    for row, other in zip(text.splitlines(), back.splitlines(), strict=True):
        assert [float(one) for one in other.split()] == pytest.approx([float(one) for one in row.split()], abs=2e-5)


def test_nothing_is_overwritten(tmp_path, picture):
    (tmp_path / "kept").write_text("kept")
    dataset = {"path": str(picture.parents[1]), "train": "images", "val": "images", "names": list(NAMES)}
    with pytest.raises(SegcError) as error:
        convert(load(tmp_path, dataset), ["train"], "coco", tmp_path)
    assert error.value.diagnostics[0].code == "F005"
    assert (tmp_path / "kept").read_text() == "kept"


def test_images_whose_labels_would_have_one_name_are_renamed(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for name in ("a.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.2 0.55 0.23 0.3333333 0.9\n")
    loaded, splits = open_dataset(tmp_path, names=NAMES)
    done = convert(loaded, splits, "yolo", tmp_path / "out", pictures="link")
    assert list(done.renamed.values()) == ["a-2.png"]
    assert sorted(path.name for path in (tmp_path / "out" / "labels" / "train").iterdir()) == ["a-2.txt", "a.txt"]
    assert (tmp_path / "out" / "images" / "train" / "a.jpg").is_symlink()


def orientation_tag(jpeg, orientation):
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + b"\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_turned_as_the_picture_is(orientation):
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[5:9, 11:20] = 255
    stored = as_stored(upright, orientation)
    (outline,) = outlines(stored[..., 0] > 0)
    turned = upright_points((outline / stored.shape[1::-1]).astype(np.float32), orientation)
    assert (fill([turned * (WIDTH, HEIGHT)], HEIGHT, WIDTH) == (upright[..., 0] > 0)).all()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_for_the_stored_picture_lie_on_the_object_in_every_format(tmp_path, form, orientation):
    (tmp_path / "images").mkdir()
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[4:20, 8:50] = 255
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (tmp_path / "images" / "a.jpg").write_bytes(orientation_tag(jpeg, orientation))
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[8, 4, 50, 4, 50, 20, 8, 20]]},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    done = convert(*open_dataset(tmp_path / "instances.json"), form, tmp_path / "out")
    assert done.turned == ["a.jpg"]
    assert [one.code for one in done.unread] == ["D020"]
    (sample,) = read_split(written(tmp_path / "out"), "train")
    seen = read_sample(sample)
    height, width = seen.shape[:2]
    (instance,) = sample.instances
    drawn = fill([polygon * np.array([width, height]) for polygon in instance.polygons], height, width)
    assert iou(drawn, seen[..., 0] > 128) > 0.97


def test_an_image_of_another_size_than_its_labels_is_not_converted(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((HEIGHT // 2, WIDTH, 3), np.uint8))
    (tmp_path / "instances.json").write_text(json.dumps(coco_document()))
    with pytest.raises(SegcError) as error:
        convert(*open_dataset(tmp_path / "instances.json"), "yolo", tmp_path / "out")
    assert error.value.diagnostics[0].code == "D008"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_images_are_found_again_whatever_they_are_called(tmp_path, form):
    names = ["a b.png", " lead.png", "img (1).png", "img.PNG", "back\\s.png", "new\nline.png", "b:c.png", "t\tab.png"]
    names += [os.fsdecode(b"by\xffte.png"), "sep\u2028arator.png"]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(names):
        content = np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8)
        (tmp_path / "images" / name).write_bytes(bytes(cv2.imencode(".png", content)[1]))
        (tmp_path / "labels" / name).with_suffix(".txt").write_text("0 .1 .1 .5 .1 .5 .6\n")
    done = convert(*open_dataset(tmp_path, names=["dog"]), form, tmp_path / "out")
    assert sorted(done.renamed.values()) == ["by_te.png", "new_line.png", "sep_arator.png", "t_ab.png"]
    found = read_split(written(tmp_path / "out"), "train")
    assert len(found) == len(names)
    assert all(len(sample.instances) == 1 for sample in found)
