"""Where a model runs is what was asked for, or an error that names what is missing: never something else."""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segc.cli import run
from segc.diagnostics import SegcError
from segc.inference.metadata import ModelError
from segc.inference.model import DeviceError, asked_device
from segc.sessions.artifact import open_artifact, open_target
from segc.targets.onnx import runtime as onnx
from segc.targets.openvino import runtime as openvino
from segc.targets.registry import targets
from segc.targets.torchscript import runtime as torchscript

if TYPE_CHECKING:
    from pathlib import Path

    from tests.targets.conftest import Trained

SIZE = (64, 64)
IMAGE = np.random.default_rng(0).random((1, 3, *SIZE), np.float32)


def test_a_device_is_the_first_one_unless_another_is_asked_for() -> None:
    assert asked_device(None, ("cpu", "gpu"), "it") == "cpu"
    assert asked_device("GPU", ("cpu", "gpu"), "it") == "gpu"
    assert asked_device("auto", ("cpu", "gpu"), "it") == "cpu"
    assert asked_device("auto", ("cpu", "auto"), "it") == "auto"
    with pytest.raises(DeviceError, match="it knows no device 'npu', but cpu, gpu"):
        asked_device("npu", ("cpu", "gpu"), "it")


@pytest.mark.parametrize("name", targets())
def test_every_runtime_knows_its_devices_and_refuses_others(name: str, tmp_path: Path) -> None:
    runtime = import_module(targets()[name].runtime)
    assert runtime.DEVICES
    if name == "coreml":
        return  # whose runtime is on macOS alone
    with pytest.raises(DeviceError, match="knows no device 'abacus'"):
        _open(runtime, tmp_path)


def _open(runtime: Any, folder: Path) -> None:
    path = folder / "model"
    if "litert" in runtime.__name__:  # which has to read a model to know where it can run
        runtime.choose_delegate("abacus", path, compiled=False)
    runtime.open_model(path, 1, "abacus")


ASKED = [
    ("cuda", "no CUDAExecutionProvider: in its place, pip install onnxruntime-gpu"),
    ("TensorRT", "no TensorrtExecutionProvider: in its place, pip install onnxruntime-gpu tensorrt"),
    ("coreml", "no CoreMLExecutionProvider: in its place, pip install onnxruntime on macOS"),
    ("openvino", "no OpenVINOExecutionProvider: in its place, pip install onnxruntime-openvino"),
    ("directml", "no DmlExecutionProvider: in its place, pip install onnxruntime-directml on Windows"),
]


@pytest.mark.parametrize(("device", "said"), ASKED)
def test_a_provider_that_onnxruntime_lacks_is_named_with_its_package(device: str, said: str) -> None:
    with pytest.raises(DeviceError, match=re.escape(said)):
        onnx.available_providers(asked_device(device, onnx.DEVICES, "it"), ["CPUExecutionProvider"])


def test_auto_tries_the_providers_that_are_there_in_the_order_of_their_speed() -> None:
    every = [name for name, _ in onnx.PROVIDERS.values()]
    assert onnx.available_providers("auto", every) == ["cuda", "directml", "cpu"]
    assert onnx.available_providers("auto", ["DmlExecutionProvider", "CPUExecutionProvider"]) == ["directml", "cpu"]
    assert onnx.available_providers("auto", ["CoreMLExecutionProvider", "CPUExecutionProvider"]) == ["cpu"]


class _Onnxruntime:
    """An onnxruntime with CUDA on a machine without a GPU: it takes the CPU without a word but in its log."""

    SessionOptions = onnx.import_onnxruntime().SessionOptions

    def __init__(self) -> None:
        self.severity, self.preloaded = onnx.WARNING, 0

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, severity: int) -> None:
        self.severity = severity

    def preload_dlls(self) -> None:
        print("Failed to load libcudart.so")
        self.preloaded += 1

    def InferenceSession(self, path: str, settings: Any, providers: list[Any]) -> Any:  # noqa: ARG002, N802
        assert self.severity == onnx.FATAL
        return _session(["CPUExecutionProvider"], None)


def test_auto_goes_on_where_a_provider_does_not_start_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = _Onnxruntime()
    session, place = onnx.open_session(here, tmp_path / "m.onnx", 1, "auto")
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert place == (
        "the CPU, as CUDAExecutionProvider does not start on this machine: its driver or libraries are missing"
    )
    with pytest.raises(DeviceError, match="CUDAExecutionProvider does not start on this machine"):
        onnx.open_session(here, tmp_path / "m.onnx", 1, "cuda")
    assert (here.severity, here.preloaded) == (onnx.WARNING, 2)
    assert capfd.readouterr() == ("", "")


def _session(providers: list[str], nodes: dict[str, int] | None) -> Any:
    session = SimpleNamespace(get_providers=lambda: providers)
    if nodes is not None:
        parts = [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in nodes.items()]
        session.get_provider_graph_assignment_info = lambda: parts
    return session


def test_a_provider_that_did_not_start_or_took_nothing_is_an_error() -> None:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    with pytest.raises(DeviceError, match="CUDAExecutionProvider does not start"):
        onnx.started(_session([cpu], None), cuda)
    with pytest.raises(DeviceError, match="takes no operator"):
        onnx.started(_session([cuda, cpu], {cpu: 200}), cuda)
    assert onnx.started(_session([cuda, cpu], {cuda: 200, cpu: 3}), cuda) == ", 3 operators on the CPU"
    assert onnx.started(_session([cuda, cpu], {cuda: 200}), cuda) == ""
    assert onnx.started(_session([cuda, cpu], None), cuda) == ""  # an onnxruntime that does not tell


def test_onnxruntime_runs_on_the_cpu_where_that_is_asked_for_or_all_there_is(trained: Trained, tmp_path: Path) -> None:
    path = trained.onnx(tmp_path / "m.onnx", SIZE)
    models = [onnx.open_model(path, 1, device) for device in (None, "CPU", "auto")]
    assert {model.runtime for model in models} == {"onnxruntime on the CPU"}
    first, *others = (model.run(IMAGE)["boxes"] for model in models)
    assert all(np.array_equal(first, other) for other in others)


def test_metadata_of_onnx_that_are_no_utf_8_are_an_error_of_the_model(trained: Trained, tmp_path: Path) -> None:
    path = trained.onnx(tmp_path / "m.onnx", SIZE)
    content = path.read_bytes()
    assert content.count(b'"names"') == 1
    path.write_bytes(content.replace(b'"names"', b'"\xff\xfemes"'))
    with pytest.raises(ModelError, match="onnxruntime cannot read its metadata"):
        onnx.open_model(path, 1, "cpu")


def test_openvino_chooses_by_auto_and_names_what_it_chose(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / trained.emit("openvino", tmp_path, SIZE).model
    asked, chosen = openvino.open_model(path, 1, "cpu"), openvino.open_model(path, 1, "AUTO")
    assert asked.runtime == "OpenVINO on the CPU, in fp32"
    np.testing.assert_allclose(asked.run(IMAGE)["boxes"], chosen.run(IMAGE)["boxes"], atol=1e-3)


def test_a_device_that_openvino_does_not_find_is_named_with_its_driver() -> None:
    here = SimpleNamespace(available_devices=["CPU", "GPU.1"])
    openvino.check_plugin("gpu", here)
    with pytest.raises(DeviceError, match=r"finds no NPU here, only CPU, GPU\.1: where there is one, Intel's driver"):
        openvino.check_plugin("npu", here)
    assert "INFERENCE_PRECISION_HINT" not in openvino.compile_settings("npu", 1)


def test_pytorch_says_why_it_has_no_gpu() -> None:
    def torch(cuda: str | None) -> Any:
        absent = SimpleNamespace(is_available=lambda: False)
        return SimpleNamespace(
            cuda=absent, backends=SimpleNamespace(mps=absent), version=SimpleNamespace(cuda=cuda), __version__="2"
        )

    assert torchscript.torch_device("auto", torch(None)) == "cpu"
    with pytest.raises(DeviceError, match="built without CUDA: pip install another build of torch"):
        torchscript.torch_device("cuda", torch(None))
    with pytest.raises(DeviceError, match="finds no GPU of NVIDIA's, or no driver"):
        torchscript.torch_device("cuda", torch("12.8"))
    with pytest.raises(DeviceError, match="finds no GPU of Apple's"):
        torchscript.torch_device("mps", torch("12.8"))


@pytest.fixture
def tflite(trained: Trained, tmp_path: Path) -> Path:
    return tmp_path / trained.emit("tflite", tmp_path, SIZE).model


def test_litert_takes_delegates_by_name_or_library_and_falls_back_on_nothing(tflite: Path) -> None:
    from segc.targets.litert import runtime

    assert runtime.open_model(tflite, 1).runtime == "LiteRT on the CPU"
    assert runtime.open_model(tflite, 1, "xnnpack").runtime == "LiteRT on the CPU, by XNNPACK"
    with pytest.raises(DeviceError, match="not compiled for the Edge TPU"):
        runtime.open_model(tflite, 1, "edgetpu")
    with pytest.raises(DeviceError, match=r"libnowhere\.so cannot be loaded"):
        runtime.open_model(tflite, 1, "libnowhere.so")
    for device in ("cpu", "libother.so"):
        with pytest.raises(DeviceError, match=r"compiled for the Edge TPU: take m\.tflite"):
            runtime.choose_delegate(device, tflite.with_name("m_edgetpu.tflite"), compiled=True)


@pytest.mark.parametrize("own", [True, False])
def test_a_device_that_is_not_here_is_no_fault_of_the_artifact(trained: Trained, tmp_path: Path, *, own: bool) -> None:
    path = trained.onnx(tmp_path / "m.onnx", SIZE)
    opened = partial(open_target, targets()["onnx"]) if own else open_artifact
    with pytest.raises(SegcError, match="R007") as caught:
        opened(path, device="cuda")
    assert "pip install onnxruntime-gpu" in caught.value.diagnostics[0].message


def test_predict_refuses_a_missing_device_and_writes_which_one_ran(
    trained: Trained, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained.onnx(tmp_path / "m.onnx", SIZE)
    photo = next((shapes / "images" / "val").iterdir())
    arguments = ["predict", str(photo), "--artifact", str(path), "-o", str(tmp_path / "out"), "--save-json"]
    assert run([*arguments, "--provider", "cuda"]) == 1
    assert "R007" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run([*arguments, "--device", "cpu"]) == 0
    assert "runs in onnxruntime on the CPU" in capsys.readouterr().err
    assert '"runtime": "onnxruntime on the CPU"' in (tmp_path / "out" / "predictions.json").read_text()


def test_weights_run_on_the_device_that_is_asked_for(
    project: Path, shapes_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["val", str(project), "--weights", str(shapes_weights)]
    for runtime, device, said in (
        ("onnx", "cuda", "no CUDAExecutionProvider"),
        ("torch", "openvino", "knows no device 'openvino', but cuda, mps, cpu"),
    ):
        assert run([*arguments, "--runtime", runtime, "--device", device]) == 1
        assert said in capsys.readouterr().err


def test_an_error_of_a_device_is_one_of_a_model_to_whoever_only_knows_those() -> None:
    assert issubclass(DeviceError, ModelError)
