"""A stranger's model runs in a process of its own; one that lies whole in the build directory runs in this one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segc.diagnostics import SegcError
from segc.files import digest_file
from segc.inference.model import Model
from segc.sessions.artifact import open_artifact
from segc.sessions.isolated import IsolatedModel

if TYPE_CHECKING:
    from tests.targets.conftest import Trained

IMAGES = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """An artifact among those of a build directory."""
    folder = tmp_path / "build" / "artifacts" / "onnx"
    folder.mkdir(parents=True)
    model = trained.onnx(folder / "m.onnx", (64, 64), dynamic=True)
    (folder / "predict.py").write_text("as it was\n", encoding="utf-8")
    files = {
        path.name: {"bytes": path.stat().st_size, "digest": digest_file(path)}
        for path in (model, folder / "predict.py")
    }
    description = {"format": 3, "target": "onnx", "model": "m.onnx", "status": "verified", "files": files}
    (folder / "artifact.json").write_text(json.dumps(description))
    return folder


def test_a_process_of_its_own_gives_what_this_one_gives(folder: Path) -> None:
    own, other = open_artifact(folder, 1, folder.parents[1]), open_artifact(folder, 1)
    assert isinstance(own, Model)
    assert isinstance(other, IsolatedModel)
    assert own.metadata == other.metadata
    assert other.runtime == own.runtime == "onnxruntime on the CPU"
    for _ in range(2):
        ours, theirs = own.run(IMAGES), other.run(IMAGES)
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])


@pytest.mark.parametrize("moved", [False, True])
def test_a_model_that_is_not_the_one_its_folder_describes_is_refused(folder: Path, tmp_path: Path, moved: bool) -> None:
    content = bytearray((folder / "m.onnx").read_bytes())
    content[len(content) // 2] ^= 64
    (folder / "m.onnx").write_bytes(content)
    build = tmp_path / "other" if moved else folder.parents[1]
    with pytest.raises(SegcError, match=r"T006.*m\.onnx is not the one that artifact\.json describes") as caught:
        open_artifact(folder, 1, build)
    (problem,) = caught.value.diagnostics
    assert problem.help is not None
    assert str(folder / "m.onnx") in problem.help


@pytest.mark.parametrize("where", ["model", "elsewhere", "link", "changed"])
def test_what_does_not_lie_in_the_build_directory_is_a_strangers(where: str, folder: Path, tmp_path: Path) -> None:
    if where == "link":
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
    if where == "changed":
        (folder / "predict.py").write_text("changed\n", encoding="utf-8")
    path = {"model": folder / "m.onnx"}.get(where, folder)
    build = tmp_path / "other" if where == "elsewhere" else folder.parents[1]
    assert isinstance(open_artifact(path, 1, build), IsolatedModel)


def test_a_runtime_that_is_brought_down_is_one_diagnostic(folder: Path) -> None:
    model = open_artifact(folder, 1)
    assert isinstance(model, IsolatedModel)
    os.kill(model._process.pid, signal.SIGSEGV)
    with pytest.raises(SegcError, match=r"T006.*brings down the process that runs it \(SIGSEGV\)"):
        model.run(IMAGES)


def test_a_model_that_cannot_be_run_says_so_and_goes_on(folder: Path) -> None:
    with pytest.raises(SegcError, match=r"T006.*onnxruntime cannot run it"):
        open_artifact(folder, 1).run(IMAGES[:, :, :40, :40])


def test_a_model_runs_again_after_what_it_could_not_run(folder: Path) -> None:
    model = open_artifact(folder, 1)
    before = model.run(IMAGES)
    for _ in range(2):
        with pytest.raises(SegcError, match=r"T006.*onnxruntime cannot run it"):
            model.run(IMAGES[:, :, :40, :40])
    assert all(np.array_equal(value, before[name]) for name, value in model.run(IMAGES).items())


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_somebody_ended_is_told_so_and_started_again(folder: Path, ending: signal.Signals) -> None:
    model = open_artifact(folder, 1)
    assert isinstance(model, IsolatedModel)
    before = model.run(IMAGES)
    for _ in range(2):
        os.kill(model._process.pid, ending)
        with pytest.raises(SegcError, match=rf"T004.*ended from outside \({ending.name}\)") as caught:
            model.run(IMAGES)
        assert "harm" not in str(caught.value)
        assert all(np.array_equal(value, before[name]) for name, value in model.run(IMAGES).items())


def test_a_process_that_the_model_brought_down_is_not_started_again(folder: Path) -> None:
    model = open_artifact(folder, 1)
    assert isinstance(model, IsolatedModel)
    os.kill(model._process.pid, signal.SIGSEGV)
    ended = model._process
    for _ in range(2):
        with pytest.raises(SegcError, match=r"T006.*\(SIGSEGV\)"):
            model.run(IMAGES)
    assert model._process is ended


def test_a_file_that_has_become_another_model_is_not_run_in_place_of_the_one_that_was_opened(
    folder: Path, trained: Trained
) -> None:
    model = open_artifact(folder, 1)
    assert isinstance(model, IsolatedModel)
    trained.onnx(folder / "m.onnx", (32, 32))
    os.kill(model._process.pid, signal.SIGKILL)
    with pytest.raises(SegcError, match="T004"):
        model.run(IMAGES)
    for _ in range(2):
        with pytest.raises(SegcError, match=r"T006.*no longer the model that was opened"):
            model.run(IMAGES)
    (folder / "m.onnx").write_bytes(b"no model")
    with pytest.raises(SegcError, match="T006"):
        model.run(IMAGES)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_the_process_ends_with_the_session(folder: Path) -> None:
    model = open_artifact(folder, 1)
    assert isinstance(model, IsolatedModel)
    place = Path(f"/proc/{model._process.pid}")
    assert place.exists()
    del model
    end = time.monotonic() + 30
    while place.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
