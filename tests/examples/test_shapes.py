"""The shapes example: the same bytes every time, and labels that sit on what was drawn."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "shapes" / "generate.py"


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shapes_generate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_runs_write_the_same_bytes(shapes: ModuleType, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        shapes.write_split(tmp_path / folder, "train", 6, seed=0)
    one = _files(tmp_path / "one")
    assert len(one) == 12
    assert one == _files(tmp_path / "two")


def test_a_picture_does_not_depend_on_how_many_are_drawn(shapes: ModuleType, tmp_path: Path) -> None:
    shapes.write_split(tmp_path, "train", 4, seed=0)
    before = _files(tmp_path)
    shapes.write_split(tmp_path, "train", 2, seed=0)
    after = _files(tmp_path)
    assert set(after) == {
        f"{kind}/train/0000{i}.{end}" for kind, end in (("images", "jpg"), ("labels", "txt")) for i in (0, 1)
    }
    assert after.items() <= before.items()


def test_splits_and_seeds_give_different_pictures(shapes: ModuleType, tmp_path: Path) -> None:
    shapes.write_split(tmp_path / "a", "train", 1, seed=0)
    shapes.write_split(tmp_path / "a", "val", 1, seed=0)
    shapes.write_split(tmp_path / "b", "train", 1, seed=1)
    pictures = {
        content
        for name, content in (*_files(tmp_path / "a").items(), *_files(tmp_path / "b").items())
        if name.endswith("jpg")
    }
    assert len(pictures) == 3


def test_labels_outline_what_can_be_seen(shapes: ModuleType) -> None:
    seen = set()
    for number in range(40):
        _, objects = shapes.draw(np.random.default_rng(number))
        for shape in objects:
            class_id, *values = shapes.label_row(shape).split()
            height, width = shape.visible.shape
            points = np.array(values, float).reshape(-1, 2) * [width, height]
            assert points.min() >= 0
            drawn = cv2.fillPoly(np.zeros_like(shape.visible), [np.floor(points).astype(np.int32)], 1)
            common, union = np.count_nonzero(drawn & shape.visible), np.count_nonzero(drawn | shape.visible)
            assert common / union > 0.95
            seen.add(int(class_id))
    assert seen == set(range(len(shapes.CLASSES)))


def test_labelled_pixels_differ_from_those_around_them(shapes: ModuleType) -> None:
    distances = []
    kernel = np.ones((3, 3), np.uint8)
    for number in range(30):
        picture, objects = shapes.draw(np.random.default_rng(number))
        height, width = picture.shape[:2]
        masks = [cv2.resize(shape.visible, (width, height), interpolation=cv2.INTER_NEAREST) for shape in objects]
        anything = cv2.dilate(np.bitwise_or.reduce(masks), kernel)
        for mask in masks:
            inside = cv2.erode(mask, kernel) > 0
            around = (cv2.dilate(mask, np.ones((9, 9), np.uint8)) > 0) & (anything == 0)
            if inside.sum() > 20 and around.sum() > 20:
                distances.append(np.linalg.norm(picture[inside].mean(0) - picture[around].mean(0)))
    assert len(distances) > 80
    assert np.quantile(distances, 0.05) > 30


def test_masks_of_one_picture_do_not_overlap(shapes: ModuleType) -> None:
    for number in range(20):
        _, objects = shapes.draw(np.random.default_rng(number))
        assert np.sum([shape.visible for shape in objects], axis=0).max() <= 1


def test_the_script_writes_both_splits(
    shapes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["generate.py", "--train", "3", "--val", "2", "--output", str(tmp_path)])
    threads = cv2.getNumThreads()
    shapes.main()
    cv2.setNumThreads(threads)
    assert len(_files(tmp_path / "images" / "train")) == len(_files(tmp_path / "labels" / "train")) == 3
    assert len(_files(tmp_path / "images" / "val")) == len(_files(tmp_path / "labels" / "val")) == 2
    assert "train: 3 pictures" in capsys.readouterr().out
