"""COCO instances JSON: what annotations mean, and what is said about those that mean nothing."""

import contextlib
import copy
import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.coco import annotated_images, read_annotations
from segc.data.dataset import list_images, read_split
from segc.data.samples import read_sample
from segc.diagnostics import Findings, SegcError
from segc.evaluation.rle import encode_mask, encode_polygons
from segc.spec.categories import CategoriesError, read_categories
from segc.spec.load import load_project

NAMES = ("cat", "dog", "bird")
HEIGHT, WIDTH = 20, 30


def document() -> dict:
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "sub/a.png", "height": HEIGHT, "width": WIDTH, "license": 1},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 0, "name": "things"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 90,
                "segmentation": [[3, 2, 12, 2, 12, 10], [20, 5, 30, 5, 30, 15]],
            },
            {"id": 2, "image_id": 7, "category_id": 4, "segmentation": [], "bbox": [3, 4, 6, 8], "iscrowd": 0},
            {
                "id": 3,
                "image_id": 7,
                "category_id": 4,
                "iscrowd": 1,
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [40, 10, HEIGHT * WIDTH - 50]},
            },
        ],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("b.png", "sub/a.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


def read(folder: Path, content, names=NAMES):
    file = folder / "instances.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations(file, [folder / "images"], names)


def faults(folder: Path, content, names=NAMES) -> list[tuple[str, str]]:
    with pytest.raises(SegcError) as error:
        read(folder, content, names)
    assert all(d.file in {folder / "instances.json", None} for d in error.value.diagnostics)
    return [(d.code, d.message) for d in error.value.diagnostics]


def test_polygons_boxes_and_crowds_are_read(folder):
    first, second = read(folder, document())
    assert (first.image.name, second.image.name) == ("b.png", "a.png")
    assert first.size == second.size == (HEIGHT, WIDTH)
    assert second.instances == ()
    polygons, box, crowd = first.instances
    assert [one.class_id for one in first.instances] == [1, 0, 0]
    assert [one.is_box for one in first.instances] == [False, True, False]
    assert [one.is_crowd for one in first.instances] == [False, False, True]
    scale = np.array([WIDTH, HEIGHT])
    assert [len(part) for part in polygons.polygons] == [3, 3]
    assert (polygons.polygons[1] * scale).tolist() == pytest.approx(np.array([[20, 5], [30, 5], [30, 15]]))
    assert (box.polygons[0] * scale).tolist() == pytest.approx(np.array([[3, 4], [9, 4], [9, 12], [3, 12]]))
    assert (crowd.polygons[0] * scale).tolist() == pytest.approx(np.array([[2, 0], [2, 10], [3, 10], [3, 0]]))


def test_names_that_no_category_has_are_an_error_with_both_lists(folder):
    ((code, message),) = faults(folder, document(), ("zero", "four", "ninety"))
    assert code == "D023"
    assert "`zero`, `four`, `ninety`" in message
    assert "`dog`, `cat`" in message


@pytest.mark.parametrize("swapped", [("Dog", "CAT"), ("dog ", " cat"), ("DOG", "cat")])
def test_letter_case_and_blanks_of_names_do_not_matter(folder, swapped):
    content = document()
    content["categories"] = [{"id": 1, "name": swapped[0]}, {"id": 2, "name": swapped[1]}]
    content["annotations"] = [
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"image_id": 7, "category_id": 2, "bbox": [2, 2, 5, 5]},
    ]
    first, _ = read(folder, content, ("cat", "dog"))
    assert [one.class_id for one in first.instances] == [1, 0]


def test_a_class_that_one_of_two_categories_has_exactly_is_that_one(folder):
    content = document()
    content["categories"] = [{"id": 4, "name": "Cat"}, {"id": 90, "name": "cat"}]
    ((code, message),) = faults(folder, content, ("cat",))
    assert code == "D023"
    assert "several categories have the name of class `cat`" in message


def test_fewer_names_leave_out_the_objects_of_other_categories_with_their_number(folder):
    found = Findings()
    (folder / "instances.json").write_text(json.dumps(document()))
    samples = read_annotations(folder / "instances.json", [folder / "images"], ("dog",), found)
    assert [one.class_id for sample in samples for one in sample.instances] == [0]
    (remark,) = found
    assert (remark.code, remark.severity, remark.count) == ("D021", "warning", 2)
    assert "2 x cat" in remark.message


def test_whole_numbers_are_whole_however_they_are_written(folder):
    content = document()
    content["images"][0].update(id="7", width=30.0)
    content["categories"][0]["id"] = "90"
    content["annotations"][0].update(category_id=90.0, iscrowd=None)
    content["annotations"][1].update(iscrowd=False, area=float("nan"))
    first, _ = read(folder, content)
    assert [(one.class_id, one.is_crowd) for one in first.instances] == [(1, False), (0, False), (0, True)]


def test_what_is_wrong_can_be_left_out_by_name(folder):
    content = document()
    content["images"] += [{"id": 5, "file_name": "lost.png", "height": 4, "width": 4}]
    content["annotations"] += [
        {"image_id": 7, "category_id": 4, "segmentation": [[3, 2, 12, 2, 12, 10], [1, 1, 5, 5]]},
        {"image_id": 5, "category_id": 4, "bbox": [1, 1, 2, 2]},
        {"image_id": 7, "category_id": 4, "bbox": [1, 1, 0, 0]},
        dict(content["annotations"][1], id=99),
    ]
    (folder / "instances.json").write_text(json.dumps(content))
    found = Findings()
    samples = read_annotations(folder / "instances.json", [folder / "images"], NAMES, found, skip=True)
    assert [len(sample.instances) for sample in samples] == [3, 0]
    assert [(one.code, one.severity) for one in found] == [
        ("D007", "warning"),
        ("D003", "warning"),
        ("D015", "warning"),
        ("D014", "warning"),
    ]
    assert "left out: /images/2/file_name" in next(iter(found)).message


@pytest.mark.parametrize("prefix", ["images/train/", "/data/images/", "x\\", "{folder}/images/"])
def test_image_names_with_other_folders_before_them_are_found(folder, prefix):
    content = document()
    content["images"][0]["file_name"] = prefix.format(folder=folder) + "b.png"
    if prefix.startswith("/data"):
        ((code, _),) = faults(folder, content)
        assert code == "D003"
        return
    first, _ = read(folder, content)
    assert first.image == folder / "images" / "b.png"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_read_or_is_an_error_with_its_place(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images" / "sub").mkdir(parents=True)
    for name in ("b.png", "sub/a.png"):
        (folder / "images" / name).touch()
    content = document()
    entry = content
    while True:
        keys = list(entry) if isinstance(entry, dict) else range(len(entry))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(entry[key], dict | list) or not entry[key] or data.draw(st.booleans()):
            break
        entry = entry[key]
    odd = [
        None,
        True,
        float("nan"),
        float("inf"),
        -1,
        0,
        2.0,
        2.5,
        10**30,
        "",
        "7",
        "x",
        [],
        [[]],
        {},
        [1, 2],
        {"x": 1},
    ]
    entry[key] = data.draw(st.sampled_from(odd))
    skip = data.draw(st.booleans())
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    with contextlib.suppress(SegcError):
        read_annotations(file, [folder / "images"], NAMES, skip=skip)


def test_images_may_be_in_several_folders(folder):
    (folder / "more").mkdir()
    (folder / "images" / "b.png").rename(folder / "more" / "b.png")
    file = folder / "instances.json"
    file.write_text(json.dumps(document()))
    assert len(read_annotations(file, [folder / "images", folder / "more"], NAMES)) == 2
    assert [path.name for path in annotated_images(file, [folder / "images", folder / "more"])] == ["a.png", "b.png"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), density=st.sampled_from([0.3, 0.7, 0.95]), compressed=st.booleans())
def test_masks_come_through_as_polygons_that_fill_to_them(tmp_path_factory, seed, density, compressed):
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    (folder / "images" / "b.png").touch()
    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < density
    code = encode_mask(mask)
    counts = code["counts"] if isinstance(code["counts"], str) else code["counts"].decode()
    if not compressed:
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
        counts = np.diff(np.concatenate([[0], edges])).tolist()
    content = document()
    content["images"] = content["images"][:1]
    content["annotations"] = [
        {"image_id": 7, "category_id": 4, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
    ]
    ((instance,),) = [sample.instances for sample in read(folder, content)]
    polygons = [part * np.array([WIDTH, HEIGHT], np.float32) for part in instance.polygons]
    assert encode_polygons(polygons, HEIGHT, WIDTH) == code


def changed(*path, value=None, remove=False):
    content = copy.deepcopy(document())
    *above, last = path
    entry = content
    for key in above:
        entry = entry[key]
    if remove:
        del entry[last]
    else:
        entry[last] = value
    return content


SEGMENTATION = ("annotations", 0, "segmentation")


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (changed("images", remove=True), "D003", "/images: missing"),
        (changed("annotations", value={}), "D003", "/annotations: not a list"),
        (changed("images", value=[]), "D001", "lists no images"),
        (changed("images", 0, value=5), "D003", "/images/0: 5 is no object"),
        (changed("images", 0, "id", remove=True), "D003", "/images/0: `id` is missing"),
        (changed("images", 0, "id", value=[1]), "D003", "/images/0/id: [1] is not an id"),
        (changed("images", 1, "id", value=7), "D003", "/images/1/id: image 7 is there already"),
        (changed("images", 1, "file_name", value="b.png"), "D003", "b.png is there already"),
        (changed("images", 0, "height", value=0), "D003", "/images/0: an image of 0 x 30"),
        (changed("images", 0, "height", value=10**9), "D003", "cannot be"),
        (changed("images", 0, "height", value=20.5), "D003", "/images/0/height: 20.5 is not a number of pixels"),
        (changed("images", 0, "height", value=float("nan")), "D003", "/images/0/height: NaN is not a number of pixels"),
        (changed("images", 0, "height", value=True), "D003", "/images/0/height: true is not"),
        (changed("images", 0, "file_name", value="../b.png"), "D003", "/images/0/file_name"),
        (changed("images", 0, "file_name", value="/etc/passwd"), "D003", "no file name inside"),
        (changed("images", 0, "file_name", value="C:\\b.png"), "D003", "no file name inside"),
        (changed("images", 0, "file_name", value="..\\b.png"), "D003", "no file name inside"),
        (changed("images", 0, "file_name", value="c.png"), "D007", 'there is no image "c.png"'),
        (changed("categories", 0, "name", value=3), "D003", "/categories/0/name: 3 is not a name"),
        (changed("categories", 1, "id", value=90), "D003", "/categories/1/id: category 90 is there already"),
        (changed("annotations", 0, "image_id", value=8), "D003", "/annotations/0/image_id: there is no image 8"),
        (changed("categories", 1, "name", value="dog "), "D023", "categories 90 and 4 have one name, `dog`"),
        (changed(*SEGMENTATION, value=[1, 2, 3, 4, 5, 6]), "D003", "these are bare numbers"),
        (changed(*SEGMENTATION, 0, 0, value=float("nan")), "D003", "/annotations/0/segmentation/0/0: NaN is no"),
        (
            changed("annotations", 0, "category_id", value=5),
            "D005",
            "/annotations/0/category_id: there is no category 5",
        ),
        (changed("annotations", 0, "category_id", value=0), "D023", "no category is called `bird`"),
        (changed("annotations", 0, "iscrowd", value=2), "D003", "/annotations/0/iscrowd: 2 is neither 0 nor 1"),
        (changed(*SEGMENTATION, value="x"), "D003", "/annotations/0/segmentation"),
        (changed(*SEGMENTATION, 1, value=3), "D003", "/annotations/0/segmentation/1: 3 is no list"),
        (changed(*SEGMENTATION, 1, value=[1, 2, 3, 4]), "D003", "4 numbers are no polygon"),
        (changed(*SEGMENTATION, 1, 3, value="4"), "D003", "/annotations/0/segmentation/1/3"),
        (changed(*SEGMENTATION, 1, 3, value=10**400), "D003", "is no coordinate"),
        (changed(*SEGMENTATION, 0, 0, value=-40), "D004", "/annotations/0/segmentation/0: x from -40 to 12"),
        (changed("annotations", 1, "bbox", remove=True), "D003", "/annotations/1: there is neither"),
        (changed("annotations", 1, "bbox", value=[1, 2, -3, 4]), "D003", "is no box"),
        (changed("annotations", 1, "bbox", value=[1, 2, 300, 4]), "D004", "/annotations/1/bbox"),
        (changed("annotations", 2, "segmentation", "size", value=[WIDTH, HEIGHT]), "D003", "size: [30, 20] is not"),
        (changed("annotations", 2, "segmentation", "counts", value=[1, 2]), "D003", "the runs have 3 pixels"),
        (changed("annotations", 2, "segmentation", "counts", value="~~"), "D003", "/annotations/2/segmentation/counts"),
        (changed("annotations", 2, "segmentation", "counts", value=None), "D003", "null is neither text nor"),
        (changed("annotations", 2, "segmentation", "counts", value=[10**30]), "D003", "counts"),
        (changed("annotations", 2, "segmentation", "counts", value=[600]), "D003", "the mask is empty"),
        (changed("annotations", value=[]), "D006", "no annotations"),
        ("[]", "D003", "the file holds a list"),
        ("3", "D003", "no object"),
        ('{"shapes": [], "imagePath": "a.png"}', "D003", "a LabelMe file"),
        ("{", "D003", "not JSON"),
        ('{"images": [NaN], "annotations": [], "categories": []}', "D003", "/images/0: NaN is no object"),
        ("[" * 100_000, "D003", "not JSON"),
    ],
)
def test_a_fault_is_named_with_its_pointer(folder, content, code, words):
    ((found, message),) = faults(folder, content)
    assert found == code
    assert words in message


@pytest.mark.parametrize("order", list(itertools.permutations(["images", "categories", "annotations"])), ids=" ".join)
def test_lists_may_stand_in_any_order(folder, order):
    first, _ = read(folder, {"info": {}, **{key: document()[key] for key in order}, "more": [1]})
    assert [one.class_id for one in first.instances] == [1, 0, 0]


def test_a_list_that_is_there_twice_is_an_error(folder):
    text = json.dumps(document())
    ((code, message),) = faults(folder, text[:-1] + ', "annotations": []}')
    assert (code, message) == ("D003", "`annotations` stands in the file twice")


def test_a_file_that_breaks_off_is_an_error_with_its_place(folder):
    text = json.dumps(document(), indent=1)
    text = text[: text.index('"iscrowd"') + 3]
    with pytest.raises(SegcError) as error:
        read(folder, text)
    (fault,) = error.value.diagnostics
    assert (fault.code, fault.line, fault.column) == ("D003", text.count("\n") + 1, 4)


def test_all_faults_are_told_at_once_and_many_are_counted(folder):
    content = document()
    content["annotations"] += [{"image_id": 7, "category_id": 5}] * 100 + [{"image_id": 9}] * 50
    with pytest.raises(SegcError) as error:
        read(folder, content)
    found = [(one.code, one.count, len(one.examples)) for one in error.value.diagnostics]
    assert found == [("D005", 100, 2), ("D003", 50, 2)]


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SegcError) as error:
        read_annotations(tmp_path / "none.json", [tmp_path], NAMES)
    assert error.value.diagnostics[0].code == "F001"


@pytest.fixture
def project(folder):
    (folder / "instances.json").write_text(json.dumps(document()))

    def load(**dataset):
        lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in dataset.items())
        (folder / "project.yaml").write_text(
            "version: 1\nname: x\narchitecture: {family: yolov8-seg, scale: n}\ndataset:\n"
            "  format: coco\n  train: images\n  val: images\n  names: [cat, dog, bird]\n"
            f"  annotations: {{train: instances.json, val: instances.json}}\n{lines}"
        )
        return load_project(folder / "project.yaml")

    return load


def test_a_project_reads_its_annotations(project):
    loaded = project()
    assert [sample.image.name for sample in read_split(loaded, "train")] == ["b.png", "a.png"]
    assert list_images(loaded, "val") == tuple(sample.image for sample in read_split(loaded, "val"))
    assert read_sample(read_split(loaded, "train")[0]).shape == (HEIGHT, WIDTH, 3)
    assert {d.code for d in loaded.warnings} == {"X208"}


@pytest.mark.parametrize("classes", [["dog"], [1]])
def test_objects_of_other_classes_are_left_out(project, classes):
    loaded = project(classes=classes)
    assert [one.class_id for one in read_split(loaded, "train")[0].instances] == [1]
    assert loaded.project.dataset.nc == 3


def test_all_objects_may_be_of_one_class(project):
    loaded = project(single_cls=True, classes=["cat"])
    assert [one.class_id for one in read_split(loaded, "train")[0].instances] == [0, 0]
    assert loaded.project.dataset.nc == 1
    assert loaded.project.dataset.class_names == ("object",)


def test_an_image_of_another_size_is_named(project, folder):
    cv2.imwrite(str(folder / "images" / "b.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(SegcError) as error:
        read_sample(read_split(project(), "train")[0])
    assert error.value.diagnostics[0].code == "D008"


def test_class_names_are_those_of_the_file_where_the_project_has_none(folder, project):
    path = project().path
    path.write_text(re.sub(r"names: \[[^\]]*\]", "", path.read_text()).replace(", }", "}"))
    assert load_project(path).project.dataset.names == ("things", "cat", "dog")
    (folder / "instances.json").unlink()
    with pytest.raises(SegcError) as error:
        load_project(path)
    assert [one.code for one in error.value.diagnostics] == ["X205"]


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(st.text(max_size=12).filter(str.strip), min_size=1, max_size=5, unique_by=str.strip),
    spaced=st.booleans(),
    ascii_only=st.booleans(),
    nested=st.booleans(),
)
def test_categories_are_found_without_reading_the_rest(tmp_path_factory, names, spaced, ascii_only, nested):
    file = tmp_path_factory.mktemp("c") / "a.json"
    categories = [{"id": 10 - index, "name": name, "keypoints": ["[", '"']} for index, name in enumerate(names)]
    content = {
        "info": {"text": '"categories": ['},
        "categories": categories,
        "annotations": [{"segmentation": [[1, 2]]}],
    }
    if nested:
        content["info"]["categories"] = []
    file.write_text(json.dumps(content, indent=1 if spaced else None, ensure_ascii=ascii_only))
    assert list(read_categories(file).values()) == [name.strip() for name in reversed(names)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"categories": 3}',
        '{"categories": [',
        '{"categories": []}',
        '{"categories": [{"id": 1}]}',
        '{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a "}]}',
    ],
)
def test_a_file_without_categories_says_so(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CategoriesError):
        read_categories(tmp_path / "a.json")
