"""A trained network to emit, projects around it, and what the tests of several targets ask of an artifact."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.diagnostics import SegcError
from segc.targets.artifact import open_artifact
from segc.targets.base import METADATA_DEFAULTS, OUTPUTS, EmitRequest, Emitted
from segc.targets.onnx import OnnxOptions, lower
from segc.targets.registry import targets
from segc.targets.script import render_scripts
from segc.targets.verify import TOLERANCES, cases
from segc.targets.worker import Worker, load_arrays, save_arrays
from segc.weights.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from segc.graph.ir import Graph
    from segc.network.session import TorchSession
    from segc.targets.base import Session

    EmitTwice = Callable[..., dict[str, bytes]]

DEFAULTS = {"conf": 0.25, "iou": 0.7, "max_det": 300}
"""Thresholds of the predict scripts."""


class Trained(NamedTuple):
    """Trained weights of scale n with 80 classes."""

    weights: Mapping[str, np.ndarray]
    names: tuple[str, ...]

    def graph(self, size: tuple[int, int], batch: int = 1) -> Graph:
        return build(SCALES["n"], len(self.names), size, batch)

    def metadata(self, size: tuple[int, int], **settings: Any) -> dict[str, Any]:
        own = {**METADATA_DEFAULTS, **settings}
        return {"task": "segment", "names": list(self.names), "imgsz": list(size), "strides": [8, 16, 32], **own}

    def onnx(self, path: Path, size: tuple[int, int], **settings: Any) -> Path:
        """Write an ONNX model of these weights."""
        from segc.graph.passes import fold_batch_norm

        options = OnnxOptions(format="onnx", **settings)
        own = targets()["onnx"].settings(options)
        graph, weights = fold_batch_norm(self.graph(size, options.batch), self.weights)
        path.write_bytes(lower(graph, weights, options, self.metadata(size, **own)))
        return path

    def emit_here(self, target: str, folder: Path, size: tuple[int, int], **options: Any) -> Emitted:
        """Emit an artifact of these weights into a new folder, in this process and without its scripts."""
        folder.mkdir()
        entry = targets()[target]
        chosen = entry.options.model_validate({"format": target, **options})
        metadata = self.metadata(size, **entry.settings(chosen))
        return entry.emit(EmitRequest(self.graph(size), self.weights, chosen, metadata, "photos", folder))

    def model_here(self, target: str, folder: Path, size: tuple[int, int], **options: Any) -> Path:
        """Likewise; gives the model."""
        return folder / self.emit_here(target, folder, size, **options).model

    def emit(
        self, target: str, folder: Path, size: tuple[int, int], *, calibration: Sequence[Path] = (), **options: Any
    ) -> Emitted:
        """Emit an artifact of these weights with its scripts into ``folder``, in a worker: frameworks do not bear
        each other in one process.
        """
        entry = targets()[target]
        chosen = entry.options.model_validate({"format": target, **options})
        metadata = self.metadata(size, segc_version="0", **entry.settings(chosen))
        if metadata["layout"] == "detections":
            metadata |= DEFAULTS
        work = folder.parent / f"{folder.name}.work"
        work.mkdir(parents=True)
        folder.mkdir(exist_ok=True)
        (work / "graph.json").write_text(self.graph(size, metadata["batch"]).to_json())
        save_arrays(work / "weights.safetensors", self.weights)
        if calibration:
            (case,) = cases(calibration, size, dynamic=False)
            save_arrays(work / "calibration.safetensors", {"images": case.images})
        order = {
            "target": target,
            "graph": str(work / "graph.json"),
            "weights": str(work / "weights.safetensors"),
            "options": chosen.model_dump(mode="json"),
            "metadata": metadata,
            "stem": "photos",
            "folder": str(folder),
            "thresholds": DEFAULTS,
            "calibration": str(work / "calibration.safetensors") if calibration else None,
        }
        with Worker(f"the {target} emitter", threads=1) as worker:
            worker.start("emit", order, 600)
            made = worker.result()
        for name, text in render_scripts(entry, made["model"], metadata, DEFAULTS).items():
            (folder / name).write_text(text, encoding="utf-8")
        return Emitted(made["model"], tuple(made["notes"]), made["deferred"])


def run_in_worker(target: str, model: Path, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The named outputs of a model for images [N, 3, H, W], one at a time, and what its session says of itself."""
    with tempfile.TemporaryDirectory() as name, Worker(f"the {target} session", threads=1) as worker:
        work = Path(name)
        save_arrays(work / "images.safetensors", {"case": images})
        order = {
            "target": target,
            "model": str(model),
            "images": str(work / "images.safetensors"),
            "batches": {},
            "threads": 1,
            "outputs": str(work / "outputs.safetensors"),
        }
        worker.start("run", order, 600)
        said = worker.result()
        outputs = load_arrays(work / "outputs.safetensors")
    return {key.removeprefix("case."): value for key, value in outputs.items()}, said


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outputs_agree(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], size: Sequence[int], precision: str = "fp32"
) -> None:
    """Assert that outputs at an image size are PyTorch's, within what the precision may be off."""
    assert set(ours) == set(OUTPUTS)
    for name in OUTPUTS:
        assert ours[name].dtype == np.float32
        assert ours[name].shape == theirs[name].shape
        assert np.abs(ours[name] - theirs[name]).max() <= TOLERANCES[precision].of(name, size), name


def agrees(session: Session, reference: TorchSession, images: np.ndarray, precision: str = "fp32") -> None:
    """Assert that a session gives for images what PyTorch gives, and in the usual order."""
    images = np.ascontiguousarray(images)
    ours = session.run(images)
    assert list(ours) == list(OUTPUTS)
    outputs_agree(ours, reference.run(images), images.shape[2:], precision)


def refusal(model: Path) -> str:
    """The one line in which a model is refused."""
    with pytest.raises(SegcError) as caught:
        open_artifact(model, 1)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "T006"
    assert "\n" not in diagnostic.message
    return diagnostic.message


@pytest.fixture(scope="session")
def trained(peer: Path) -> Trained:
    """The recorded checkpoint: numerics are never judged on random weights."""
    checkpoint = read_checkpoint(peer / "overfit32_last.pt")
    assert checkpoint.names
    return Trained(checkpoint.tensors, checkpoint.names)


@pytest.fixture(scope="session")
def photographs(peer: Path) -> np.ndarray:
    """Two different inputs, a photograph and noise, each repeated: [2, 3, 640, 640] in 0..1."""
    recorded = np.load(peer / "overfit32_expected.npz")
    photo = recorded["in_photo320_u8_rgb_chw"].astype(np.float32) / 255
    return np.tile(np.concatenate([photo, recorded["in_rand320"]]), (1, 1, 2, 2))


@pytest.fixture(scope="module")
def reference(trained: Trained) -> Iterator[TorchSession]:
    """PyTorch with these weights, at any size and on one thread."""
    import torch

    from segc.network.session import TorchSession

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TorchSession(trained.graph((320, 320)), trained.weights, {})
    torch.set_num_threads(before)


@pytest.fixture
def emit_twice(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmitTwice:
    """Emits in two processes that hash differently; gives the files, which must be the same."""

    def emitted(target: str, size: tuple[int, int] = (64, 64), **options: Any) -> dict[str, bytes]:
        made = []
        for seed in ("1", "77"):
            monkeypatch.setenv("PYTHONHASHSEED", seed)
            trained.emit(target, tmp_path / seed, size, **options)
            made.append(contents(tmp_path / seed))
        assert made[0] == made[1]
        return made[0]

    return emitted


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """The ``model`` of the test's own file once more, to be damaged."""
    if model.is_dir():
        return shutil.copytree(model, tmp_path / model.name)
    return shutil.copyfile(model, tmp_path / model.name)


PROJECT = """\
version: 1
name: photos
architecture: {{family: yolov8-seg, scale: n, weights: '{weights}'}}
dataset: {{data: '{coco}/data.yaml', train: images/train, val: images/train, path: '{coco}'}}
hyperparameters: {{imgsz: 320}}
targets:
  - format: onnx
"""


@pytest.fixture
def project(tmp_path: Path, coco: Path, peer: Path) -> Path:
    """A project file whose starting weights are trained ones, with the images they know."""
    path = tmp_path / "project.yaml"
    path.write_text(PROJECT.format(weights=peer / "overfit32_last.pt", coco=coco))
    return path
