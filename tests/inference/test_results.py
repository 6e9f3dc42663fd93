import json

import numpy as np
import pytest

from segc.data.labels import parse_labels
from segc.data.samples import rasterise
from segc.inference.masks import Mask
from segc.inference.results import Prediction, json_line, json_record, label_text

HEIGHT, WIDTH = 333, 641


def blob(x, y, rows, columns, seed=0):
    import cv2

    rng = np.random.default_rng(seed)
    canvas = np.zeros((rows, columns), np.uint8)
    points = (rng.random((12, 2)) * [columns - 1, rows - 1]).astype(np.int32)
    cv2.fillPoly(canvas, [cv2.convexHull(points)], 1)
    return Mask(x, y, canvas.astype(bool)).trimmed()


def prediction(masks, classes=None, names=("cat", "hot dog", "café")):
    n = len(masks)
    boxes = np.array([[m.x, m.y, m.x + m.bitmap.shape[1], m.y + m.bitmap.shape[0]] for m in masks], np.float32)
    return Prediction(
        path="photos/ä.jpg",
        height=HEIGHT,
        width=WIDTH,
        boxes=boxes.reshape(n, 4) + np.float32(0.123456),
        scores=np.linspace(0.9123456, 0.5, n, dtype=np.float32),
        classes=np.arange(n) % 3 if classes is None else np.array(classes),
        names=names,
        masks=tuple(masks),
    )


@pytest.mark.parametrize("seed", range(5))
def test_label_rows_read_back_through_the_dataset_format(tmp_path, seed):
    rng = np.random.default_rng(seed)
    masks = [blob(int(rng.integers(0, 500)), int(rng.integers(0, 250)), 80, 130, seed + i) for i in range(6)]
    text = label_text(prediction(masks))
    instances, faults = parse_labels(text, tmp_path / "a.txt", nc=3)
    assert not faults
    assert [instance.class_id for instance in instances] == [0, 1, 2, 0, 1, 2]
    for instance, mask in zip(instances, masks, strict=True):
        assert not instance.is_box
        pixels = [polygon * np.float32([WIDTH, HEIGHT]) for polygon in instance.polygons]
        assert (rasterise(pixels, HEIGHT, WIDTH) == mask.full(HEIGHT, WIDTH)).all()


@pytest.mark.parametrize("holes", [[(8, 8, 20, 30)], [(8, 8, 20, 30), (25, 8, 30, 12), (8, 40, 9, 41)]])
def test_a_mask_with_holes_comes_back_from_its_row(tmp_path, holes):
    bitmap = np.zeros((40, 60), bool)
    bitmap[3:35, 4:50] = True
    for top, left, bottom, right in holes:
        bitmap[top:bottom, left:right] = False
    mask = Mask(30, 40, bitmap)
    (row,) = label_text(prediction([mask])).splitlines()
    instances, faults = parse_labels(row, tmp_path / "a.txt", nc=3)
    assert not faults
    pixels = [polygon * np.float32([WIDTH, HEIGHT]) for polygon in instances[0].polygons]
    assert (rasterise(pixels, HEIGHT, WIDTH) == mask.full(HEIGHT, WIDTH)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 9)])
def test_points_and_lines_become_polygons_not_box_rows(tmp_path, shape):
    mask = Mask(640 - shape[1], 5, np.ones(shape, bool))
    instances, faults = parse_labels(label_text(prediction([mask])), tmp_path / "a.txt", nc=3)
    assert not faults
    assert not instances[0].is_box
    pixels = [polygon * np.float32([WIDTH, HEIGHT]) for polygon in instances[0].polygons]
    assert (rasterise(pixels, HEIGHT, WIDTH) == mask.full(HEIGHT, WIDTH)).all()


def test_a_mask_in_parts_keeps_all_of_them_in_its_one_row(tmp_path):
    bitmap = np.zeros((40, 90), bool)
    bitmap[:10, :20] = bitmap[25:, 50:] = True
    mask = Mask(3, 4, bitmap)
    instances, _ = parse_labels(label_text(prediction([mask])), tmp_path / "a.txt", nc=3)
    pixels = [polygon * np.float32([WIDTH, HEIGHT]) for polygon in instances[0].polygons]
    found = rasterise(pixels, HEIGHT, WIDTH)
    assert found[mask.full(HEIGHT, WIDTH)].all()
    assert found.sum() < mask.area + 60


def test_a_detection_without_a_mask_becomes_a_box_row(tmp_path):
    empty = Mask(0, 0, np.zeros((0, 0), bool))
    base = prediction([empty])
    boxed = Prediction(
        **{name: getattr(base, name) for name in ("path", "height", "width", "scores", "classes", "names", "masks")},
        boxes=np.array([[10, 20, 110, 220]], np.float32),
    )
    instances, faults = parse_labels(label_text(boxed), tmp_path / "a.txt", nc=3)
    assert not faults
    assert instances[0].is_box
    corners = instances[0].polygons[0] * np.float32([WIDTH, HEIGHT])
    assert np.allclose([corners.min(0), corners.max(0)], [[10, 20], [110, 220]], atol=1e-3)


def test_json_holds_what_was_found_in_pixels_of_the_photograph():
    masks = [blob(10, 20, 60, 50, 1), blob(300, 100, 100, 200, 2)]
    record = json.loads(json_record(prediction(masks).head(), prediction(masks).records()))
    assert record["image"] == "photos/ä.jpg"
    assert (record["height"], record["width"]) == (HEIGHT, WIDTH)
    first = record["detections"][0]
    assert list(first) == ["class_id", "class", "score", "box", "area", "polygons", "mask"]
    assert first["score"] == 0.91235
    assert first["box"][0] == round(masks[0].x + 0.123456, 2)
    assert first["area"] == masks[0].area
    assert first["mask"]["size"] == [HEIGHT, WIDTH]
    assert sum(first["mask"]["counts"][1::2]) == first["area"]
    outline = np.array(first["polygons"][0]).reshape(-1, 2)
    assert (masks[0].full(HEIGHT, WIDTH)[outline[:, 1], outline[:, 0]]).all()


def test_coco_tools_read_the_run_lengths():
    api = pytest.importorskip("faster_coco_eval")
    from faster_coco_eval import mask as coco_mask

    assert api
    mask = blob(300, 100, 100, 200, 3)
    runs = {"size": [HEIGHT, WIDTH], "counts": mask.run_lengths(HEIGHT, WIDTH)}
    decoded = coco_mask.decode(coco_mask.frPyObjects(runs, HEIGHT, WIDTH))
    assert (decoded.astype(bool) == mask.full(HEIGHT, WIDTH)).all()


def test_a_record_has_a_line_a_detection():
    for masks, lines in (([blob(1, 1, 20, 20), blob(30, 30, 20, 20)], 2), ([], 0)):
        text = json_record(prediction(masks).head(), prediction(masks).records())
        assert len(json.loads(text)["detections"]) == lines
        assert sum(line.lstrip().startswith('{"class_id"') for line in text.splitlines()) == lines
        line = json_line(prediction(masks).head(), prediction(masks).records())
        assert "\n" not in line
        assert json.loads(line) == json.loads(text) == prediction(masks).to_json()


def test_counts_are_by_class_in_class_order():
    masks = [blob(1, 1, 20, 20)] * 4
    assert prediction(masks, [2, 0, 2, 2]).counts() == {"cat": 1, "café": 3}
    assert prediction([]).counts() == {}
    assert label_text(prediction([])) == ""
