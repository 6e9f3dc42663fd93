"""What int8 is calibrated on: drawn as the project says, recorded, and refused where it shows nothing."""

from __future__ import annotations

import re
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


EIGHTY = """\
version: 1
name: rare
architecture: {{family: yolov8-seg, scale: n, weights: '{peer}/overfit32_last.pt'}}
dataset: {{data: '{coco}/data.yaml', train: '{folder}/train.txt', val: '{folder}/val.txt'}}
hyperparameters: {{imgsz: 320}}
calibration: {{number: 8}}
targets: [{{format: onnx, int8: true, keep_float: false}}]
"""


@pytest.mark.slow
def test_eighty_classes_of_which_calibration_shows_seven_keep_their_map_and_a_class_that_does_not_is_named(
    coco: Path, peer: Path, tmp_path: Path
) -> None:
    from segc.data.dataset import read_split
    from segc.emission.project import emit_project

    known = sorted((coco / "images" / "train").iterdir())[:32]
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("".join(f"{image}\n" for image in known))
    path = tmp_path / "project.yaml"
    path.write_text(EIGHTY.format(peer=peer, coco=coco, folder=tmp_path))
    # Calibrated on those that show the fewest classes.
    samples = read_split(load_project(path), "train")
    classes = [{one.class_id for one in sample.instances} for sample in samples]
    few = sorted((number for number, shown in enumerate(classes) if shown), key=lambda one: len(classes[one]))[:8]
    (tmp_path / "train.txt").write_text("".join(f"{samples[number].image}\n" for number in few))
    shown = set.union(*(classes[number] for number in few))
    assert len(set.union(*classes) - shown) > 30
    loaded = load_project(path)
    (emission,) = emit_project(loaded, tmp_path / "build")
    assert f"no image it was calibrated on shows {80 - len(shown)} of 80 classes" in " ".join(emission.notes)
    for trained, made in (emission.figures[0].box, emission.figures[0].mask):
        assert trained is not None
        assert made is not None
        assert trained - made < 0.01
    # What fails all the same is a class that was not seen, and is said to be.
    unseen = {name for number, name in enumerate(loaded.project.dataset.class_names) if number not in shown}
    for problem in emission.diagnostics:
        name, factor = re.search(
            r"scores, ([\w ]+): .* ([\d.]+) times what the network gives", problem.message
        ).groups()
        assert name in unseen
        assert float(factor) < 1
    assert emission.status == ("failed" if emission.diagnostics else "verified")
