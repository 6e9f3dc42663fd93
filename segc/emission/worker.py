"""Worker processes: each emission and each run of a model in a process of its own.

A converter or runtime that crashes, hangs or leaks costs its own process only. A worker is started early, imports what
it will need while others work, and waits for one task: a line of JSON on its standard input. Arrays travel in
safetensors files, small values in JSON files, all in a temporary folder of the parent. What the worker prints goes to
a file, which is kept where it fails. What the process itself does stands in ``child.py``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

from segc.compute import QUIET
from segc.diagnostics import Diagnostic, SegcError, fail
from segc.locks import TemporaryFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from segc.emission.requests import Request

THREADS = 1
"""Threads a worker: several run side by side, and sums over a fixed number of threads come out the same every time."""

_CHILD = Path(__file__).with_name("child.py")
_PATH_ENTRY = Path(__file__).resolve().parents[2]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TEMPORARY = ("TMPDIR", "TEMP", "TMP")
"""What names the folder for temporary files."""
_GLANCE = 0.2
"""Seconds from one look at a worker's memory to the next."""


class Worker:
    """A worker process; a context manager that ends it, and all it started, whatever happens.

    Args:
        title: what it does, for messages: "the onnx emitter".
        preload: modules to import while it waits for its task.
        threads: threads for numerical libraries; 0 leaves them the choice.
        hidden: modules that cannot be imported in it; where segc is one, it can do nothing but run a predict script.
        log: where what it printed is kept if it fails.
        beside: others work at the same time.
    """

    def __init__(
        self,
        title: str,
        preload: Sequence[str] = (),
        threads: int = 0,
        hidden: Sequence[str] = (),
        log: Path | None = None,
        *,
        beside: bool = True,
    ) -> None:
        self.title, self._kept = title, log
        self._folder = TemporaryFolder("worker")
        self.folder = self._folder.path
        self._log = self.folder / "log.txt"
        # What it and its libraries leave in a temporary folder goes with its own.
        environment = {**QUIET, **os.environ, **dict.fromkeys(_TEMPORARY, str(self.folder))}
        if threads:
            environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
        if beside:
            # Threads that wait by spinning would take the processors from the workers beside them.
            environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        kind = "script" if "segc" in hidden else "segc"
        with self._log.open("wb") as written:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD), kind, str(_PATH_ENTRY), ",".join(hidden), *preload],
                stdin=subprocess.PIPE,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C reaches the parent only, which then ends its workers.
                start_new_session=True,
            )
            self._input = cast("IO[bytes]", self.process.stdin)
        self._deadline = float("inf")
        self._limit, self._memory = 0.0, 0

    def start(self, task: str, request: Request, limit: float, memory: int = 0) -> None:
        """Give the worker its task.

        Args:
            task: as ``segc.emission.tasks.answer`` takes it; of no meaning to a worker that runs a script.
            request: what that task takes.
            limit: seconds from now after which :meth:`result` gives up.
            memory: bytes that the worker and all it started may hold; 0 for three quarters of the machine's.
        """
        self._limit, self._deadline = limit, time.monotonic() + limit
        self._memory = memory
        order = {"task": task, "request": request.to_json(), "response": str(self._response), "limit": limit}
        with suppress(BrokenPipeError):  # One that has ended already: result() says why.
            self._input.write(json.dumps(order).encode() + b"\n")
            self._input.flush()

    def result(self) -> Any:
        """Wait for the worker and return what its task returned.

        Raises:
            SegcError: T004 where it crashed or was killed, T005 where it took too long, T009 where it took too much
                memory, or what its task raised.
        """
        code = self._wait()
        if code or not self._response.exists():
            said = self._last_lines()
            if os.strerror(errno.ENOSPC) in (said or ""):
                text = f"no space is left on the disk: {self.folder.parent}"
                raise fail("F003", text, help="free some space there, or name another folder in TMPDIR")
            raise fail("T004", f"{self.title} {self._ending(code)}", help=said)
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
                text = f"{self.title} did not finish within {self._limit:g} seconds"
                raise fail("T005", text, help=self._last_lines())
            if (held := _memory_held(self.process.pid)) > limit:
                self.stop()
                text = f"{self.title} held {held / 1e9:.1f} GB of memory, {limit / 1e9:.1f} are allowed"
                raise fail("T009", text, help=self._last_lines())

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
        self._folder.remove()

    @property
    def _response(self) -> Path:
        return self.folder / "response.json"

    def _ending(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"was ended by {name}" + (": out of memory?" if name == "SIGKILL" else "")
        return f"failed (exit status {code})" if code else "ended without an answer"

    def _last_lines(self, count: int = 3) -> str | None:
        """The end of what it printed, and where the whole is kept; None where it printed nothing."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text[-10_000:].splitlines() if line.strip()]
        if not lines:
            return None
        told = f"it last said: {' | '.join(lines[-count:])}"
        if self._kept is None:
            return told
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._log, self._kept)
        return f"{told}; all that it said is in {self._kept}"


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


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of every worker.

    Attributes:
        seconds: time for its task.
        memory: bytes that it and the processes that it starts may hold; 0 for three quarters of the machine's.
    """

    seconds: float
    memory: int = 0


@dataclass
class WorkerPool:
    """The workers that are there, so that all can be ended at once; a context manager that does so.

    Attributes:
        limits: of every worker.
        logs: folder where what failed workers printed is kept.
    """

    limits: Limits
    logs: Path
    _workers: set[Worker] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def worker(self, title: str, modules: Sequence[str] = (), hidden: Sequence[str] = ()) -> Iterator[Worker]:
        """A worker that imports ``modules`` while it waits for its task; see :class:`Worker`."""
        worker = self.hire(title, modules, hidden=hidden)
        try:
            with worker:
                yield worker
        finally:
            with self._lock:
                self._workers.discard(worker)

    def hire(self, title: str, modules: Sequence[str], threads: int = THREADS, hidden: Sequence[str] = ()) -> Worker:
        """A worker that lives as long as the pool."""
        log = self.logs / f"{title.removeprefix('the ').replace(' ', '-')}.txt"
        worker = Worker(title, modules, threads, hidden, log)
        with self._lock:
            self._workers.add(worker)
        return worker

    def start(self, worker: Worker, task: str, request: Request) -> None:
        """Give a worker its task."""
        worker.start(task, request, self.limits.seconds, self.limits.memory)

    def stop(self) -> None:
        """End all workers."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.__exit__(kind, error, trace)
