"""How an artifact gets to its place, and what becomes of what lies there already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from segc.emission.publish import file_entries, publish

if TYPE_CHECKING:
    from pathlib import Path

PLACE = "onnx"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where an artifact of two files is published."""
    return emit(tmp_path / "artifacts" / PLACE, "first")[0]


def emit(place: Path, content: str, status: str = "verified") -> tuple[Path, list[str]]:
    made = place.parents[1] / f"made-{content}"
    for name in ("m.onnx", "predict.py"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(f"{name} {content}")
    place.parent.mkdir(exist_ok=True)
    description: dict[str, Any] = {"format": 3, "target": "onnx", "model": "m.onnx", "status": status}
    return publish(place, made, {**description, "files": file_entries(made)})


def held(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "artifact.json"
    }


def test_a_new_artifact_replaces_the_files_of_the_last_one_without_a_word(place: Path) -> None:
    assert emit(place, "second") == (place, [])
    assert held(place) == {"m.onnx": "m.onnx second", "predict.py": "predict.py second"}


def test_what_segc_did_not_write_stays_in_the_folder_and_is_counted(place: Path) -> None:
    (place / "predictions").mkdir()
    (place / "predictions" / "a.json").write_text("found")
    (place / "notes.txt").write_text("mine")
    (place / "elsewhere").symlink_to(place.parent)
    (place / "__pycache__").mkdir()
    (place / "__pycache__" / "predict.cpython-311.pyc").write_text("compiled")
    _, said = emit(place, "second")
    assert held(place) == {
        "m.onnx": "m.onnx second",
        "predict.py": "predict.py second",
        "predictions/a.json": "found",
        "notes.txt": "mine",
    }
    assert (place / "elsewhere").is_symlink()
    assert said == ["kept 3 files in its folder that segc did not write"]
    assert emit(place, "third")[1] == said


def test_what_was_changed_by_hand_is_kept_under_another_name_every_time(place: Path) -> None:
    (place / "predict.py").write_text("mine")
    _, said = emit(place, "second")
    assert said == ["what was changed by hand is made anew, and kept as predict.py.changed"]
    (place / "predict.py").write_text("mine again")
    _, said = emit(place, "third")
    assert held(place) == {
        "m.onnx": "m.onnx third",
        "predict.py": "predict.py third",
        "predict.py.changed": "mine",
        "predict.py.changed-2": "mine again",
    }
    assert said[-1].endswith("kept as predict.py.changed-2")


@pytest.mark.parametrize("text", [None, "{}"])
def test_where_nothing_says_what_the_files_were_none_is_lost(text: str | None, place: Path) -> None:
    (place / "artifact.json").unlink()
    if text is not None:
        (place / "artifact.json").write_text(text)
    (place / "notes.txt").write_text("mine")
    emit(place, "second")
    assert held(place) == {
        "m.onnx": "m.onnx second",
        "predict.py": "predict.py second",
        "m.onnx.changed": "m.onnx first",
        "predict.py.changed": "predict.py first",
        "notes.txt": "mine",
    }
    assert json.loads((place / "artifact.json").read_text())["status"] == "verified"


def test_a_failure_is_cleared_away_but_for_what_segc_did_not_write(place: Path) -> None:
    bad, _ = emit(place, "second", "failed")
    assert bad.name == f"{PLACE}.failed"
    assert emit(place, "third") == (place, [])
    assert not bad.exists()
    emit(place, "fourth", "failed")
    (bad / "why.txt").write_text("mine")
    _, said = emit(place, "fifth")
    assert held(bad) == {"why.txt": "mine"}
    assert said == [f"{PLACE}.failed: left 1 file there that segc did not write"]
