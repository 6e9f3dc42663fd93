"""What artifacts are compared with: PyTorch's answers, worked out once for all targets with the same input."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from segc.targets.base import Requirement
from segc.targets.worker import Worker, load_arrays, save_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from segc.spec.load import LoadedProject
    from segc.targets.verify import Case

TORCH = Requirement("torch", "torch", "2.6")

THREADS = 1
"""Threads a worker: several run side by side, and sums over a fixed number of threads come out the same every time."""

REFERENCE_THREADS = 2
"""Threads of the PyTorch reference, which the others wait for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of every worker.

    Attributes:
        seconds: time for its task.
        memory: bytes that it and the processes that it starts may hold; 0 for three quarters of the machine's.
    """

    seconds: float
    memory: int = 0


@dataclass
class Crew:
    """The workers that are there, so that all can be ended at once; a context manager that does so."""

    settings: Settings
    _workers: set[Worker] = field(default_factory=set)
    _spare: Worker | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def worker(self, title: str, modules: Sequence[str] = (), threads: int = THREADS) -> Iterator[Worker]:
        """A worker that imports ``modules`` while it waits for its task."""
        worker = self._hire(title, modules, threads)
        try:
            with worker:
                yield worker
        finally:
            with self._lock:
                self._workers.discard(worker)

    def start(self, worker: Worker, task: str, request: Mapping[str, Any]) -> None:
        """Give a worker its task."""
        worker.start(task, request, self.settings.seconds, self.settings.memory)

    def prepare_reference(self) -> None:
        """Have a worker import PyTorch now, for whoever asks for the reference first."""
        self._spare = self._hire_reference()

    def reference(self) -> Worker:
        """A worker for PyTorch, that lives as long as the crew."""
        with self._lock:
            worker, self._spare = self._spare, None
        return worker or self._hire_reference()

    def stop(self) -> None:
        """End all workers."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.stop()

    def _hire_reference(self) -> Worker:
        return self._hire("the PyTorch reference", ["segc.network.session"], REFERENCE_THREADS)

    def _hire(self, title: str, modules: Sequence[str], threads: int) -> Worker:
        worker = Worker(title, modules, threads)
        with self._lock:
            self._workers.add(worker)
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.__exit__(kind, error, trace)


class Reference:
    """PyTorch's answers for one input size.

    Args:
        crew: gives workers.
        folder: for files, not there yet.
        loaded: the project.
        weights: file with the trained values.
        images: photographs to run on.
        size: input (height, width).
        dynamic: also at another size, for artifacts that take any.
    """

    def __init__(
        self,
        crew: Crew,
        folder: Path,
        loaded: LoadedProject,
        weights: Path,
        images: Sequence[Path],
        size: tuple[int, int],
        *,
        dynamic: bool,
    ) -> None:
        from segc.architectures import build_graph
        from segc.targets.verify import cases

        project = loaded.project
        folder.mkdir(parents=True)
        self._crew, self._folder, self._loaded, self._size = crew, folder, loaded, size
        self._lock = threading.Lock()
        self._outputs: dict[str, NDArray[Any]] | None = None
        self._accuracy: dict[str, Any] | None = None
        self.cases: list[Case] = cases(images, size, dynamic=dynamic)
        save_arrays(folder / "images.safetensors", {case.name: case.images for case in self.cases})
        graph = build_graph(project.architecture, project.dataset.nc, size)
        (folder / "graph.json").write_text(graph.to_json(), encoding="utf-8")
        self._network = {"graph": str(folder / "graph.json"), "weights": str(weights)}
        self._worker = crew.reference()
        order = {**self._network, **self.inputs(), "outputs": str(folder / "outputs.safetensors")}
        crew.start(self._worker, "reference", order)

    def inputs(self, **batches: int) -> dict[str, Any]:
        """The part of a worker's request that says what to run on, a case's images one or as many as said at a time."""
        return {"images": str(self._folder / "images.safetensors"), "batches": batches, "threads": THREADS}

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

    def measure_request(self) -> dict[str, Any]:
        """What a worker needs to measure mAP on the validation split at this size."""
        return {
            "project": self._loaded.project.model_dump_json(),
            "path": str(self._loaded.path),
            "size": list(self._size),
            "threads": THREADS,
        }

    def accuracy(self) -> dict[str, Any]:
        """The trained network's mAP on the validation split.

        Raises:
            SegcError: T004, T005, T009 where the worker came to no answer.
        """
        with self._lock:
            if self._accuracy is None:
                worker = self._crew.reference()
                self._crew.start(worker, "measure", {**self.measure_request(), **self._network})
                self._accuracy = worker.result()
            return self._accuracy


class References:
    """The reference for every input size, and the file of weights for all who read it; made when first asked for.

    Args:
        crew: gives workers.
        folder: for files, not there yet.
        loaded: the project.
        weights: trained values.
        images: photographs to run on.
    """

    def __init__(
        self, crew: Crew, folder: Path, loaded: LoadedProject, weights: Mapping[str, Any], images: Sequence[Path]
    ) -> None:
        self._crew, self._folder, self._loaded, self._weights, self._images = crew, folder, loaded, weights, images
        self._lock = threading.RLock()
        self._made: dict[tuple[tuple[int, int], bool], Reference] = {}
        self._file: Path | None = None

    def weights(self) -> Path:
        """The file with the trained values."""
        with self._lock:
            if self._file is None:
                path = self._folder / "weights.safetensors"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_arrays(path, self._weights)
                self._file = path
            return self._file

    def of(self, size: tuple[int, int], *, dynamic: bool) -> Reference:
        """The reference for an input size, at work or done."""
        with self._lock:
            if (size, dynamic) not in self._made:
                folder = self._folder / str(len(self._made))
                shared = self._loaded, self.weights(), self._images
                self._made[size, dynamic] = Reference(self._crew, folder, *shared, size, dynamic=dynamic)
            return self._made[size, dynamic]
