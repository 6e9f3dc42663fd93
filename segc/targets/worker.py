"""Worker processes: each emission and each session in a process of its own.

A converter or runtime that crashes, hangs or leaks costs its own process only. A worker is started early, imports what
it will need while others work, and waits for one task: a line of JSON on its standard input. Arrays travel in
safetensors files, small values in JSON files, all in a temporary folder of the parent. What the worker prints goes to
a file, whose end is shown when it fails. A worker whose parent is gone ends itself: its standard input ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

from segc.diagnostics import Diagnostic, SegcError, fail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from segc.targets.base import Session

_PATH_ENTRY = str(Path(__file__).resolve().parents[2])
# Not ``-m segc.targets.worker``: that would put the working directory, with whatever modules lie there, on the path.
_START = f"import sys; sys.path.append({_PATH_ENTRY!r}); from segc.targets.worker import main; main()"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_GLANCE = 0.2
"""Seconds from one look at a worker's memory to the next."""
_GRACE = 5
"""Seconds after its time limit at which a worker that nobody stopped is ended by its own alarm."""


def save_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays by name, for another process of this machine."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What :func:`save_arrays` wrote."""
    from safetensors.numpy import load_file

    arrays: dict[str, NDArray[Any]] = load_file(path)
    return arrays


class Worker:
    """A worker process; a context manager that ends it, and all it started, whatever happens.

    Args:
        title: what it does, for messages: "the onnx emitter".
        preload: modules to import while it waits for its task.
        threads: threads for numerical libraries; 0 leaves them the choice.
    """

    def __init__(self, title: str, preload: Sequence[str] = (), threads: int = 0) -> None:
        self.title = title
        self._folder = tempfile.TemporaryDirectory(prefix="segc-worker-")
        self.folder = Path(self._folder.name)
        self._log = self.folder / "log.txt"
        environment = dict(os.environ)
        if threads:
            environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
        # Threads that wait by spinning would take the processors from the workers beside them.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *preload],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C reaches the parent only, which then ends its workers.
                start_new_session=True,
            )
            self._input = cast("IO[bytes]", self.process.stdin)
        self._deadline = float("inf")
        self._limit, self._memory = 0.0, 0

    def start(self, task: str, request: Mapping[str, Any], limit: float, memory: int = 0) -> None:
        """Give the worker its task.

        Args:
            task: a key of ``TASKS``.
            request: JSON values for it.
            limit: seconds from now after which :meth:`result` gives up.
            memory: bytes that the worker and all it started may hold; 0 for three quarters of the machine's.
        """
        self._limit, self._deadline = limit, time.monotonic() + limit
        self._memory = memory
        line = json.dumps({"task": task, "request": request, "response": str(self._response), "limit": limit})
        with suppress(BrokenPipeError):  # One that has ended already: result() says why.
            self._input.write(line.encode() + b"\n")
            self._input.flush()

    def result(self) -> Any:
        """Wait for the worker and return what its task returned.

        Raises:
            SegcError: T004 where it crashed or was killed, T005 where it took too long, T009 where it took too much
                memory, or what its task raised.
        """
        code = self._wait()
        if code or not self._response.exists():
            raise fail("T004", f"{self.title} {self._ending(code)}", help=self._last_lines())
        response = json.loads(self._response.read_text(encoding="utf-8"))
        if "diagnostics" in response:
            raise SegcError(_diagnostic(entry) for entry in response["diagnostics"])
        return response["value"]

    def _wait(self) -> int:
        """The exit status, once the process has ended within its limits."""
        import psutil

        limit = self._memory or psutil.virtual_memory().total * 3 // 4
        while True:
            left = self._deadline - time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(min(max(0.0, left), _GLANCE))
            if left <= 0:
                self.stop()
                raise fail("T005", f"{self.title} did not finish within {self._limit:g} seconds")
            if (held := _memory_held(self.process.pid)) > limit:
                self.stop()
                raise fail("T009", f"{self.title} held {held / 1e9:.1f} GB of memory, {limit / 1e9:.1f} are allowed")

    def stop(self) -> None:
        """End the process and its children, if they still run."""
        if self.process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        with suppress(BrokenPipeError):
            self._input.close()
        self._folder.cleanup()

    @property
    def _response(self) -> Path:
        return self.folder / "response.json"

    def _ending(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"was ended by {name}" + (": out of memory?" if name == "SIGKILL" else "")
        return f"failed (exit status {code})" if code else "ended without an answer"

    def _last_lines(self, count: int = 3) -> str | None:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text[-10_000:].splitlines() if line.strip()]
        return f"it last said: {' | '.join(lines[-count:])}" if lines else None


def _memory_held(pid: int) -> int:
    """Bytes of memory of a process and all that it started; pages they share count for each."""
    import psutil

    held = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                held += one.memory_info().rss
    return held


def _diagnostic(entry: dict[str, Any]) -> Diagnostic:
    file = entry.pop("file")
    return Diagnostic(**entry, file=None if file is None else Path(file))


def _emit(request: dict[str, Any]) -> dict[str, Any]:
    """Emit a target into a folder; gives the model's name and the seconds that it took after the imports."""
    from segc.graph.ir import Graph
    from segc.targets.base import EmitRequest
    from segc.targets.registry import targets

    target = targets()[request["target"]]
    emit = EmitRequest(
        graph=Graph.from_json(Path(request["graph"]).read_text(encoding="utf-8")),
        weights=load_arrays(Path(request["weights"])),
        options=target.options.model_validate(request["options"]),
        metadata=request["metadata"],
        stem=request["stem"],
        folder=Path(request["folder"]),
        thresholds=request["thresholds"],
        calibration=load_arrays(Path(request["calibration"]))["images"] if request["calibration"] else None,
    )
    started = time.perf_counter()
    emitted = target.emit(emit)
    return {**asdict(emitted), "seconds": time.perf_counter() - started}


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a model in its own runtime; gives its metadata, the runtime and the seconds of all runs."""
    session = _session(request)
    return {"metadata": session.metadata, "runtime": session.runtime, "seconds": _run_cases(session, request)}


def _reference(request: dict[str, Any]) -> dict[str, Any]:
    """Run the network in PyTorch as it was trained; gives the seconds of all runs."""
    return {"seconds": _run_cases(_session(request), request)}


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    """MAP on the validation split of an artifact in its runtime, or of a network in PyTorch."""
    from segc.data.dataset import read_split
    from segc.evaluation.coco import evaluate_session
    from segc.spec.load import LoadedProject
    from segc.spec.project import Project

    loaded = LoadedProject(Project.model_validate_json(request["project"]), Path(request["path"]))
    chosen, names = loaded.project.hyperparameters, loaded.project.dataset.class_names
    metrics = evaluate_session(
        _session(request),
        read_split(loaded, "val"),
        names,
        size=(request["size"][0], request["size"][1]),
        iou=chosen.iou,
        max_det=chosen.max_det,
    )
    told = {"box": metrics.box.to_json(), "mask": metrics.seg.to_json()}
    # Without a labelled object there is no average precision: None.
    return {
        "images": metrics.images,
        **{name: {"map50_95": values["map"], "map50": values["map50"]} for name, values in told.items()},
    }


def _session(request: dict[str, Any]) -> Session:
    """The artifact that a request names, or the network in PyTorch as it was trained."""
    if "model" in request:
        from segc.targets.registry import targets

        return targets()[request["target"]].session(Path(request["model"]), request["threads"])
    from segc.graph.ir import Graph
    from segc.network.session import TorchSession

    graph = Graph.from_json(Path(request["graph"]).read_text(encoding="utf-8"))
    return TorchSession(graph, load_arrays(Path(request["weights"])), {"dynamic": True})


def _run_cases(session: Any, request: dict[str, Any]) -> float:
    """Run each case's images, one or as many as ``batches`` says at a time; write outputs as ``<case>.<output>``."""
    import numpy as np

    outputs: dict[str, NDArray[Any]] = {}
    seconds = 0.0
    for case, images in sorted(load_arrays(Path(request["images"])).items()):
        batch = request["batches"].get(case, 1)
        parts: list[dict[str, NDArray[Any]]] = []
        for first in range(0, len(images), batch):
            # A model of a fixed batch gets a short rest filled up with its own first images.
            chosen = images[np.arange(first, first + batch) % len(images)]
            started = time.perf_counter()
            parts.append(session.run(chosen))
            seconds += time.perf_counter() - started
        for name in parts[0]:
            outputs[f"{case}.{name}"] = np.concatenate([part[name] for part in parts])[: len(images)]
    save_arrays(Path(request["outputs"]), outputs)
    return seconds


TASKS = {"emit": _emit, "run": _run, "reference": _reference, "measure": _measure}


def keep_silent() -> None:
    """Keep packages from telling their makers that they are used: openvino does so on being imported.

    It goes without the package that does the telling, and would otherwise also leave files in the home folder.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def main() -> None:
    """The worker's side: import, wait for a task, do it, answer."""
    from importlib import import_module

    from segc.files import write_atomic

    keep_silent()
    for module in sys.argv[1:]:
        import_module(module)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(signal, "alarm"):
        # Without a handler the kernel ends the process, even one that never gives Python its turn.
        signal.alarm(int(order["limit"]) + _GRACE)
    try:
        response: dict[str, Any] = {"value": TASKS[order["task"]](order["request"])}
    except SegcError as error:
        response = {"diagnostics": [_entry(diagnostic) for diagnostic in error.diagnostics]}
    write_atomic(Path(order["response"]), json.dumps(response))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # The runtimes' own tidying up takes time and is none of ours.


def _entry(diagnostic: Diagnostic) -> dict[str, Any]:
    file = diagnostic.file
    return {
        "code": diagnostic.code,
        "message": diagnostic.message,
        "file": None if file is None else str(file),
        "help": diagnostic.help,
    }


def _end_with_parent() -> None:
    # Below Python's buffers, whose lock would be held when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(1)
