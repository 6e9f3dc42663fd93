"""Addresses that fsspec reaches: on its file system in memory, and on this machine's own."""

import json

import cv2
import numpy as np
import pytest

import segc
from segc import cli
from segc.inference.frames import Reading, Unread, read_frames
from segc.inference.pipeline import Line
from segc.prediction import find, image_problem
from tests.inference.videos import write_video

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["memory", "file"])
def base(request, tmp_path):
    """An address, empty at first."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    store = fsspec.filesystem("memory")
    if store.exists("/store"):
        store.rm("/store", recursive=True)
    return "memory://store"


def put(address, data):
    with fsspec.open(address, "wb", auto_mkdir=True) if address.startswith("file") else fsspec.open(address, "wb") as f:
        f.write(data)


def photo(shapes):
    return min((shapes / "images" / "train").iterdir()).read_bytes()


def test_images_folders_and_patterns_are_found(base, shapes):
    for name in ("b.jpg", "a.jpg", "deep/c.jpg", "notes.txt"):
        put(f"{base}/{name}", photo(shapes))
    names = [source.name.rpartition("/store/")[2] or source.name for source in find([base])]
    assert names == ["a.jpg", "b.jpg"]
    assert len(find([f"{base}/**/*.jpg"])) == 3
    (one,) = find([f"{base}/a.jpg", f"{base}/a.jpg"])
    assert (one.read() == cv2.imdecode(np.frombuffer(photo(shapes), np.uint8), cv2.IMREAD_COLOR)).all()
    assert (one.stem, one.suffix) == ("a", ".jpg")


def test_what_is_not_there_or_not_known_is_told(base, shapes):
    for address, said in (
        (f"{base}/none.jpg", "no image or video is there"),
        ("nosuch://bucket/a.jpg", "nosuch"),
    ):
        with pytest.raises(segc.SegcError, match=f"I001.*{said}"):
            find([address])
    put(f"{base}/a.jpg", photo(shapes))
    (source,) = find([f"{base}/a.jpg"])
    store, path = fsspec.core.url_to_fs(f"{base}/a.jpg")
    store.rm(path)
    with pytest.raises(ValueError, match=r"a\.jpg: cannot be read"):
        source.read()


def test_a_video_is_read_as_the_file_that_it_is(base, shapes, shapes_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clip = write_video(tmp_path / "clip.mp4", 4)
    put(f"{base}/clip.mp4", clip.read_bytes())
    put(f"{base}/broken.mp4", b"no video")
    put(f"{base}/a.jpg", photo(shapes))
    assert [source.kind for source in find([base])] == ["web", "video", "video"]
    arguments = ["--weights", str(shapes_weights), "--save", "jsonl"]
    assert cli.run(["predict", "clip.mp4", *arguments, "-o", "here"]) == 0
    assert cli.run(["predict", base, *arguments, "-o", "there"]) == 1
    assert capsys.readouterr().err.count("I002") == 1
    here, there = ((tmp_path / name / "predictions.jsonl").read_text().splitlines() for name in ("here", "there"))
    assert [json.loads(row)["detections"] for row in there[1:]] == [json.loads(row)["detections"] for row in here]
    assert (tmp_path / "there" / "clip.mp4").read_bytes() == (tmp_path / "here" / "clip.mp4").read_bytes()
    assert clip.is_file()
    (source,) = find([f"{base}/clip.mp4"])
    store, path = fsspec.core.url_to_fs(source.name)
    store.rm(path)
    with pytest.raises(segc.SegcError, match=r"I002.*clip\.mp4"):
        read(source)


def read(source):
    """Read a source; what the reader says of one that is gone since it was found."""
    with Line() as line:
        for item in read_frames([source], line, Reading(), lambda _: None):
            assert isinstance(item, Unread)
            raise image_problem(item.error)


def test_predictions_go_from_address_to_address(base, shapes, shapes_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(photo(shapes))
    put(f"{base}/a.jpg", photo(shapes))
    arguments = ["--weights", str(shapes_weights), "--save", "jsonl"]
    assert cli.run(["predict", "a.jpg", *arguments, "-o", "here"]) == 0
    assert cli.run(["predict", f"{base}/a.jpg", *arguments, "-o", f"{base}/found"]) == 0
    with fsspec.open(f"{base}/found/a.jpg", "rb") as file:
        assert file.read() == (tmp_path / "here" / "a.jpg").read_bytes()
    with fsspec.open(f"{base}/found/predictions.jsonl", "rb") as file:
        there = json.loads(file.read())
    ours = json.loads((tmp_path / "here" / "predictions.jsonl").read_text())
    assert there["detections"] == ours["detections"]
    assert there["image"].endswith("/a.jpg")
    assert cli.run(["predict", "a.jpg", *arguments, "-o", f"{base}/found", "--resume"]) == 2
    assert "must be one here" in capsys.readouterr().err
