"""A worker that crashes, hangs, lies or loses its parent costs nothing but its own answer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segc.arrays import load_arrays, save_arrays
from segc.diagnostics import SegcError
from segc.emission.requests import Request
from segc.emission.worker import Worker

TASKS = """
import os, signal, sys, time
from segc.diagnostics import fail
from segc.emission.tasks import TASKS

def task(function):
    TASKS[function.__name__] = function

@task
def answer(request):
    print("noise on standard output")
    os.write(2, b"noise from below Python")
    return {"doubled": request["value"] * 2, "path": sys.path}

@task
def hang(request):
    time.sleep(600)

@task
def hang_without_yielding(request):
    import re
    re.match("(a+)+$", "a" * 64 + "b")

@task
def killed(request):
    os.kill(os.getpid(), signal.SIGKILL)

@task
def crash(request):
    import ctypes
    ctypes.string_at(0)

@task
def broken(request):
    raise RuntimeError("the converter gave up")

@task
def vanish(request):
    os._exit(0)

@task
def refuse(request):
    raise fail("T006", "cannot be opened", help="try another")
"""


@pytest.fixture(autouse=True)
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of tasks that workers can import."""
    (tmp_path / "worker_tasks.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@dataclass(frozen=True)
class Asked(Request):
    """Whatever a task of these tests takes."""

    values: dict[str, object]

    def to_json(self) -> dict[str, object]:
        return self.values


def run(task: str, limit: float = 60, **request: object) -> object:
    with Worker("the tester", ["worker_tasks"]) as worker:
        worker.start(task, Asked(request), limit)
        return worker.result()


def failure(task: str, limit: float = 60) -> tuple[str, str, str]:
    with pytest.raises(SegcError) as caught:
        run(task, limit)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic.code, diagnostic.message, diagnostic.help or ""


def test_an_answer_comes_back_whatever_is_printed() -> None:
    result = run("answer", value=21)
    assert isinstance(result, dict)
    assert result["doubled"] == 42


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(elsewhere)
    result = run("answer", value=1)
    assert isinstance(result, dict)
    assert not {"", str(elsewhere)} & set(result["path"])


def test_a_worker_killed_by_a_signal_is_told_in_a_line() -> None:
    code, message, _ = failure("killed")
    assert (code, message) == ("T004", "the tester was ended by SIGKILL: out of memory?")


def test_a_worker_that_crashes_in_native_code_is_told() -> None:
    code, message, _ = failure("crash")
    assert (code, message) == ("T004", "the tester was ended by SIGSEGV")


def test_what_a_failing_worker_said_last_is_shown() -> None:
    code, message, advice = failure("broken")
    assert (code, message) == ("T004", "the tester failed (exit status 1)")
    assert advice.endswith("RuntimeError: the converter gave up")


def test_a_worker_that_ends_without_an_answer_is_told() -> None:
    assert failure("vanish")[:2] == ("T004", "the tester ended without an answer")


def test_a_worker_that_cannot_import_is_told() -> None:
    with Worker("the tester", ["no_such_module"]) as worker:
        worker.process.wait(60)
        worker.start("answer", Asked({}), 60)
        with pytest.raises(SegcError, match="T004: the tester failed") as caught:
            worker.result()
    assert "No module named 'no_such_module'" in (caught.value.diagnostics[0].help or "")


@pytest.mark.parametrize("task", ["hang", "hang_without_yielding"])
def test_a_worker_that_hangs_is_ended_in_time(task: str) -> None:
    started = time.monotonic()
    assert failure(task, limit=1)[:2] == ("T005", "the tester did not finish within 1 seconds")
    assert time.monotonic() - started < 20


def test_what_a_task_refuses_reaches_the_user_as_it_was() -> None:
    assert failure("refuse") == ("T006", "cannot be opened", "try another")


def test_nothing_is_left_in_the_temporary_folder() -> None:
    with Worker("the tester") as worker:
        folder = worker.folder
        assert folder.exists()
    assert not folder.exists()
    assert worker.process.poll() is not None


def _parent(script: str) -> tuple[subprocess.Popen[str], int]:
    """A process with a worker; the process, and the worker's id."""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
@pytest.mark.parametrize("task", [None, "hang"])
def test_a_worker_ends_when_its_parent_is_killed(task: str | None) -> None:
    start = "" if task is None else f"w.start({task!r}, Request(), 600)"
    script = (
        "import time; from segc.emission.worker import Worker; from segc.emission.requests import Request\n"
        f"w = Worker('x', ['worker_tasks']); {start}\n"
        "print(w.process.pid, flush=True); time.sleep(600)"
    )
    process, worker = _parent(script)
    try:
        time.sleep(0.5)
        assert _alive(worker)
    finally:
        process.kill()
        process.wait()
    _eventually(lambda: not _alive(worker))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_children_of_a_worker_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "with_child.py").write_text(
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid) + '.')\n"
    )
    with Worker("the tester", ["with_child"]):
        _eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("."))
        child = int((tmp_path / "pid").read_text()[:-1])
        os.kill(child, 0)
    _eventually(lambda: not _alive(child))


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "count": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_arrays(tmp_path / "a", arrays)
    for name, array in load_arrays(tmp_path / "a").items():
        np.testing.assert_array_equal(array, arrays[name])


def test_signals_are_named_even_where_python_has_no_name() -> None:
    with Worker("the tester") as worker:
        os.kill(worker.process.pid, signal.SIGRTMIN + 5)
        worker.process.wait()
        worker.start("answer", Asked({}), 60)
        with pytest.raises(SegcError, match=r"ended by signal \d+"):
            worker.result()
