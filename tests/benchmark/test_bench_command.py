"""`segc bench` measures what is there, each model in a process of its own; what fails is a row and an exit status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from segc.cli import run
from segc.emission.publish import file_entries
from segc.network.device import choose_device

if TYPE_CHECKING:
    from pathlib import Path

    from tests.targets.conftest import Trained

SETTINGS = ["--rounds", "1", "--images", "2", "--warm-up", "1", "--threads", "1"]


@pytest.fixture
def build(trained: Trained, project: Path) -> Path:
    """A build directory with a good artifact, one that is cut off, and one that failed its verification."""
    artifacts = project.parent / "build" / "artifacts"
    for name, status in (("onnx", "verified"), ("cut", "verified"), ("bad.failed", "failed")):
        folder = artifacts / name
        folder.mkdir(parents=True)
        model = trained.onnx(folder / "photos.onnx", (160, 160))
        if name == "cut":
            model.write_bytes(model.read_bytes()[:5000])
        about = {"format": 3, "target": "onnx", "model": "photos.onnx", "status": status, "files": file_entries(folder)}
        (folder / "artifact.json").write_text(json.dumps({**about, "parity": {"summary": "boxes 1e-4 px"}}))
    return artifacts.parent


def test_every_artifact_is_a_row_and_one_that_fails_has_its_reason(
    project: Path, build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [part for name in ("onnx", "cut", "bad.failed") for part in ("--artifact", name)]
    files = [f"--{kind}={tmp_path / f'bench.{kind}'}" for kind in ("json", "csv")]
    files.append(f"--report={tmp_path / 'bench.html'}")
    assert run(["bench", str(project), *names, *SETTINGS, "--sample", "4", *files]) == 1
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    good = rows["onnx"]
    assert good["problem"] is None
    assert good["runtime"] == "onnxruntime on the CPU"
    assert (good["size"], good["parity"], good["rounds"]) == ([160, 160], "boxes 1e-4 px", 1)
    assert min(good["load"], *(good[part]["median"] for part in ("pre", "inference", "post"))) > 0
    assert good["bytes"] == (build / "artifacts" / "onnx" / "photos.onnx").stat().st_size
    assert good["memory"] > 10_000_000
    assert good["box_map"] > 0.9
    assert found["sample"] == 4
    assert "T006" in rows["cut"]["problem"]
    assert "failed its verification" in rows["bad.failed"]["problem"]
    for text in ("onnxruntime on the CPU", "4 images of the validation split", "cut: T006", "load "):
        assert text in said
    assert (tmp_path / "bench.csv").read_text().count("\n") == 4
    assert "<svg" in (tmp_path / "bench.html").read_text()


def test_weights_and_a_comparison_are_measured_without_map(
    project: Path, build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = ["--set", "hyperparameters.tiles={size: 64}"]
    arguments = ["bench", str(project), "--artifact", "onnx", *SETTINGS, "--no-map", *tiles]
    assert run([*arguments, "--json", str(tmp_path / "a.json")]) == 0
    before = json.loads((tmp_path / "a.json").read_text())
    before["rows"][0]["bytes"] *= 2
    (tmp_path / "a.json").write_text(json.dumps(before))
    capsys.readouterr()
    assert run([*arguments, "--artifact", "weights", "--compare", str(tmp_path / "a.json")]) == 0
    said = capsys.readouterr().out
    assert "changed: weights: new" in said
    assert "changed: onnx: size " in said
    assert f"PyTorch on {choose_device('auto')}" in said
    assert "mAP50-95" not in said
    assert "whole photographs, not the project's tiles" in said
    assert build.is_dir()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--artifact", "abacus"], "F001"),
        (["--artifact", "onnx", "--compare", "nowhere.json"], "F001"),
        (["--artifact", "onnx", "--compare", "{project}"], "F002"),
        (["--artifact", "onnx", "--compare", "{damaged}"], "F002"),
    ],
)
def test_what_cannot_be_begun_is_one_diagnostic(
    arguments: list[str], code: str, project: Path, build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"format": 1, "rows": [{"name": "onnx"}]}')
    given = [argument.format(project=project, damaged=damaged) for argument in arguments]
    assert run(["bench", str(project), *given, *SETTINGS]) == 1
    said = capsys.readouterr().err
    assert said.count("error[") == 1
    assert f"error[{code}]" in said
    assert build.is_dir()


def test_a_device_that_is_not_here_is_the_reason_of_the_row(
    project: Path, build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    arguments = ["--artifact", "onnx", *SETTINGS, "--no-map", "--device", "cuda", "--json", str(file)]
    assert run(["bench", str(project), *arguments]) == 1
    (row,) = json.loads(file.read_text())["rows"]
    assert "R007: this onnxruntime has no CUDAExecutionProvider" in row["problem"]
    assert "R007" in capsys.readouterr().out
    assert build.is_dir()
