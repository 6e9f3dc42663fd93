"""TensorFlow.js: the graph model, and its session in Node.js."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.diagnostics import SegcError
from segc.emission.script import render_files
from segc.emission.verify import OUTPUTS
from segc.files import resource
from segc.inference.metadata import Metadata, ModelError
from segc.network.initialise import initial_weights
from segc.targets import tfjs
from segc.targets.tfjs.lowering import SHARD_BYTES
from segc.targets.tfjs.node import node_version
from segc.targets.tfjs.runtime import open_model
from tests.targets.conftest import DEFAULTS, Trained, agrees, contents, open_here, refusal
from tests.targets.forms import in_a_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from segc.inference.model import Model
    from segc.network.session import TorchSession

RUNTIME = resource("templates", "predict", "tfjs")

GENERATED = ["constants.js", "index.html"]

needs_node = pytest.mark.skipif(node_version() is None, reason="there is no Node.js")


@pytest.fixture(scope="module")
def artifacts(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Artifact folders by size and options, each emitted once."""
    root = tmp_path_factory.mktemp("tfjs")
    made: dict[Any, Path] = {}

    def get(size: tuple[int, int] = (160, 160), **options: Any) -> Path:
        key = (size, *options.items())
        if key not in made:
            made[key] = root / str(len(made))
            trained.emit("tfjs", made[key], size, **options)
        return made[key]

    return get


def each_agrees(session: Model, reference: TorchSession, images: np.ndarray, precision: str) -> None:
    for image in images:
        agrees(session, reference, image[None], precision)


@needs_node
def test_a_model_agrees_with_torch(
    artifacts: Callable[..., Path], trained: Trained, reference: TorchSession, photographs: np.ndarray
) -> None:
    session = open_here("tfjs", artifacts() / "photos_web_model")
    each_agrees(session, reference, photographs[:, :, :160, :160], "fp32")
    assert re.fullmatch(r"TensorFlow.js \(WebAssembly, one thread\) in Node.js \d+\.\d+\.\d+", session.runtime)
    assert session.metadata == trained.metadata((160, 160), channels="last", segc_version="0")


@needs_node
def test_a_model_that_is_wider_than_high_agrees_with_torch(
    artifacts: Callable[..., Path], reference: TorchSession, photographs: np.ndarray
) -> None:
    session = open_here("tfjs", artifacts((224, 416)) / "photos_web_model")
    each_agrees(session, reference, photographs[:, :, :224, :416], "fp32")


@needs_node
def test_weights_of_a_larger_network_lie_in_several_shards(
    trained: Trained, photographs: np.ndarray, tmp_path: Path
) -> None:
    from segc.network.session import TorchSession

    scale = SCALES["n"]
    larger = trained._replace(weights=initial_weights(build(scale, 6, (64, 64)).parameters, 0), scale=scale)
    model = tmp_path / "m" / larger.emit("tfjs", tmp_path / "m", (64, 64)).model
    shards = sorted(model.glob("*.bin"))
    assert [shard.name for shard in shards] == [f"group1-shard{i}of4.bin" for i in (1, 2, 3, 4)]
    assert all(shard.stat().st_size <= SHARD_BYTES for shard in shards)
    reference = TorchSession(larger.graph((64, 64)), larger.weights, larger.metadata((64, 64)))
    agrees(open_here("tfjs", model), reference, photographs[:1, :, :64, :64])


@needs_node
def test_half_precision_halves_the_filters_and_leaves_biases_and_decode_as_they_are(
    artifacts: Callable[..., Path], reference: TorchSession, photographs: np.ndarray
) -> None:
    model = artifacts(half=True) / "photos_web_model"
    session = open_here("tfjs", model)
    assert session.metadata.precision == "fp16"
    each_agrees(session, reference, photographs[:, :, :160, :160], "fp16")
    description = json.loads((model / "model.json").read_bytes())
    for entry in description["weightsManifest"][0]["weights"]:
        halved = entry.get("quantization") == {"dtype": "float16", "original_dtype": "float32"}
        assert halved == (len(entry["shape"]) == 4), entry
    sizes = [
        sum(file.stat().st_size for file in folder.glob("photos_web_model/*.bin"))
        for folder in (artifacts(), model.parent)
    ]
    assert sizes[1] < 0.51 * sizes[0]


def test_the_same_input_gives_the_same_files_in_every_process(
    artifacts: Callable[..., Path], trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = artifacts()
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    trained.emit("tfjs", tmp_path / "again", (160, 160))
    assert contents(tmp_path / "again") == contents(first)


def test_an_artifact_holds_the_model_the_page_and_its_runtime(artifacts: Callable[..., Path]) -> None:
    folder = artifacts()
    assert sorted(path.name for path in folder.iterdir()) == sorted(["photos_web_model", *GENERATED, *tfjs.PAGE])
    description = json.loads((folder / "photos_web_model" / "model.json").read_bytes())
    assert description["format"] == "graph-model"
    assert list(description["signature"]["outputs"]) == list(OUTPUTS)
    assert description["userDefinedMetadata"]["structuredOutputKeys"] == list(OUTPUTS)
    lengths = description["signature"]["outputs"]["prototypes"]["tensorShape"]["dim"]
    assert [int(length["size"]) for length in lengths] == [1, 40, 40, 32]
    names = {node["name"] for node in description["modelTopology"]["node"]}
    assert "model.2.m.0.cv1.conv/Conv2D" in names


@needs_node
def test_the_worker_says_what_it_is_where_it_is_run_as_a_program() -> None:
    done = subprocess.run(["node", RUNTIME / "predict.js", "photo.jpg"], capture_output=True, text=True, check=False)
    said = "predict.js is the worker of index.html, no program: run python -m http.server here, and open the page\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_what_ships_is_what_runs_in_node_and_what_was_tested_against_python(artifacts: Callable[..., Path]) -> None:
    folder = artifacts()
    for name in tfjs.PAGE:
        if (RUNTIME / name).is_dir():
            assert contents(folder / name) == contents(RUNTIME / name)
        else:
            assert (folder / name).read_bytes() == (RUNTIME / name).read_bytes()


def test_the_runtime_is_the_one_that_the_readme_tells_how_to_build() -> None:
    told = dict(
        re.findall(r"^ {4}([0-9a-f]{64})  (\S+)$", (RUNTIME / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    files = {digest: RUNTIME / "runtime" / name for digest, name in told.items()}
    assert {file.name for file in files.values()} == {"tf.min.js", "tfjs-backend-wasm-simd.wasm"}
    for digest, file in files.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert sum(file.stat().st_size for file in RUNTIME.rglob("*") if file.is_file()) < 1_200_000


@pytest.fixture
def model(artifacts: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a model, to be damaged."""
    return Path(shutil.copytree(artifacts() / "photos_web_model", tmp_path / "photos_web_model"))


def rewritten(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    description = json.loads((model / "model.json").read_bytes())
    change(description)
    (model / "model.json").write_text(json.dumps(description))


def _unknown_operator(description: dict[str, Any]) -> None:
    next(node for node in description["modelTopology"]["node"] if node["op"] == "Conv2D")["op"] = "Conv9D"


def _no_such_input(description: dict[str, Any]) -> None:
    next(node for node in description["modelTopology"]["node"] if node["op"] == "Conv2D")["input"][0] = "nowhere"


def _metadata(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda description: description["userDefinedMetadata"]["segc"].update(changes)


def _second_input(description: dict[str, Any]) -> None:
    inputs = description["signature"]["inputs"]
    inputs["more"] = inputs["images"]


def _another_output(description: dict[str, Any]) -> None:
    outputs = description["signature"]["outputs"]
    outputs["boxen"] = outputs.pop("boxes")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no description": (lambda m: (m / "model.json").unlink(), "there is no model.json"),
    "half a description": (lambda m: os.truncate(m / "model.json", 1000), "damaged"),
    "no JSON": (lambda m: (m / "model.json").write_bytes(b"\xff\xfe"), "damaged"),
    "nested without end": (lambda m: (m / "model.json").write_text("[" * 100_000), "damaged"),
    "a list": (lambda m: (m / "model.json").write_text("[]"), "damaged"),
    "a cut shard": (lambda m: os.truncate(m / "group1-shard1of1.bin", 1000), "cut off"),
    "a missing shard": (lambda m: (m / "group1-shard1of1.bin").unlink(), "missing"),
    "a layers model": (lambda m: rewritten(m, lambda d: d.update(format="layers-model")), "damaged"),
    "a shard elsewhere": (
        lambda m: rewritten(m, lambda d: d["weightsManifest"][0]["paths"].__setitem__(0, "../x.bin")),
        "damaged",
    ),
    "a weight of no known type": (
        lambda m: rewritten(m, lambda d: d["weightsManifest"][0]["weights"][0].update(dtype="string")),
        "damaged",
    ),
    "nothing by segc": (
        lambda m: rewritten(m, lambda d: d["userDefinedMetadata"].update(segc={})),
        "not a model of segc",
    ),
    "an unknown operator": (lambda m: rewritten(m, _unknown_operator), "TensorFlow.js cannot run it"),
    "an input that is not there": (lambda m: rewritten(m, _no_such_input), "TensorFlow.js cannot run it"),
    "another size": (lambda m: rewritten(m, _metadata(imgsz=[64, 64])), "its metadata speak of [1, 64, 64, 3]"),
    "another layout": (lambda m: rewritten(m, _metadata(layout="fused")), "its metadata speak of output0, output1"),
    "a second input": (lambda m: rewritten(m, _second_input), "it has 2 inputs"),
    "an output of another name": (lambda m: rewritten(m, _another_output), "its outputs are"),
    "no signature": (lambda m: rewritten(m, lambda d: d.pop("signature")), "damaged"),
}


@needs_node
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_gives_one_error(damage: str, model: Path) -> None:
    spoil, message = DAMAGES[damage]
    spoil(model)
    if message.endswith("cannot run it"):
        # It shows when it runs, or before that.
        with pytest.raises((ModelError, SegcError), match=message):
            open_here("tfjs", model).run(np.zeros((1, 3, 160, 160), np.float32))
    else:
        assert message in refusal(model)


@needs_node
def test_a_session_goes_on_after_images_that_do_not_fit(model: Path) -> None:
    session = open_model(model, 1)
    with pytest.raises(ModelError, match="cannot run it"):
        session.run(np.zeros((1, 3, 64, 64), np.float32))
    assert session.run(np.zeros((1, 3, 160, 160), np.float32))["boxes"].shape == (1, 525, 4)


@needs_node
def test_node_that_ends_midway_is_reported(model: Path) -> None:
    session = open_model(model, 1)
    session.raw.__self__.process.kill()  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"Node\.js ended while it ran it"):
        session.run(np.zeros((1, 3, 160, 160), np.float32))


@needs_node
def test_node_does_not_outlive_a_killed_parent(model: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from segc.targets.tfjs.runtime import open_model\n"
        "s = open_model(Path(sys.argv[1]), 1); print(s.raw.__self__.process.pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code, str(model)], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        assert time.monotonic() < end, "node still runs"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "node is not on PATH: running it here needs Node.js 18 or newer"),
        ("echo v16.20.0", "node is version 16.20.0: running it here needs Node.js 18 or newer"),
        ("exit 1", "node is version ?: running it here needs Node.js 18 or newer"),
    ],
)
def test_without_a_fitting_node_it_is_said_what_is_missing(
    script: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    if script is not None:
        (tmp_path / "node").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "node").chmod(0o755)
    assert message in (tfjs.TARGET.run_environment() or "")
    with pytest.raises(ModelError, match="running it here needs Node") as caught:
        open_model(tmp_path, 1)
    assert message in str(caught.value)


def test_a_filter_beyond_half_precision_is_refused() -> None:
    code = (
        "import json, sys, numpy as np, tensorflow as tf\n"
        "from segc.diagnostics import SegcError\n"
        "from segc.targets.tfjs.lowering import _weight\n"
        "with tf.Graph().as_default() as graph:\n"
        "    tf.constant(np.full((1, 1, 2, 2), 1e5, np.float32), name='filter')\n"
        "try:\n"
        "    _weight(graph.as_graph_def().node[0], half=True)\n"
        "except SegcError as error:\n"
        "    print(json.dumps(str(error)))\n"
    )
    assert "T008" in (said := in_a_process(code))
    assert "filter: a weight is beyond what fp16 holds" in said


def test_names_of_strangers_are_text_in_the_page() -> None:
    metadata = Metadata(("</script><img src=x onerror=alert(1)>",), (32, 64), segc_version='"><b>')
    stem = '"><script>alert(1)</script>'
    options = tfjs.TfjsOptions(format="tfjs")
    page = render_files(tfjs.TARGET, options, f"{stem}_web_model", metadata, replace(DEFAULTS, conf=0.125))[
        "index.html"
    ]
    assert "alert(1)</script>" not in page
    assert "onerror" not in page
    assert '"><b>' not in page
    assert page.count("<script") == 2
    assert 'step="0.001" value="0.125"' in page
    assert 'step="0.01" value="0.7"' in page
    assert "1 class, 64 × 32 pixels" in page  # noqa: RUF001
