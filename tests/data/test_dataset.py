"""Which images a split has, where their labels are, and how images are read."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.data.dataset import list_images, read_split
from segc.data.samples import label_path, rasterise, read_image
from segc.diagnostics import SegcError
from segc.spec.load import load_project


def write_image(path: Path, height: int = 8, width: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_label(root: Path, split: str, stem: str, text: str = "0 .5 .5 .2 .2\n") -> Path:
    path = root / "data" / "labels" / split / f"{stem}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def project(tmp_path):
    """A loader of a project whose training split is as given."""
    (tmp_path / "data").mkdir()

    def load(train="images/train"):
        text = (
            "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
            f"dataset: {{path: data, train: {train}, val: images/val, names: [a, b]}}\n"
        )
        (tmp_path / "project.yaml").write_text(text)
        return load_project(tmp_path / "project.yaml")

    return load


def codes(error: pytest.ExceptionInfo[SegcError]) -> list[str]:
    return [d.code for d in error.value.diagnostics]


def test_images_are_found_in_subfolders_and_sorted(tmp_path, project):
    root = tmp_path / "data"
    for name in ("b.JPG", "a.png", "sub/c.jpeg"):
        write_image(root / "images" / "train" / name)
    (root / "images" / "train" / "notes.txt").write_text("no image")
    write_label(tmp_path, "train", "a")
    write_label(tmp_path, "train", "sub/c", "1 .5 .5 .2 .2")
    samples = read_split(project(), "train")
    assert [s.image.name for s in samples] == ["a.png", "b.JPG", "c.jpeg"]
    assert [[i.class_id for i in s.instances] for s in samples] == [[0], [], [1]]
    assert samples[1].label is None


def test_a_list_names_images_relative_to_itself_or_to_the_dataset(tmp_path, project):
    root = tmp_path / "data"
    one, two = write_image(root / "images" / "one.png"), write_image(root / "images" / "two.png")
    three = write_image(tmp_path / "elsewhere" / "images" / "three.png")
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text(f"../images/two.png\n\nimages/one.png\n{three}\n")
    assert {p.resolve() for p in list_images(project("lists/train.txt"), "train")} == {one, two, three}


def test_several_folders_make_one_split(tmp_path, project):
    for folder in ("a", "b"):
        write_image(tmp_path / "data" / folder / "1.png")
    images = list_images(project("[a, b, a]"), "train")
    assert [p.parent.name for p in images] == ["a", "b"]


def test_a_listed_image_that_is_missing_is_named_with_its_line(tmp_path, project):
    (tmp_path / "data" / "train.txt").write_text("\nno.png\n")
    with pytest.raises(SegcError) as error:
        list_images(project("train.txt"), "train")
    (diagnostic,) = error.value.diagnostics
    assert (diagnostic.code, diagnostic.line) == ("D007", 2)
    assert diagnostic.file == tmp_path / "data" / "train.txt"


def test_a_folder_without_images_is_an_error(tmp_path, project):
    (tmp_path / "data" / "images" / "train").mkdir(parents=True)
    with pytest.raises(SegcError) as error:
        read_split(project(), "train")
    assert codes(error) == ["D001"]


def test_a_missing_folder_is_an_error(project):
    with pytest.raises(SegcError) as error:
        read_split(project(), "train")
    assert codes(error) == ["F001"]


def test_a_binary_file_is_no_list(tmp_path, project):
    (tmp_path / "data" / "train.bin").write_bytes(bytes(range(256)))
    with pytest.raises(SegcError) as error:
        read_split(project("train.bin"), "train")
    assert codes(error) == ["D001"]


def test_images_without_any_label_file_are_an_error(tmp_path, project):
    write_image(tmp_path / "data" / "images" / "train" / "a.png")
    with pytest.raises(SegcError) as error:
        read_split(project(), "train")
    assert codes(error) == ["D006"]
    assert "labels" in (error.value.diagnostics[0].help or "")


def test_all_faults_of_all_label_files_are_told_with_their_places(tmp_path, project):
    for stem, text in {"a": "2 .5 .5 .2 .2", "b": "0 .5 .5 .2 .2\n0 .5", "c": "0 .5 .5 .2 .2"}.items():
        write_image(tmp_path / "data" / "images" / "train" / f"{stem}.png")
        write_label(tmp_path, "train", stem, text)
    with pytest.raises(SegcError) as error:
        read_split(project(), "train")
    found = [(d.code, d.file.name, d.line) for d in error.value.diagnostics if d.file]
    assert found == [("D005", "a.txt", 1), ("D003", "b.txt", 2)]


def test_thousands_of_faults_are_counted(tmp_path, project):
    write_image(tmp_path / "data" / "images" / "train" / "a.png")
    write_label(tmp_path, "train", "a", "x\n" * 2000)
    with pytest.raises(SegcError) as error:
        read_split(project(), "train")
    found, rest = error.value.diagnostics
    assert (found.line, found.count, [one.line for one in found.examples]) == (1, 100, [2, 3])
    assert rest.message == "100 faults already: the 1900 rows from here on are not looked at"


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/set/images/a.b.png", "/images/set/labels/a.b.txt"),
        ("/d/photos/a.jpg", "/d/photos/a.txt"),
        ("/d/photos/images.jpg", "/d/photos/images.txt"),
    ],
)
def test_the_last_images_folder_of_a_path_becomes_labels(image, label):
    assert label_path(Path(image)) == Path(label)


def test_an_image_is_read_as_bgr(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[..., 0] = 255
    cv2.imwrite(str(tmp_path / "blue.png"), pixels)
    assert np.array_equal(read_image(tmp_path / "blue.png"), pixels)


def test_grey_images_and_those_with_transparency_have_three_channels(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((2, 3), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((2, 3, 4), 7, np.uint8))
    assert read_image(tmp_path / "grey.png").shape == read_image(tmp_path / "alpha.png").shape == (2, 3, 3)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(SegcError) as error:
        read_image(path)
    assert codes(error) == ["D002"]
    assert error.value.diagnostics[0].file == path


@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_photograph_that_is_cut_off_is_named(tmp_path, share, flags):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels, flags)[1].tobytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(data + b"trailing bytes are no harm")
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SegcError) as error:
        read_image(path)
    assert codes(error) == ["D002"]


def test_every_real_photograph_is_readable(coco):
    for path in sorted((coco / "images" / "train").iterdir()):
        assert read_image(path).ndim == 3


def test_rasterising_fills_the_outline_too():
    mask = rasterise([np.array([[1, 1], [3.5, 1], [3.5, 2.9], [1, 2.9]], np.float32)], 4, 6)
    expected = np.zeros((4, 6), bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(mask, expected)


def test_rasterising_joins_parts_and_stays_in_the_frame():
    left, right = (np.array([[x, 0], [x + 1.5, 0], [x + 1.5, 9], [x, 9]], np.float32) for x in (0, 4))
    mask = rasterise([left, right], 4, 6)
    assert mask.any(axis=0).tolist() == [True, True, False, False, True, True]
