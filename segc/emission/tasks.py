"""What worker processes do for segc. Predict scripts are run by ``child.py`` itself, where segc cannot be imported."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from segc.arrays import load_arrays, save_arrays
from segc.diagnostics import SegcError, fail
from segc.emission.child import run_cases
from segc.emission.requests import (
    EmitReply,
    EmitTask,
    MeasureTask,
    ObserveTask,
    ReferenceTask,
    RunReply,
    RunTask,
    SensitivityTask,
)
from segc.inference.metadata import ModelError, parse_metadata
from segc.inference.text import named_in_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from segc.diagnostics import Diagnostic
    from segc.graph.passes.ranges import Method
    from segc.inference.model import Model
    from segc.network.session import TorchSession
    from segc.sessions import Session


def _emit(request: dict[str, Any]) -> dict[str, Any]:
    """Emit a target into a folder."""
    from segc.graph.passes.ranges import read_observations
    from segc.graph.serial import read_graph
    from segc.targets.contract import EmitRequest
    from segc.targets.registry import targets

    task = EmitTask(**request)
    target = targets()[task.target]
    order = EmitRequest(
        graph=read_graph(Path(task.graph).read_text(encoding="utf-8")),
        weights=load_arrays(Path(task.weights)),
        options=target.options.model_validate(task.options),
        metadata=parse_metadata(task.metadata),
        stem=task.stem,
        folder=Path(task.folder),
        observations=read_observations(load_arrays(Path(task.observations))) if task.observations else None,
        method=cast("Method", task.method),
    )
    started = time.perf_counter()
    emitted = target.make(order)
    return asdict(EmitReply(**asdict(emitted), seconds=time.perf_counter() - started))


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a model."""
    task = RunTask(**request)
    model = _open(task)
    run_cases(model.run, request)
    return asdict(RunReply(model.metadata.to_json(), model.runtime))


def _reference(request: dict[str, Any]) -> dict[str, Any]:
    """Run the network in PyTorch as it was trained; gives the seconds of all runs."""
    task = ReferenceTask(**request)
    return {"seconds": run_cases(_network(task, double=task.double).run, request)}


def _observe(request: dict[str, Any]) -> dict[str, Any]:
    """Look at what the feature maps of a network hold on photographs."""
    from segc.emission.verify import cases
    from segc.graph.serial import read_graph
    from segc.network.observing import observe

    task = ObserveTask(**request)
    graph = read_graph(Path(task.graph).read_text(encoding="utf-8"))
    size = graph.metadata["size"]
    # One by one: hundreds of large frames would not fit into memory.
    images = (cases([Path(path)], size, dynamic=False)[0].images[0] for path in task.photographs)
    seen = observe(graph, load_arrays(Path(task.weights)), images)
    save_arrays(Path(task.observations), {name: one.to_array() for name, one in seen.items()})
    return {}


def _sensitivity(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Scopes by the error that they bring, the worst first."""
    from segc.emission.sensitivity import rank
    from segc.emission.verify import cases
    from segc.graph.passes.ranges import read_observations
    from segc.graph.serial import read_graph
    from segc.inference.metadata import Metadata
    from segc.network.session import TorchSession
    from segc.targets.registry import targets

    task = SensitivityTask(**request)
    target, graph = targets()[task.target], read_graph(Path(task.graph).read_text(encoding="utf-8"))
    scheme = target.scheme(target.options.model_validate(task.options))
    if scheme is None:
        raise ValueError(f"{task.target} does not say what it rounds")
    (case,) = cases([Path(path) for path in task.photographs], graph.metadata["size"], dynamic=False)
    found = rank(
        graph,
        load_arrays(Path(task.weights)),
        read_observations(load_arrays(Path(task.observations))),
        scheme,
        cast("Method", task.method),
        lambda made, values: TorchSession(made, values, Metadata(("a",), case.size)).run(case.images),
    )
    return [one.to_json() for one in found]


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    """MAP on the validation split: ``objects`` of each class, and figures of ``box`` and ``mask``."""
    from segc.emission.accuracy import validation
    from segc.evaluation.coco import evaluate_session
    from segc.spec.load import LoadedProject
    from segc.spec.project import Project

    task = MeasureTask(**request)
    loaded = LoadedProject(Project.model_validate_json(task.project), Path(task.path))
    chosen, names = loaded.project.hyperparameters, loaded.project.dataset.class_names
    network = _open(task) if task.model else _network(task)
    timed = Timed(network if task.suppression is None else Suppressing(network, task.suppression))
    metrics = evaluate_session(
        timed,
        validation(loaded, task.images).samples,
        names,
        size=(task.size[0], task.size[1]),
        iou=chosen.iou,
        max_det=chosen.max_det,
    )
    told = {"box": metrics.box.to_json(), "mask": metrics.seg.to_json()}
    # Without a labelled object there is no average precision: None.
    return {
        "objects": list(metrics.class_instances),
        "milliseconds": timed.milliseconds(),
        **{
            name: {"map50_95": values["map"], "map50": values["map50"], "classes": values["maps"]}
            for name, values in told.items()
        },
    }


class Suppressing:
    """A session of which only that is left which a model that suppresses by itself would give."""

    def __init__(self, session: Session, suppression: Mapping[str, Any]) -> None:
        self.metadata, self.runtime = session.metadata, session.runtime
        self._session, self._suppression = session, suppression

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """As the session does, and then suppressed."""
        from segc.targets.suppression import suppressed_outputs

        return suppressed_outputs(self._session.run(images), self._suppression)


class Timed:
    """A session that takes the time of its runs."""

    def __init__(self, session: Session) -> None:
        self.metadata, self.runtime, self._session = session.metadata, session.runtime, session
        self._times: list[float] = []

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """As the session does."""
        started = time.perf_counter()
        outputs = self._session.run(images)
        self._times.append((time.perf_counter() - started) / len(images))
        return outputs

    def milliseconds(self) -> float:
        """The median of an image."""
        return 1000 * statistics.median(self._times) if self._times else 0.0


def _open(task: RunTask | MeasureTask) -> Model:
    with named_in_text(Path(task.model)) as place:
        model: Model = import_module(task.opener).open_model(place, task.threads)
    return model


def _network(task: ReferenceTask | MeasureTask, *, double: bool = False) -> TorchSession:
    from segc.graph.serial import read_graph
    from segc.inference.metadata import Metadata
    from segc.network.session import TorchSession

    graph = read_graph(Path(task.graph).read_text(encoding="utf-8"))
    height, width = graph.metadata["size"]
    names = tuple(map(str, range(graph.metadata["nc"])))
    metadata = Metadata(names, (height, width), dynamic=True)
    return TorchSession(graph, load_arrays(Path(task.weights)), metadata, double=double)


TASKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "emit": _emit,
    "run": _run,
    "reference": _reference,
    "observe": _observe,
    "sensitivity": _sensitivity,
    "measure": _measure,
}


def answer(task: str, request: dict[str, Any]) -> dict[str, Any]:
    """The value that a task gives, or the diagnostics of what is wrong.

    Args:
        task: a key of ``TASKS``, or ``module:function`` for what rooms above this one ask of workers.
        request: what the task takes.
    """
    module, _, name = task.partition(":")
    try:
        return {"value": getattr(import_module(module), name)(request) if name else TASKS[task](request)}
    except SegcError as error:
        return {"diagnostics": [_entry(diagnostic) for diagnostic in error.diagnostics]}
    except ModelError as error:
        path = Path(request["model"])
        problem = fail("T006", str(error), file=path, help="emit it again, or copy it again")
        return {"diagnostics": [_entry(diagnostic) for diagnostic in problem.diagnostics]}


def _entry(diagnostic: Diagnostic) -> dict[str, Any]:
    file = diagnostic.file
    return {
        "code": diagnostic.code,
        "message": diagnostic.message,
        "file": None if file is None else str(file),
        "help": diagnostic.help,
    }
