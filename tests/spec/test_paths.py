"""Paths and data files as people bring them along: read as they are meant, or an error that helps."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.dataset import list_images
from segc.spec.load import LoadedProject, check_project
from segc.spec.paths import expand, missing_path_help, read_path, unset_variables

SPLITS = "train: train/images\nval: valid/images\n"
NAMES = "names: [thing]\n"

Check = Callable[[str], tuple[LoadedProject | None, list[str], str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Checks a project whose data file, ``rf/data.yaml``, has that text; gives it, codes of findings and their text."""
    for split in ("train", "valid", "test"):
        (tmp_path / "rf" / split / "images").mkdir(parents=True)
        (tmp_path / "rf" / split / "images" / f"{split}.png").touch()
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> tuple[LoadedProject | None, list[str], str]:
        (tmp_path / "rf" / "data.yaml").write_text(text.replace("ROOT", str(tmp_path)))
        (tmp_path / "project.yaml").write_text(
            "version: 1\nname: c\narchitecture: {family: yolov8-seg, scale: n}\ndataset: {data: rf/data.yaml}\n"
        )
        loaded, found = check_project(tmp_path / "project.yaml")
        return loaded, [one.code for one in found], "\n".join(f"{one.message} {one.help}" for one in found)

    return run


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (SPLITS + NAMES, []),
        ("path: .\n" + SPLITS + NAMES, []),
        ("path: ROOT/rf\n" + SPLITS + NAMES, []),
        ("path: ~/rf\n" + SPLITS + NAMES, []),
        ("path: $SEGC_DATA/rf\n" + SPLITS + NAMES, []),
        ("path: ${SEGC_DATA}/rf\n" + SPLITS + NAMES, []),
        ("path: rf\n" + SPLITS + NAMES, ["X222"]),
        ("path: ../datasets/rf\n" + SPLITS + NAMES, ["X222"]),
        ("path: C:\\Users\\x\\rf\n" + SPLITS + NAMES, ["X222"]),
        ("path: rf.zip\n" + SPLITS + NAMES, ["X222"]),
        ("train: ../train/images\nval: ../valid/images\ntest: ../test/images\n" + NAMES, ["X222"] * 3),
        ("train: ../../rf/train/images\nval: valid/images\n" + NAMES, ["X222"]),
        ("train: train\\images\nval: valid\\images\n" + NAMES, ["X222"] * 2),
        ("train: 'train/images '\nval: valid/images\n" + NAMES, ["X222"]),
        ("train: ROOT/rf/train/images\nval: ROOT/rf/valid/images\n" + NAMES, []),
        ("train: train\nval: valid\n" + NAMES, []),
        (SPLITS + "names: {'0': thing}\n", []),
        (SPLITS + "names: {'1': b, '0': a}\n", []),
        (SPLITS + "test: nothing/images\n" + NAMES, ["X222"]),
        (SPLITS + "test: [test/images, nothing]\n" + NAMES, ["X222"]),
        ("train: ../train/images\nval: ../valid/images\ntest: ../nothing/images\n" + NAMES, ["X222"] * 3),
        ("nc: 1\ndownload: |\n  import os\n" + SPLITS + NAMES, []),
    ],
)
def test_a_data_file_is_read_as_it_is_meant(
    check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, codes: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEGC_DATA", str(tmp_path))
    loaded, found, _ = check(text)
    assert found == codes
    assert loaded is not None
    assert loaded.dataset_root == tmp_path / "rf"
    assert [path.name for path in list_images(loaded, "train")] == ["train.png"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("path: ~/nowhere/rf\n" + SPLITS + NAMES, "X212", "the nearest folder that is there is"),
        ("path: $SEGC_NO_SUCH/rf\n" + SPLITS + NAMES, "X221", "no variable SEGC_NO_SUCH"),
        (
            "train: [train/images, nothere/images]\nval: valid/images\n" + NAMES,
            "X212",
            "which holds test, train, valid",
        ),
        ("train: train/imagse\nval: valid/images\n" + NAMES, "X212", "did you mean `images` in it?"),
        (SPLITS + "names: thing\n", "S103", "names: [thing]"),
        (SPLITS + "names: {thing: 0}\n", "X203", "the number comes first: `0: thing`"),
        (SPLITS + "names: {1: thing}\n", "X203", "count from 0"),
        (SPLITS + "names: ['thing ', thing]\n", "X202", "is there already"),
        (SPLITS + "names: [a, null, b]\n", "S103", 'write "null" in quotes'),
        (SPLITS + "nc: '1'\n" + NAMES, "S103", "remove the quotes"),
        (SPLITS + "nc: 2\n" + NAMES, "X211", "leave nc out"),
        (SPLITS + "nc: 1\n", "X205", "the data file has no class names give `names: [person, bicycle]`"),
        ("train: train/images\nval:\n" + NAMES, "S101", "key `val` is missing in the data file"),
        ("train: train/images\n" + NAMES, "S101", "key `val` is missing in the data file"),
        ("train: train/images\nvalid: valid/images\n" + NAMES, "S101", "`valid` looks like it"),
        ("path: !!python/object/apply:os.getcwd []\n" + SPLITS + NAMES, "Y008", "a tag is not supported"),
        (SPLITS + "names:\n\t0: thing\n", "Y007", "replace each tab"),
        ("", "Y006", "it has to name train, val and names"),
        ("- a\n", "S103", "for example `train: images/train`"),
    ],
)
def test_a_data_file_that_cannot_be_read_gets_the_way_out(check: Check, text: str, code: str, words: str) -> None:
    _, codes, message = check(text)
    assert codes == [code]
    assert words in message


def test_an_archive_in_place_of_a_folder_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "rf.zip").touch()
    assert "unpack it" in missing_path_help(tmp_path / "rf.zip")
    assert "Windows" in missing_path_help(tmp_path / "C:\\data")


def test_weights_may_be_in_the_home_folder(check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "start.safetensors").touch()
    loaded, _, _ = check(SPLITS + NAMES)
    assert loaded is not None
    assert loaded.weights_path is None
    project = tmp_path / "project.yaml"
    project.write_text(project.read_text().replace("scale: n", "scale: n, weights: ~/start.safetensors"))
    loaded, found = check_project(project)
    assert loaded is not None
    assert (loaded.weights_path, found) == (tmp_path / "start.safetensors", ())


@settings(max_examples=200)
@given(text=st.text(alphabet="abc/\\.~${} AZ_\0", max_size=30))
def test_any_text_is_some_path_and_never_an_exception(text: str) -> None:
    found = read_path(Path("/nowhere"), text)
    assert (found.note is None) or found.path.exists()
    assert isinstance(missing_path_help(found.path), str)
    assert set(unset_variables(text)) <= set(
        "".join(c if c.isalnum() or c == "_" else " " for c in expand(text)).split()
    )
