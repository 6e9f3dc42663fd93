"""What int8 is calibrated on: drawn as the project says, recorded, and refused where it shows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from segc.diagnostics import SegcError
from segc.emission.calibration import calibration_images
from segc.spec.load import load_project

if TYPE_CHECKING:
    from pathlib import Path

    from segc.spec.load import LoadedProject

PROJECT = """\
version: 1
name: a
architecture: {{family: yolov8-seg, scale: n}}
dataset: {{path: '{root}', train: train.txt, val: images/val, names: [circle, b, c, d, e, f, never]}}
calibration: {{{calibration}}}
"""


def loaded(shapes: Path, folder: Path, images: list[Path], calibration: str = "") -> LoadedProject:
    path = folder / "project.yaml"
    (folder / "train.txt").write_text("".join(f"{image}\n" for image in images))
    text = PROJECT.format(root=shapes, calibration=calibration).replace("train.txt", str(folder / "train.txt"))
    path.write_text(text)
    return load_project(path)


def test_images_are_drawn_by_number_and_seed_and_unseen_classes_are_named(shapes: Path, tmp_path: Path) -> None:
    images = sorted((shapes / "images" / "train").iterdir())
    drawn = [calibration_images(loaded(shapes, tmp_path, images, f"number: 16, seed: {seed}")) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0].images != drawn[2].images
    assert len(drawn[0].images) == 16
    assert any("never" in note for note in drawn[0].notes)


def test_a_number_that_a_split_does_not_have_is_told(shapes: Path, tmp_path: Path) -> None:
    images = sorted((shapes / "images" / "train").iterdir())[:10]
    told = calibration_images(loaded(shapes, tmp_path, images, "number: 500"))
    assert len(told.images) == 10
    assert "calibrated on 10 images, all that dataset.train has, not 500" in told.notes


@pytest.mark.parametrize(("count", "words"), [(3, "has 3 images"), (9, "none of the 9 images")])
def test_too_few_images_or_none_with_an_object_is_an_error(
    count: int, words: str, shapes: Path, tmp_path: Path
) -> None:
    import shutil

    images = []
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number, path in enumerate(sorted((shapes / "images" / "train").iterdir())[:count]):
        images.append(tmp_path / "images" / f"{number}.jpg")
        shutil.copy(path, images[-1])
        images[-1].parents[1].joinpath("labels", f"{number}.txt").write_text("")
    with pytest.raises(SegcError) as error:
        calibration_images(loaded(shapes, tmp_path, images))
    (problem,) = error.value.diagnostics
    assert problem.code == "T015"
    assert words in problem.message
