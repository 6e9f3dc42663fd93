"""What the folders of a dataset hold: images, labels, and what is told of all the rest."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.check import check_dataset, check_split, told
from segc.data.dataset import list_images, read_split
from segc.data.samples import read_samples
from segc.diagnostics import MOST_EXAMPLES, Diagnostic, Findings, SegcError
from segc.inference.kinds import IMAGE_SUFFIXES
from segc.inference.sources import find_sources
from segc.spec.load import LoadedProject, load_project

ROW = "0 .25 .25 .5 .25 .5 .5 .25 .5\n"
SEEDS = iter(range(10**6))


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(SEEDS)).integers(0, 255, (8, 12, 3), np.uint8)
    _, data = cv2.imencode(".png", pixels)
    path.write_bytes(data)
    return path


def label(path: Path, text: str = ROW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def loaded(tmp_path: Path):
    """Loads a project of the folder, whose validation split is sound; its training split is the test's."""
    picture(tmp_path / "images/val/v.png")
    label(tmp_path / "labels/val/v.txt")
    (tmp_path / "images/train").mkdir()

    def load(more: str = "", names: str = "[thing]") -> LoadedProject:
        (tmp_path / "project.yaml").write_text(
            "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
            f"dataset: {{train: images/train, val: images/val, names: {names}{more}}}\n"
        )
        return load_project(tmp_path / "project.yaml")

    return load


def sound(root: Path, *names: str) -> None:
    for name in names:
        picture(root / "images/train" / f"{name}.png")
        label(root / "labels/train" / f"{name}.txt")


def found_in(loaded: LoadedProject) -> dict[str, list[str]]:
    """Names of files by code of what is said about them."""
    found = Findings()
    read_split(loaded, "train", found)
    by_code: dict[str, list[str]] = {}
    for one in found:
        by_code.setdefault(one.code, []).append(one.file.name if one.file else one.message)
    return by_code


def test_every_file_of_a_dataset_is_used_or_named(tmp_path, loaded):
    root = tmp_path / "images/train"
    sound(tmp_path, "ok", "same")
    picture(root / "same.jpg")
    for suffix in ("jfif", "gif", "avif", "jp2", "ppm", "mpo", "HEIC"):
        picture(root / f"b-{suffix}.{suffix}")
        label(tmp_path / f"labels/train/b-{suffix}.txt")
    (root / "dangling.jpg").symlink_to(root / "nowhere.jpg")
    label(tmp_path / "labels/train/lost.txt")
    picture(root / "typo.png")
    label(tmp_path / "labels/train/typo.TXT")
    label(tmp_path / "labels/train/classes.txt", "thing\n")
    (root / "notes.md").write_text("x")
    assert len(list_images(loaded(), "train")) == 10
    assert found_in(loaded()) == {
        "D009": ["b-HEIC.txt", "lost.txt", "typo.TXT"],
        "D010": ["b-HEIC.HEIC", "notes.md"],
        "D011": ["dangling.jpg"],
        "D012": ["same.txt"],
    }


def test_linked_folders_are_entered_and_loops_survived(tmp_path, loaded):
    sound(tmp_path, "a", "b")
    for index in range(3):
        picture(tmp_path / f"store/images/s{index}.png")
        label(tmp_path / f"store/labels/s{index}.txt")
    (tmp_path / "images/train/part").symlink_to(tmp_path / "store/images")
    (tmp_path / "labels/train/part").symlink_to(tmp_path / "store/labels")
    (tmp_path / "images/train/loop").symlink_to(tmp_path / "images/train")
    samples = read_split(loaded(), "train")
    assert [len(sample.instances) for sample in samples] == [1] * 5
    assert found_in(loaded()) == {"D011": ["loop"]}


def test_hidden_names_are_no_part_of_a_dataset_and_that_is_said(tmp_path, loaded):
    sound(tmp_path, "a")
    root = tmp_path / "images/train"
    picture(root / ".ipynb_checkpoints/a-checkpoint.png")
    picture(root / "__MACOSX/._a.png")
    (root / "._a.png").write_bytes(b"resource fork")
    (root / ".DS_Store").write_bytes(b"x")
    assert [path.name for path in list_images(loaded(), "train")] == ["a.png"]
    assert sorted(found_in(loaded())["D013"]) == ["._a.png", ".ipynb_checkpoints", "__MACOSX"]
    assert [Path(one.name).name for one in find_sources([str(root)])] == ["a.png"]


def test_datasets_and_prediction_know_images_by_the_same_endings(tmp_path, loaded):
    for suffix in IMAGE_SUFFIXES:
        picture(tmp_path / f"images/train/x{suffix[1:]}{suffix}")
    label(tmp_path / "labels/train/xpng.txt")
    (tmp_path / "images/train/x.txt").write_text("x")
    listed = {path.name for path in list_images(loaded(), "train")}
    assert listed == {Path(one.name).name for one in find_sources([str(tmp_path / "images/train")])}
    assert len(listed) == len(IMAGE_SUFFIXES)


def test_labels_beside_their_images_are_held_against_them_too(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"train/{name}.png")
        label(tmp_path / f"train/{name}.txt")
    label(tmp_path / "train/lost.txt")
    (tmp_path / "project.yaml").write_text(
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {train: train, val: train, names: [a]}\n"
    )
    assert found_in(load_project(tmp_path / "project.yaml")) == {"D009": ["lost.txt"]}


def test_a_split_folder_with_images_and_labels_in_it_is_read(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"train/images/{name}.png")
        label(tmp_path / f"train/labels/{name}.txt")
    label(tmp_path / "train/labels/lost.txt")
    (tmp_path / "project.yaml").write_text(
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {train: train, val: train, names: [a]}\n"
    )
    assert found_in(load_project(tmp_path / "project.yaml")) == {"D009": ["lost.txt"]}


def test_a_folder_without_readable_images_says_what_it_holds(tmp_path, loaded):
    (tmp_path / "images/train/a.heic").write_bytes(b"x")
    with pytest.raises(SegcError) as error:
        list_images(loaded(), "train")
    assert [one.code for one in error.value.diagnostics] == ["D001", "D010"]


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", ".c", "d/e", ".f/g", "h.i"]),
            st.sampled_from([".png", ".JPG", ".heic", ".txt", ".TXT", ".xml", ""]),
            st.booleans(),
        ),
        max_size=12,
        unique=True,
    )
)
def test_no_file_goes_without_a_word(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("any")
    picture(root / "images/train/sound.png")
    label(root / "labels/train/sound.txt")
    for stem, suffix, is_label in names:
        path = root / ("labels" if is_label else "images") / "train" / f"{stem}{suffix}"
        if not path.exists() and not path.name.startswith("sound"):
            label(path)
    (root / "project.yaml").write_text(
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {train: images/train, val: images/train, names: [a], corrupt: skip}\n"
    )
    project = load_project(root / "project.yaml")
    found: list[Path] = []

    class All(Findings):
        def add(self, diagnostic):
            super().add(diagnostic)
            found.append(diagnostic.file)

    samples = read_split(project, "train", All())
    used = {path for sample in samples for path in (sample.image, sample.label)}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            parts = path.relative_to(root).parts
            hidden = any(part.startswith(".") for part in parts)
            told_of = any(path == one or path.is_relative_to(one) for one in found)
            assert path in used or told_of or (hidden and path.suffix.lower() not in IMAGE_SUFFIXES) or len(parts) == 1


def test_pictures_of_16_bits_are_as_bright_as_their_values_mean(tmp_path, loaded):
    sound(tmp_path, "a")
    ramp = np.linspace(0, 1, 8 * 12).reshape(8, 12)
    for bits in (10, 12, 14, 16):
        cv2.imwrite(str(tmp_path / f"images/train/deep{bits}.png"), (ramp * (2**bits - 1)).astype(np.uint16))
    cv2.imwrite(str(tmp_path / "images/train/deep8.tif"), (ramp * 255).astype(np.uint16))
    cv2.imwrite(str(tmp_path / "images/train/float.tif"), np.dstack([ramp] * 3).astype(np.float32))
    from segc.data.samples import read_image

    for path in list_images(loaded(), "train"):
        if path.stem.startswith("deep"):
            assert np.abs(read_image(path)[..., 0] - ramp * 255).max() <= 1, path
    with pytest.raises(SegcError, match="float32"):
        read_image(tmp_path / "images/train/float.tif")


def test_boxes_are_counted_and_become_what_the_project_chooses(tmp_path, loaded):
    sound(tmp_path, "a")
    picture(tmp_path / "images/train/b.png")
    label(tmp_path / "labels/train/b.txt", ROW + "0 .5 .5 .2 .2\n0 .2 .2 .1 .1\n")
    found = Findings()
    samples = read_split(loaded(), "train", found)
    (remark,) = found
    assert (remark.code, remark.count) == ("D016", 2)
    assert "2 of 4 objects of dataset.train are boxes" in remark.message
    assert [len(sample.instances) for sample in samples] == [1, 3]
    assert found_in(loaded(", boxes: mask")) == {}
    ignored = read_split(loaded(", boxes: ignore"), "train")
    assert [one.is_crowd for one in ignored[1].instances] == [False, True, True]
    with pytest.raises(SegcError) as error:
        read_split(loaded(", boxes: error"), "train")
    assert [one.code for one in error.value.diagnostics] == ["D016"]


def test_a_bad_row_can_be_left_out_by_name(tmp_path, loaded):
    sound(tmp_path, "a")
    picture(tmp_path / "images/train/b.png")
    label(tmp_path / "labels/train/b.txt", ROW + "0 .25 .25 1.4 .25 .5 .5\nx\n")
    picture(tmp_path / "images/train/c.png")
    (tmp_path / "labels/train/c.txt").write_bytes("ü".encode("utf-16"))
    with pytest.raises(SegcError):
        read_split(loaded(), "train")
    skipping = loaded(", corrupt: skip")
    assert [sample.image.stem for sample in read_split(skipping, "train")] == ["a", "b"]
    assert found_in(skipping) == {"D004": ["b.txt"], "D003": ["b.txt", "c.txt"]}


BAD_ROWS = (
    "0 .25 .25 1.4 .25 .5 .5",
    "x",
    "7 .1 .1 .5 .1 .5 .6",
    "0 .1 .1 .5",
    "0 nan .1 .5 .1 .5 .6",
    "0.5 .5 .5 .1 .1",
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(BAD_ROWS), st.integers(1, 9)), max_size=12, unique_by=repr))
def test_whatever_stands_between_them_good_rows_are_kept_and_bad_ones_told(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("rows")
    image = picture(root / "images/a.png")
    lines = [row if isinstance(row, str) else f"0 .1 .1 .{row}5 .1 .5 .6" for row in rows]
    label(root / "labels/a.txt", "\n".join(lines))
    found = Findings()
    (sample,) = read_samples([image], 1, found, skip=True)
    good = [line for line, row in enumerate(rows, 1) if not isinstance(row, str)]
    assert [one.origin for one in sample.instances] == good
    assert found.counts.total() == len(rows) - len(good)
    assert all(one.message.startswith("left out") for one in found)


@pytest.mark.parametrize(
    ("more", "names", "rows"),
    [("", "[thing]", ""), (", classes: [never]", "[thing, never]", ROW), (", boxes: ignore", "[a]", "0 .5 .5 .1 .1")],
)
def test_a_split_without_objects_is_told(tmp_path, loaded, more, names, rows):
    sound(tmp_path, "a")
    label(tmp_path / "labels/train/a.txt", rows)
    label(tmp_path / "labels/val/v.txt", rows)
    project = loaded(more, names)
    checked = check_dataset(project)
    assert dict(checked["train"].faults) == {"D017": 1}
    assert checked["val"].remarks["E001"] == 1
    assert not checked["val"].faults


def test_classes_without_an_object_are_named(tmp_path, loaded):
    sound(tmp_path, "a")
    checked = check_split(loaded("", "[thing, b, c]"), "train")
    assert checked.contents.classes == {"thing": 1, "b": 0, "c": 0}
    assert [one.message for one in checked.diagnostics if one.code == "D018"] == [
        "2 of 3 classes have no object in dataset.train: b, c"
    ]


def test_images_that_are_there_twice_are_named_within_a_split_and_between_them(tmp_path, loaded):
    sound(tmp_path, "a", "b")
    (tmp_path / "images/train/b.png").write_bytes((tmp_path / "images/train/a.png").read_bytes())
    (tmp_path / "images/val/v.png").write_bytes((tmp_path / "images/train/a.png").read_bytes())
    checked = check_dataset(loaded())
    assert [(one.code, one.file.name) for one in checked["train"].diagnostics] == [("D019", "b.png")]
    (leak,) = checked["val"].diagnostics
    assert "of dataset.train" in leak.message


def test_remarks_are_told_beside_faults(tmp_path, loaded):
    sound(tmp_path, "a", "b")
    label(tmp_path / "labels/train/a.txt", ROW + ROW + "x\n")
    checked = check_split(loaded(), "train")
    assert (dict(checked.faults), dict(checked.remarks)) == ({"D003": 1}, {"D014": 1})
    assert checked.contents.objects == 2


def test_a_training_begins_with_what_it_has_and_leaves_out(tmp_path, loaded):
    sound(tmp_path, "a")
    label(tmp_path / "labels/train/a.txt", ROW + ROW)
    label(tmp_path / "labels/train/lost.txt")
    found = Findings()
    project = loaded()
    lines = told(project, "train", read_split(project, "train", found), found)
    assert lines[0] == "train: 1 images, 0 of them without objects, 1 objects"
    assert [line.split()[0] for line in lines[1:]] == ["D009", "D014"]


def orientation_tag(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + b"\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_stored_where_its_labels_are_for_that(tmp_path, orientation):
    from segc.data.samples import Sample, read_sample

    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :20] = 255
    pixels[:20, 40:] = 128
    _, jpeg = cv2.imencode(".jpg", pixels)
    path = tmp_path / "a.jpg"
    path.write_bytes(orientation_tag(jpeg.tobytes(), orientation))
    found = Findings()
    image = read_sample(Sample(path, None, (), (40, 60)), found)
    assert image.shape == (40, 60, 3)
    if orientation >= 5 or orientation == 1:
        assert np.array_equal(image, cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    assert [one.code for one in found] == ([] if orientation == 1 else ["D020"])


@pytest.mark.parametrize("suffix", [".jpg", ".jpe", ".gif", ".avif", ".jp2", ".ppm", ".bmp", ".webp", ".tif", ".ras"])
def test_pictures_of_every_kind_come_out_as_they_are(tmp_path, suffix):
    from segc.data.samples import read_image

    rows, columns = np.mgrid[:96, :128]
    pixels = np.dstack([rows * 2, columns * 2 - 1 + 0 * rows, 255 - rows]).clip(0, 255).astype(np.uint8)
    if not cv2.haveImageWriter(f"x{suffix}"):
        pytest.skip(f"this OpenCV writes no {suffix}")
    _, data = cv2.imencode(suffix, pixels)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(bytes(data))
    assert np.abs(read_image(path).astype(int) - pixels).mean() < 25


@pytest.mark.parametrize("name", ['"a.png"', r'"a\"b.png"', "'a.png'", r"'it\'s.png'", "`a b.png`"])
def test_names_with_quotes_are_no_other_kind_of_finding(name: str) -> None:
    names = ['"first.png"'] * MOST_EXAMPLES + [name]
    found = Findings(Diagnostic("D007", f"no such image: {one}") for one in names)
    (one,) = found
    assert one.count == MOST_EXAMPLES + 1
