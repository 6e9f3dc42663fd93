"""Tiles with a trained network: predicted, and measured by ``segc val``, as the pictures that they are made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from segc.cli import run
from segc.data.dataset import read_split
from segc.diagnostics import SegcError
from segc.emission.project import emit_project
from segc.evaluation.project import evaluate_project
from segc.inference.filters import Filters, Tiling
from segc.inference.predict import predict_image, predict_tiled
from segc.inference.regions import open_picture
from segc.inference.sources import Source
from segc.sessions.choose import weights_session
from segc.spec.load import load_project
from segc.training.distributed import World
from segc.training.validation import validate

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = """\
version: 1
name: shapes
architecture: {{family: yolov8-seg, scale: {{depth: 0.1, width: 0.125, max_channels: 128}}}}
dataset:
  {{path: {data}, train: images/train, val: images/train, names: [circle, square, triangle, star, cross, crescent]}}
hyperparameters: {{imgsz: 160, device: cpu{more}}}
"""


@pytest.fixture(scope="module")
def sheet(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of six by four pictures that the network was trained on, and its labels."""
    folder = tmp_path_factory.mktemp("sheet")
    files = sorted((shapes / "images" / "train").glob("*.jpg"))
    pictures = [(file, cv2.imread(str(file))) for file in files]
    square = [(file, picture) for file, picture in pictures if picture.shape[:2] == (176, 176)][:12]
    sheet = np.full((3 * 176, 4 * 176, 3), 114, np.uint8)
    rows = []
    for place, (file, picture) in enumerate(square):
        y, x = divmod(place, 4)
        sheet[y * 176 : y * 176 + 176, x * 176 : x * 176 + 176] = picture
        for row in (shapes / "labels" / "train" / f"{file.stem}.txt").read_text().splitlines():
            number, *numbers = row.split()
            points = (np.array(numbers, float).reshape(-1, 2) + np.array([x, y])) / [4, 3]
            rows.append(f"{number} " + " ".join(f"{value:.6f}" for value in points.ravel()))
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "train" / "sheet.png"), sheet)
    (folder / "labels" / "train" / "sheet.txt").write_text("\n".join(rows))
    return folder


def write_project(folder: Path, data: Path, more: str = "") -> Path:
    path = folder / "project.yaml"
    path.write_text(PROJECT.format(data=data, more=more))
    return path


@pytest.fixture(scope="module")
def session(sheet: Path, shapes_weights: Path):
    loaded = load_project(write_project(sheet, sheet))
    return weights_session(loaded, sheet / "build", shapes_weights, runtime="auto", warn=lambda _: None)


def test_one_tile_is_the_prediction_of_the_photograph(sheet, session):
    image = cv2.imread(str(sheet / "images" / "train" / "sheet.png"))[:176, :176]
    plain = predict_image(image, session.run, session.metadata, Filters())
    tiled = predict_image(image, session.run, session.metadata, Filters(tiles=Tiling(176)))
    assert len(plain) > 1
    assert tiled.to_json() == plain.to_json()


def test_tiles_that_fit_the_pictures_find_what_is_found_in_them(sheet, session):
    image = cv2.imread(str(sheet / "images" / "train" / "sheet.png"))
    tiled = predict_image(image, session.run, session.metadata, Filters(tiles=Tiling(176, 0.0)))
    alone = [
        predict_image(image[y : y + 176, x : x + 176], session.run, session.metadata, Filters())
        for y in range(0, 528, 176)
        for x in range(0, 704, 176)
    ]
    assert (tiled.height, tiled.width) == (528, 704)
    assert sum(mask.area for mask in tiled.masks) == sum(mask.area for found in alone for mask in found.masks)
    assert sorted(tiled.scores) == sorted(score for found in alone for score in found.scores)
    assert (np.diff(tiled.scores) <= 0).all()


def test_a_model_of_a_fixed_batch_gets_as_many_tiles_at_a_time(sheet, session):
    from dataclasses import replace

    image = cv2.imread(str(sheet / "images" / "train" / "sheet.png"))
    filters = Filters(tiles=Tiling(176, 0.2))
    sizes = []

    def counted(images):
        sizes.append(len(images))
        return session.run(images)

    fixed = replace(session.metadata, dynamic=False, batch=3)
    found = predict_image(image, counted, fixed, filters)
    assert set(sizes) == {3}
    assert len(sizes) == -(-4 * 5 // 3)
    expected = predict_image(image, session.run, session.metadata, filters)
    assert np.abs(np.sort(found.scores) - np.sort(expected.scores)).max() < 1e-4


def test_a_file_read_in_parts_gives_what_the_decoded_one_gives(sheet, session, tmp_path):
    image = cv2.imread(str(sheet / "images" / "train" / "sheet.png"))
    cv2.imwrite(str(tmp_path / "sheet.tif"), image)
    picture = open_picture(Source("sheet.tif", tmp_path / "sheet.tif"))
    filters, tiling = Filters(), Tiling(176, 0.3)
    found = predict_tiled(picture, session.run, session.metadata, filters, tiling)
    decoded = predict_image(image, session.run, session.metadata, Filters(tiles=tiling))
    assert len(found) > 20
    assert found.to_json() == decoded.to_json()


def test_val_with_tiles_finds_on_one_large_image_what_it_finds_on_small_ones(sheet, shapes_weights, tmp_path, capsys):
    path = write_project(tmp_path, sheet, ", tiles: {size: 176, overlap: 0.3}")
    loaded = load_project(path)
    tiled = evaluate_project(loaded, tmp_path / "build", weights=shapes_weights)
    assert tiled.metrics.seg.map50 > 0.5
    assert "tiles of 176 pixels, overlap 0.3, at 160x160" in tiled.circumstances()
    assert tiled.to_json()["tiles"] == {"overlap": 0.3, "size": 176, "whole": False}
    session, val = tiled.session, read_split(loaded, "val")
    assert validate(session, loaded, val, World(), 1, lambda *_: None).to_json() == tiled.metrics.to_json()
    written = tmp_path / "val.json"
    assert run(["val", str(path), "--weights", str(shapes_weights), "--json", str(written), "--tile", "0"]) == 0
    whole = json.loads(written.read_text())
    assert "tiles" not in whole
    assert whole["seg"]["map50"] < 0.1
    capsys.readouterr()


def test_masks_of_tiles_are_not_compared_on_the_grid_of_prototypes(sheet, shapes_weights, tmp_path):
    loaded = load_project(write_project(tmp_path, sheet, ", tiles: {size: 176}"))
    with pytest.raises(SegcError) as caught:
        evaluate_project(loaded, tmp_path / "build", weights=shapes_weights, mask_grid="prototypes")
    assert caught.value.diagnostics[0].code == "E003"


def test_finished_masks_are_not_compared_on_the_grid_of_prototypes(shapes, shapes_weights, tmp_path):
    path = write_project(tmp_path, shapes)
    path.write_text(path.read_text() + "targets: [{format: onnx, name: m, nms: true, masks: true}]\n")
    loaded = load_project(path)
    (made,) = emit_project(loaded, tmp_path / "build", ["onnx"], weights=shapes_weights)
    assert made.status == "verified"
    with pytest.raises(SegcError) as caught:
        evaluate_project(loaded, tmp_path / "build", artifact=tmp_path / "build/artifacts/m", mask_grid="prototypes")
    assert caught.value.diagnostics[0].code == "E003"


def test_an_overlap_without_tiles_is_refused_before_anything_is_read(sheet, tmp_path, capsys):
    path = write_project(tmp_path, sheet)
    assert run(["val", str(path), "--overlap", "0.3"]) != 0
    assert "I008" in capsys.readouterr().err
