"""Processes that make batches, in the order in which they are asked for.

Each has a pipe of its own, so that one that is killed leaves the others' alone. Arrays come through memory that forked
processes share; unlike /dev/shm in a container it has no limit of its own and takes no file descriptors. A process that
dies is started again and makes what it owed: batches are a function of their keys, so nothing is lost by it.
"""

import contextlib
import itertools
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.diagnostics import fail
from segc.interrupts import reset as reset_signals

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How workers start. Forked ones start at once and share memory; elsewhere forking is not safe."""

AHEAD = 2
"""Batches that each process makes before they are asked for."""

_MOST_DEATHS = 3
"""Deaths without a batch in between after which processes are not started again."""

_ALIGNMENT = 64

Arrays = tuple[NDArray[Any], ...]
Make = Callable[[Any], tuple[Any, Arrays]]
"""From a key to a result: a small value that is pickled, and large arrays that go with it."""


def shared_numbers(count: int) -> NDArray[np.int64]:
    """Zeros in memory that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, 8 * count), np.int64)


@dataclass(slots=True)
class _Worker:
    process: Any
    pipe: Connection
    owed: deque[Any]
    """Keys of the results that are still to come, the next one first."""


class Pool:
    """Worker processes.

    Args:
        make: what they do; called in them.
        count: how many there are, at least 1.
        room: bytes that a result's arrays usually take; larger ones come through the pipe, which is slower.
        start: called first in each of them, with its number.
        describe: what a process was doing, by its number, for messages.
        said: told about processes that died.
        mend: called when no process is left and before they are started again.

    Raises:
        SegcError: R013 where no process can be started.
    """

    def __init__(
        self,
        make: Make,
        count: int,
        *,
        room: int,
        start: Callable[[int], None],
        describe: Callable[[int], str],
        said: Callable[[str], None],
        mend: Callable[[], None],
    ) -> None:
        self._make, self._start, self._describe, self._said, self._mend = make, start, describe, said, mend
        self._context: Any = multiprocessing.get_context(START_METHOD)
        self._room = -(-max(room, 1) // mmap.PAGESIZE) * mmap.PAGESIZE if START_METHOD == "fork" else 0
        self._memory = mmap.mmap(-1, self._room * AHEAD * count) if self._room else None
        self._workers: list[_Worker] = []
        self._keys: Iterator[Any] = iter(())
        self._deaths = 0
        for number in range(count):
            self._workers.append(self._started(number, deque()))

    def begin(self, keys: Iterator[Any]) -> None:
        """Start making results for keys, which may go on without an end."""
        if any(worker.owed for worker in self._workers):
            self._restart([deque() for _ in self._workers])
        self._keys = keys
        for _ in range(AHEAD):
            for worker in self._workers:
                self._ask(worker)

    def results(self) -> Iterator[tuple[Any, Arrays]]:
        """The results in the order of their keys. Arrays are valid until the next one is asked for.

        Raises:
            SegcError: R013 where processes die again and again.
            RuntimeError: where one fails by a fault of the program.
        """
        for turn in itertools.cycle(range(len(self._workers))):
            if not self._workers[turn].owed:
                return
            result = self._received(turn)
            self._workers[turn].owed.popleft()
            yield result
            self._ask(self._workers[turn])  # only now, for its memory was in use

    def restart(self, start: Callable[[int], None] | None = None) -> None:
        """End all processes and start others, which make what those owed; ``start`` is called in these."""
        self._start = start or self._start
        self._restart([worker.owed for worker in self._workers])

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers = []

    def _started(self, number: int, owed: deque[Any]) -> _Worker:
        try:
            ours, theirs = self._context.Pipe()
            # Forked, it has the pipes of the others too: while it held them, they would not see this process end.
            inherited = [*(worker.pipe for worker in self._workers), ours] if START_METHOD == "fork" else []
            arguments = (self._make, self._start, number, theirs, inherited, self._memory, self._room)
            process = self._context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
        except OSError as error:
            raise fail(
                "R013",
                f"worker process {number + 1} cannot be started: {error.strerror or error}",
                help="set fewer hyperparameters.workers, 0 for none, or raise the limit (ulimit -n, ulimit -u, memory)",
            ) from error
        theirs.close()
        worker = _Worker(process, ours, owed)
        for key in owed:
            ours.send(key)
        return worker

    def _restart(self, owed: Sequence[deque[Any]]) -> None:
        self.close()
        self._mend()
        for number, one in enumerate(owed):
            self._workers.append(self._started(number, one))

    def _ask(self, worker: _Worker) -> None:
        key = next(self._keys, None)
        if key is not None:
            worker.owed.append(key)
            with contextlib.suppress(OSError):  # it has died, which is seen when its result is waited for
                worker.pipe.send(key)

    def _received(self, turn: int) -> tuple[Any, Arrays]:
        while True:
            worker = self._workers[turn]
            wait([worker.pipe, worker.process.sentinel])
            try:
                if worker.pipe.poll():
                    made, value, places = worker.pipe.recv()
                    break
            except (OSError, EOFError):
                pass
            self._died(turn)
        self._deaths = 0
        if isinstance(value, _Fault):
            raise RuntimeError(f"a worker process failed:\n{value.trace}")  # noqa: TRY004 - it is no wrong type
        return value, self._arrays(turn, made, places)

    def _arrays(self, turn: int, made: int, places: Sequence[Any]) -> Arrays:
        found = []
        for place in places:
            if isinstance(place, np.ndarray):
                found.append(place)
            else:
                shape, kind, offset = place
                start = _place(turn, made, self._room) + offset
                count = int(np.prod(shape))
                found.append(np.frombuffer(self._memory, kind, count, start).reshape(shape))  # type: ignore[arg-type]
        return tuple(found)

    def _died(self, turn: int) -> None:
        """Start all processes again after one of them has died: it may have held a lock that others wait for.

        Raises:
            SegcError: R013 where that has not helped.
        """
        process = self._workers[turn].process
        process.join(1.0)
        what = f"worker process {process.pid} {_ending(process.exitcode)}{self._describe(turn)}"
        self._deaths += 1
        if self._deaths >= _MOST_DEATHS:
            raise fail(
                "R013",
                f"{what}, the {self._deaths}rd time in a row",
                help="where memory is short set fewer hyperparameters.workers or a smaller batch; an image that "
                "crashes its reader has to be converted or taken out",
            )
        self._said(f"{what}; it is started again, and nothing is lost")
        self.restart()


def _place(number: int, made: int, room: int) -> int:
    """Where in the shared memory a process puts a result, after ``made`` others: those made ahead have a place each."""
    return (number * AHEAD + made % AHEAD) * room


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    why = {"SIGKILL": ", as the system does where memory runs out", "SIGBUS": ", as where memory runs out"}
    return f"was ended by {name}{why.get(name, '')}"


@dataclass(frozen=True, slots=True)
class _Fault:
    """What went wrong in a process by a fault of the program."""

    trace: str


def _serve(
    make: Make,
    start: Callable[[int], None],
    number: int,
    pipe: Connection,
    inherited: Sequence[Connection],
    memory: mmap.mmap | None,
    room: int,
) -> None:
    """A worker process: makes what it is asked for until the other end of its pipe is closed."""
    for one in inherited:
        one.close()
    # What a terminal or a cluster sends reaches all processes; the main one ends the workers.
    reset_signals()
    start(number)
    made = 0
    with contextlib.suppress(EOFError, OSError):  # the main process has ended
        while True:
            key = pipe.recv()
            try:
                value, arrays = make(key)
            except Exception:  # noqa: BLE001 - shown by the main process
                value, arrays = _Fault(traceback.format_exc()), ()
            pipe.send((made, value, _placed(arrays, memory, _place(number, made, room), room)))
            made += 1
            del value, arrays
    os._exit(0)


def _placed(arrays: Arrays, memory: mmap.mmap | None, begin: int, room: int) -> list[Any]:
    """Arrays put into shared memory, as shape, type and offset; those that do not fit as they are."""
    places: list[Any] = []
    offset = 0
    for array in arrays:
        if memory is None or offset + array.nbytes > room or not array.nbytes:
            places.append(np.ascontiguousarray(array))
            continue
        target = np.frombuffer(memory, array.dtype, array.size, begin + offset).reshape(array.shape)
        target[...] = array
        places.append((array.shape, array.dtype.str, offset))
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return places


_BATCHES_TO_JUDGE_BY, _SECONDS_TO_JUDGE_BY = 8, 2.0
"""What it takes to see that workers get too little of the processors."""


class Starvation:
    """Notices that training waits for batches most of the time."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=_BATCHES_TO_JUDGE_BY)

    def add(self, asked: float, came: float) -> None:
        """Take in when a batch was asked for, and when it came, in seconds on one clock."""
        self._recent.append((asked, came))

    def is_lasting(self) -> bool:
        """Whether that has been so for long enough to do something about it."""
        if len(self._recent) < _BATCHES_TO_JUDGE_BY:
            return False
        passed = self._recent[-1][1] - self._recent[0][0]
        waited = sum(came - asked for asked, came in self._recent)
        return passed > _SECONDS_TO_JUDGE_BY and waited > passed / 2
