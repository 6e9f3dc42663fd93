"""What artifacts are compared with: PyTorch's answers, worked out once for all targets with the same input."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from segc.arrays import load_arrays, save_arrays
from segc.diagnostics import SegcError
from segc.emission.requests import MeasureTask, ObserveTask, ReferenceTask
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
        graph: file with the network for this size.
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
        self._folder = folder
        self._lock = threading.Lock()
        self._outputs: dict[str, NDArray[Any]] | None = None
        self._rounded: dict[str, dict[str, NDArray[Any]]] = {}
        self._pool, self._weights = pool, weights
        self.photographs = images
        self.cases: list[Case] = cases(images, size, dynamic=dynamic)
        save_arrays(self.images, {case.name: case.images for case in self.cases})
        graph = build_graph(project.architecture, project.dataset.nc, size)
        (folder / "graph.json").write_text(write_graph(graph), encoding="utf-8")
        self.graph, self._worker = folder / "graph.json", worker
        self._start(worker, self.graph, weights, folder / "outputs.safetensors")

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

    def rounded(self, precision: str) -> dict[str, NDArray[Any]]:
        """PyTorch's outputs with another rounding, by which it shows how much the network magnifies rounding.

        Args:
            precision: of an artifact. For ``fp16`` all that half precision keeps in 16 bits was rounded to them; for
                ``fp32`` all was computed in fp64.

        Raises:
            SegcError: T004, T005, T009 where the worker came to no answer.
        """
        with self._lock:
            if precision not in self._rounded:
                graph, weights = (self.graph, self._weights) if precision == "fp32" else self._half()
                outputs = self._folder / f"rounded-{precision}.safetensors"
                worker = hire_reference(self._pool)
                self._start(worker, graph, weights, outputs, double=precision == "fp32")
                worker.result()
                self._rounded[precision] = load_arrays(outputs)
            return self._rounded[precision]

    def _half(self) -> tuple[Path, Path]:
        """Files of the network that rounds to half precision, and of its values."""
        from segc.graph.passes import fold_batch_norm, half_rounded
        from segc.graph.serial import read_graph, write_graph

        whole = read_graph(self.graph.read_text(encoding="utf-8"))
        graph, values = half_rounded(*fold_batch_norm(whole, load_arrays(self._weights)))
        text, weights = self._folder / "rounded.json", self._folder / "rounded-weights.safetensors"
        text.write_text(write_graph(graph), encoding="utf-8")
        save_arrays(weights, values)
        return text, weights

    def _start(self, worker: Worker, graph: Path, weights: Path, outputs: Path, *, double: bool = False) -> None:
        """Have a worker run a network on the cases."""
        task = ReferenceTask(str(self.images), str(outputs), graph=str(graph), weights=str(weights), double=double)
        self._pool.start(worker, "reference", task)


class Answer:
    """What a worker comes to, for all who ask; it is at work already.

    Args:
        worker: that was given its task.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._lock = worker, threading.Lock()
        self._value: Any = None
        self._error: SegcError | None = None

    def value(self) -> Any:
        """Wait for it.

        Raises:
            SegcError: T004, T005, T009 where the worker came to no answer, or what its task raised.
        """
        with self._lock:
            if self._error is None and self._value is None:
                try:
                    self._value = self._worker.result()
                except SegcError as error:
                    self._error = error
        if self._error is not None:
            raise self._error
        return self._value


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
        self._made: dict[tuple[tuple[int, int], bool, tuple[Path, ...]], Reference] = {}
        self._telling: dict[tuple[int, int], list[Path]] = {}
        self._measured: dict[tuple[tuple[int, int], int, tuple[tuple[str, Any], ...]], Answer] = {}
        self._observed: dict[tuple[int, int], Path] = {}
        self._observing = threading.Lock()
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

    def observations(self, size: tuple[int, int], photographs: Sequence[Path]) -> Path:
        """The file with what the network's feature maps hold on photographs to calibrate on, at an input size.

        Raises:
            SegcError: T004, T005, T009 where the worker came to no answer.
        """
        from segc.architectures import build_graph
        from segc.graph.serial import write_graph

        weights = self.weights()
        with self._observing:
            if size not in self._observed:
                height, width = size
                place, project = self._folder / f"observed-{height}x{width}", self._loaded.project
                place.mkdir(parents=True)
                graph, made = place / "graph.json", place / "observations.safetensors"
                graph.write_text(
                    write_graph(build_graph(project.architecture, project.dataset.nc, size)), encoding="utf-8"
                )
                worker = self._pool.hire("the calibration", ["segc.network.observing"], REFERENCE_THREADS)
                task = ObserveTask(str(graph), str(weights), [str(path) for path in photographs], str(made))
                self._pool.start(worker, "observe", task)
                worker.result()
                self._observed[size] = made
            return self._observed[size]

    def of(self, size: tuple[int, int], photographs: Sequence[Path], *, dynamic: bool = False) -> Reference:
        """The reference for an input size on some photographs, at work or done."""
        with self._lock:
            key = (size, dynamic, tuple(photographs))
            if key not in self._made:
                self._made[key] = self._start(photographs, size, dynamic=dynamic)
            return self._made[key]

    def measure_task(self, size: tuple[int, int], images: int, **runs: Any) -> MeasureTask:
        """What a worker needs to measure mAP on so many images of the validation split; ``runs`` say of what."""
        return MeasureTask(
            project=self._loaded.project.model_dump_json(exclude_unset=True),
            path=str(self._loaded.path),
            size=list(size),
            images=images,
            threads=THREADS,
            **runs,
        )

    def accuracy(
        self, size: tuple[int, int], images: int, graph: Path, suppression: Mapping[str, Any] | None
    ) -> Answer:
        """The trained network's mAP on so many images of the validation split.

        Args:
            size: input (height, width) in pixels.
            images: of the split, at most.
            graph: the network's file.
            suppression: of the artifact, where it suppresses by itself: what that leaves out is no loss of precision.
        """
        key = size, images, tuple(sorted((suppression or {}).items()))
        with self._lock:
            if key not in self._measured:
                worker = hire_reference(self._pool)
                runs = {"graph": str(graph), "weights": str(self.weights()), "suppression": suppression}
                self._pool.start(worker, "measure", self.measure_task(size, images, **runs))
                self._measured[key] = Answer(worker)
            return self._measured[key]

    def telling(self, size: tuple[int, int], *, dynamic: bool) -> Reference | None:
        """A reference on photographs that PyTorch finds something on; None where it does so on none of many.

        Raises:
            SegcError: T004, T005, T009 where a worker came to no answer.
        """
        from segc.emission.verify import MANY_IMAGES, choose, telling

        with self._lock:
            if size not in self._telling:
                many = self.of(size, choose(self._images, MANY_IMAGES))
                self._telling[size] = [many.photographs[index] for index in telling(many.outputs())]
            found = self._telling[size]
            return self.of(size, found, dynamic=dynamic) if found else None

    def _start(self, images: Sequence[Path], size: tuple[int, int], *, dynamic: bool) -> Reference:
        worker, self._spare = self._spare or hire_reference(self._pool), None
        self._number += 1
        folder = self._folder / str(self._number)
        return Reference(self._pool, worker, folder, self._loaded, self.weights(), images, size, dynamic=dynamic)
