"""Labels held against a network: what contradicts what, and how strongly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from segc.cli import run
from segc.data.labels import Instance
from segc.data.samples import Sample
from segc.evaluation.audit import contradictions
from segc.inference.masks import Mask
from segc.inference.results import Prediction

HEIGHT, WIDTH = 60, 80


def label(x0, y0, x1, y1, class_id=0, **settings):
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64) / (WIDTH, HEIGHT)
    return Instance(class_id, (corners.astype(np.float32),), **settings)


def prediction(*found):
    """What a network sees: rectangles (x0, y0, x1, y1, class, score)."""
    masks = tuple(Mask(x0, y0, np.ones((y1 - y0, x1 - x0), bool)) for x0, y0, x1, y1, _, _ in found)
    return Prediction(
        path="",
        height=HEIGHT,
        width=WIDTH,
        boxes=np.array([one[:4] for one in found], np.float32).reshape(-1, 4),
        scores=np.array([one[5] for one in found], np.float32),
        classes=np.array([one[4] for one in found], np.int64),
        names=("a", "b"),
        masks=masks,
    )


def held(labels, *found, conf=0.5):
    sample = Sample(Path("a.png"), None, tuple(labels), (HEIGHT, WIDTH))
    return [
        (one.kind, pytest.approx(one.weight, abs=0.01), one.found_class)
        for one in contradictions(sample, prediction(*found), conf)
    ]


def test_where_both_agree_there_is_no_contradiction():
    assert held([label(10, 10, 30, 30)], (10, 10, 30, 29, 0, 0.9)) == []
    assert held([label(10, 10, 30, 30)]) == []
    assert held([]) == []


def test_an_object_without_a_label_is_missing():
    assert held([label(10, 10, 30, 30)], (10, 10, 30, 30, 0, 0.9), (50, 30, 70, 50, 1, 0.8)) == [("missing", 0.8, 1)]
    assert held([], (50, 30, 70, 50, 1, 0.4)) == []


def test_another_class_weighs_what_the_network_is_surer_of():
    assert held([label(10, 10, 30, 30)], (10, 10, 30, 30, 1, 0.9)) == [("class", 0.9, 1)]
    assert held([label(10, 10, 30, 30)], (10, 10, 30, 30, 1, 0.9), (10, 10, 30, 30, 0, 0.5)) == [("class", 0.45, 1)]
    assert held([label(10, 10, 30, 30)], (10, 10, 30, 30, 1, 0.6), (10, 10, 30, 30, 0, 0.7)) == []


def test_a_poor_outline_weighs_by_what_it_lacks():
    assert held([label(10, 10, 30, 30)], (10, 10, 30, 20, 0, 1.0)) == [("outline", 0.5, 0)]
    assert held([label(10, 10, 30, 30, is_box=True)], (10, 10, 30, 20, 0, 1.0)) == []
    # What is seen of a neighbour says nothing about this label.
    assert held([label(10, 10, 30, 30), label(10, 20, 30, 40)], (10, 20, 30, 40, 0, 1.0)) == []


def test_what_is_inside_a_crowd_is_not_missing():
    assert held([label(0, 0, 80, 60, is_crowd=True)], (50, 30, 70, 50, 0, 0.8)) == []


@pytest.fixture
def known(tmp_path, coco):
    """A folder with images that a recorded network knows by heart, and the rows of their labels."""
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    images = sorted((coco / "images" / "train").iterdir())[:5]
    rows = {}
    for image in images:
        shutil.copy(image, tmp_path / "images" / "train")
        file = coco / "labels" / "train" / f"{image.stem}.txt"
        rows[image.stem] = file.read_text().splitlines() if file.is_file() else []
    return tmp_path, rows


def test_spoilt_labels_come_first(known, peer, coco, capsys):
    folder, rows = known

    def extent(row):
        points = np.array(row.split()[1:], float).reshape(-1, 2)
        return float(np.prod(np.ptp(points, axis=0)))

    # The largest object of each of three images: those that the network is sure of.
    largest = {stem: max(range(len(own)), key=lambda i: extent(own[i])) for stem, own in rows.items() if own}
    removed, renamed, *_ = sorted(largest, key=lambda stem: -extent(rows[stem][largest[stem]]))
    rows[removed].pop(largest[removed])
    row = rows[renamed][largest[renamed]].split()
    rows[renamed][largest[renamed]] = " ".join([str((int(row[0]) + 7) % 80), *row[1:]])
    for stem, own in rows.items():
        (folder / "labels" / "train" / f"{stem}.txt").write_text("\n".join(own))
    names = (coco / "data.yaml").read_text()
    (folder / "data.yaml").write_text(f"{names}\n")
    (folder / "project.yaml").write_text(
        "version: 1\nname: spoilt\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {data: data.yaml, path: ., train: images/train, val: images/train}\nhyperparameters: {imgsz: 320}\n"
    )
    weights = folder / "start.safetensors"
    assert run(["weights", "import", str(peer / "overfit32_last.pt"), "-o", str(weights)]) == 0
    capsys.readouterr()
    arguments = ["data", "audit", str(folder / "project.yaml"), "--weights", str(weights), "--split", "train"]
    assert run([*arguments, "--format", "json", "--report", str(folder / "audit.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    first = {(one["kind"], Path(one["image"]).stem) for one in found["suspicions"][:3]}
    assert {("missing", removed), ("class", renamed)} <= first
    page = (folder / "audit.html").read_text()
    assert page.count('<div class="pair">') == len(found["suspicions"])
    assert run(arguments) == 0
    assert "the network sees" in capsys.readouterr().out
