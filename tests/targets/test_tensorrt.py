"""The TensorRT target: the build kit is complete and right, and what it says was done was done.

NVIDIA's code runs here only where TensorRT-RTX is installed; elsewhere a stand-in writes the calls down and runs the
ONNX model of an "engine" on onnxruntime (``fakes/``). TensorRT-RTX builds engines without a GPU. It stands under
NVIDIA's licence and comes in two parts, here put into a folder of their own::

    pip install --no-deps --target rtx onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116
    cd rtx/onnxruntime_ep_nv_tensorrt_rtx
    ln -s libtensorrt_rtx.so.1.7.1 libtensorrt_rtx.so.1
    ln -s libtensorrt_onnxparser_rtx.so.1.7.1 libtensorrt_onnxparser_rtx.so.1
    export LD_LIBRARY_PATH=$PWD PYTHONPATH=$PWD/..
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from segc.cli import run
from segc.diagnostics import SegcError
from segc.inference.metadata import Metadata, ModelError, metadata_text
from segc.targets.registry import find_target
from segc.targets.tensorrt import TARGET, no_engine_here
from segc.targets.tensorrt.build import MAX_BATCH, MAX_SIDES, build, profile_for, with_header
from segc.targets.tensorrt.engine import load_tensorrt
from segc.targets.tensorrt.runtime import open_model, split_header
from tests.targets.conftest import agrees, open_here, outputs_agree, refusal, run_in_worker
from tests.targets.standalone import ABSENT, Standalone

if TYPE_CHECKING:
    from segc.network.session import TorchSession
    from tests.targets.conftest import EmitTwice, Trained

FAKES = Path(__file__).parent / "fakes"

HAS_RTX = find_spec("tensorrt_rtx_bindings") is not None
rtx = pytest.mark.skipif(not HAS_RTX, reason="TensorRT-RTX is not installed")

pytestmark = pytest.mark.skipif(no_engine_here() is None, reason="there is a GPU with TensorRT: engines are built")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started from here find an NVIDIA GPU and TensorRT."""
    monkeypatch.setenv("PYTHONPATH", str(FAKES), prepend=os.pathsep)


@pytest.fixture(scope="module")
def engine(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of 64 x 64 pixels."""
    folder = tmp_path_factory.mktemp("tensorrt") / "engine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FAKES), prepend=os.pathsep)
        trained.emit("tensorrt", folder, (64, 64))
    return folder / "photos.engine"


@pytest.fixture(scope="module")
def kit(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of fixed size."""
    folder = tmp_path_factory.mktemp("tensorrt") / "kit"
    trained.emit("tensorrt", folder, (160, 160))
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"half": True}, {"dynamic": True}, {"half": True, "dynamic": True}],
    ids=["", "half", "dynamic", "both"],
)
def test_the_model_of_a_kit_agrees_with_torch_and_carries_the_precision(
    options: dict[str, Any], trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    emitted = trained.emit_here("tensorrt", tmp_path / "kit", (160, 160), **options)
    model = tmp_path / "kit" / emitted.model
    session = open_here("tensorrt", model)
    precision = "fp16" if options.get("half") else "fp32"
    assert session.metadata.precision == precision
    agrees(session, reference, photographs[: 2 if options.get("dynamic") else 1, :, :160, :160], precision)
    stored = {entry.data_type for entry in onnx.load(model).graph.initializer if entry.name.endswith("conv.bias")}
    assert stored == {onnx.TensorProto.FLOAT16 if options.get("half") else onnx.TensorProto.FLOAT}


def test_without_a_gpu_a_kit_is_written_that_says_what_is_left_to_do(trained: Trained, tmp_path: Path) -> None:
    emitted = trained.emit_here("tensorrt", tmp_path / "kit", (64, 64))
    assert emitted.deferred
    assert emitted.model == "photos.onnx"
    assert emitted.notes[0].startswith(f"no engine was built: {no_engine_here()}")
    assert "pip install tensorrt numpy, then python build_engine.py in this folder" in emitted.notes[1]
    assert len(emitted.notes) == (3 if HAS_RTX else 2)
    assert [path.name for path in (tmp_path / "kit").iterdir()] == ["photos.onnx"]
    session = open_here("tensorrt", tmp_path / "kit" / emitted.model)
    assert session.runtime == "the ONNX model of the build kit, onnxruntime on the CPU; no engine was run"


def test_the_alias_and_doctor_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_target("engine") is TARGET
    assert run(["doctor", "--target", "tensorrt", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["targets"]
    assert entry["emit"]["possible"]
    assert entry["remarks"][0].startswith(f"writes a build kit in place of an engine: {no_engine_here()}")


@pytest.mark.parametrize("options", [{}, {"half": True, "dynamic": True, "workspace": 2.0}], ids=["plain", "all"])
def test_the_same_input_gives_the_same_kit_in_every_process(options: dict[str, Any], emit_twice: EmitTwice) -> None:
    assert sorted(emit_twice("tensorrt", **options)) == ["build_engine.py", "photos.onnx", "predict.py"]


class Builder:
    """Runs a kit's build script against the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.calls_file = folder.parent / f"{folder.name}.calls"
        self.folder = folder

    def __call__(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", str(self.folder / "build_engine.py"), *map(str, arguments)]
        fakes = {"PYTHONPATH": str(FAKES), "FAKE_TENSORRT_CALLS": str(self.calls_file)}
        return subprocess.run(
            command, env={**os.environ, **fakes, **variables}, capture_output=True, text=True, timeout=120, check=False
        )

    def calls(self) -> dict[str, list[Any]]:
        lines = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        self.calls_file.unlink()
        assert len({line[0] for line in lines}) == len(lines)
        return {line[0]: line[1:] for line in lines}


@pytest.fixture(scope="module")
def small_kits(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``fixed`` and ``free``, the latter half, dynamic, and with little workspace."""
    root = tmp_path_factory.mktemp("kits")
    trained.emit("tensorrt", root / "fixed", (64, 96))
    trained.emit("tensorrt", root / "free", (64, 96), half=True, dynamic=True, workspace=0.5)
    return root


@pytest.mark.parametrize(("version", "flags"), [("10.13.2", 2), ("11.4.1", 1), ("12.0.0", 0)])
def test_the_build_script_builds_a_strongly_typed_engine_with_every_version(
    version: str, flags: int, trained: Trained, small_kits: Path, tmp_path: Path
) -> None:
    builder = Builder(small_kits / "fixed")
    done = builder("-o", tmp_path / "e.engine", FAKE_TENSORRT=version)
    assert done.returncode == 0, done.stderr
    assert builder.calls() == {"create_network": [flags], "clear_flag": ["TF32"]}
    content = (tmp_path / "e.engine").read_bytes()
    (length,) = struct.unpack("<I", content[:4])
    assert json.loads(content[4 : 4 + length]) == trained.metadata((64, 96), segc_version="0").to_json()
    assert content.endswith((small_kits / "fixed" / "photos.onnx").read_bytes())
    lines = done.stdout.splitlines()
    assert lines[0] == f"tensorrt {version} for Imaginary GPU: this may take minutes"
    assert lines[1].startswith("built in ")
    assert lines[2].startswith(f"{tmp_path / 'e.engine'}: ")
    assert lines[3].endswith(" ms an image of 64 x 96 pixels")


def test_free_sizes_get_a_profile_and_scratch_space_its_limit(small_kits: Path, tmp_path: Path) -> None:
    builder = Builder(small_kits / "free")
    assert builder("-o", tmp_path / "e.engine").returncode == 0
    calls = builder.calls()
    assert calls["add_optimization_profile"] == ["images", [1, 3, 32, 32], [1, 3, 64, 96], [MAX_BATCH, 3, 192, 192]]
    assert calls["set_memory_pool_limit"] == ["WORKSPACE", 1 << 29]


def test_the_build_script_can_be_told_otherwise(small_kits: Path, tmp_path: Path) -> None:
    builder = Builder(small_kits / "free")
    done = builder("-o", tmp_path / "e", "--workspace", 2, "--tf32", "--max-batch", 3, "--max-side", 64)
    assert done.returncode == 0, done.stderr
    calls = builder.calls()
    assert calls["add_optimization_profile"][3] == [3, 3, 64, 96]
    assert calls["set_memory_pool_limit"] == ["WORKSPACE", 1 << 31]
    assert "clear_flag" not in calls
    assert "--max-batch" not in Builder(small_kits / "fixed")("--help").stdout


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("parse", "TensorRT cannot read the ONNX model: unsupported operator Frobnicate"),
        ("build", "TensorRT built no engine; what it printed says why"),
    ],
)
def test_a_build_that_fails_says_why_and_writes_nothing(
    fails: str, message: str, small_kits: Path, tmp_path: Path
) -> None:
    done = Builder(small_kits / "fixed")("-o", tmp_path / "e.engine", FAKE_TENSORRT_FAILS=fails)
    assert (done.returncode, done.stderr.strip()) == (1, message)
    assert not [*tmp_path.iterdir()]


def test_the_scripts_of_a_kit_say_what_is_missing_here(kit: Path, shapes: Path) -> None:
    builder = Builder(kit)
    done = builder(PYTHONPATH="")
    assert (done.returncode, done.stderr) == (1, "the package tensorrt is not installed: pip install tensorrt\n")
    done = Standalone(kit)(min((shapes / "images" / "train").iterdir()))
    assert done.returncode == 1
    assert done.stderr.endswith(
        "photos.engine: no such engine: python build_engine.py builds it, on the machine with the GPU\n"
    )


def test_the_predict_script_runs_the_engine_and_finds_what_segc_predict_finds(
    kit: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Builder(kit)().returncode == 0
    try:
        script = Standalone(kit, ABSENT)
        script.path = [FAKES]
        photos = sorted((shapes / "images" / "train").iterdir())[:3]
        (tmp_path / "kit").mkdir()
        artifact = {"format": 3, "target": "tensorrt", "model": "photos.onnx", "status": "deferred"}
        (kit / "artifact.json").write_text(json.dumps(artifact))
        script.finds_what_segc_predict_finds(kit, photos, tmp_path, same_runtime=False)
        capsys.readouterr()
        (kit / "photos.engine").write_bytes(b"\x10\x00\x00\x00{}")
        done = script(photos[0])
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "not an engine with metadata in front" in done.stderr
    finally:
        (kit / "photos.engine").unlink()


@pytest.mark.usefixtures("gpu")
def test_with_a_gpu_the_engine_is_built_and_run(
    trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    emitted = trained.emit("tensorrt", tmp_path / "t", (320, 320), dynamic=True)
    assert (emitted.model, emitted.deferred) == ("photos.engine", False)
    assert emitted.notes[0].startswith("built by TensorRT 10.13.2 on Imaginary GPU in ")
    files = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert files == ["build_engine.py", "photos.engine", "photos.onnx", "predict.py"]
    images = np.ascontiguousarray(photographs[:, :, :320, :320])
    ours, said = run_in_worker("tensorrt", tmp_path / "t" / "photos.engine", images)
    assert said["runtime"] == "TensorRT 10.13.2 on Imaginary GPU"
    assert said["metadata"]["dynamic"] is True
    outputs_agree(ours, reference.run(images), (320, 320))


@pytest.mark.usefixtures("gpu")
def test_an_engine_is_refused_by_another_version_and_takes_no_other_size(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.emit("tensorrt", tmp_path / "t", (64, 64))
    engine = tmp_path / "t" / "photos.engine"
    with pytest.raises(SegcError, match=r"the engine takes no images of shape \[1, 3, 96, 64\]"):
        run_in_worker("tensorrt", engine, np.zeros((1, 3, 96, 64), np.float32))
    monkeypatch.setenv("FAKE_TENSORRT", "11.4.1")
    with pytest.raises(
        SegcError, match=r"TensorRT 11.4.1 on Imaginary GPU cannot take it.*build_engine.py builds another"
    ):
        run_in_worker("tensorrt", engine, np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.usefixtures("gpu")
def test_a_failed_build_is_an_error_and_no_kit(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_FAILS", "parse")
    with pytest.raises(SegcError, match="T003: tensorrt: TensorRT cannot read the ONNX model: unsupported operator"):
        trained.emit("tensorrt", tmp_path / "t", (64, 64))


METADATA = metadata_text(Metadata(("Käse",), (32, 32)))


def test_a_header_comes_back_as_it_was_written() -> None:
    text, engine = split_header(with_header(b"engine", METADATA))
    assert (text.decode(), engine) == (METADATA, b"engine")


NO_ENGINES = (
    b"",
    b"\x02\x00",
    b"\xff\xff\xff\xff{}",
    b"\x05\x00\x00\x00{}",
    b"\x02\x00\x00\x00xx",
    b"ftrt" + bytes(100),
)
"""Files whose head is not that of an engine of segc."""


@pytest.mark.parametrize("content", NO_ENGINES, ids=range(len(NO_ENGINES)))
def test_a_file_without_metadata_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an engine with metadata in front"):
        split_header(content)
    (tmp_path / "m.engine").write_bytes(content)
    assert refusal(tmp_path / "m.engine") == "not an engine with metadata in front"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_header(b"engine", METADATA), str(no_engine_here())),
        (with_header(b"engine", '{"names": ["a"]}'), "not a model of segc"),
    ],
)
def test_an_engine_that_cannot_run_here_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(content)
    assert refusal(tmp_path / "m.engine").startswith(message)


def test_an_engine_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such engine: python build_engine.py builds it"):
        open_model(tmp_path / "m.engine", 1)


def test_the_options_say_what_an_engine_of_free_sizes_takes() -> None:
    assert (MAX_BATCH, MAX_SIDES) == (8, 2)
    assert f"up to {MAX_BATCH} images with sides of twice" in (TARGET.options.model_fields["dynamic"].description or "")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"imgsz": [64, 96]}, r"its input is \[1, 3, 64, 64\], and its metadata speak of \[1, 3, 64, 96\]"),
        ({"layout": "fused"}, "its outputs are 'boxes, coefficients, prototypes, scores'"),
        ({"dynamic": True}, r"its input is \[1, 3, 64, 64\], and its metadata speak of \[None, 3, None, None\]"),
    ],
    ids=["size", "outputs", "free"],
)
def test_metadata_of_another_engine_are_seen_through(
    claim: dict[str, Any], message: str, engine: Path, tmp_path: Path
) -> None:
    text, content = split_header(engine.read_bytes())
    (tmp_path / "m.engine").write_bytes(with_header(content, json.dumps({**json.loads(text), **claim})))
    with pytest.raises(SegcError, match=message):
        run_in_worker("tensorrt", tmp_path / "m.engine", np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.usefixtures("gpu")
def test_an_engine_that_is_cut_is_refused_in_one_line(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(engine.read_bytes()[:5000])
    with pytest.raises(SegcError) as caught:
        run_in_worker("tensorrt", tmp_path / "m.engine", np.zeros((1, 3, 64, 64), np.float32))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "T006"
    assert len(diagnostic.message.splitlines()) == 1


@rtx
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_tensorrt_rtx_builds_an_engine_of_every_form(
    dynamic: bool, half: bool, trained: Trained, tmp_path: Path
) -> None:
    model = trained.onnx(tmp_path / "m.onnx", (320, 320), half=half, dynamic=dynamic).read_bytes()
    profile = profile_for((320, 320), 32) if dynamic else None
    engine = build(load_tensorrt(), model, profile=profile, workspace=1.0, tf32=False, capability="SM89")
    assert len(engine) > 5_000_000


@rtx
def test_the_build_script_works_with_tensorrt_rtx(small_kits: Path, tmp_path: Path) -> None:
    done = Builder(small_kits / "free")(
        "-o", tmp_path / "e", "--capability", "SM80", PYTHONPATH=os.environ["PYTHONPATH"]
    )
    assert done.returncode == 0, done.stderr
    text, engine = split_header((tmp_path / "e").read_bytes())
    assert json.loads(text)["dynamic"] is True
    assert len(engine) > 5_000_000


@rtx
def test_a_kit_says_that_tensorrt_rtx_built_an_engine_of_it(trained: Trained, tmp_path: Path) -> None:
    notes = trained.emit_here("tensorrt", tmp_path / "kit", (64, 64)).notes
    assert notes[-1].startswith("an engine was built by TensorRT-RTX ")
    assert notes[-1].endswith(" for SM89 and thrown away, it was not run")
