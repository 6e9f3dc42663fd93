"""``segc predict`` with ``--track`` and with tiles, by a network that finds what is bright."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc import cli
from segc.inference.filters import Filters
from segc.inference.regions import TiffPicture
from segc.inference.tracking import Follower
from tests.inference.stand_in import Bright
from tests.inference.test_tracking import detections
from tests.inference.videos import write_video


@pytest.fixture
def predict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segc.sessions.artifact.open_artifact", lambda *_, **__: Bright())

    def run(*arguments):
        return cli.run(["predict", *map(str, arguments), "--artifact", "model.onnx", "-o", "out"])

    return run


def records(name="out/predictions.json"):
    return json.loads(Path(name).read_text(encoding="utf-8"))


def squares(path, *corners, height=200, width=260, side=20):
    """A black picture with squares that the network takes for dogs, at (x, y)."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in corners:
        image[y : y + side, x : x + side] = (0, 0, 255)
    assert cv2.imwrite(str(path), image)
    return image


def test_an_object_of_a_video_keeps_its_number_in_everything_that_is_written(tmp_path, predict):
    write_video(tmp_path / "clip.mp4")
    assert predict("clip.mp4", "--track", "--save", "json,csv,coco") == 0
    frames = records()
    assert len(frames) == 12
    assert [[found["track"] for found in frame["detections"]] for frame in frames] == [[1]] * 12
    rows = csv.DictReader(Path("out/predictions.csv").read_text(encoding="utf-8").splitlines())
    assert [row["track"] for row in rows] == ["1"] * 12
    assert [row["track_id"] for row in records("out/coco_results.json")] == [1] * 12


def test_photographs_in_order_are_a_sequence_and_numbers_start_over_with_a_video(tmp_path, predict):
    for number in range(3):
        squares(tmp_path / f"{number}.png", (20 + 4 * number, 40))
    write_video(tmp_path / "clip.mp4")
    assert predict("0.png", "1.png", "2.png", "clip.mp4", "--track", "--save-json", "--no-overlay") == 0
    assert {found["track"] for frame in records() for found in frame["detections"]} == {1}
    assert predict("0.png", "--save-json", "--no-overlay") == 0
    assert "track" not in records()[0]["detections"][0]


def test_left_out_frames_of_a_film_count():
    follower = Follower(Filters(track=None))
    for index in range(6):
        follower.follow(detections((10 + 6 * index, 50, 50 + 6 * index, 90)), "film", index)
    assert follower.follow(detections((10 + 6 * 13, 50, 50 + 6 * 13, 90)), "film", 13).identities.tolist() == [1]


@pytest.mark.parametrize("name", ["large.png", "large.tif"])
def test_objects_on_tiles_are_found_whole_and_once(tmp_path, predict, name):
    # The second square lies across the border of tiles; the last one in a corner.
    corners = [(10, 10), (110, 20), (240, 180)]
    squares(tmp_path / name, *corners)
    assert predict(name, "--save", "json", "--no-overlay") == 0
    assert len(records()[0]["detections"]) == 1
    assert predict(name, "--tile", "64", "--overlap", "0.5", "--save", "json,crops") == 0
    (record,) = records()
    assert (record["height"], record["width"]) == (200, 260)
    found = sorted(tuple(detection["box"]) for detection in record["detections"])
    assert found == [(x, y, x + 20, y + 20) for x, y in corners]
    crops = [cv2.imread(str(path)) for path in sorted(Path("out/crops/dog").iterdir())]
    assert [crop.shape for crop in crops] == [(20, 20, 3)] * 3
    assert all(crop[..., 2].min() > 150 for crop in crops)


def test_the_overlay_of_a_picture_read_in_parts_is_a_smaller_one(tmp_path, predict, monkeypatch):
    monkeypatch.setattr("segc.inference.frames.OVERVIEW", 200)
    squares(tmp_path / "large.tif", (30, 30), (500, 300), height=400, width=800, side=60)
    assert predict("large.tif", "--tile", "128", "--save-json") == 0
    assert len(records()[0]["detections"]) == 2
    overlay = cv2.imread("out/large.jpg")
    assert overlay.shape == (100, 200, 3)
    # Drawn where the square is, and nowhere else.
    assert np.ptp(overlay[80:, :40].reshape(-1, 3), axis=0).max() < 40
    assert np.ptp(overlay[70:92, 120:142].reshape(-1, 3), axis=0).max() > 100


def test_a_block_that_cannot_be_read_is_the_fault_of_its_picture_alone(tmp_path, predict, monkeypatch, capsys):
    squares(tmp_path / "a.tif", (30, 30))
    squares(tmp_path / "b.png", (30, 30))
    whole = TiffPicture.region

    def region(self, x1, y1, x2, y2):
        if (x1, y1) == (0, 0) and x2 < 200:
            from segc.inference.sources import ImageError

            raise ImageError("a.tif: block 0 is cut off")
        return whole(self, x1, y1, x2, y2)

    monkeypatch.setattr(TiffPicture, "region", region)
    assert predict("a.tif", "b.png", "--tile", "64", "--save-json", "--no-overlay") == 1
    assert [record["image"] for record in records()] == ["b.png"]
    assert "a.tif: block 0 is cut off" in capsys.readouterr().err


def test_what_is_asked_of_tiles_that_are_not_there_is_told(tmp_path, predict, capsys):
    squares(tmp_path / "a.png", (30, 30))
    assert predict("a.png", "--overlap", "0.3") == 1
    assert "I008" in capsys.readouterr().err
    assert predict("a.png", "--tile", "16") == 2
    assert "32 pixels" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--resume",), ("--shard", "1/2")])
def test_sources_are_not_left_out_of_what_is_followed(tmp_path, predict, capsys, option):
    squares(tmp_path / "a.png", (30, 30))
    squares(tmp_path / "b.png", (30, 30))
    write_video(tmp_path / "clip.mp4")
    assert predict("a.png", "clip.mp4", "b.png", "--track", *option) == 2
    assert f"{option[0]} leaves sources out" in " ".join(capsys.readouterr().err.split())


def test_numbers_of_videos_are_the_same_whatever_videos_are_left_out(tmp_path, predict):
    squares(tmp_path / "c.png", (30, 30))
    (tmp_path / "model.onnx").write_bytes(b"one")
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name)
    arguments = ["a.mp4", "b.mp4", "c.png", "--track", "--save", "csv", "--no-overlay"]
    table = Path("out/predictions.csv")
    assert predict(*arguments) == 0
    whole = table.read_text().splitlines()
    assert {tuple(row.split(",")[:5:4]) for row in whole[1:]} == {(name, "1") for name in ("a.mp4", "b.mp4", "c.png")}
    for part in ("1/2", "2/2"):
        assert predict(*arguments, "--shard", part) == 0
    first, second = (Path(f"out/predictions-{part}of2.csv").read_text().splitlines()[1:] for part in (1, 2))
    assert sorted(first + second) == sorted(whole[1:])
    assert predict(arguments[0], *arguments[3:], "--resume") == 0
    assert predict(*arguments, "--resume") == 0
    assert table.read_text().splitlines() == whole


def test_files_of_very_many_objects_are_made_one_by_one_and_are_the_same(tmp_path, predict, monkeypatch, capsys):
    squares(tmp_path / "large.png", (10, 10), (110, 20), (240, 180))
    kinds = "json,txt,crops,masks,index"
    written = []
    for most in (1000, 0):
        monkeypatch.setattr("segc.inference.jobs.MOST_READY", most)
        assert predict("large.png", "--tile", "64", "--overlap", "0.5", "--save", kinds) == 0
        written.append({path: path.read_bytes() for path in sorted(Path("out").rglob("*")) if path.is_file()})
        assert "-> out/large.png" in capsys.readouterr().out
    assert written[0] == written[1]
    assert len(written[0]) == 1 + 1 + 1 + 3 + 3 + 1 + 1
    monkeypatch.setattr("segc.inference.writers.MOST_NUMBERED", 2)
    for most in (1000, 0):
        monkeypatch.setattr("segc.inference.jobs.MOST_READY", most)
        assert predict("large.png", "--tile", "64", "--overlap", "0.5", "--save", kinds) == 1
        assert "I004" in capsys.readouterr().err
