"""Locks between processes: one at a time does something in a folder, and a dead process holds nothing."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs. The system lets go of it when the process ends, however it ends.

    Args:
        path: the lock file; it stays, with the number of the process that held it last.
        what: what is being done, for whoever comes second: "an emission into build/artifacts".

    Raises:
        SegcError: F006 where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _lock(file):
            file.seek(0)
            holder = file.read(20).strip()
            by = f" by process {holder}" if holder.isdigit() else ""
            raise fail("F006", f"{what} is under way{by}", file=path.parent, help="wait for it, or end it")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock(file: Any) -> bool:
    """Whether the lock could be had at once."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
