"""A trained network to emit, and projects around it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.ir import Graph
from segc.targets.onnx import OnnxOptions, lower
from segc.weights.checkpoint import read_checkpoint


class Trained(NamedTuple):
    """Trained weights of scale n with 80 classes."""

    weights: Mapping[str, np.ndarray]
    names: tuple[str, ...]

    def graph(self, size: tuple[int, int], batch: int = 1) -> Graph:
        return build(SCALES["n"], len(self.names), size, batch)

    def metadata(self, size: tuple[int, int], **settings: Any) -> dict[str, Any]:
        own = {"layout": "named", "batch": 1, "dynamic": False, "precision": "fp32", **settings}
        return {"task": "segment", "names": list(self.names), "imgsz": list(size), "strides": [8, 16, 32], **own}

    def onnx(self, path: Path, size: tuple[int, int], **settings: Any) -> Path:
        """Write an ONNX model of these weights."""
        from segc.graph.passes import fold_batch_norm

        options = OnnxOptions(format="onnx", **settings)
        own = {key: getattr(options, key) for key in ("layout", "batch", "dynamic")}
        graph, weights = fold_batch_norm(self.graph(size, options.batch), self.weights)
        path.write_bytes(lower(graph, weights, options, self.metadata(size, **own)))
        return path


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
