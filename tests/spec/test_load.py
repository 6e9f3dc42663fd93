from collections.abc import Callable
from pathlib import Path

import pytest

from segc.diagnostics import Diagnostic, SegcError
from segc.spec.architecture import CustomScale
from segc.spec.load import check_project, load_project
from segc.spec.project import spec_digest

Write = Callable[..., Path]


def _errors(path: Path, *overrides: str) -> list[Diagnostic]:
    with pytest.raises(SegcError) as caught:
        load_project(path, overrides)
    return list(caught.value.diagnostics)


def test_a_valid_project_is_loaded_with_its_defaults(write: Write, folder: Path) -> None:
    loaded = load_project(write())
    assert loaded.path == folder / "project.yaml"
    assert loaded.root == folder
    assert loaded.dataset_root == folder
    assert loaded.build_dir == folder / "build"
    assert loaded.warnings == ()
    project = loaded.project
    assert project.dataset.names == ("circle", "square")
    assert project.dataset.nc == 2
    assert project.hyperparameters.size == (320, 320)
    assert project.hyperparameters.lrf == 0.01
    assert project.targets[0].format == "onnx"


def test_relative_project_paths_become_absolute(write: Write, folder: Path) -> None:
    write()
    assert load_project(Path("project.yaml")).path == folder / "project.yaml"


def test_forms_of_the_same_key_are_taken(write: Write) -> None:
    path = write("imgsz: 320", "imgsz: [320, 640]")
    assert load_project(path).project.hyperparameters.size == (320, 640)
    path = write("[circle, square]", "{1: square, 0: circle}")
    assert load_project(path).project.dataset.names == ("circle", "square")
    path = write("train: images/train", "train: [images/train, images/val]")
    assert load_project(path).project.dataset.train == ("images/train", "images/val")
    path = write("scale: n", "scale: {depth: 1, width: .5, max_channels: 512}")
    assert load_project(path).project.architecture.scale == CustomScale(depth=1.0, width=0.5, max_channels=512)


def test_numbers_may_be_written_as_people_write_them(write: Write) -> None:
    path = write("  epochs: 10", "  lr0: 1e-3\n  weight_decay: 5.e-4\n  box: 7")
    hyperparameters = load_project(path).project.hyperparameters
    assert (hyperparameters.lr0, hyperparameters.weight_decay, hyperparameters.box) == (1e-3, 5e-4, 7.0)


def test_a_short_training_need_not_mention_warm_up(write: Write) -> None:
    assert load_project(write("epochs: 10", "epochs: 1")).project.hyperparameters.epochs == 1


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(write: Write) -> None:
    path = write("epochs: 10", "epochs: ten")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (error,) = _errors(path)
    assert (error.line, error.column, error.snippet) == (13, 11, "  epochs: ten")


def test_the_project_cannot_be_changed(write: Write) -> None:
    project = load_project(write()).project
    with pytest.raises(ValueError, match="frozen"):
        project.name = "other"  # type: ignore[misc]


def test_all_problems_are_found_in_one_go(write: Write) -> None:
    path = write("name: shapes\n", "nmae: shapes\n")
    text = path.read_text().replace("scale: n", "scale: q").replace("320", "321")
    path.write_text(text.replace("- format: onnx", "- format: onnx\n  - format: onnx"))
    assert [d.code for d in _errors(path)] == ["S101", "S102", "S105", "X201"]


def test_what_is_wrong_between_sections_shows_beside_what_is_wrong_within_one(write: Write) -> None:
    path = write("name: shapes", "name: 3")
    path.write_text(path.read_text() + "  - format: onnx\n")
    assert [d.code for d in _errors(path)] == ["S103", "X209"]


def test_a_fault_in_yaml_and_one_in_structure_are_shown_together(write: Write) -> None:
    path = write("  epochs: 10\n", "  epochs: 10\n  epochs: 11\n  batch: 0\n")
    assert [d.code for d in _errors(path)] == ["Y003", "S104"]


def test_a_refused_value_is_not_complained_about_twice(write: Write) -> None:
    assert [d.code for d in _errors(write("epochs: 10", "epochs: *ten"))] == ["Y009"]


def test_a_target_that_inherits_what_it_refuses_is_shown_itself(write: Write) -> None:
    (error,) = _errors(write("- format: onnx", "- format: onnx\n    imgsz: 100"))
    assert (error.code, error.line, error.column) == ("X201", 16, 12)


# -- overrides


def test_overrides_go_through_the_same_validation(write: Write) -> None:
    loaded = load_project(
        write(),
        [
            "hyperparameters.epochs=3",
            "hyperparameters.augment.fliplr=0.25",
            "targets.0.opset=18",
            "dataset.names.1=triangle",
            "architecture.scale={depth: 1, width: 1, max_channels: 512}",
            "architecture.scale.width=0.5",
            "hyperparameters.imgsz=[320, 640]",
        ],
    )
    project = loaded.project
    assert project.hyperparameters.epochs == 3
    assert project.hyperparameters.augment.fliplr == 0.25
    assert project.targets[0].model_dump()["opset"] == 18
    assert project.dataset.names == ("circle", "triangle")
    assert project.architecture.scale == CustomScale(depth=1.0, width=0.5, max_channels=512)
    assert project.hyperparameters.size == (320, 640)


def test_an_override_may_add_sections_and_items(write: Write) -> None:
    path = write("targets:\n  - format: onnx\n", "")
    assert load_project(path, ["targets.0.format=onnx"]).project.targets[0].format == "onnx"
    path = write("hyperparameters:\n  imgsz: 320\n  epochs: 10\n", "")
    assert load_project(path, ["hyperparameters.epochs=3"]).project.hyperparameters.epochs == 3


def test_an_override_reaches_numbered_names(write: Write) -> None:
    path = write("[circle, square]", "{0: circle, 1: square}")
    assert load_project(path, ["dataset.names.1=star"]).project.dataset.names == ("circle", "star")


def test_an_override_leaves_the_other_uses_of_an_alias_alone(write: Write) -> None:
    path = write("train: images/train\n  val: images/val", "train: &t [images/train]\n  val: *t")
    dataset = load_project(path, ["dataset.val.0=images/val"]).project.dataset
    assert (dataset.train, dataset.val) == (("images/train",), ("images/val",))


@pytest.mark.parametrize(
    ("override", "code", "column"),
    [
        ("hyperparameters.epochs=ten", "S103", 30),
        ("hyperparameters.epoch=3", "S102", 23),
        ("hyperparametres.epochs=3", "S102", 7),
        ("hyperparameters.imgsz=[320, 500]", "X201", 35),
        ("hyperparameters.imgsz=[320", "Y002", 33),
        ("targets.5.opset=17", "S109", 15),
        ("targets.first.opset=17", "S109", 15),
        ("name.first=x", "S109", 12),
        ("epochs", "S109", 7),
        ("=3", "S109", 7),
        ("a..b=3", "S109", 7),
        ("name=a: b: c", "Y002", 16),
    ],
)
def test_an_error_in_an_override_points_into_it(write: Write, override: str, code: str, column: int) -> None:
    (error,) = _errors(write(), override)
    assert (error.code, error.argument, error.column, error.file) == (code, f"--set {override}", column, None)


def test_a_missing_key_of_an_overridden_section_points_at_the_override(write: Write) -> None:
    (error,) = _errors(write(), "architecture.scale={depth: 1, width: 1}")
    assert (error.code, error.argument) == ("S101", "--set architecture.scale={depth: 1, width: 1}")


# -- data files

DATA = "path: pictures\ntrain: images/train\nval: images/val\nnc: 2\nnames: {0: cat, 1: dog}\ndownload: x\n"
GIVEN = "  path: .\n  train: images/train\n  val: images/val\n  names: [circle, square]\n"


@pytest.fixture
def data(folder: Path) -> Path:
    (folder / "sets" / "pictures" / "images" / "train").mkdir(parents=True)
    (folder / "sets" / "pictures" / "images" / "val").mkdir()
    (folder / "sets" / "data.yaml").write_text(DATA)
    return folder / "sets" / "data.yaml"


@pytest.mark.usefixtures("data")
def test_a_data_file_fills_in_the_dataset(write: Write, folder: Path) -> None:
    loaded = load_project(write(GIVEN, "  data: sets/data.yaml\n"))
    assert loaded.warnings == ()
    dataset = loaded.project.dataset
    assert dataset.path == "sets/pictures"
    assert loaded.dataset_root == folder / "sets" / "pictures"
    assert (dataset.train, dataset.val, dataset.names) == ("images/train", "images/val", ("cat", "dog"))


@pytest.mark.usefixtures("data")
def test_what_the_spec_says_wins_over_the_data_file(write: Write) -> None:
    path = write(GIVEN, "  data: sets/data.yaml\n  val: images/train\n")
    assert load_project(path).project.dataset.val == "images/train"
    assert [d.code for d in load_project(path).warnings] == ["X208"]


def test_without_a_path_a_data_file_means_its_own_folder(write: Write, folder: Path, data: Path) -> None:
    data.write_text(DATA.replace("path: pictures\n", ""))
    loaded = load_project(write(GIVEN, "  data: sets/data.yaml\n"))
    assert loaded.dataset_root == folder / "sets"


def test_an_absolute_path_in_a_data_file_is_kept(write: Write, folder: Path, data: Path) -> None:
    data.write_text(DATA.replace("path: pictures", f"path: {folder}"))
    assert load_project(write(GIVEN, "  data: sets/data.yaml\n")).project.dataset.path == str(folder)


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ("nc: 2", "nc: 3", [("X211", 4, 5)]),
        ("1: dog", "2: dog", [("X203", 5, 17)]),
        ("val: images/val", "valid: images/val", [("S101", 3, 1)]),
        ("val: images/val\n", "", [("S101", 1, 1)]),
        ("names: {0: cat, 1: dog}", "", [("X205", 1, 1)]),
        ("train: images/train", "train: 3", [("S103", 2, 8)]),
        ("nc: 2", "nc: two", [("S103", 4, 5)]),
        ("nc: 2", "nc: 2\nnc: 2", [("Y003", 5, 1)]),
        (DATA, "- a", [("S103", 1, 1)]),
        (DATA, "a: [", [("Y002", 1, 5)]),
        (DATA, "", [("Y006", 1, 1)]),
    ],
)
def test_faults_of_a_data_file_are_shown_in_it(
    write: Write, data: Path, old: str, new: str, places: list[tuple[str, int, int]]
) -> None:
    data.write_text(DATA.replace(old, new))
    errors = _errors(write(GIVEN, "  data: sets/data.yaml\n"))
    assert [(d.code, d.line, d.column) for d in errors] == places
    assert {d.file for d in errors} == {data}


def test_a_missing_data_file_is_shown_where_it_is_named(write: Write) -> None:
    (error,) = _errors(write(GIVEN, "  data: none.yaml\n"))
    assert (error.code, error.line, error.column) == ("F001", 7, 9)


def test_a_missing_split_is_a_warning_at_its_place(write: Write) -> None:
    _, diagnostics = check_project(write("train: images/train", "train: [images/train, images/more]"))
    assert [(d.code, d.severity, d.line, d.column) for d in diagnostics] == [("X212", "warning", 8, 25)]


# -- digest


def test_the_digest_tells_specs_apart_by_what_they_mean(write: Write) -> None:
    first = spec_digest(load_project(write()).project)
    assert first.startswith("sha256:")
    path = write("  epochs: 10", "  # a comment\n  lrf: 1e-2\n  epochs: 10")
    assert spec_digest(load_project(path).project) == first
    assert spec_digest(load_project(path, ["hyperparameters.epochs=11"]).project) != first


def test_the_real_data_file_is_taken_over(write: Write, coco: Path) -> None:
    loaded = load_project(write(GIVEN, f"  data: {coco / 'data.yaml'}\n"))
    assert loaded.project.dataset.nc == 80
    assert loaded.project.dataset.names[0] == "person"
    assert loaded.dataset_root == coco
    assert loaded.warnings == ()
