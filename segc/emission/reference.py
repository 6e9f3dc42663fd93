"""What artifacts are compared with: PyTorch's answers, worked out once for all targets with the same input."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from segc.arrays import load_arrays, save_arrays
from segc.emission.requests import MeasureTask, ReferenceTask
from segc.emission.worker import THREADS
from segc.targets.contract import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segc.emission.verify import Case
    from segc.emission.worker import Worker, WorkerPool
    from segc.spec.load import LoadedProject

TORCH = Requirement("torch", "torch", "2.6")

REFERENCE_THREADS = 2
"""Threads of the PyTorch reference, which the others wait for."""


def hire_reference(pool: WorkerPool) -> Worker:
    """A worker for PyTorch, that lives as long as the pool."""
    return pool.hire("the PyTorch reference", ["segc.network.session"], REFERENCE_THREADS)


class Reference:
    """PyTorch's answers for one input size.

    Args:
        pool: gives workers.
        worker: runs PyTorch.
        folder: for files, not there yet.
        loaded: the project.
        weights: file with the trained values.
        images: photographs to run on.
        size: input (height, width).
        dynamic: also at another size, for artifacts that take any.

    Attributes:
        photographs: what was run on.
        cases: the frames made of them.
    """

    def __init__(
        self,
        pool: WorkerPool,
        worker: Worker,
        folder: Path,
        loaded: LoadedProject,
        weights: Path,
        images: Sequence[Path],
        size: tuple[int, int],
        *,
        dynamic: bool,
    ) -> None:
        from segc.architectures import build_graph
        from segc.emission.verify import cases
        from segc.graph.serial import write_graph

        project = loaded.project
        folder.mkdir(parents=True)
        self._pool, self._folder, self._loaded, self._size = pool, folder, loaded, size
        self._lock = threading.Lock()
        self._outputs: dict[str, NDArray[Any]] | None = None
        self._accuracy: dict[str, Any] | None = None
        self.photographs = images
        self.cases: list[Case] = cases(images, size, dynamic=dynamic)
        save_arrays(self.images, {case.name: case.images for case in self.cases})
        graph = build_graph(project.architecture, project.dataset.nc, size)
        (folder / "graph.json").write_text(write_graph(graph), encoding="utf-8")
        self._graph, self._weights, self._worker = str(folder / "graph.json"), str(weights), worker
        outputs = str(folder / "outputs.safetensors")
        task = ReferenceTask(str(self.images), outputs, graph=self._graph, weights=self._weights)
        pool.start(worker, "reference", task)

    @property
    def images(self) -> Path:
        """File with each case's images."""
        return self._folder / "images.safetensors"

    def outputs(self) -> dict[str, NDArray[Any]]:
        """PyTorch's outputs by ``<case>.<output>``.

        Raises:
            SegcError: T004, T005, T009 where the worker came to no answer.
        """
        with self._lock:
            if self._outputs is None:
                self._worker.result()
                self._outputs = load_arrays(self._folder / "outputs.safetensors")
            return self._outputs

    def measure_task(self, **runs: str) -> MeasureTask:
        """What a worker needs to measure mAP on the validation split at this size; ``runs`` say of what."""
        return MeasureTask(
            project=self._loaded.project.model_dump_json(exclude_unset=True),
            path=str(self._loaded.path),
            size=list(self._size),
            threads=THREADS,
            **runs,
        )

    def accuracy(self) -> dict[str, Any]:
        """The trained network's mAP on the validation split.

        Raises:
            SegcError: T004, T005, T009 where the worker came to no answer.
        """
        with self._lock:
            if self._accuracy is None:
                worker = hire_reference(self._pool)
                self._pool.start(worker, "measure", self.measure_task(graph=self._graph, weights=self._weights))
                self._accuracy = worker.result()
            return self._accuracy


class References:
    """The reference for every input size, and the file of weights for all who read it; made when first asked for.

    Args:
        pool: gives workers.
        folder: for files, not there yet.
        loaded: the project.
        weights: trained values.
        images: all photographs of the split.
        spare: a worker that imports PyTorch already.
    """

    def __init__(
        self,
        pool: WorkerPool,
        folder: Path,
        loaded: LoadedProject,
        weights: Mapping[str, Any],
        images: Sequence[Path],
        spare: Worker | None = None,
    ) -> None:
        self._pool, self._folder, self._loaded, self._weights, self._images = pool, folder, loaded, weights, images
        self._lock = threading.RLock()
        self._made: dict[tuple[tuple[int, int], bool, int], Reference] = {}
        self._told: dict[tuple[int, int], Reference | None] = {}
        self._file: Path | None = None
        self._spare = spare
        self._number = 0

    def weights(self) -> Path:
        """The file with the trained values."""
        with self._lock:
            if self._file is None:
                path = self._folder / "weights.safetensors"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_arrays(path, self._weights)
                self._file = path
            return self._file

    def of(self, size: tuple[int, int], *, dynamic: bool = False, many: bool = False) -> Reference:
        """The reference for an input size on a few photographs, or on many, at work or done."""
        from segc.emission.verify import IMAGES, MANY_IMAGES, choose

        count = MANY_IMAGES if many else IMAGES
        with self._lock:
            key = (size, dynamic, count)
            if key not in self._made:
                self._made[key] = self._start(choose(self._images, count), size, dynamic=dynamic)
            return self._made[key]

    def telling(self, size: tuple[int, int]) -> Reference | None:
        """A reference on photographs that PyTorch finds something on; None where it does so on none of many.

        Raises:
            SegcError: T004, T005, T009 where a worker came to no answer.
        """
        from segc.emission.verify import telling

        with self._lock:
            if size not in self._told:
                many = self.of(size, many=True)
                found = [many.photographs[index] for index in telling(many.outputs())]
                self._told[size] = self._start(found, size, dynamic=False) if found else None
            return self._told[size]

    def _start(self, images: Sequence[Path], size: tuple[int, int], *, dynamic: bool) -> Reference:
        worker, self._spare = self._spare or hire_reference(self._pool), None
        self._number += 1
        folder = self._folder / str(self._number)
        return Reference(self._pool, worker, folder, self._loaded, self.weights(), images, size, dynamic=dynamic)
