"""Lists of images: which ones a line means, and what is said of those that it cannot mean."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.cli import run
from segc.data.dataset import list_images
from segc.data.opening import open_dataset
from segc.data.survey import survey
from segc.diagnostics import Findings, SegcError
from segc.spec.load import check_text


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(cv2.imencode(".png", np.zeros((8, 9, 3), np.uint8))[1]))
    return path


def listing(folder: Path, text: str, form: str = "voc", **more) -> tuple[list[str], Findings]:
    """The images of a list, below the folder, and what is noted of them."""
    lines = folder / "train.txt"
    lines.write_text(text, "utf-8")
    dataset = {"format": form, "path": str(folder), "train": lines.name, "val": lines.name, "names": ["a", "b"], **more}
    spec = {"version": 1, "name": "t", "architecture": {"family": "yolov8-seg", "scale": "n"}, "dataset": dataset}
    loaded, diagnostics = check_text(json.dumps(spec), folder / "project.yaml")
    assert loaded is not None, diagnostics
    found = Findings()
    return [path.relative_to(folder).as_posix() for path in list_images(loaded, "train", found)], found


def voc_images(folder: Path, *names: str) -> None:
    for name in names:
        picture(folder / "JPEGImages" / name)


def test_a_line_of_a_voc_list_is_a_name_with_its_blanks(tmp_path):
    voc_images(tmp_path, "img.png", "img (1).png", "img (2).png", " led.png", "img 1.png")
    assert listing(tmp_path, "img (1)\nimg (2)\n")[0] == ["JPEGImages/img (1).png", "JPEGImages/img (2).png"]
    assert listing(tmp_path, " led\n  img  \r\n")[0] == ["JPEGImages/ led.png", "JPEGImages/img.png"]
    assert listing(tmp_path, "img 1\n")[0] == ["JPEGImages/img 1.png"]
    with pytest.raises(SegcError) as error:
        listing(tmp_path, "img 1\nimg 7\n")
    assert [(one.code, one.line) for one in error.value.diagnostics] == [("D007", 2)]
    assert "`img 7`" in error.value.diagnostics[0].message


def test_a_second_column_of_a_voc_list_is_no_part_of_the_name(tmp_path):
    voc_images(tmp_path, "2008_1.png", "2008_2.png", "bla nk.png")
    found, noted = listing(tmp_path, "2008_1  1\n2008_2 -1\nbla nk  0\n")
    assert found == ["JPEGImages/2008_1.png", "JPEGImages/2008_2.png", "JPEGImages/bla nk.png"]
    assert not noted


def test_voc_lists_and_folders_make_one_split(tmp_path):
    voc_images(tmp_path, "a.png")
    picture(tmp_path / "more" / "b.png")
    assert listing(tmp_path, "a\n", train=["train.txt", "more"])[0] == ["JPEGImages/a.png", "more/b.png"]


@pytest.mark.parametrize("name", ["A.PNG", "B.Png", "c.png"])
def test_voc_images_are_found_whatever_the_case_of_their_ending(tmp_path, name):
    voc_images(tmp_path, name)
    assert listing(tmp_path, f"{Path(name).stem}\n")[0] == [f"JPEGImages/{name}"]


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_an_image_that_is_listed_twice_counts_once_and_that_is_said(tmp_path, form):
    voc_images(tmp_path, "a.png", "b.png")
    text = "a\nb\na\na\n" if form == "voc" else "JPEGImages/a.png\nJPEGImages/b.png\nJPEGImages/a.png\nJPEGImages/a.png"
    found, noted = listing(tmp_path, text, form)
    assert found == ["JPEGImages/a.png", "JPEGImages/b.png"]
    assert noted.counts == {"D019": 2}
    assert next(iter(noted)).line == 3


def test_a_way_round_leads_to_the_same_image(tmp_path):
    voc_images(tmp_path, "a.png")
    found, noted = listing(tmp_path, "JPEGImages/../JPEGImages/a.png\nJPEGImages/a.png\n", "yolo")
    assert found == ["JPEGImages/a.png"]
    assert noted.counts == {"D019": 1}


def test_a_name_in_a_list_may_begin_with_a_blank(tmp_path):
    voc_images(tmp_path, "a.png")
    picture(tmp_path / " b.png")
    assert listing(tmp_path, " b.png\n JPEGImages/a.png \n", "yolo")[0] == [" b.png", "JPEGImages/a.png"]


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_listed_images_that_are_not_there_can_be_left_out_by_name(tmp_path, form):
    voc_images(tmp_path, "a.png")
    name = "a" if form == "voc" else "JPEGImages/a.png"
    found, noted = listing(tmp_path, f"{name}\nlost\n", form, corrupt="skip")
    assert found == ["JPEGImages/a.png"]
    assert [(one.code, one.severity, one.line) for one in noted] == [("D007", "warning", 2)]


def test_a_faulty_line_of_a_list_hides_no_image_from_a_survey(tmp_path, capsys):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .1 .1 .5 .1 .5 .6\n")
    (tmp_path / "train.txt").write_text("images/a.png\n# comment\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [a]\n")
    done = survey(*open_dataset(tmp_path / "data.yaml"))
    assert (done.contents["train"].images, done.contents["train"].objects) == (1, 1)
    assert (done.faults.counts, done.remarks.counts) == ({"D007": 1}, {})
    (tmp_path / "train.txt").write_text("# comment\n")
    assert run(["data", "check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "not one image could be read" in told
    assert "D018" not in told
