"""Locks between processes, and the temporary folders that they keep."""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from segc.locks import TemporaryFolder, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
