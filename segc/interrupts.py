"""Signals that ask a process to end: what they become in Python, and how a training hears of them between two steps."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

_ENDING = ("SIGTERM", "SIGHUP")
_ASKING = ("SIGINT", *_ENDING, "SIGUSR1")
"""Signals by name, for not every system has all of them. SIGUSR1 is how clusters announce that a job will be ended."""


class Interrupted(KeyboardInterrupt):
    """A process was asked to end by a signal.

    Args:
        number: the signal.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


def exit_status(error: KeyboardInterrupt) -> int:
    """Exit status of a process that ended so: 128 and the signal's number, as shells have it."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


_raised: list[Interrupted] = []


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    error = Interrupted(number)
    _raised.append(error)
    raise error


def raised() -> Interrupted | None:
    """The last signal that became an exception here: libraries make other errors of exceptions that come amid them."""
    return _raised[-1] if _raised else None


def end_cleanly() -> None:
    """Have SIGTERM and SIGHUP end this process as Ctrl-C does: by an exception, so that what is open is closed."""
    _install(("SIGINT", *_ENDING), _raise)


@contextmanager
def too_late() -> Iterator[None]:
    """While it is open, a signal that asks this process to end does nothing: all is done but the last lines."""
    before = end_by_itself()
    try:
        yield
    finally:
        _restore(before)


def end_by_itself() -> Mapping[int, Any]:
    """Have the first signal that asks this process to end do nothing, as it is about to; gives the handlers until now.

    A second one ends it at once: a library may keep it waiting.
    """
    heard: list[int] = []

    def late(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        heard.append(number)
        if len(heard) > 1:
            os._exit(128 + number)

    return _install(_ASKING, late)


def reset() -> None:
    """For a process that was forked: a signal ends it; what a terminal or a cluster sends to all is the parent's."""
    for name in _ASKING:
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL if name == "SIGTERM" else signal.SIG_IGN)


def fork_and_pass_on() -> int:
    """Fork; from then on signals that ask the parent to end reach the child. Gives 0 in the child, else its number."""
    numbers = {signal.Signals[name] for name in _ASKING if hasattr(signal, name)}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        child = os.fork()
        if child:
            _install((*_ENDING, "SIGUSR1"), lambda number, _: os.kill(child, number))
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    return child


def _install(names: tuple[str, ...], handler: Callable[[int, FrameType | None], None]) -> Mapping[int, Any]:
    """Handle the signals that this process does not ignore already, as under nohup; gives their handlers until now."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [number for name in names if (number := getattr(signal, name, None)) is not None]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, handler)
    return heard


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


class StopRequest:
    """While it is open, the first signal that asks to end is kept for whoever looks; a second one ends at once.

    Args:
        notice: written to standard error when the first one comes.

    Attributes:
        number: the signal that came; None so far.
    """

    def __init__(self, notice: str = "") -> None:
        self.number: int | None = None
        self._notice = notice.encode()
        self._before: Mapping[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = _install(_ASKING, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def _heard(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        if self.number is not None:
            raise Interrupted(number)
        self.number = number
        with suppress(OSError):
            os.write(2, self._notice)  # what Python's own streams are doing at this moment is not known

    def check(self) -> None:
        """Raise what was asked for.

        Raises:
            Interrupted: where a signal came.
        """
        if self.number is not None:
            raise Interrupted(self.number)
