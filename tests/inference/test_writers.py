import csv
import io
import json

import cv2
import numpy as np
import pytest

from segc.data.contours import run_lengths
from segc.data.formats import masks as masks_format
from segc.inference.frames import Frame
from segc.inference.masks import Mask
from segc.inference.results import Prediction
from segc.inference.sources import Source
from segc.inference.writers import PICTURES, SAVED, Shown, coco_image_ids, compressed_counts, tables

NAMES = ("a dog", "=cat")
HEIGHT, WIDTH = 40, 60


def disc(x, y, side):
    ys, xs = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return Mask(x, y, ys * ys + xs * xs <= side * side / 4)


MASKS = (disc(5, 6, 20), disc(15, 6, 20), disc(40, 25, 9))


def shown(name="photo.png", index=0, seconds=None, masks=MASKS):
    image = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes = [[m.x, m.y, m.x + m.bitmap.shape[1], m.y + m.bitmap.shape[0]] for m in masks]
    prediction = Prediction(
        path=name,
        height=HEIGHT,
        width=WIDTH,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.5, len(masks)).astype(np.float32),
        classes=np.array([0, 1, 0])[: len(masks)],
        names=NAMES,
        masks=tuple(masks),
    )
    source = Source(name)
    image_id = coco_image_ids([source.stem])[source.stem]
    return Shown(Frame(image, source, index, seconds), prediction, source.stem, "a test", image_id)


def files(kind, one):
    return {str(path): content for path, content in PICTURES[kind](one)}


def decoded(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_every_kind_is_explained_and_has_one_writer():
    assert sorted(SAVED) == sorted([*PICTURES, *tables()])


def test_crops_hold_what_the_boxes_hold():
    one = shown()
    crops = files("crops", one)
    assert list(crops) == ["crops/a dog/photo-1.png", "crops/=cat/photo-2.png", "crops/a dog/photo-3.png"]
    assert (decoded(crops["crops/=cat/photo-2.png"]) == one.frame.image[6:26, 15:35]).all()


def test_masks_are_read_back_as_a_datasets_masks(tmp_path):
    image = tmp_path / "images" / "photo.png"
    image.parent.mkdir()
    image.write_bytes(b"")
    for path, content in files("masks", shown()).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    labels = masks_format.read(image, NAMES)
    assert not labels.faults
    assert sorted(shape.class_id for shape in labels.instances) == [0, 0, 1]
    assert (decoded((tmp_path / "masks/photo/a dog_1.png").read_bytes()) == 255 * MASKS[0].full(HEIGHT, WIDTH)).all()


def test_the_index_has_the_objects_numbers_and_the_better_one_on_top():
    canvas = decoded(files("index", shown())["index/photo.png"])
    assert canvas.dtype == np.uint16
    first, second, third = (mask.full(HEIGHT, WIDTH) for mask in MASKS)
    assert (canvas[first] == 1).all()
    assert (canvas[second & ~first] == 2).all()
    assert (canvas[third] == 3).all()
    assert (canvas[~(first | second | third)] == 0).all()


def test_files_of_a_frame_have_its_number():
    one = shown("clip.mp4", 12, 0.4)
    assert files("overlay", one) == {}
    assert list(files("txt", one)) == ["labels/clip/000012.txt"]
    assert list(files("index", one)) == ["index/clip/000012.png"]
    assert next(iter(files("crops", one))) == "crops/a dog/clip/000012-1.jpg"
    assert next(iter(files("masks", one))) == "masks/clip/000012/a dog_1.png"


@pytest.mark.parametrize("seed", range(5))
def test_compressed_counts_give_the_run_lengths_back(seed):
    mask = np.random.default_rng(seed).random((HEIGHT, 700)) < seed / 4
    runs = Mask(0, 0, mask).run_lengths(*mask.shape)
    assert run_lengths(compressed_counts(runs)).tolist() == runs


def test_coco_results_name_images_by_number_where_their_names_are_numbers():
    for name, image_id in (("000000000139.jpg", 139), ("photo.jpg", "photo"), ("²3.jpg", "²3")):
        rows = [json.loads(row) for row in tables()["coco"].rows(shown(name))]
        assert [row["image_id"] for row in rows] == [image_id] * 3
        assert [row["category_id"] for row in rows] == [1, 2, 1]
        assert rows[2]["bbox"] == [40, 25, 9, 9]
    (first, *_) = tables()["coco"].rows(shown("clip.mp4", 7, 0.1))
    assert json.loads(first)["image_id"] == "clip/000007"


def test_coco_tools_read_the_results(tmp_path):
    pytest.importorskip("faster_coco_eval")
    from faster_coco_eval import COCO

    one = shown("139.jpg")
    path = tmp_path / "results.json"
    table = tables()["coco"]
    path.write_text(table.head + table.between.join(table.rows(one)) + table.foot)
    truth = {
        "images": [{"id": 139, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
        "annotations": [],
    }
    found = COCO(truth).loadRes(str(path))
    masks = [found.annToMask(annotation) for annotation in found.loadAnns(found.getAnnIds())]
    assert all((mask == expected.full(HEIGHT, WIDTH)).all() for mask, expected in zip(masks, MASKS, strict=True))


def test_the_table_has_a_row_an_object_and_is_quoted_where_it_must_be():
    table = tables()["csv"]
    texts = [*table.rows(shown('a "b",\nc.png')), *table.rows(shown("clip.mp4", 3, 0.25)), *table.rows(shown(masks=()))]
    rows = list(csv.DictReader(io.StringIO(table.head + "".join(f"{text}\n" for text in texts))))
    assert len(rows) == 6
    assert (rows[0]["image"], rows[0]["frame"], rows[0]["seconds"]) == ('a "b",\nc.png', "", "")
    assert (rows[4]["frame"], rows[4]["seconds"], rows[4]["object"], rows[4]["class"]) == ("3", "0.25", "2", "=cat")
    assert int(rows[5]["area"]) == MASKS[2].area


def test_a_line_of_a_frame_has_its_number_and_time():
    (line,) = tables()["jsonl"].rows(shown("clip.mp4", 3, 0.25))
    assert "\n" not in line
    record = json.loads(line)
    assert (record["image"], record["frame"], record["seconds"]) == ("clip.mp4", 3, 0.25)
    assert len(record["detections"]) == 3
    (line,) = tables()["jsonl"].rows(shown())
    assert "frame" not in json.loads(line)


def test_more_objects_than_a_picture_has_numbers_for_are_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr("segc.inference.writers.MOST_NUMBERED", 2)
    with pytest.raises(ValueError, match=r"3 objects.*--conf"):
        files("index", shown())


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\rb.jpg", 'a,"b.jpg'])
def test_rows_of_a_table_hold_any_name(name):
    table = tables()["csv"]
    text = table.head + "".join(f"{row}\n" for row in table.rows(shown(name)))
    assert [row["image"] for row in csv.DictReader(io.StringIO(text, newline=""))] == [name] * 3
