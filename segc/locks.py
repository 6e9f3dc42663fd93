"""Locks between processes, held by an open file: the system takes them away from a process that died."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from segc.diagnostics import fail
from segc.files import name_full_disk, sweep

_held: dict[Path, object] = {}
"""Locks that this process has or is about to take: the system would give it one twice, and take both away with one."""


def _claim(file: IO[bytes]) -> None:
    """Take the lock of an open file. It is this process's alone: processes that it forks do not keep it alive.

    Args:
        file: open for writing; where it is open for reading, what others hold is seen, and nothing is held.

    Raises:
        OSError: where another process holds it.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, (fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH) | fcntl.LOCK_NB)


class Lock:
    """A lock that is held, until it is released or its process ends.

    Args:
        path: the lock's file, which stays: removing it would let two processes hold two files of one name.
        file: the same, open and locked.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file

    def sign(self) -> None:
        """Write the number of this process into the file.

        Raises:
            OSError: where the disk is full.
        """
        try:
            self._file.truncate(0)
            self._file.write(str(os.getpid()).encode())
        except OSError as error:
            name_full_disk(error, self.path)
            raise

    def release(self) -> None:
        """Let others have it."""
        self._file.close()
        _held.pop(self.path, None)


def try_lock(path: Path) -> Lock | None:
    """The lock of a file, which is made where it is not there; None where somebody else holds it.

    Raises:
        OSError: where the file cannot be made.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay, and nothing is looked up
    mine = object()
    if _held.setdefault(path, mine) is not mine:  # in one step: threads come here at once
        return None
    lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _taken(path)
    finally:
        if lock is None:
            del _held[path]
    return lock


def _taken(path: Path) -> Lock | None:
    file = path.open("ab", buffering=0)  # closing it has nothing left to write
    with suppress(OSError):
        _claim(file)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it was removed meanwhile
            return Lock(path, file)
    file.close()
    return None


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file, which need not be one that may be written."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as above
    mine = object()
    if _held.setdefault(path, mine) is not mine:
        return True
    try:
        with path.open("rb") as file:
            _claim(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    finally:
        del _held[path]
    return False


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs.

    Args:
        path: the lock file; it stays, with the number of the process that held it last.
        what: what is being done, for whoever comes second: "an emission into build/artifacts".

    Raises:
        SegcError: F006 where another process holds it.
    """
    lock = try_lock(path)
    if lock is None:
        holder = path.read_text(encoding="ascii", errors="replace")[:20].strip()
        by = f" by process {holder}" if holder.isdigit() else ""
        raise fail("F006", f"{what} is under way{by}", file=path.parent, help="wait for it, or end it")
    try:
        lock.sign()
        yield
    finally:
        lock.release()


_PATIENCE = 10.0
"""Seconds after which files are written without the lock: none takes that long, so its holder has been halted."""


@contextmanager
def writing(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Hold the lock of files of a folder while they are written, once what killed processes left of them is removed.

    Raises:
        OSError: where the folder cannot be written.
    """
    deadline = time.monotonic() + _PATIENCE
    while (lock := try_lock(folder / ".writing.lock")) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        for name in names if lock else ():
            sweep(folder, name)
        yield
    finally:
        if lock:
            lock.release()


_PREFIX = "segc-"
_IN_USE = ".segc-in-use"


class TemporaryFolder:
    """A folder for files on the way, removed at the end; a context manager that gives its path.

    Its process holds a lock in it. So what a process left that was killed is known, and removed before the next one is
    made.

    Args:
        what: begins its name.

    Attributes:
        path: of the folder.

    Raises:
        OSError: where it cannot be made.
    """

    def __init__(self, what: str) -> None:
        _remove_left(Path(tempfile.gettempdir()))
        lock = None
        while lock is None:  # it is not ours where somebody took it for one that was left
            self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{what}-"))
            lock = try_lock(self.path / _IN_USE)
        self._lock = lock

    def remove(self) -> None:
        """Remove it with all that is in it."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not error.filename:
            name_full_disk(error, self.path)
        self.remove()


def _remove_left(folder: Path) -> None:
    """Remove temporary folders whose process is gone: those with a lock that nobody holds."""
    for mark in folder.glob(f"{_PREFIX}*/{_IN_USE}"):
        with suppress(OSError):  # another user's, or another process removes it, too
            if mark.parent.is_symlink() or (hasattr(os, "getuid") and mark.stat().st_uid != os.getuid()):
                continue
            if (lock := try_lock(mark)) is not None:
                shutil.rmtree(mark.parent, ignore_errors=True)
                lock.release()
