"""The page of a run is one file that needs nothing else, and shows what it promises."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.cli import run
from segc.data.labels import Instance
from segc.data.samples import Sample
from segc.evaluation.coco import evaluate_session
from segc.evaluation.project import Evaluated
from segc.inference.metadata import Metadata
from segc.reports.page import evaluation_page, training_page
from segc.spec.load import LoadedProject, load_project

EVIL = "<b>cat & dog"
SPEC = f"""\
version: 1
name: page
architecture: {{family: yolov8-seg, scale: {{depth: 0.33, width: 0.125, max_channels: 128}}}}
dataset: {{path: data, train: images/train, val: images/val, names: ["{EVIL}", bar]}}
hyperparameters: {{imgsz: 64, epochs: 3, batch: 2, workers: 0, device: cpu}}
"""
VOID = {"meta", "img", "br"}


class _Session:
    """Finds the bright square of an image, as class 0."""

    runtime = "a test"
    metadata = Metadata(("a",), (64, 64), dynamic=True)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        n, _, height, width = images.shape
        boxes, scores = np.zeros((n, 1, 4), np.float32), np.zeros((n, 1, 2), np.float32)
        for row, image in enumerate(images):
            rows, columns = np.nonzero(image.min(axis=0) > 0.9)
            if rows.size:
                boxes[row, 0] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                scores[row, 0, 0] = 0.8
        coefficients = np.eye(1, 32, dtype=np.float32)[None].repeat(n, axis=0)
        prototypes = np.ones((n, 32, height // 4, width // 4), np.float32)
        return {"boxes": boxes, "scores": scores, "coefficients": coefficients, "prototypes": prototypes}


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedProject:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for i in range(3):
            picture = np.full((64, 64, 3), 40, np.uint8)
            picture[16:48, 8 + 8 * i : 40 + 8 * i] = 255
            cv2.imwrite(str(tmp_path / "data" / "images" / split / f"{i}.png"), picture)
            corners = [(8 + 8 * i, 16), (40 + 8 * i, 16), (40 + 8 * i, 48), (8 + 8 * i, 48)]
            row = " ".join(f"{v / 64}" for corner in corners for v in corner)
            (tmp_path / "data" / "labels" / split / f"{i}.txt").write_text(f"0 {row}\n")
    path = tmp_path / "project.yaml"
    path.write_text(SPEC)
    return load_project(path)


def _evaluated(loaded: LoadedProject, samples: list[Sample]) -> Evaluated:
    names = loaded.project.dataset.names
    metrics = evaluate_session(_Session(), samples, names, size=(64, 64))
    return Evaluated(metrics, "val", (64, 64), False, "photograph", "fp32", _Session(), samples)


def _samples(loaded: LoadedProject, split: str) -> list[Sample]:
    folder = loaded.dataset_root
    square = [np.float32([[8 + 8 * i, 16], [40 + 8 * i, 16], [40 + 8 * i, 48], [8 + 8 * i, 48]]) / 64 for i in range(3)]
    return [Sample(folder / "images" / split / f"{i}.png", None, (Instance(0, (square[i],)),)) for i in range(3)]


class _Checker(HTMLParser):
    """Every element is closed; collects where the page points to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _check(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    assert not checker.open
    assert "script" not in checker.tags
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in checker.links)
    assert {link[1:] for link in checker.links if link[0] == "#"} <= set(checker.ids)
    assert not re.search(r"https?://|url\(|@import", page)
    return checker


ROWS = [
    {
        "epoch": e,
        "seconds": 70.0 * e,
        "images_per_second": 9.5,
        "learning_rate": 0.01 / e,
        "train_box": 3 / e,
        "train_mask": 4 / e,
        **dict.fromkeys(("box_map", "box_map50", "mask_map", "mask_map50"), "" if e == 1 else 0.2 * e),
    }
    for e in (1, 2, 3)
]


def test_the_page_of_a_training_shows_everything_and_needs_nothing(loaded: LoadedProject) -> None:
    page = training_page(loaded, _evaluated(loaded, _samples(loaded, "val")), _samples(loaded, "train"), ROWS, "my-run")
    checker = _check(page)
    assert set(checker.ids) == {"training", "metrics", "curves", "confusion", "labels", "batches", "examples"}
    assert checker.tags.count("img") == 2 + 2 * 3  # batches of the first and the last epoch; label beside prediction
    assert checker.tags.count("svg") == 6 + 8 + 1 + 4
    for text in ("page: my-run", "3 epochs in 3 min 30 s, the best one 3", "Loss of training: box", "1.000"):
        assert text in page


def test_names_are_texts_whatever_is_in_them(loaded: LoadedProject) -> None:
    page = evaluation_page(loaded, _evaluated(loaded, _samples(loaded, "val")))
    checker = _check(page)
    assert "b" not in checker.tags
    assert "&lt;b&gt;cat &amp; dog" in page
    assert "training" not in checker.ids


def test_without_labels_there_is_a_page_without_curves(loaded: LoadedProject) -> None:
    samples = [Sample(sample.image, None, ()) for sample in _samples(loaded, "val")]
    evaluated = _evaluated(loaded, samples)
    assert math.isnan(evaluated.metrics.box.map)
    page = evaluation_page(loaded, evaluated)
    assert "examples" not in _check(page).ids


def test_training_and_val_write_their_pages(loaded: LoadedProject, tmp_path: Path) -> None:
    project = loaded.path
    target = tmp_path / "page.html"
    (tmp_path / "data" / "labels" / "train" / "lost & found.txt").write_text("")
    assert run(["train", str(project), "--set", "hyperparameters.epochs=1"]) == 0
    assert run(["val", str(project), "--report", str(target), "--csv", str(tmp_path / "table.csv")]) == 0
    _check(target.read_text())
    page = (project.parent / "build" / "runs" / "train" / "report.html").read_text()
    _check(page)
    assert "<li>train: 3 images, 0 of them without objects, 3 objects</li>" in page
    assert "D009 no image belongs to this label file" in page
    assert "lost &amp; found.txt" in page
    assert (tmp_path / "table.csv").read_text().startswith("class,images,instances,box_map,box_map50,")
