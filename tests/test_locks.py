"""Locks between processes, and the temporary folders that they keep."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from segc.locks import TemporaryFolder, is_locked, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("many_switches")
def test_no_thread_takes_the_folder_of_another_for_one_that_was_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def made_and_removed(_: int) -> bool:
        with TemporaryFolder("test") as folder:
            (folder / "file").write_bytes(b"x")
            return (folder / "file").is_file() and try_lock(folder / ".segc-in-use") is None

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(made_and_removed, range(200)))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("many_switches")
def test_one_of_many_threads_has_a_lock(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        for number in range(50):
            taken = [lock for lock in pool.map(try_lock, [tmp_path / str(number)] * 6) if lock]
            assert len(taken) == 1
            taken[0].release()
            assert try_lock(tmp_path / str(number)) is not None


def test_a_lock_that_could_not_be_made_can_be_had_later(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"in the way")
    with pytest.raises(OSError, match="folder"):
        try_lock(tmp_path / "folder" / "lock")
    (tmp_path / "folder").unlink()
    assert try_lock(tmp_path / "folder" / "lock") is not None


HOLDING = "import sys; from pathlib import Path; from segc.locks import try_lock\n"
HOLDING += "lock = try_lock(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"


def test_a_lock_is_seen_by_reading_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.lock"
    assert not is_locked(path)
    lock = try_lock(path)
    assert lock is not None
    assert is_locked(path)
    lock.release()
    real = Path.open

    def reading_only(path: Path, mode: str = "r", *arguments: object, **named: object) -> object:
        if mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
        return real(path, mode, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", reading_only)
    assert not is_locked(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, os.fspath(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        assert is_locked(path)
        holder.stdin.close()
    assert not is_locked(path)
