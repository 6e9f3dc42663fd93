import re
from pathlib import Path

import pytest

from segc import cli
from segc.spec.hyperparameters import Augment, Hyperparameters
from segc.spec.init import project_name
from segc.spec.load import check_project, load_project


def test_a_new_project_file_is_valid_and_says_the_defaults(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init"]) == 0
    assert "segc validate" in capsys.readouterr().out
    loaded, _ = check_project(Path("project.yaml"))
    assert loaded is not None
    assert loaded.project.hyperparameters == Hyperparameters()
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["project.yaml"]


def test_every_hyperparameter_is_in_a_new_project_file() -> None:
    cli.run(["init"])
    text = Path("project.yaml").read_text(encoding="utf-8")
    for name in (*Hyperparameters.model_fields, *Augment.model_fields):
        assert f" {name}:" in text


def test_what_is_commented_out_is_valid_too() -> None:
    cli.run(["init"])
    path = Path("project.yaml")
    head, tail = path.read_text(encoding="utf-8").split("hyperparameters:\n")
    tail = re.sub(r"^  # ", "  ", tail, flags=re.MULTILINE)
    path.write_text(f"{head}hyperparameters:\n{tail}", encoding="utf-8")
    assert load_project(path).project.hyperparameters == Hyperparameters()


def test_an_existing_file_is_not_replaced_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("project.yaml").write_text("mine")
    assert cli.run(["init"]) == 1
    assert "F005" in capsys.readouterr().err
    assert Path("project.yaml").read_text() == "mine"
    assert cli.run(["init", "--force"]) == 0
    assert load_project(Path("project.yaml"))


def test_an_existing_data_file_is_taken_over(folder: Path) -> None:
    (folder / "my data").mkdir()
    (folder / "my data" / "it's.yaml").write_text("train: images/train\nval: images/val\nnames: {0: cat, 1: 'no'}\n")
    assert cli.run(["init", "new place/p.yaml", "--from", "my data/it's.yaml"]) == 0
    loaded = load_project(folder / "new place" / "p.yaml")
    assert loaded.project.dataset.names == ("cat", "no")
    assert loaded.project.name == "new-place"
    assert loaded.dataset_root == folder / "my data"


def test_a_data_file_that_cannot_be_taken_over_is_refused_in_its_own_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "data.yaml").write_text("train: a\nval: b\nnames: [x, x]\n")
    assert cli.run(["init", "--from", "data.yaml"]) == 1
    assert "data.yaml:3:12: error[X202]" in capsys.readouterr().err
    assert cli.run(["init", "--from", "none.yaml"]) == 1
    assert not (folder / "project.yaml").exists()


@pytest.mark.parametrize(
    ("folder_name", "name"), [("my shapes!", "my-shapes"), ("..", "project"), ("\u00fc", "project"), ("2026", "2026")]
)
def test_any_folder_gives_a_project_name(folder_name: str, name: str) -> None:
    assert project_name(Path(folder_name)) == name


def test_a_folder_with_a_number_for_a_name_gives_a_valid_file(folder: Path) -> None:
    (folder / "2026").mkdir()
    assert cli.run(["init", "2026"]) == 0
    assert load_project(folder / "2026" / "project.yaml").project.name == "2026"


@pytest.fixture(autouse=True)
def _in_folder(folder: Path) -> None:
    """Every test here works in a folder of its own."""
