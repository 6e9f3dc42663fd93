"""Checking whole datasets: everything that is wrong is told and counted."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from segc.cli import root
from segc.data.check import check_split
from segc.spec.load import load_project


@pytest.fixture
def project(tmp_path) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for index in range(3):
            shade = index + 10 * len(split)
            cv2.imwrite(str(tmp_path / "images" / split / f"{index}.png"), np.full((8, 8, 3), shade, np.uint8))
            rows = [f"0 .1 .1 .{row + 5} .1 .5 .5\n" for row in range(index)]
            (tmp_path / "labels" / split / f"{index}.txt").write_text("".join(rows))
    path = tmp_path / "project.yaml"
    path.write_text(
        "version: 1\nname: x\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {train: images/train, val: images/val, names: [a]}\n"
    )
    return path


def test_a_sound_split_is_counted(project):
    done = []
    checked = check_split(load_project(project), "train", lambda *numbers: done.append(numbers))
    assert checked.to_json() == {
        "images": 3,
        "objects": 3,
        "crowds": 0,
        "boxes": 0,
        "empty": 1,
        "unlabelled": 0,
        "classes": {"a": 3},
        "faults": {},
        "remarks": {},
    }
    assert checked.diagnostics == ()
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_faults_of_images_and_labels_are_told_together(project):
    folder = project.parent
    (folder / "images" / "train" / "0.png").write_bytes(b"broken")
    (folder / "labels" / "train" / "1.txt").write_text("7 .5 .5 .2 .2\nx\n")
    checked = check_split(load_project(project), "train")
    assert dict(checked.faults) == {"D005": 1, "D003": 1, "D002": 1}
    assert {d.file.name for d in checked.diagnostics if d.file} == {"0.png", "1.txt"}


def test_many_faults_are_counted_and_the_first_ones_shown(project):
    folder = project.parent
    (folder / "labels" / "train" / "1.txt").write_text("x\n" * 1000)
    for index in range(60):
        (folder / "images" / "train" / f"bad{index}.png").write_bytes(b"broken")
    checked = check_split(load_project(project), "train")
    # The hundred-and-first says how many rows were not looked at.
    assert dict(checked.faults) == {"D003": 101, "D002": 60}
    shown = [(d.code, d.count, len(d.examples)) for d in checked.diagnostics if d.severity == "error"]
    assert sorted(shown) == [("D002", 60, 2), ("D003", 1, 0), ("D003", 100, 2)]


def test_a_missing_folder_is_one_fault(project):
    project.write_text(project.read_text().replace("images/val", "images/nowhere"))
    checked = check_split(load_project(project), "val")
    assert (checked.contents.images, dict(checked.faults)) == (0, {"F001": 1})


def run(*arguments: object):
    return CliRunner().invoke(root, ["validate", *map(str, arguments)])


def test_the_command_tells_what_is_in_the_splits(project):
    result = run("--data", project)
    assert result.exit_code == 0, result.output
    assert "train: 3 images, 1 of them without objects, 3 objects" in result.output
    found = json.loads(run("--data", "--format", "json", project).stdout)
    assert found["files"][0]["data"]["val"]["objects"] == 3


def test_the_command_fails_for_faults_of_the_data_and_only_if_asked(project):
    (project.parent / "images" / "val" / "0.png").write_bytes(b"broken")
    assert run(project).exit_code == 0
    result = run("--data", project)
    assert result.exit_code == 1
    assert "faults: 1 x D002 image cannot be read" in result.output
    assert "0.png" in result.output
