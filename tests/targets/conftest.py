"""A trained network to emit, projects around it, and what the tests of several targets ask of an artifact."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, Scale, build
from segc.arrays import load_arrays, save_arrays
from segc.diagnostics import SegcError
from segc.emission.requests import EmitTask, RunTask
from segc.emission.script import render_files
from segc.emission.verify import OUTPUTS, TOLERANCES, cases
from segc.emission.worker import Worker
from segc.graph.serial import write_graph
from segc.inference.filters import Filters
from segc.inference.letterbox import letterbox, to_input
from segc.inference.metadata import Metadata
from segc.sessions.artifact import open_artifact, open_target
from segc.targets.contract import EmitRequest, Emitted
from segc.targets.registry import targets
from segc.targets.suppression import with_thresholds
from segc.weights.store import load_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from segc.graph.ir import Graph
    from segc.network.session import TorchSession
    from segc.sessions import Session

    EmitTwice = Callable[..., dict[str, bytes]]

DEFAULTS = Filters()
"""Thresholds of the predict scripts."""


class Trained(NamedTuple):
    """Trained weights, the classes they know, and the scale of their network."""

    weights: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    scale: Scale = SCALES["n"]

    def graph(self, size: tuple[int, int], batch: int = 1) -> Graph:
        return build(self.scale, len(self.names), size, batch)

    def metadata(self, size: tuple[int, int], **settings: Any) -> Metadata:
        return Metadata(self.names, size, **settings)

    def request(self, target: str, folder: Path, size: tuple[int, int], **options: Any) -> EmitRequest:
        """What a target is asked to emit into a folder."""
        entry = targets()[target]
        chosen = entry.options.model_validate({"format": target, **options})
        metadata = with_thresholds(self.metadata(size, segc_version="0", **entry.settings(chosen)), DEFAULTS)
        return EmitRequest(self.graph(size, metadata.batch), self.weights, chosen, metadata, "photos", folder)

    def emit_here(self, target: str, folder: Path, size: tuple[int, int], **options: Any) -> Emitted:
        """Emit an artifact of these weights into a folder, in this process and without its scripts."""
        folder.mkdir(exist_ok=True)
        return targets()[target].make(self.request(target, folder, size, **options))

    def model_here(self, target: str, folder: Path, size: tuple[int, int], **options: Any) -> Path:
        """Likewise; gives the model."""
        return folder / self.emit_here(target, folder, size, **options).model

    def onnx(self, path: Path, size: tuple[int, int], **settings: Any) -> Path:
        """Write an ONNX model of these weights."""
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            return self.model_here("onnx", Path(folder), size, **settings).replace(path)

    def emit(
        self, target: str, folder: Path, size: tuple[int, int], *, calibration: Sequence[Path] = (), **options: Any
    ) -> Emitted:
        """Emit an artifact of these weights with its scripts into ``folder``, in a worker: frameworks do not bear
        each other in one process.
        """
        request = self.request(target, folder, size, **options)
        work = folder.parent / f"{folder.name}.work"
        work.mkdir(parents=True)
        folder.mkdir(exist_ok=True)
        (work / "graph.json").write_text(write_graph(request.graph))
        save_arrays(work / "weights.safetensors", self.weights)
        if calibration:
            from segc.network.observing import observe

            (case,) = cases(calibration, size, dynamic=False)
            seen = observe(self.graph(size), self.weights, case.images)
            save_arrays(work / "observations.safetensors", {name: one.to_array() for name, one in seen.items()})
        task = EmitTask(
            target=target,
            graph=str(work / "graph.json"),
            weights=str(work / "weights.safetensors"),
            options=request.options.model_dump(mode="json"),
            metadata=request.metadata.to_json(),
            stem="photos",
            folder=str(folder),
            observations=str(work / "observations.safetensors") if calibration else None,
        )
        with Worker(f"the {target} emitter", threads=1) as worker:
            worker.start("emit", task, 600)
            made = worker.result()
        entry = targets()[target]
        for name, text in render_files(entry, request.options, made["model"], request.metadata, DEFAULTS).items():
            (folder / name).write_text(text, encoding="utf-8")
        made.pop("seconds")
        return Emitted(**{name: tuple(value) if isinstance(value, list) else value for name, value in made.items()})


def run_in_worker(
    target: str, model: Path, images: np.ndarray, batch: int = 1
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The named outputs of a model for images [N, 3, H, W], so many at a time, and what its session says of itself."""
    entry = targets()[target]
    with tempfile.TemporaryDirectory() as name, Worker(f"the {target} model", threads=1) as worker:
        work = Path(name)
        save_arrays(work / "images.safetensors", {"case": images})
        task = RunTask(
            images=str(work / "images.safetensors"),
            outputs=str(work / "outputs.safetensors"),
            model=str(model),
            opener=entry.stand_in(model) or entry.runtime,
            batches={"case": batch},
        )
        worker.start("run", task, 600)
        said = worker.result()
        outputs = load_arrays(work / "outputs.safetensors")
    return {key.removeprefix("case."): value for key, value in outputs.items()}, said


def open_here(target: str, path: Path, threads: int = 1) -> Session:
    """Open a model as segc does, in this process: the target's guard looks at it first."""
    return open_target(targets()[target], path, threads)


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
def trained(shapes_weights: Path) -> Trained:
    """A small network that was trained on shapes: numerics are never judged on random weights."""
    weights = load_weights(shapes_weights)
    assert weights.names
    return Trained(weights.tensors, weights.names, Scale(**json.loads(weights.metadata["scale"])))


@pytest.fixture(scope="session")
def photographs(shapes: Path) -> np.ndarray:
    """Two different inputs, each sixteen pictures side by side: [2, 3, 640, 640] in 0..1."""
    paths = sorted((shapes / "images" / "train").iterdir())[:32]
    pictures = [letterbox(np.asarray(cv2.imread(str(path))), (160, 160))[0][..., ::-1] for path in paths]
    rows = [np.hstack(pictures[first : first + 4]) for first in range(0, len(pictures), 4)]
    return to_input([np.vstack(rows[:4]), np.vstack(rows[4:])])


@pytest.fixture(scope="module")
def reference(trained: Trained) -> Iterator[TorchSession]:
    """PyTorch with these weights, at any size and on one thread."""
    import torch

    from segc.network.session import TorchSession

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TorchSession(trained.graph((320, 320)), trained.weights, trained.metadata((320, 320), dynamic=True))
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
architecture: {{family: yolov8-seg, scale: {{depth: 0.1, width: 0.125, max_channels: 128}}, weights: '{weights}'}}
dataset: {{data: '{shapes}/data.yaml', train: images/train, val: images/train, path: '{shapes}'}}
hyperparameters: {{imgsz: 160}}
targets:
  - format: onnx
"""


@pytest.fixture
def project(tmp_path: Path, shapes: Path, shapes_weights: Path) -> Path:
    """A project file whose starting weights are trained ones, with the images they know."""
    path = tmp_path / "project.yaml"
    path.write_text(PROJECT.format(weights=shapes_weights, shapes=shapes))
    return path
