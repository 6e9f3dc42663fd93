"""Opening an artifact: the right runtime for a good one, one clear message for everything else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from segc.diagnostics import SegcError
from segc.sessions.artifact import open_artifact
from segc.targets import contract
from segc.targets.contract import Requirement
from segc.targets.registry import find_target, targets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.targets.conftest import Trained

GOOD = {"format": 3, "target": "onnx", "model": "m.onnx", "status": "verified"}


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    folder = tmp_path / "onnx"
    folder.mkdir()
    trained.onnx(folder / "m.onnx", (64, 64))
    (folder / "artifact.json").write_text(json.dumps(GOOD))
    return folder


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(SegcError) as caught:
        open_artifact(path)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic.code, diagnostic.message


def test_a_folder_and_the_model_in_it_open_alike(folder: Path) -> None:
    images = np.zeros((1, 3, 64, 64), np.float32)
    for path in (folder, folder / "m.onnx"):
        session = open_artifact(path, 1)
        assert session.metadata.imgsz == (64, 64)
        assert session.run(images)["boxes"].shape == (1, 84, 4)


def test_a_missing_artifact_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none")[0] == "F001"


def test_a_file_of_no_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    assert refusal(tmp_path / "model.bin") == ("T006", "no target has such files: model.bin")


def test_a_folder_without_a_description_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path)[1].startswith("no artifact.json in ")


NO_DESCRIPTIONS = (
    "",
    "[]",
    "{}",
    "[" * 100_000,
    json.dumps({**GOOD, "target": "abacus"}),
    json.dumps({**GOOD, "model": "../m.onnx"}),
    json.dumps({**GOOD, "model": ".."}),
    json.dumps({**GOOD, "model": 7}),
    json.dumps({**GOOD, "status": "fine"}),
)


@pytest.mark.parametrize("text", NO_DESCRIPTIONS, ids=range(len(NO_DESCRIPTIONS)))
def test_a_damaged_description_is_refused(text: str, folder: Path) -> None:
    (folder / "artifact.json").write_text(text)
    code, message = refusal(folder)
    assert code == "T006"
    assert message.startswith("damaged: ")


def test_a_description_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / "artifact.json").write_bytes(b"\xff\xfe\x00")
    assert refusal(folder)[0] == "T006"


def test_an_artifact_that_failed_its_verification_is_not_opened(folder: Path) -> None:
    (folder / "artifact.json").write_text(json.dumps({**GOOD, "status": "failed"}))
    assert refusal(folder)[1].startswith("this artifact failed its verification")


def test_an_artifact_that_loses_too_much_accuracy_is_said_to_do_so(folder: Path) -> None:
    short = {"status": "failed", "parity": {"passed": True}, "accuracy": {"passed": False}}
    (folder / "artifact.json").write_text(json.dumps({**GOOD, **short}))
    assert refusal(folder)[1] == "this artifact failed its verification: it loses more accuracy than is accepted"


def test_a_description_whose_model_is_gone_is_refused(folder: Path) -> None:
    (folder / "m.onnx").unlink()
    assert refusal(folder)[1].startswith("the model m.onnx is gone")


@pytest.mark.parametrize("keep", [0, 10, 5_000, -1])
def test_a_truncated_model_is_refused(keep: int, folder: Path) -> None:
    model = folder / "m.onnx"
    model.write_bytes(model.read_bytes()[:keep])
    code, message = refusal(folder)
    assert code == "T006"
    assert "\n" not in message


def test_a_model_of_others_is_refused(folder: Path) -> None:
    model = onnx.load(folder / "m.onnx")
    for metadata in ({}, {"segc": "}"}, {"segc": "[]"}, {"segc": "{}"}):
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, folder / "m.onnx")
        assert refusal(folder)[1].startswith("not a model of segc")


def test_a_missing_runtime_is_named_with_the_command_that_brings_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "find_spec", lambda _: None)
    with pytest.raises(SegcError) as caught:
        open_artifact(folder)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.message) == ("F004", "onnx: onnxruntime is not installed")
    assert "pip install 'segc[onnx]'" in (diagnostic.help or "")


@pytest.mark.parametrize(
    ("installed", "minimum", "fits"),
    [
        ("1.9.1", "1.10", False),
        ("1.10", "1.9.1", True),
        ("1.20.0", "1.20", True),
        ("2.13.0+cpu", "2.6", True),
        ("1.20.0rc1", "1.20", True),
        ("2026.4.1", "2026.5", False),
    ],
)
def test_versions_are_compared_as_numbers(
    installed: str, minimum: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract.metadata, "version", lambda _: installed)
    problem = Requirement("json", "json", minimum).problem()
    assert problem == (None if fits else f"json {installed} is older than {minimum}")


def test_another_build_of_a_package_counts_too() -> None:
    assert Requirement("no-such-distribution", "json", "1").problem() is None


def test_names_and_suffixes_of_targets_are_unique() -> None:
    names: list[Any] = [name for t in targets().values() for name in (t.name, *t.aliases)]
    assert len(set(names)) == len(names)
    assert len({t.suffix for t in targets().values()}) == len(targets())
    assert find_target("onnx") is targets()["onnx"]
    with pytest.raises(SegcError, match="T001"):
        find_target("abacus")
