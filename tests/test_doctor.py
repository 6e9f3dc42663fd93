"""``segc doctor`` tells what is missing, with the command that brings it, and imports and installs nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from segc.cli import run
from segc.targets import contract
from segc.targets.registry import targets


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module that cannot be found."""
    find = contract.find_spec
    monkeypatch.setattr(contract, "find_spec", lambda module: None if module == request.param else find(module))
    return str(request.param)


@pytest.mark.parametrize("target", targets())
def test_every_target_is_told_of(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["targets"]
    (entry,) = [entry for entry in told if entry["target"] == target]
    assert isinstance(entry["emit"]["possible"], bool)
    assert entry["versions"]


@pytest.mark.parametrize("without", ["onnx_graphsurgeon"], indirect=True)
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    without: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--target", "onnx"]) == 1
    text = capsys.readouterr().out
    assert "onnx: onnx-graphsurgeon is not installed" in text
    assert "get it with: pip install 'onnx-graphsurgeon>=0.5.8'" in text
    assert without.replace("_", "-") in text
    assert run(["doctor"]) == 0


@pytest.mark.parametrize("without", ["onnxruntime"], indirect=True)
@pytest.mark.usefixtures("without")
def test_emitting_and_running_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--target", "onnx", "--json"]) == 1
    (entry,) = json.loads(capsys.readouterr().out)["targets"]
    assert (entry["emit"]["possible"], entry["run"]["possible"]) == (True, False)


def test_a_package_that_is_too_old_is_named_with_both_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = contract.metadata.version
    monkeypatch.setattr(contract.metadata, "version", lambda name: "1.2" if name == "onnxruntime" else version(name))
    assert run(["doctor", "-t", "onnx"]) == 1
    text = capsys.readouterr().out
    assert "onnx: onnxruntime 1.2 is older than 1.21" in text
    assert "pip install 'onnxruntime>=1.21'" in text


def test_a_target_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--target", "onyx"]) == 1
    assert "did you mean onnx?" in capsys.readouterr().err


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from segc.cli import run; run(['doctor'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'cv2', 'tensorflow', 'openvino', 'coremltools', 'paddle',"
        " 'ncnn', 'nncf', 'ai_edge_litert', 'tensorrt'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
