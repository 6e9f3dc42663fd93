"""A model that is opened once: what it takes, what it gives, and that it is what the commands find."""

import json
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import segc
from segc.inference.filters import Filters
from segc.inference.metadata import Metadata
from segc.model import Model
from segc.prediction import find, predict


@pytest.fixture(scope="module")
def model(shapes_weights: Path) -> Model:
    return segc.load(shapes_weights, runtime="onnx")


@pytest.fixture(scope="module")
def photos(shapes: Path) -> list[Path]:
    return sorted((shapes / "images" / "train").iterdir())[:4]


@pytest.fixture(scope="module")
def image(photos: list[Path]) -> np.ndarray:
    return np.asarray(cv2.imread(str(photos[0])), np.uint8)


@pytest.fixture(scope="module")
def prediction(model: Model, image: np.ndarray) -> segc.Prediction:
    return model(image, conf=0.1)


def same(one: segc.Prediction, other: segc.Prediction) -> bool:
    return {**one.to_json(), "image": ""} == {**other.to_json(), "image": ""}


def test_weights_alone_say_their_classes_and_their_size(model: Model) -> None:
    assert model.names[:2] == ("circle", "square")
    assert model.size == (160, 160)
    assert "onnxruntime" in repr(model)


def test_frames_of_every_kind_give_what_the_command_finds(model: Model, photos: list[Path], image: np.ndarray) -> None:
    from PIL import Image

    (source,) = find([str(photos[0])])
    expected = segc.Prediction(predict(source, model.session, Filters())[1], image)
    assert len(expected)
    kinds = [str(photos[0]), photos[0], image, Image.fromarray(image[:, :, ::-1])]
    assert all(same(found, expected) for found in model(kinds))
    assert same(model(np.ascontiguousarray(image[:, :, ::-1]), rgb=True), expected)
    assert model(photos[0]).path == str(photos[0])
    assert not model(image).path


def test_a_pil_image_is_turned_as_it_says(model: Model, photos: list[Path], tmp_path: Path) -> None:
    from PIL import Image

    turned = Image.open(photos[0]).rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    assert same(model(Image.open(tmp_path / "turned.png")), model(photos[0]))


@pytest.mark.parametrize(
    ("frame", "error", "said"),
    [
        (np.zeros((4, 5), np.uint8), ValueError, r"\[H, W, 3\] uint8.*\[4, 5\] uint8"),
        (np.zeros((4, 5, 3), np.float32), ValueError, "float32"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r"\[0, 5, 3\]"),
        (3, TypeError, "of type int"),
        ("nowhere.jpg", segc.SegcError, "I001.*nowhere.jpg"),
    ],
)
def test_what_is_no_frame_is_told(model: Model, frame: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        model(frame)


def test_a_folder_is_no_frame_but_a_source(model: Model, photos: list[Path]) -> None:
    with pytest.raises(segc.SegcError, match=r"I001.*images, not one image"):
        model(photos[0].parent)
    assert [found.path for found in model.stream(photos)] == [str(photo) for photo in photos]


def test_a_video_comes_frame_by_frame(model: Model, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (image.shape[1], image.shape[0]))
    for _ in range(5):
        writer.write(image)
    writer.release()
    found = list(model.stream(path, stride=2))
    assert [one.frame for one in found] == [0, 2, 4]
    assert found[1].seconds == pytest.approx(0.2, abs=0.11)
    assert found[0].to_json()["frame"] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stride": 0}, "stride is a whole number from 1 up, not 0"),
        ({"stride": -1}, "stride is .*, not -1"),
        ({"stride": 1.5}, "stride is .*, not 1.5"),
        ({"every": "nix"}, "every is one of None, frame, latest, not 'nix'"),
    ],
)
def test_how_a_stream_is_to_be_read_is_checked_before_it_is(
    model: Model, photos: list[Path], given: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        model.stream(photos, **given)


@pytest.mark.parametrize(
    "source", [np.zeros((8, 8, 3), np.uint8), [np.zeros((8, 8, 3), np.uint8)], b"clip.mp4", 1.5, ["a.png", None]]
)
def test_what_is_no_source_is_told_with_what_one_is(model: Model, source: Any) -> None:
    with pytest.raises(TypeError, match="a source is a path, an address or the number of a camera"):
        model.stream(source)


@pytest.mark.parametrize(("name", "code"), [("nope", "X207"), ("./nope", "F001"), (Path("nope.onnx"), "F001")])
def test_a_model_that_is_not_there_has_the_code_that_the_page_names(name: Any, code: str) -> None:
    with pytest.raises(segc.SegcError) as raised:
        segc.load(name)
    assert raised.value.diagnostics[0].code == code
    assert segc.load.__doc__ is not None
    assert code in segc.load.__doc__


def test_a_stream_of_no_sources_is_an_error_at_once(model: Model) -> None:
    for nothing in ([], (), iter(())):
        with pytest.raises(segc.SegcError, match=r"I001.*no sources"):
            model.stream(nothing)


def test_the_number_of_a_camera_may_be_one_of_numpy(model: Model) -> None:
    with pytest.raises(segc.SegcError, match=r"I002.*93"):
        list(model.stream(np.int64(93)))


def test_what_a_stream_cannot_read_is_raised(model: Model, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = model.stream([photos[0], tmp_path / "broken.png"])
    assert next(found).path == str(photos[0])
    with pytest.raises(segc.SegcError, match="I002"):
        next(found)


def test_threads_share_a_model(model: Model, photos: list[Path]) -> None:
    expected = [model(photo) for photo in photos]
    found: dict[int, list[segc.Prediction]] = {}
    busy, most = 0, 0
    run = model.session.run

    class Counting:
        metadata, runtime = model.session.metadata, ""

        def run(self, images: np.ndarray) -> Any:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            try:
                return run(images)
            finally:
                busy -= 1

    shared = Model(Counting(), model.filters)
    threads = [threading.Thread(target=lambda i=i: found.update({i: shared(photos)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert all(same(*pair) for one in found.values() for pair in zip(one, expected, strict=True))


def test_what_is_asked_of_a_call_holds_for_it_alone(model: Model, image: np.ndarray) -> None:
    several = model(image, conf=0.05)
    assert len(model(image, conf=0.05, max_det=1)) == 1 < len(several)
    only = several.labels[0]
    assert set(model(image, conf=0.05, classes=only).labels) == {only}
    assert model.filters == Filters()
    with pytest.raises(TypeError, match="'confidence'"):
        model(image, confidence=0.1)  # type: ignore[call-overload]
    with pytest.raises(segc.SegcError, match=r"X215.*there is no class 'circl'; did you mean circle"):
        model(image, classes="circl")


def test_of_a_file_of_several_pictures_those_that_are_not_seen_are_warned_of(
    model: Model, image: np.ndarray, tmp_path: Path
) -> None:
    from PIL import Image

    first = Image.fromarray(image[:, :, ::-1])
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[first, first])
    said = r"pages\.tif: only the first picture of the file, without 2 more"
    with pytest.warns(UserWarning, match=said):
        alone = model(tmp_path / "pages.tif")
    with pytest.warns(UserWarning, match=said):
        (streamed,) = model.stream(tmp_path / "pages.tif")
    assert same(alone, streamed)


@pytest.mark.parametrize(
    "asked", [{"conf": 25}, {"iou": float("nan")}, {"max_det": 0}, {"retina": "no"}, {"mask_memory": 0}, {"tile": -1}]
)
def test_a_value_that_cannot_be_asked_for_is_refused_wherever_it_is_asked(
    model: Model, image: np.ndarray, photos: list[Path], shapes_weights: Path, asked: Any
) -> None:
    (name,) = asked
    calls = (
        lambda: model(image, **asked),
        lambda: model.stream(photos, **asked),
        lambda: segc.load(shapes_weights, **asked),
        # Before anything is opened.
        lambda: segc.load("nowhere.onnx", **asked),
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"{name} is .*, not "):
            call()


def test_what_is_asked_for_as_none_is_not_asked_for(model: Model, image: np.ndarray) -> None:
    strict = Model(model.session, Filters(0.6, max_det=1, by_class={"default": 0.9}))
    assert same(strict(image, conf=None, max_det=None), strict(image))
    with pytest.raises(segc.SegcError, match=r"X215.*no class is named"):
        model(image, classes=[])


def test_least_scores_of_classes_stay_unless_a_score_is_asked_for(model: Model, image: np.ndarray) -> None:
    name = model(image, conf=0.05).labels[0]
    strict = Model(model.session, Filters(0.05, by_class={name: 1.0, "default": 0.05}))
    assert name not in strict(image, iou=0.5).labels
    assert name in strict(image, conf=0.05).labels


def test_a_size_is_asked_for_where_the_model_leaves_it_open(
    shapes_weights: Path, model: Model, image: np.ndarray
) -> None:
    larger = Model(model.session, model.filters, (192, 224))
    assert larger.size == (192, 224)
    assert larger(image).boxes.shape[1] == 4
    with pytest.raises(segc.SegcError, match=r"X201.*100x100 are not multiples of 32"):
        Model(model.session, model.filters, 100)
    assert Model(model.session, model.filters, np.int64(192)).size == (192, 192)
    assert Model(model.session, model.filters, [192, 224]).size == (192, 224)
    for no_size in ("160", (160,), (160, 160, 3), 160.5, (160, "x"), 0, True):
        with pytest.raises(ValueError, match=r"imgsz is a .*, not "):
            Model(model.session, model.filters, no_size)

    class Fixed:
        metadata, runtime = Metadata(("a",), (64, 64)), ""

        def run(self, _: np.ndarray) -> Any:
            raise AssertionError

    assert Model(Fixed(), Filters(), 64).size == (64, 64)
    with pytest.raises(segc.SegcError, match=r"X201.*made for 64x64"):
        Model(Fixed(), Filters(), 96)
    with pytest.raises(ValueError, match="a run is one of a project"):
        segc.load(shapes_weights, run="train")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"runtime": "nix"}, "runtime is one of auto, torch, onnx, not 'nix'"),
        ({"threads": -1}, "threads is a whole number from 0 up, not -1"),
        ({"threads": 1.5}, "threads is .*, not 1.5"),
        ({"trusted": "no"}, "trusted is True or False, not 'no'"),
        ({"imgsz": "160"}, "imgsz is a whole number from 1 up, not '160'"),
    ],
)
def test_how_a_model_is_to_be_opened_is_checked(shapes_weights: Path, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        segc.load(shapes_weights, **given)


def test_arrays_have_their_shapes(prediction: segc.Prediction) -> None:
    n, size = len(prediction), (prediction.height, prediction.width)
    assert n >= 2
    assert prediction.masks.shape == (n, *size)
    assert (prediction.masks.sum(axis=(1, 2)) == prediction.areas).all()
    assert (prediction.mask(n - 1) == prediction.masks[n - 1]).all()
    assert prediction.boxes.shape == (n, 4)
    assert len(prediction.labels) == len(prediction.polygons) == len(prediction.scores) == n
    drawn = cv2.fillPoly(np.zeros(size, np.uint8), prediction.polygons[0], 1)
    assert (drawn.astype(bool) >= prediction.mask(0)).all()


def test_predictions_are_selected_by_row_class_score_and_area(prediction: segc.Prediction) -> None:
    n = len(prediction)
    assert len(prediction[0]) == len(prediction[-1]) == 1
    assert prediction[1:].scores.tolist() == prediction.scores[1:].tolist()
    assert len(prediction[prediction.scores > 2]) == 0
    assert prediction[[n - 1, 0]].labels == [prediction.labels[-1], prediction.labels[0]]
    assert [one.labels[0] for one in prediction] == prediction.labels
    assert set(prediction.filter(prediction.labels[0]).labels) == {prediction.labels[0]}
    assert len(prediction.filter(score=float(prediction.scores[0]))) == 0
    middle = int(sorted(prediction.areas)[n // 2])
    assert len(prediction.filter(area=middle)) + len(prediction.filter(area=(0, middle - 1))) == n
    with pytest.raises(IndexError):
        prediction[n]
    with pytest.raises(ValueError, match="no class"):
        prediction.filter("nothing")


def test_pictures_are_drawn_and_cut_out(prediction: segc.Prediction, image: np.ndarray) -> None:
    assert prediction.plot().shape == image.shape
    assert (prediction.plot() != image).any()
    assert (prediction.image == image).all()
    decoded = cv2.imdecode(np.frombuffer(prediction._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert (decoded == prediction.plot()).all()
    crops = prediction.crop()
    x1, y1, x2, y2 = prediction.boxes[0]
    assert crops[0].shape[:2] == (int(np.ceil(y2)) - int(y1), int(np.ceil(x2)) - int(x1))
    alone = prediction.crop(background=(0, 0, 255))[0]
    assert ((alone == (0, 0, 255)).all(axis=2).sum()) >= alone.shape[0] * alone.shape[1] - prediction.areas[0]
    assert (crops[0] == image[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]).all()


def test_coco_results_are_those_that_are_written(prediction: segc.Prediction) -> None:
    from segc.inference.frames import Frame
    from segc.inference.sources import Source
    from segc.inference.writers import Shown, coco_results

    shown = Shown(Frame(prediction.image, Source("00012.jpg")), prediction.found, "00012", image_id=12)
    assert [json.loads(line) for line in coco_results(shown)] == prediction.to_coco(12)
    assert prediction.to_coco("x", categories=range(100, 106))[0]["category_id"] == 100 + prediction.classes[0]
    assert json.loads(json.dumps(prediction.to_coco(np.int64(12)))) == prediction.to_coco(12)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 categories for 6 classes"):
        prediction.to_coco(categories=[7])


def test_frames_and_photographs_have_the_coco_ids_that_the_command_writes(
    model: Model, image: np.ndarray, shapes_weights: Path, tmp_path: Path
) -> None:
    from segc import cli

    (tmp_path / "other").mkdir()
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (image.shape[1], image.shape[0])
    )
    for _ in range(3):
        writer.write(image)
    writer.release()
    photos = [tmp_path / name for name in ("7.png", "clip.png", "other/clip.png")]
    assert all(cv2.imwrite(str(photo), image) for photo in photos)
    sources = [str(tmp_path / "clip.avi"), *map(str, photos)]
    assert (
        cli.run(["predict", *sources, "--weights", str(shapes_weights), "-o", str(tmp_path / "out"), "--save", "coco"])
        == 0
    )
    written = [row["image_id"] for row in json.loads((tmp_path / "out" / "coco_results.json").read_text())]
    found = list(model.stream(sources))
    assert [row["image_id"] for one in found for row in one.to_coco()] == written
    ids = [f"clip/{number:06d}" for number in range(3)] + [7, "clip-2", "clip-3"]
    assert list(dict.fromkeys(written)) == ids
    assert found[1][0].to_coco()[0]["image_id"] == "clip/000001"
    alone = segc.Prediction(found[1].found, image, frame=25, seconds=2.5)
    assert alone.to_coco()[0]["image_id"] == "clip/000025"
    assert model(photos[0]).to_coco()[0]["image_id"] == 7


def test_numbers_of_numpy_select_and_number_objects(prediction: segc.Prediction) -> None:
    number = prediction.classes[0]
    assert set(prediction.filter(number).labels) == {prediction.labels[0]}
    assert len(prediction.filter(prediction.classes)) == len(prediction)
    assert len(prediction.filter(area=prediction.areas.min())) == len(prediction)
    assert len(prediction.filter(area=(np.int64(0), np.inf), score=np.float32(0))) == len(prediction)
    rows = json.loads(json.dumps(prediction.to_coco(np.int64(4), categories=np.arange(10, 16))))
    assert (rows[0]["image_id"], rows[0]["category_id"]) == (4, 10 + int(number))


def test_what_cannot_select_or_number_objects_is_refused(prediction: segc.Prediction) -> None:
    with pytest.raises(ValueError, match="a category's id is a whole number, not 'a'"):
        prediction.to_coco(categories=list("abcdef"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image_id is a whole number, not 1\.5"):
        prediction.to_coco(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 is the category of several classes"):
        prediction.to_coco(categories=[2, 1, 1, 3, 4, 5])
    for area in ((9, 1), (1,), (1, 2, 3)):
        with pytest.raises(ValueError, match="area is the least pixels of a mask"):
            prediction.filter(area=area)  # type: ignore[arg-type]
    for given in ({"score": 2}, {"score": float("nan")}, {"score": "0.5"}, {"area": float("nan")}, {"area": (-1, 5)}):
        with pytest.raises(ValueError, match=rf"{min(given)} is a number .*, not "):
            prediction.filter(**given)


def test_other_libraries_get_their_objects(prediction: segc.Prediction) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("supervision")
    table = prediction.to_pandas()
    assert list(table.columns) == ["class_id", "class", "score", "x1", "y1", "x2", "y2", "area"]
    assert table["class"].tolist() == prediction.labels
    found = prediction.to_supervision()
    assert (found.mask == prediction.masks).all()
    assert found.data["class_name"].tolist() == prediction.labels
    assert len(prediction[:0].to_supervision()) == len(prediction[:0].to_pandas()) == 0


def test_a_prediction_cannot_be_written_and_what_it_is_made_of_can(model: Model, image: np.ndarray) -> None:
    from dataclasses import replace

    frame = image.copy()
    made = model(frame, conf=0.1)
    numbers = np.arange(len(made))
    followed = segc.Prediction(replace(made.found, identities=numbers), frame)
    for one in (followed, followed[0], model([frame], conf=0.1)[0]):
        for array in (one.boxes, one.scores, one.classes, one.identities, one.image, one.found.masks[0].bitmap):
            if array is not None:
                with pytest.raises(ValueError, match="read-only"):
                    array[0] = 0
        one.masks[:] = one.areas[:] = one.plot()[:] = 0  # made anew each time
        one.crop()[0][:] = 0
    assert np.shares_memory(followed.image, frame)
    frame[:], numbers[:] = 0, 0


def test_an_object_without_a_number_yet_has_none_wherever_it_is_told(prediction: segc.Prediction) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("supervision")
    from dataclasses import replace

    for numbers in ([0, 7], [0, 0], []):
        found = replace(prediction[: len(numbers)].found, identities=np.array(numbers, np.int64))
        followed = segc.Prediction(found, prediction.image)
        told = [number or None for number in numbers]
        assert [one["track"] for one in followed.to_json()["detections"]] == told
        assert [one.get("track_id") for one in followed.to_coco()] == told
        assert all(one.get("track_id", 1) for one in followed.to_coco())
        column = followed.to_pandas()["identity"]
        assert column.dtype == "Int64"
        assert [None if missing else number for number, missing in zip(column, column.isna(), strict=True)] == told
        tracker_id = followed.to_supervision().tracker_id
        assert tracker_id is not None
        assert tracker_id.tolist() == [number or -1 for number in numbers]
    assert prediction.to_supervision().tracker_id is None


def test_large_pictures_in_tiles_are_read_in_parts(
    model: Model, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.tile(image, (3, 3, 1))
    assert cv2.imwrite(str(tmp_path / "large.tif"), large)
    expected = model(large, tile=160, conf=0.1)
    assert len(expected)
    monkeypatch.setattr("segc.inference.frames.OVERVIEW", 100)
    monkeypatch.setattr("segc.inference.sources.Source.read", None)  # which would decode all of it
    streamed = list(model.stream(tmp_path / "large.tif", tile=160, conf=0.1))
    for found in (*streamed, model(tmp_path / "large.tif", tile=160, conf=0.1)):
        assert same(found, expected)
        assert (found.height, found.width) == large.shape[:2]
        assert found.image.shape[0] < large.shape[0]
        assert found.plot().shape[0] % found.image.shape[0] == 0
        for background in (None, (1, 2, 3)):
            crops = [one.crop(background=background) for one in (found, expected)]
            assert all(np.array_equal(a, b) for a, b in zip(*crops, strict=True))
        assert np.array_equal(found[:1].crop()[0], expected.crop()[0])


def test_the_memory_of_masks_can_be_bounded(model: Model, image: np.ndarray) -> None:
    large = np.asarray(cv2.resize(image, (1200, 1200)), np.uint8)
    found = model(large, conf=0.0, max_det=300, mask_memory=1)
    assert found.left_out
    assert found.left_out + len(found) == len(model(large, conf=0.0, max_det=300))
    assert sum(mask.pixels for mask in found.found.masks) <= 1 << 20
    assert f"; {found.left_out} more left out, whose masks mask_memory does not allow>" in repr(found)
    assert "--" not in repr(found)
