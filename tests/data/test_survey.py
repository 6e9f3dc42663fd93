"""Datasets gone through, divided and shown: what is counted, what is told, and what stays together."""

import json
import os
import re
import shlex
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.cli import run
from segc.data.dataset import read_split
from segc.data.division import Member, divide, grouped
from segc.data.likeness import MOST_BITS, near_twins
from segc.data.looks import LookCache, look_at, mark_of
from segc.data.opening import open_dataset
from segc.data.polygons import crosses_itself
from segc.data.survey import survey


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photograph(seed: int, height: int = 60, width: int = 80):
    """A picture with structure of its own."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write(folder: Path, split: str, name: str, picture, text: str | None = "0 .1 .1 .5 .1 .5 .6\n") -> Path:
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    path = folder / "images" / split / name
    assert cv2.imwrite(str(path), picture)
    if text is not None:
        (folder / "labels" / split / name).with_suffix(".txt").write_text(text)
    return path


def dataset(folder: Path) -> Path:
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b]\n")
    return folder / "data.yaml"


@pytest.fixture
def small(tmp_path) -> Path:
    folder = tmp_path / "data"
    for number in range(4):
        write(folder, "train", f"{number}.png", photograph(number))
    write(folder, "train", "bare.png", photograph(10), None)
    write(folder, "val", "v.png", photograph(11), "1 .1 .1 .5 .1 .5 .6\n0 .5 .5 .2 .2\n")
    return dataset(folder)


# -- outlines


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=3, max_size=10))
def test_an_outline_crosses_itself_where_exact_arithmetic_says_so(points):
    corners = [(Fraction(x), Fraction(y)) for x, y in points]

    def side(a, b, c):
        turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (turn > 0) - (turn < 0)

    sides = [(corners[i], corners[(i + 1) % len(corners)]) for i in range(len(corners))]
    exact = any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for i, (a, b) in enumerate(sides)
        for c, d in sides[i + 1 :]
    )
    assert crosses_itself(np.array(points, np.float32) / 13) == exact


def test_long_outlines_are_no_trouble():
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    assert not crosses_itself(circle)
    circle[[10, 50_000]] = circle[[50_000, 10]]
    assert crosses_itself(circle)


# -- likeness


def test_copies_are_near_and_others_are_not():
    pictures = [photograph(seed) for seed in range(60)]
    small_copies = [cv2.resize(one, (40, 30), interpolation=cv2.INTER_AREA) for one in pictures[:20]]
    encoded = [cv2.imdecode(cv2.imencode(".jpg", one, [1, 60])[1], 1) for one in pictures[20:40]]
    marks = [mark_of(one) for one in (*pictures, *small_copies, *encoded)]
    assert near_twins(marks) == {60 + place: place for place in range(40)}


def test_pictures_without_structure_are_like_nothing():
    assert mark_of(np.full((9, 9, 3), 200, np.uint8)) == b""
    assert near_twins([b"", b""]) == {}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60))
def test_every_near_pair_is_found(seed, count):
    generator = np.random.default_rng(seed)
    table = generator.integers(0, 2, (count, 128), np.uint8)
    for _ in range(count // 3):
        first, second = generator.integers(0, count, 2)
        table[second] = table[first]
        table[second, generator.integers(0, 128, generator.integers(0, 10))] ^= 1
    marks = [np.packbits(row).tobytes() for row in table]
    near = (table[:, None] != table[None]).sum(axis=2) <= MOST_BITS
    found = near_twins(marks)
    for later in range(count):
        assert (later in found) == bool(near[later, :later].any())
        assert later not in found or near[later, found[later]]


# -- the survey


def test_a_survey_counts_and_finds_what_is_wrong(small):
    folder = small.parent
    shutil.copy(folder / "images/train/0.png", folder / "images/val/leak.png")
    (folder / "labels/val/leak.txt").write_text("0 .1 .1 .9 .9 .9 .1 .1 .9\n")
    cv2.imwrite(str(folder / "images/train/near.jpg"), cv2.resize(photograph(1), (160, 120)))
    (folder / "labels/train/near.txt").write_text("5 .1 .1 .5 .1 .5 .6\n")
    (folder / "images/train/broken.png").write_bytes((folder / "images/train/0.png").read_bytes()[:100])
    loaded, splits = open_dataset(small)
    done = survey(loaded, splits)
    assert done.faults.counts == {"D002": 1, "D005": 1}
    assert done.remarks.counts == {"D018": 1, "D031": 1, "D032": 1, "D033": 1}
    train, val = done.contents["train"], done.contents["val"]
    assert (train.images, train.unlabelled, train.empty, train.objects) == (7, 2, 2, 4)
    assert (val.images, val.objects, val.boxes) == (2, 3, 1)
    assert val.class_objects.tolist() == [2, 1]
    assert val.an_image == {1: 1, 2: 1}
    assert val.sizes == {(60, 80): 2}
    assert json.dumps(done.to_json())
    named = {(Path(done.paths[later]).name, Path(done.paths[first]).name) for later, first in done.twins.items()}
    assert named == {("leak.png", "0.png"), ("near.jpg", "1.png")}


@pytest.mark.parametrize("form", ["yolo", "coco", "labelme", "cvat"])
def test_an_image_whose_label_is_faulty_is_not_counted_as_one_without_objects(form, small, tmp_path):
    assert run(["data", "convert", str(small), "--to", form, "-o", str(tmp_path / form)]) == 0
    spoilt = {
        "yolo": ("labels/train/0.txt", r"0 0\.1", "0 7.1"),
        "coco": ("annotations/instances_train.json", r'"segmentation": \[\[8\.0', '"segmentation": [[8000.0'),
        "labelme": ("train/0.json", r"8\.0", "8000.0"),
        "cvat": ("annotations/train.xml", 'points="8,', 'points="8000,'),
    }
    name, before, after = spoilt[form]
    text, changed = re.subn(before, after, (tmp_path / form / name).read_text(), count=1)
    assert changed
    (tmp_path / form / name).write_text(text)
    done = survey(*open_dataset(tmp_path / form))
    assert done.faults.counts == {"D004": 1}
    train = done.contents["train"]
    assert (train.images, train.objects, train.empty) == (5, 3, 1)


def test_a_training_split_without_objects_is_a_fault(small):
    for label in (small.parent / "labels").rglob("*.txt"):
        label.write_text("")
    loaded, splits = open_dataset(small)
    done = survey(loaded, splits)
    assert (done.faults.counts, done.remarks.counts) == ({"D017": 1}, {"D017": 1})


def test_what_was_looked_at_is_not_decoded_again_wherever_it_lies(small, monkeypatch):
    loaded, splits = open_dataset(small)
    assert survey(loaded, splits).cached == 0
    moved = small.parent / "images/train/0.png"
    moved.rename(moved.with_name("moved.png"))
    monkeypatch.setattr("segc.data.survey.look_at", lambda path: pytest.fail(f"{path} is read again"))
    again = survey(loaded, splits)
    assert again.cached == 6
    assert again.contents["train"].sizes == {(60, 80): 5}


def test_a_changed_image_is_looked_at_again(small):
    loaded, splits = open_dataset(small)
    survey(loaded, splits)
    cv2.imwrite(str(small.parent / "images/train/0.png"), photograph(5, 32, 32))
    again = survey(loaded, splits)
    assert again.cached == 5
    assert again.contents["train"].sizes == {(60, 80): 4, (32, 32): 1}


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_damaged_cache_costs_nothing_but_time(small, tmp_path, content):
    file = tmp_path / "looks.sqlite"
    file.write_bytes(content)
    loaded, splits = open_dataset(small)
    assert survey(loaded, splits, cache=LookCache(file)).contents["train"].images == 5
    (tmp_path / "folder").mkdir()
    assert survey(loaded, splits, cache=LookCache(tmp_path / "folder")).contents["train"].images == 5


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path):
    assert look_at(tmp_path / "nothing.png").fault


def test_every_format_is_surveyed_alike(small, tmp_path):
    loaded, splits = open_dataset(small)
    expected = survey(loaded, splits)
    for form in ("coco", "labelme", "cvat", "voc", "masks"):
        assert run(["data", "convert", str(small), "--to", form, "-o", str(tmp_path / form)]) == 0
        section = json.loads((tmp_path / form / "conversion.json").read_text())["dataset"]
        spec = {"version": 1, "name": "t", "architecture": {"family": "yolov8-seg", "scale": "n"}, "dataset": section}
        (tmp_path / form / "project.yaml").write_text(json.dumps(spec))
        loaded, splits = open_dataset(tmp_path / form / "project.yaml")
        done = survey(loaded, splits)
        assert not done.faults
        for split, contents in done.contents.items():
            assert contents.objects == expected.contents[split].objects
            assert contents.class_objects.tolist() == expected.contents[split].class_objects.tolist()


# -- dividing


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(0, 4), st.integers(1, 5), max_size=3), min_size=1, max_size=40),
    st.integers(0, 5),
    st.data(),
)
def test_a_division_is_complete_repeatable_and_keeps_groups(counts, seed, data):
    members = [Member(f"g{data.draw(st.integers(0, 60))}/{place}.jpg", one) for place, one in enumerate(counts)]
    likes = {len(counts) - 1: 0} if len(counts) > 1 else {}
    groups = grouped(members, re.compile(r"(g\d+)/"), likes)
    chosen = divide(members, groups, [0.7, 0.3], seed)
    assert chosen == divide(members, groups, [0.7, 0.3], seed)
    assert len(chosen) == len(members)
    assert set(chosen) <= {0, 1}
    by_name = Counter()
    for member, split in zip(members, chosen, strict=True):
        by_name[member.name.split("/")[0], split] += 1
    assert all(not (by_name[name, 0] and by_name[name, 1]) for name, _ in by_name)
    assert all(chosen[one] == chosen[other] for one, other in likes.items())
    # Another order of the same images is the same division.
    order = np.random.default_rng(0).permutation(len(members)).tolist()
    turned = divide([members[i] for i in order], grouped([members[i] for i in order], None, {}), [0.7, 0.3], seed)
    plain = divide(members, grouped(members, None, {}), [0.7, 0.3], seed)
    assert [plain[i] for i in order] == turned


def test_rare_classes_come_into_every_split():
    members = [Member(f"{place}", {0: 3, **({1: 1} if place % 20 == 0 else {})}) for place in range(200)]
    chosen = divide(members, grouped(members, None, {}), [0.8, 0.2], 0)
    assert chosen.count(1) == pytest.approx(40, abs=1)
    assert sum(member.counts.get(1, 0) for member, split in zip(members, chosen, strict=True) if split == 1) == 2


def test_a_split_is_read_as_a_project(small, tmp_path, capsys):
    out = tmp_path / "lists"
    assert run(["data", "split", str(small), "-o", str(out), "--val", "0.4"]) == 0
    assert run(["data", "split", str(small), "-o", str(out), "--val", "0.4"]) == 0
    assert run(["data", "split", str(small), "-o", str(out), "--val", "0.2"]) == 1
    assert "F005" in capsys.readouterr().err
    text = (out / "train.txt").read_text() + (out / "val.txt").read_text()
    assert len(text.splitlines()) == 6
    project = tmp_path / "project.yaml"
    project.write_text(
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        f"dataset: {{path: {small.parent}, train: {out}/train.txt, val: {out}/val.txt, names: [a, b]}}\n"
    )
    loaded, _ = open_dataset(project)
    names = [sample.image.name for split in ("train", "val") for sample in read_split(loaded, split)]
    assert sorted(names) == ["0.png", "1.png", "2.png", "3.png", "bare.png", "v.png"]
    assert run(["data", "split", str(small), "-o", str(tmp_path / "none"), "--group", "png"]) == 1
    assert run(["data", "split", str(small), "-o", str(tmp_path / "none"), "--group", "("]) == 1
    assert not (tmp_path / "none").exists()


def test_a_share_of_0_makes_no_split(small, tmp_path, capsys):
    assert run(["data", "split", str(small), "-o", str(tmp_path / "x"), "--val", "0", "--test", "0.4"]) == 0
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["test.txt", "train.txt"]
    assert "val" not in capsys.readouterr().out
    assert run(["data", "split", str(small), "-o", str(tmp_path / "y"), "--val", "0"]) == 2
    assert not (tmp_path / "y").exists()


def test_a_class_without_an_object_is_in_no_split(small, tmp_path, capsys):
    small.write_text("train: images/train\nval: images/val\nnames: [a, b, never]\n")
    assert run(["data", "split", str(small), "-o", str(tmp_path / "x"), "--val", "0.4"]) == 0
    told = capsys.readouterr().out
    assert "1 class has no object in any split: never" in told
    assert "every class" not in told


def test_what_a_conversion_writes_beside_images_is_no_label_file(small, tmp_path):
    out = tmp_path / "labelme"
    assert run(["data", "convert", str(small), "--to", "labelme", "-o", str(out)]) == 0
    spec = (
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        f"dataset: {{format: labelme, path: {out}, train: ., val: ., names: [a, b]}}\n"
    )
    (tmp_path / "project.yaml").write_text(spec)
    assert set(survey(*open_dataset(tmp_path / "project.yaml")).remarks.counts) == set()


@pytest.mark.parametrize("name", ["new\nline.png", os.fsdecode(b"by\xffte.png")])
def test_an_image_that_no_list_can_name_is_told_before_anything_is_written(name, small, tmp_path, capsys):
    write(small.parent, "train", "x.png", photograph(30)).rename(small.parent / "images" / "train" / name)
    (small.parent / "labels" / "train" / "x.txt").rename((small.parent / "labels" / "train" / name).with_suffix(".txt"))
    assert run(["data", "split", str(small), "-o", str(tmp_path / "lists")]) == 1
    assert "D034" in capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def test_new_ids_of_a_coco_file_are_told(small, tmp_path, capsys):
    assert run(["data", "convert", str(small), "--to", "coco", "-o", str(tmp_path / "first")]) == 0
    assert "new ids" not in capsys.readouterr().out
    assert run(["data", "convert", str(tmp_path / "first"), "--to", "coco", "-o", str(tmp_path / "again")]) == 0
    assert "new ids" in capsys.readouterr().out
    assert json.loads((tmp_path / "again" / "conversion.json").read_text())["renumbered"] is True


def test_a_coco_file_is_divided_with_all_that_it_says(small, tmp_path):
    assert run(["data", "convert", str(small), "--to", "coco", "-o", str(tmp_path / "coco")]) == 0
    file = tmp_path / "coco" / "annotations" / "instances_train.json"
    document = json.loads(file.read_text()) | {"info": {"year": 2020}}
    file.write_text(json.dumps(document))
    out = tmp_path / "parts"
    assert run(["data", "split", str(file), "-o", str(out), "--val", "0.4"]) == 0
    parts = [json.loads((out / f"instances_{name}.json").read_text()) for name in ("train", "val")]
    assert [part["info"] for part in parts] == [{"year": 2020}] * 2
    assert sorted(one["id"] for part in parts for one in part["images"]) == [1, 2, 3, 4, 5]
    assert sorted(one["id"] for part in parts for one in part["annotations"]) == [1, 2, 3, 4]
    for part in parts:
        assert {one["image_id"] for one in part["annotations"]} <= {one["id"] for one in part["images"]}


@pytest.mark.parametrize("form", ["coco", "cvat"])
def test_the_way_out_of_several_annotation_files_works_as_it_is_printed(form, small, tmp_path, capsys):
    folder = tmp_path / "with blanks"
    assert run(["data", "convert", str(small), "--to", form, "-o", str(folder)]) == 0
    assert run(["data", "split", str(folder), "-o", str(tmp_path / "parts")]) == 1
    printed = re.search("segc (data split .*)", capsys.readouterr().err)
    assert run(shlex.split(printed[1])) == 0
    assert (tmp_path / "parts" / f"instances_val.{'json' if form == 'coco' else 'xml'}").is_file()


def test_an_annotation_file_without_images_near_it_says_how_to_name_their_folder(small, tmp_path, capsys):
    assert run(["data", "convert", str(small), "--to", "coco", "-o", str(tmp_path / "coco")]) == 0
    (tmp_path / "alone").mkdir()
    file = Path(shutil.copy(tmp_path / "coco" / "annotations" / "instances_train.json", tmp_path / "alone"))
    assert run(["data", "check", str(file)]) == 1
    told = capsys.readouterr()
    assert "--images DIR" in told.err
    assert run(["data", "check", str(file), "--images", str(tmp_path / "coco" / "images" / "train")]) == 0


def test_a_cvat_file_is_divided_and_read_again(small, tmp_path, capsys):
    assert run(["data", "convert", str(small), "--to", "cvat", "-o", str(tmp_path / "cvat")]) == 0
    file = tmp_path / "cvat" / "annotations" / "train.xml"
    file.write_text(file.read_text().replace("<task>", "<task><owner>A &amp; B</owner>"))
    images = str(tmp_path / "cvat" / "images" / "train")
    out = tmp_path / "parts"
    capsys.readouterr()
    assert run(["data", "split", str(file), "--images", images, "-o", str(out), "--val", "0.4"]) == 0
    section = capsys.readouterr().out.partition("dataset:\n")[2]
    project = tmp_path / "project.yaml"
    project.write_text(
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        f"dataset:\n  format: cvat\n  names: [a, b]\n{section}"
    )
    before, _ = open_dataset(file, images=Path(images))
    after, _ = open_dataset(project)
    assert all("A &amp; B" in (out / f"instances_{name}.xml").read_text() for name in ("train", "val"))

    def content(loaded, splits):
        return sorted(
            (sample.image.name, sample.size, [(one.class_id, *(p.tobytes() for p in one.polygons)) for one in objects])
            for split in splits
            for sample in read_split(loaded, split)
            for objects in [sample.instances]
        )

    assert content(after, ("train", "val")) == content(before, ("train",))


def test_a_coco_file_whose_names_have_a_folder_too_many_is_divided_whole(small, tmp_path):
    assert run(["data", "convert", str(small), "--to", "coco", "-o", str(tmp_path / "coco")]) == 0
    file = tmp_path / "coco" / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    for entry in document["images"]:
        entry |= {"file_name": f"elsewhere/{entry['file_name']}", "id": str(entry["id"])}
    for entry in document["annotations"]:
        entry["image_id"] = float(entry["image_id"])
    file.write_text(json.dumps(document))
    images, out = tmp_path / "coco" / "images" / "train", tmp_path / "parts"
    assert run(["data", "split", str(file), "--images", str(images), "-o", str(out), "--val", "0.4"]) == 0
    shutil.copytree(images, tmp_path / "coco" / "annotations" / "images")
    assert {one.code for one in open_dataset(file)[0].warnings} == {"X208"}
    parts = [json.loads((out / f"instances_{name}.json").read_text()) for name in ("train", "val")]
    assert [sum(len(part[key]) for part in parts) for key in ("images", "annotations")] == [5, 4]


def test_a_dataset_of_one_split_is_worked_on_as_it_was_written(small, tmp_path, capsys):
    single = tmp_path / "single"
    shutil.copytree(small.parent / "images" / "train", tmp_path / "one" / "images")
    shutil.copytree(small.parent / "labels" / "train", tmp_path / "one" / "labels")
    assert run(["data", "convert", str(tmp_path / "one"), "--names", "a,b", "--to", "yolo", "-o", str(single)]) == 0
    assert "val:" not in (single / "data.yaml").read_text()
    for again in (
        ["check"],
        ["split", "-o", str(tmp_path / "lists")],
        ["convert", "--to", "coco", "-o", str(tmp_path / "c")],
    ):
        capsys.readouterr()
        assert run(["data", again[0], str(single), *again[1:]]) == 0
        assert "5 images" in capsys.readouterr().out or again[0] == "split"
    assert sum(len((tmp_path / "lists" / f"{name}.txt").read_text().splitlines()) for name in ("train", "val")) == 5


@pytest.mark.parametrize("form", ["yolo", "coco", "labelme", "cvat", "voc", "masks"])
def test_what_was_converted_is_recognised_with_its_splits(form, small, tmp_path, capsys):
    (small.parent / "labels" / "train" / "bare.txt").write_text("0 .1 .1 .9 .1 .9 .6\n")
    assert run(["data", "convert", str(small), "--to", form, "-o", str(tmp_path / form)]) == 0
    capsys.readouterr()
    assert run(["data", "stats", str(tmp_path / form), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {split: one["images"] for split, one in found.items()} == {"train": 5, "val": 1}
    assert run(["init", "--from", str(tmp_path / form), str(tmp_path / "project.yaml")]) == 0
    assert run(["validate", "--data", str(tmp_path / "project.yaml")]) == 0


@pytest.mark.parametrize("form", ["yolo", "coco", "labelme", "cvat", "voc", "masks"])
def test_a_test_split_comes_through_whatever_the_format(form, small, tmp_path):
    write(small.parent, "test", "t.png", photograph(20), "1 .1 .1 .5 .1 .5 .6\n")
    small.write_text(f"{small.read_text()}test: images/test\n")
    first, again = tmp_path / form, tmp_path / "again"
    assert run(["data", "convert", str(small), "--to", form, "-o", str(first)]) == 0
    assert run(["data", "convert", str(first), "--to", "yolo", "-o", str(again)]) == 0
    names = {split: sorted(one.name for one in (again / "images" / split).iterdir()) for split in ("val", "test")}
    assert names == {"val": ["v.png"], "test": ["t.png"]}
    assert len(list((again / "images" / "train").iterdir())) == 5
    assert run(["init", "--from", str(first), str(tmp_path / "project.yaml")]) == 0
    loaded, splits = open_dataset(tmp_path / "project.yaml")
    assert splits == ("train", "val", "test")
    assert [sample.image.name for sample in read_split(loaded, "test")] == ["t.png"]


@pytest.mark.parametrize("form", ["yolo", "coco", "labelme", "cvat", "voc", "masks"])
def test_the_section_that_a_conversion_prints_is_valid_as_it_stands(form, small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run(["data", "convert", str(small), "--to", form, "-o", f"{form} data"]) == 0
    section = capsys.readouterr().out.partition("in project.yaml:\n")[2]
    head = "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
    Path("project.yaml").write_text(f"{head}{section}")
    assert run(["validate", "--data"]) == 0
    loaded, splits = open_dataset(Path("project.yaml"))
    assert [len(read_split(loaded, split)) for split in splits] == [5, 1]


@pytest.mark.parametrize("form", ["labelme", "masks", "cvat", "coco", "voc"])
def test_what_was_converted_keeps_its_classes_and_their_order(form, small, tmp_path):
    names = ["part_2", "08", "part_1"]
    (small.parent / "labels" / "train" / "0.txt").write_text("1 .1 .1 .5 .1 .5 .6\n2 .3 .1 .7 .1 .7 .6\n")
    small.write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n")
    assert run(["data", "convert", str(small), "--to", form, "-o", str(tmp_path / form)]) == 0
    loaded, _ = open_dataset(tmp_path / form)
    assert loaded.project.dataset.names == tuple(names)
    counts = Counter(one.class_id for sample in read_split(loaded, "train") for one in sample.instances)
    assert counts == {0: 3, 1: 1, 2: 1}
    assert run(["init", "--from", str(tmp_path / form), str(tmp_path / "project.yaml")]) == 0
    assert open_dataset(tmp_path / "project.yaml")[0].project.dataset.names == tuple(names)


def test_a_project_that_validates_on_its_training_images_is_divided_once(small, tmp_path, capsys):
    project = small.parent / "project.yaml"
    project.write_text(
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {train: images/train, val: images/train, names: [a, b]}\n"
    )
    assert run(["data", "split", str(project), "-o", str(tmp_path / "lists"), "--val", "0.4"]) == 0
    told = capsys.readouterr()
    assert "X208" in told.err
    assert sum(int(line.split()[1]) for line in told.out.splitlines()[:2]) == 5


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.json", '[{"image_id": 1, "category_id": 1}]', "results of a model are no annotations"),
        ("labelme.json", '{"shapes": [], "imagePath": "a.png"}', "this is a LabelMe file"),
        ("bare.json", '{"images": [], "annotations": [], "categories": []}', "--names gives names"),
        ("empty.json", "", "not JSON"),
        ("empty.xml", "", "not XML"),
        ("task.xml", "<annotations><version>1.1</version></annotations>", "--names"),
        ("args.yaml", "task: segment\nmode: train\nmodel: a.pt\n", "segc init --from"),
    ],
)
def test_a_file_that_is_no_dataset_is_named_with_the_way_out(name, text, words, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert run(["data", "check", str(tmp_path / name)]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert name in told.splitlines()[0]
    assert "project.yaml" not in told


def test_a_test_split_is_checked_as_well(small, capsys):
    text = small.read_text()
    shutil.copytree(small.parent / "images" / "val", small.parent / "images" / "test")
    small.write_text(f"{text}test: images/test\n")
    run(["data", "check", str(small)])
    assert "test: " in capsys.readouterr().out


@pytest.mark.parametrize("count", [3, 4, 7])
def test_no_split_stays_empty_while_there_are_images_for_it(count):
    members = [Member(str(place), {0: 20 if place == 0 else 1}) for place in range(count)]
    chosen = divide(members, grouped(members, None, {}), [0.6, 0.2, 0.2], 0)
    assert set(chosen) == {0, 1, 2}


# -- the commands


def test_the_commands_print_and_draw(small, tmp_path, capsys):
    assert run(["data", "check", str(small), "--report", str(tmp_path / "check.html"), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["objects"] == 4
    page = (tmp_path / "check.html").read_text()
    assert page.count("<figure>") >= 9
    assert "http" not in page.replace("http-equiv", "")
    assert run(["data", "stats", str(small)]) == 0
    assert "median 1" in capsys.readouterr().out
    assert run(["data", "preview", str(small), "-o", str(tmp_path / "p.html"), "--count", "3"]) == 0
    first = (tmp_path / "p.html").read_text()
    assert first.count('alt="labels of') == 3
    assert run(["data", "preview", str(small), "-o", str(tmp_path / "p.html"), "--count", "3"]) == 0
    assert (tmp_path / "p.html").read_text() == first
    assert run(["data", "preview", str(small), "--class", "zebra"]) == 2
    (small.parent / "labels" / "train" / "0.txt").write_text("7 .1 .1 .5 .1 .5 .6\n")
    assert run(["data", "check", str(small)]) == 1
    assert "1 x D005" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["images/train/0.png", "labels/train/0.txt", "data.yaml", "other.html"])
@pytest.mark.parametrize("command", ["check", "stats", "preview", "audit"])
def test_a_page_replaces_an_earlier_page_and_nothing_else(command, source, small, tmp_path, capsys):
    place = small.parent / source
    if source == "other.html":
        place.write_text("<!doctype html><title>mine</title>")
    before = place.read_bytes()
    option = "-o" if command == "preview" else "--report"
    assert run(["data", command, str(small), option, str(place)]) == 1
    assert "F005" in capsys.readouterr().err
    assert place.read_bytes() == before
    if command != "audit":
        page = str(tmp_path / "page.html")
        assert [run(["data", command, str(small), option, page]) for _ in range(2)] == [0, 0]


def test_names_in_labels_cannot_write_into_the_page(small, tmp_path):
    small.write_text("train: images/train\nval: images/val\nnames: ['<script>', b]\n")
    assert run(["data", "check", str(small), "--report", str(tmp_path / "check.html")]) == 0
    assert "<script>" not in (tmp_path / "check.html").read_text()
