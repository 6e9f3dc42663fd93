"""What an earlier run left of a picture or a video does not pass for what this run found."""

import json
import sys

import cv2
import numpy as np
import pytest

from segc import cli
from segc.inference.earlier import Written
from segc.inference.sources import find_sources
from segc.inference.writing import plan_files
from tests.inference.stand_in import Bright
from tests.inference.videos import write_video

BY_FRAME = "json,txt,crops,masks,index"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def predict(monkeypatch, capsys):
    """Runs the command with a network; its exit status and what it printed."""

    def run(*arguments):
        monkeypatch.setattr("segc.sessions.artifact.open_artifact", lambda *_, **__: Bright())
        capsys.readouterr()
        status = cli.run(["predict", "-o", "out", *map(str, arguments), "--artifact", "model.onnx"])
        return status, capsys.readouterr()

    return run


def photograph(path, bright):
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 10:40, 2] = 255 * bright
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def of_an_earlier_run(out, name):
    Written(out).add(out / name)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("an earlier run's")


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_objects_of_an_earlier_run_go_and_everything_else_stays(here, predict):
    photograph(here / "a.png", bright=True)
    photograph(here / "b.png", bright=True)
    assert predict("a.png", "b.png", "--save", BY_FRAME)[0] == 0
    others = ["crops/cat/a-1.txt", "crops/fox/a-1.png", "masks/a/fox_1.png", "masks/a/dog.png", "masks/c/dog_1.png"]
    for name in others:
        (here / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "out" / name).write_text("mine")
    before = written(here / "out")
    photograph(here / "a.png", bright=False)
    status, said = predict("a.png", "b.png", "--save", BY_FRAME)
    assert status == 0
    gone = {"crops/dog/a-1.png", "masks/a/dog_1.png"}
    assert gone < set(before)
    assert written(here / "out") == [name for name in before if name not in gone]
    assert "out: 2 files of the same images from an earlier run removed" in said.out
    assert "removed" not in predict("a.png", "b.png", "--save", BY_FRAME)[1].out


def test_an_object_that_has_become_one_of_another_class_leaves_no_crop_behind(here, predict):
    photograph(here / "a.png", bright=True)
    for number in (1, 2):
        of_an_earlier_run(here / "out", f"crops/cat/a-{number}.png")
    assert predict("a.png", "--save", "crops")[0] == 0
    assert written(here / "out/crops") == ["dog/a-1.png"]


def test_kinds_that_are_not_asked_for_are_left_alone(here, predict):
    photograph(here / "a.png", bright=True)
    assert predict("a.png", "--save", BY_FRAME)[0] == 0
    photograph(here / "a.png", bright=False)
    assert predict("a.png", "--save", "crops")[0] == 0
    assert (here / "out/masks/a/dog_1.png").exists()


def test_a_source_is_never_removed(here, predict):
    photograph(here / "out/crops/dog/a-1.png", bright=True)
    photograph(here / "a.png", bright=False)
    assert predict("a.png", "out/crops/dog/a-1.png", "--save", "crops", "--no-overlay")[0] == 0
    assert (here / "out/crops/dog/a-1.png").exists()


def test_frames_of_an_earlier_run_go(here, predict):
    write_video(here / "clip.mp4")
    assert predict("clip.mp4", "--save", BY_FRAME)[0] == 0
    assert len(list((here / "out/labels/clip").iterdir())) == 12
    assert predict("clip.mp4", "--save", BY_FRAME, "--stride", "5")[0] == 0
    names = ["000000", "000005", "000010"]
    for kind in ("labels", "index", "masks"):
        assert sorted(path.stem for path in (here / "out" / kind / "clip").iterdir()) == names
    assert sorted(path.stem for path in (here / "out/crops/dog/clip").iterdir()) == [f"{name}-1" for name in names]


def test_photographs_whose_names_are_the_same_number_keep_ids_of_their_own(here, predict):
    for name in ("7", "007", "12", "photo"):
        photograph(here / "in" / f"{name}.png", bright=True)
    _, said = predict("in", "--save", "coco", "--no-overlay")
    rows = json.loads((here / "out/coco_results.json").read_text())
    assert [row["image_id"] for row in rows] == ["007", "7", 12, "photo"]
    assert "2 names are the same number (007, 7): the names are the image_id" in said.out
    assert "same number" not in predict("in", "--no-overlay", "--save", "json")[1].out


def test_what_names_nothing_is_reported_and_the_rest_goes_on(here, predict):
    photograph(here / "a.png", bright=True)
    (here / "list.txt").write_text("gone.png\na.png\nother.txt\n")
    status, said = predict("list.txt", "nope.png", "--save", "jsonl")
    assert status == 1
    assert [json.loads(line)["image"] for line in (here / "out/predictions.jsonl").read_text().splitlines()] == [
        "a.png"
    ]
    for text in (
        "list.txt:1: gone.png: no such file",
        "list.txt:3: other.txt: a list names no list",
        "nope.png: no such",
    ):
        assert said.err.count(text) == 1
    assert said.err.count("I001") == 3
    status, said = predict("nope.png", "gone.png")
    assert status == 1
    assert said.err.count("I001") == 1


def test_contradicting_options_are_wrong_usage(here, predict):
    photograph(here / "a.png", bright=True)
    status, said = predict("a.png", "--no-overlay", "--save", "json,overlay")
    assert status == 2
    assert "--no-overlay and --save overlay exclude each other" in said.err


def test_a_file_in_place_of_the_output_folder_is_named(here, predict):
    photograph(here / "a.png", bright=True)
    (here / "out").write_text("a file")
    status, said = predict("a.png")
    assert status == 1
    assert "I003" in said.err
    assert "out is a file: name a folder with -o" in said.err


MINE = [
    ("overlay", "a.jpg"),
    ("json", "predictions.json"),
    ("csv", "predictions.csv"),
    ("txt", "labels/a.txt"),
    ("index", "index/a.png"),
    ("crops", "crops/cat/a-7.jpg"),
    ("masks", "masks/a/dog_7.png"),
    ("masks", "masks/clip/000003/dog_7.png"),
    ("txt", "labels/clip/000003.txt"),
    ("overlay", "clip.mp4"),
]


@pytest.mark.parametrize(("kind", "name"), MINE)
def test_a_file_that_no_run_wrote_is_neither_replaced_nor_removed(here, predict, kind, name):
    photograph(here / "a.webp", bright=True)
    write_video(here / "clip.avi")
    (here / "out" / name).parent.mkdir(parents=True)
    (here / "out" / name).write_text("mine")
    status, said = predict("a.webp", "clip.avi", "--save", kind)
    assert status == 1
    assert "I003" in said.err
    assert f"out/{name} is there already, and no earlier run wrote it: choose another folder with -o" in said.err
    assert written(here / "out") == [name]
    assert (here / "out" / name).read_text() == "mine"


def test_a_file_of_the_user_in_the_folder_of_the_sources_stays(here, predict):
    photograph(here / "a.webp", bright=True)
    (here / "a.jpg").write_text("mine")
    status, said = predict("a.webp", "-o", ".")
    assert status == 1
    assert "I003" in said.err
    assert written(here) == ["a.jpg", "a.webp"]


def test_tables_of_a_part_and_the_record_of_a_run_replace_no_file_of_the_user(here, predict):
    photograph(here / "a.png", bright=True)
    (here / "out").mkdir()
    for name, options in {
        "predictions-1of1.csv": ["--shard", "1/1", "--save", "csv"],
        "done.jsonl": ["--resume"],
    }.items():
        (here / "out" / name).write_text("mine")
        status, said = predict("a.png", *options)
        assert status == 1
        assert f"out/{name} is there already" in said.err
        assert written(here / "out") == [name]
        (here / "out" / name).unlink()


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("masks", "masks/a/circle_7.png"),
        ("masks", "masks/a.png"),
        ("masks", "masks/b/dog_1.png"),
        ("txt", "labels/b.txt"),
        ("index", "index/b.png"),
    ],
)
@pytest.mark.parametrize("images", ["images", "images/train", "."])
def test_nothing_is_written_among_labels_of_the_sources(here, predict, kind, label, images):
    photograph(here / "set" / images / "a.png", bright=True)
    (here / "set" / label).parent.mkdir(parents=True)
    (here / "set" / label).write_text("a label")
    before = written(here)
    status, said = predict(here / "set" / images, "--save", kind, "--no-overlay", "-o", "set")
    assert status == 1
    assert "I003" in said.err
    assert f"set/{label} is beside the sources, may be a label of theirs" in said.err
    assert written(here) == before


def test_a_run_into_the_folder_of_its_sources_can_be_repeated(here, predict):
    photograph(here / "images" / "a.webp", bright=True)
    arguments = ("images", "--save", "json,crops,masks,index", "-o", ".")
    assert predict(*arguments)[0] == 0
    before = written(here)
    assert {"a.jpg", "masks/a/dog_1.png", "crops/dog/a-1.jpg"} < set(before)
    assert predict(*arguments)[0] == 0
    assert written(here) == before


def test_a_run_that_was_killed_can_be_repeated(here, predict, monkeypatch):
    for name in ("a", "b"):
        photograph(here / f"{name}.png", bright=True)
    whole = Written.add

    def killed(self, path):
        whole(self, path)
        if path.name == "b.png":
            # Whatever the process had of a line is left.
            with (here / "out/.segc-predict").open("a") as file:
                file.write('\n"mas')
            raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(Written, "add", killed)
        with pytest.raises(SystemExit):
            predict("a.png", "b.png", "--save", BY_FRAME)
    assert "a.png" in written(here / "out")
    for _ in range(2):
        assert predict("a.png", "b.png", "--save", BY_FRAME)[0] == 0


class _Gone:
    """A stream whose reader has gone away."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        raise BrokenPipeError(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def test_a_reader_that_goes_away_costs_no_prediction(here, monkeypatch, tmp_path):
    from segc.inference.filters import Filters
    from segc.inference.frames import Reading
    from segc.inference.jobs import predict_sources

    for number in range(4):
        photograph(here / "in" / f"{number}.png", bright=True)
    sources = find_sources(["in"])
    network, plan = Bright(), plan_files(sources, here / "out", {"json"})
    with (tmp_path / "stream").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", _Gone(stream))
        failures = predict_sources(
            sources,
            plan,
            network.run,
            network.metadata,
            Filters(),
            runtime="a test",
            told=print,
            failed=print,
            reading=Reading(),
        )
    assert failures == 0
    assert len(json.loads((here / "out/predictions.json").read_text())) == 4
