import json

import cv2
import numpy as np
import pytest

from segc import cli
from segc.commands import predict as predict_command
from segc.data.labels import parse_labels
from segc.data.samples import rasterise
from segc.inference.earlier import Written
from segc.inference.metadata import Metadata
from segc.inference.recording import Recording
from segc.inference.sources import ImageError
from tests.inference.streams import serving
from tests.inference.videos import write_video

NAMES = ["cat", "dog"]


class Session:
    """Finds one dog: the left half of the frame's upper part."""

    def __init__(self):
        self.metadata = Metadata(tuple(NAMES), (64, 64))
        self.runtime = "a test"

    def run(self, images):
        assert images.shape == (1, 3, 64, 64)
        boxes = np.zeros((1, 84, 4), np.float32)
        scores = np.zeros((1, 84, 2), np.float32)
        boxes[0, 3], scores[0, 3, 1] = [0, 16, 32, 40], 0.9
        coefficients = np.ones((1, 84, 32), np.float32)
        return {
            "boxes": boxes,
            "scores": scores,
            "coefficients": coefficients,
            "prototypes": np.ones((1, 32, 16, 16), "f4"),
        }


@pytest.fixture
def artifact(monkeypatch):
    """Options that run a session without a model or a project."""
    opened = []

    def open_artifact(path, **_):
        opened.append(path)
        return Session()

    monkeypatch.setattr("segc.sessions.artifact.open_artifact", open_artifact)
    return ["--artifact", "model.onnx"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(path, size=(100, 200)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def test_overlays_json_and_labels_are_written(here, artifact, capsys):
    photo(here / "in" / "a.jpg")
    photo(here / "in" / "b.png")
    assert cli.run(["predict", "in", *artifact, "--save-json", "--save-txt"]) == 0
    out = here / "build" / "predictions"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        ".segc-predict",
        "a.jpg",
        "b.png",
        "labels/a.txt",
        "labels/b.txt",
        "predictions.json",
    ]
    records = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert [record["image"] for record in records] == ["in/a.jpg", "in/b.png"]
    found = records[0]["detections"][0]
    assert (found["class"], found["score"], found["box"]) == ("dog", 0.9, [0, 0, 100, 75])
    instances, faults = parse_labels((out / "labels" / "a.txt").read_text(), out, nc=2)
    assert not faults
    assert instances[0].class_id == 1
    mask = rasterise([p * np.float32([200, 100]) for p in instances[0].polygons], 100, 200)
    assert mask.sum() == found["area"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("in/a.jpg: 200x100, 1 dog, ")
    assert printed[0].endswith(f"ms -> {out.relative_to(here) / 'a.jpg'}")
    assert printed[-1] == "build/predictions/predictions.json: 2 of 2 images"


def test_two_runs_give_the_same_bytes(here, artifact):
    photo(here / "a.jpg")
    for folder in ("one", "two"):
        assert cli.run(["predict", "a.jpg", *artifact, "-o", folder, "--save-json", "--save-txt"]) == 0
    for name in ("a.jpg", "labels/a.txt", "predictions.json"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()


def test_nothing_but_what_is_asked_for_is_written(here, artifact):
    photo(here / "a.jpg")
    assert cli.run(["predict", "a.jpg", *artifact, "-o", "out", "--no-overlay"]) == 0
    assert not (here / "out").exists()


def test_sources_of_one_stem_get_files_of_their_own(here, artifact):
    photo(here / "x" / "a.jpg")
    photo(here / "y" / "a.png")
    assert cli.run(["predict", "x", "y", *artifact, "-o", "out", "--save-txt"]) == 0
    names = [".segc-predict", "a-2.png", "a-2.txt", "a.jpg", "a.txt"]
    assert sorted(p.name for p in (here / "out").rglob("*.*")) == names


def test_a_bad_image_is_reported_and_the_rest_goes_on(here, artifact, capsys):
    photo(here / "in" / "a.jpg")
    (here / "in" / "b.jpg").write_bytes(b"no image")
    photo(here / "in" / "c.jpg")
    assert cli.run(["predict", "in", *artifact, "--save-json"]) == 1
    captured = capsys.readouterr()
    assert "I002" in captured.err
    assert "in/b.jpg: not an image" in captured.err
    assert captured.err.count("error[") == 1
    records = json.loads((here / "build/predictions/predictions.json").read_text())
    assert [record["image"] for record in records] == ["in/a.jpg", "in/c.jpg"]


@pytest.mark.parametrize("source", ["nowhere.jpg", "empty", "*.png", "ftp://host/a.jpg"])
def test_a_source_that_names_nothing_stops_before_any_work(here, artifact, capsys, source):
    (here / "empty").mkdir()
    assert cli.run(["predict", source, *artifact]) == 1
    captured = capsys.readouterr()
    assert "I001" in captured.err
    assert source in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("output", [".", "in/..", "link"])
def test_a_source_is_never_written_over(here, artifact, capsys, output):
    photo(here / "a.jpg")
    (here / "in").mkdir()
    (here / "link").symlink_to(here)
    before = (here / "a.jpg").read_bytes()
    assert cli.run(["predict", "a.jpg", *artifact, "-o", output]) == 1
    assert "I003" in capsys.readouterr().err
    assert (here / "a.jpg").read_bytes() == before
    assert cli.run(["predict", "a.jpg", *artifact, "-o", "in", "--save-txt"]) == 0


def test_a_datasets_labels_are_never_written_over(here, artifact, capsys):
    photo(here / "data" / "images" / "a.jpg")
    label = here / "data" / "labels" / "a.txt"
    label.parent.mkdir()
    label.write_text("0 .1 .1 .2 .1 .2 .2\n")
    assert cli.run(["predict", "data/images", *artifact, "-o", "data", "--save-txt", "--no-overlay"]) == 1
    assert "label file of one" in capsys.readouterr().err
    assert label.read_text() == "0 .1 .1 .2 .1 .2 .2\n"


def test_confidence_comes_from_the_option_then_the_project_then_the_default(here, artifact, monkeypatch):
    seen = []

    def remember(*arguments):
        seen.append(arguments[3])

    monkeypatch.setattr(predict_command, "_run", remember)
    photo(here / "a.jpg")
    cli.run(["predict", "a.jpg", *artifact])
    (here / "project.yaml").write_text(
        "version: 1\nname: p\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {path: ., format: yolo, train: images, val: images2, names: [cat, dog]}\n"
        "hyperparameters: {conf: 0.5, iou: 0.6, max_det: 7}\n"
    )
    cli.run(["predict", "a.jpg", *artifact])
    cli.run(["predict", "a.jpg", *artifact, "--conf", "0.1", "--max-det", "9", "--no-retina"])
    plain = [(f.conf, f.iou, f.max_det, f.retina) for f in seen]
    assert plain == [(0.25, 0.7, 300, True), (0.5, 0.6, 7, True), (0.1, 0.6, 9, False)]


@pytest.mark.parametrize("arguments", [[], ["a.jpg", "--conf", "2"], ["a.jpg", "--weights", "w", "--artifact", "a"]])
@pytest.mark.usefixtures("here")
def test_wrong_usage_is_answered_as_such(arguments):
    assert cli.run(["predict", *arguments]) == 2


def test_without_a_project_or_an_artifact_the_missing_file_is_named(here, capsys):
    photo(here / "a.jpg")
    assert cli.run(["predict", "a.jpg"]) == 1
    assert "project.yaml" in capsys.readouterr().err


def test_weights_run_without_a_project_by_what_they_say_of_themselves(here, shapes_weights, shapes, capsys):
    photo_ = min((shapes / "images" / "train").iterdir())
    arguments = ["predict", str(photo_), "--weights", str(shapes_weights), "--save-json", "--no-overlay"]
    assert cli.run(arguments) == 0
    (record,) = json.loads((here / "build" / "predictions" / "predictions.json").read_text())
    assert record["detections"][0]["class"] in {"circle", "square", "triangle", "star", "cross", "crescent"}
    assert "their own classes count" in capsys.readouterr().err
    assert cli.run([*arguments, "--imgsz", "192,256", "--conf", "0.1", "--classes", "star,0"]) == 0
    (record,) = json.loads((here / "build" / "predictions" / "predictions.json").read_text())
    assert {found["class"] for found in record["detections"]} <= {"star", "circle"}
    for more, said in (
        (["--imgsz", "100"], "X201"),
        (["--imgsz", "1,2,3"], "neither a number of pixels nor HEIGHT,WIDTH"),
        (["--classes", "strar"], "did you mean star"),
        (["--half", "--device", "cpu"], "R007"),
    ):
        assert cli.run([*arguments, *more]) != 0
        assert said in capsys.readouterr().err


def test_a_picture_that_no_jpeg_can_hold_is_reported(here, artifact, capsys):
    image = np.zeros((1, 70_000, 3), np.uint8)
    (here / "wide.bmp").write_bytes(cv2.imencode(".bmp", image)[1].tobytes())
    assert cli.run(["predict", "wide.bmp", *artifact]) == 1
    assert "I004" in capsys.readouterr().err


def test_trained_weights_run_on_real_photographs(here, peer, coco, capsys):
    pytest.importorskip("torch")
    (here / "project.yaml").write_text(
        "version: 1\nname: peer\n"
        f"architecture: {{family: yolov8-seg, scale: n, weights: {peer / 'overfit32_last.pt'}}}\n"
        f"dataset: {{data: {coco / 'data.yaml'}}}\nhyperparameters: {{imgsz: 320}}\n"
    )
    pattern = str(coco / "images" / "train" / "00000000002*.jpg")
    assert cli.run(["predict", pattern, "--save-json", "--no-overlay"]) == 0
    assert "640x426, 2 giraffe" in capsys.readouterr().out
    (record,) = json.loads((here / "build/predictions/predictions.json").read_text())
    with np.load(peer / "overfit32_predictions.npz") as recorded:
        expected = recorded["000000000025_c25_boxes"]
    assert np.abs(np.array([found["box"] for found in record["detections"]]) - expected).max() < 0.02


def written(folder):
    """All files of an output folder but the records of what is done."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("done")
    }


KINDS = ["--save", "txt,jsonl,csv"]


def some(here, number):
    """Photographs, two of them of one name."""
    for index in range(number - 1):
        photo(here / "in" / f"{index}.png", (20 + index, 30))
    photo(here / "other" / "0.png", (50, 40))
    return ["in", "other/0.png"]


def test_a_stride_over_images_alone_is_told(here, artifact, capsys):
    photo(here / "a.png")
    assert cli.run(["predict", "a.png", *artifact, "--stride", "3"]) == 0
    assert "--stride has no effect" in capsys.readouterr().err


def test_parts_together_are_the_whole(here, artifact):
    sources = some(here, 6)
    assert cli.run(["predict", *sources, *artifact, *KINDS, "-o", "whole"]) == 0
    for part in ("1/3", "2/3", "3/3"):
        assert cli.run(["predict", *sources, *artifact, *KINDS, "-o", "parts", "--shard", part]) == 0
    whole, parts = written(here / "whole"), written(here / "parts")
    # Its lines name the tables, and are in another order.
    assert all(files.pop(".segc-predict") for files in (whole, parts))
    rows = [b"".join(sorted(whole.pop("predictions.jsonl").splitlines(True)))]
    rows.append(b"".join(sorted(b"".join(parts.pop(f"predictions-{i}of3.jsonl") for i in (1, 2, 3)).splitlines(True))))
    assert rows[0] == rows[1]
    for name in ("predictions.csv", *(f"predictions-{i}of3.csv" for i in (1, 2, 3))):
        (whole if name in whole else parts).pop(name)
    assert whole == parts
    assert {"0.png", "0-2.png", "labels/0-2.txt"} <= parts.keys()
    assert cli.run(["predict", *sources, *artifact, "-o", "parts", "--shard", "9/9"]) == 0
    for wrong in ("0/3", "4/3", "2", "a/b"):
        assert cli.run(["predict", *sources, *artifact, "--shard", wrong]) == 2


@pytest.mark.parametrize("torn", ["", '{"name": "in/0.p'])
def test_a_run_that_ended_goes_on_where_it_was(here, artifact, monkeypatch, capsys, torn):
    sources = some(here, 5)
    arguments = ["predict", *sources, *artifact, *KINDS, "--resume"]
    (here / "model.onnx").write_bytes(b"one")
    assert cli.run([*arguments, "-o", "whole"]) == 0
    run, seen = Session.run, []

    def dying(self, images):
        seen.append(1)
        if len(seen) == 3:
            raise MemoryError
        return run(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", dying)
        assert cli.run([*arguments, "-o", "out"]) == 1
    record = here / "out" / "done.jsonl"
    done = len(record.read_text().splitlines()) - 1
    # A kill may tear what was being written.
    with record.open("a") as file:
        file.write(torn)
    with (here / "out" / "predictions.jsonl").open("a") as file:
        file.write('{"image": "in/')
    seen.clear()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", lambda self, images: (seen.append(1), run(self, images))[1])
        assert cli.run([*arguments, "-o", "out"]) == 0
    assert len(seen) == 5 - done
    assert f"{done} of 5 done" in capsys.readouterr().err
    assert written(here / "out") == written(here / "whole")
    assert cli.run([*arguments, "-o", "out"]) == 0
    assert "5 of 5 done" in capsys.readouterr().err
    assert written(here / "out") == written(here / "whole")


def test_what_is_done_counts_only_with_the_same_content_model_and_options(here, artifact, capsys):
    sources = some(here, 3)
    (here / "model.onnx").write_bytes(b"one")
    pictures = ["predict", *sources, *artifact, "--resume"]

    def said(*arguments):
        capsys.readouterr()
        assert cli.run([*pictures, *arguments]) == 0
        return capsys.readouterr().err

    assert "0 of 3 done" in said()
    photo(here / "in" / "1.png", (64, 64))
    assert "2 of 3 done" in said()
    assert "3 of 3 done" in said()
    assert "other options: all is done anew" in said("--conf", "0.3")
    (here / "model.onnx").write_bytes(b"two")
    assert "all is done anew" in said("--conf", "0.3")
    assert "all is done anew" in said("--conf", "0.3", "--save", "csv")
    photo(here / "in" / "1.png", (65, 64))
    assert "its rows stand in a table: all is done anew" in said("--conf", "0.3", "--save", "csv")
    assert (here / "build" / "predictions" / "predictions.csv").read_text().count("in/1.png") == 1
    (here / "build" / "predictions" / "predictions.csv").unlink()
    assert "a table of that run is gone" in said("--conf", "0.3", "--save", "csv")
    (here / "build" / "predictions" / "done.jsonl").write_text("[]\n{}\n")
    assert "is damaged: all is done anew" in said("--conf", "0.3", "--save", "csv")
    assert cli.run([*pictures, "--save", "json"]) == 2


def moving(here, *, number=6):
    """Two videos and a photograph between them."""
    write_video(here / "a.mp4", number)
    photo(here / "b.png")
    write_video(here / "c.mp4", number)
    (here / "model.onnx").write_bytes(b"one")
    return ["predict", "a.mp4", "b.png", "c.mp4"]


def rows(folder):
    """Image and frame of all lines of both tables, in their order."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    head, *table = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()]
    assert head[0] == "image"
    found = [(line["image"], line.get("frame", "")) for line in lines]
    assert [(name, number and int(number)) for name, number, *_ in table] == found
    return found


def test_a_video_that_came_to_its_end_is_done(here, artifact, capsys):
    arguments = [*moving(here), *artifact, *KINDS, "--resume", "-o", "out"]
    assert cli.run(arguments) == 0
    before = written(here / "out")
    assert len(rows(here / "out")) == len(set(rows(here / "out"))) == 13
    assert cli.run(arguments) == 0
    assert "3 of 3 done" in capsys.readouterr().err
    assert written(here / "out") == before


@pytest.mark.parametrize("last", [3, 9])
def test_rows_of_a_video_that_was_not_at_its_end_are_taken_back(here, artifact, monkeypatch, last):
    arguments = [*moving(here), *artifact, *KINDS, "--resume"]
    assert cli.run([*arguments, "-o", "whole"]) == 0
    run, seen = Session.run, []

    def dying(self, images):
        seen.append(1)
        if len(seen) > last:
            raise MemoryError
        return run(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", dying)
        assert cli.run([*arguments, "-o", "out"]) == 1
    # A kill leaves rows of frames, the last of which may be torn.
    with (here / "out" / "predictions.jsonl").open("a") as file:
        file.write((here / "whole" / "predictions.jsonl").read_text().splitlines(keepends=True)[-1] + '{"image": "c')
    assert cli.run([*arguments, "-o", "out"]) == 0
    assert written(here / "out") == written(here / "whole")


def test_rows_between_others_of_a_video_that_failed_are_taken_back(here, artifact, monkeypatch, capsys):
    arguments = [*moving(here), *artifact, *KINDS, "--resume", "-o", "out"]
    add = Recording.add

    def fails_for_the_first(self, picture, seconds):
        if self.path.stem == "a" and seconds > 0.2:
            raise ImageError("a codec that fails")
        add(self, picture, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "add", fails_for_the_first)
        assert cli.run(arguments) == 1
    capsys.readouterr()
    assert cli.run(arguments) == 0
    assert "2 of 3 done" in capsys.readouterr().err
    found = rows(here / "out")
    assert found == [("b.png", ""), *(("c.mp4", i) for i in range(6)), *(("a.mp4", i) for i in range(6))]
    assert cli.run(arguments) == 0
    assert "3 of 3 done" in capsys.readouterr().err
    assert rows(here / "out") == found


def test_rows_of_what_is_no_file_here_are_those_of_the_last_run(here, artifact, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    arguments = [*moving(here), *artifact, *KINDS, "--resume", "--every", "frame", "-o", "out"]
    with serving() as address:
        arguments.insert(1, f"{address}/live")
        for done in (0, 3):
            assert cli.run(arguments) == 0
            assert f"{done} of 4 done" in capsys.readouterr().err
            found = rows(here / "out")
            assert len(found) == len(set(found)) == 21
        others = [*arguments[:1], *arguments[2:]]
        assert cli.run(others) == 0
    assert rows(here / "out") == found


def test_a_table_without_rows_goes_on_and_not_after_those_of_another_run(here, artifact, monkeypatch, capsys):
    arguments = [*moving(here), *artifact, "--save", "csv", "--resume", "-o", "out"]
    table = here / "out" / "predictions.csv"
    Written(table.parent).add(table)
    table.write_text("image,frame\nof another run,3\n")
    run, seen = Session.run, []

    def blind(self, images):
        seen.append(1)
        if len(seen) == 12:
            raise MemoryError
        return {name: 0 * value for name, value in run(self, images).items()}

    monkeypatch.setattr(Session, "run", blind)
    assert cli.run(arguments) == 1
    done = len((here / "out" / "done.jsonl").read_text().splitlines()) - 1
    capsys.readouterr()
    assert cli.run(arguments) == 0
    assert f"resume: {done} of 3 done" in capsys.readouterr().err
    assert done
    head = "image,frame,seconds,object,track,class_id,class,score,x1,y1,x2,y2,area\n"
    assert table.read_text() == head
    assert cli.run(arguments) == 0
    assert "3 of 3 done" in capsys.readouterr().err
    assert table.read_text() == head


@pytest.mark.parametrize("option", ["--classes", "--save"])
@pytest.mark.parametrize("words", ["", " , "])
def test_an_option_that_names_nothing_is_wrong_usage(option, words, here, artifact, capsys):
    photo(here / "a.jpg")
    assert cli.run(["predict", "a.jpg", *artifact, option, words]) == 2
    assert f"{option} names nothing" in capsys.readouterr().err


def test_an_empty_part_of_the_sources_has_its_tables(here, artifact):
    photo(here / "a.jpg")
    options = ["--no-overlay", "--save", "json,csv", "-o", "out", "--shard", "2/2"]
    assert cli.run(["predict", "a.jpg", *artifact, *options]) == 0
    assert json.loads((here / "out/predictions-2of2.json").read_text()) == []
    assert len((here / "out/predictions-2of2.csv").read_text().splitlines()) == 1


@pytest.mark.usefixtures("here")
def test_closed_standard_input_is_one_message(artifact, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert cli.run(["predict", "-", *artifact]) == 1
    assert "I002]: standard input: closed" in capsys.readouterr().err
    assert cli.run(["validate", "-"]) == 1
    assert "F001]: standard input is closed" in capsys.readouterr().out
