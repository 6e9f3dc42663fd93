"""A trained network to emit, and projects around it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.ir import Graph
from segc.targets.base import METADATA_DEFAULTS, Emitted
from segc.targets.onnx import OnnxOptions, lower
from segc.targets.registry import targets
from segc.targets.script import render_scripts
from segc.targets.verify import cases
from segc.targets.worker import Worker, load_arrays, save_arrays
from segc.weights.checkpoint import read_checkpoint

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


@pytest.fixture(scope="session")
def trained(peer: Path) -> Trained:
    """The recorded checkpoint: numerics are never judged on random weights."""
    checkpoint = read_checkpoint(peer / "overfit32_last.pt")
    assert checkpoint.names
    return Trained(checkpoint.tensors, checkpoint.names)


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
