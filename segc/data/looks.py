"""What an image file holds, found once: its size, whether it can be decoded, and a mark by which its likes are known.

Facts are kept by the content of the file, in ``segc/looks-1.sqlite`` of the user's cache. A file whose size and time
are those of last time is not read again; one that was moved or copied is read, but not decoded. Beside them is which
outlines of an image cross themselves, by the content of the outlines.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.caches import cache_folder
from segc.data.polygons import crosses_itself
from segc.diagnostics import SegcError
from segc.files import encoded

Key = tuple[str, int, int]
"""A file as the disk knows it: its path, size in bytes, and time of the last change in nanoseconds."""

_FLAT = 3.0
"""Pictures whose grey values differ less than this look alike to every hash: they have no mark."""


@dataclass(frozen=True, slots=True)
class Look:
    """Facts of an image file.

    Attributes:
        digest: of its bytes; empty where it cannot be read.
        height: in pixels, upright; 0 where it cannot be decoded.
        width: as that.
        orientation: what its EXIF data asks for, 1 to 8.
        mark: 16 bytes that differ in few bits for pictures that look alike; empty for one without structure.
        fault: what is wrong with it, or empty.
    """

    digest: bytes
    height: int
    width: int
    orientation: int
    mark: bytes
    fault: str


def file_key(path: Path) -> Key | None:
    """How the disk knows a file; None where it cannot be asked."""
    try:
        status = path.stat()
    except OSError:
        return None
    return encoded(os.fspath(path)).decode(), status.st_size, status.st_mtime_ns


def digest_of(path: Path) -> bytes:
    """Digest of a file's bytes.

    Raises:
        OSError: where it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def look_at(path: Path) -> Look:
    """The facts of a file, all of them worked out."""
    from segc.data.exif import exif_orientation
    from segc.data.samples import read_image

    digest = b""
    try:
        digest = digest_of(path)
        image = read_image(path)
        with path.open("rb") as file:
            orientation = exif_orientation(file.read(1 << 17))
    except SegcError as error:
        return Look(digest, 0, 0, 1, b"", encoded(error.diagnostics[0].message).decode())
    except OSError as error:
        return Look(digest, 0, 0, 1, b"", error.strerror or str(error))
    return Look(digest, image.shape[0], image.shape[1], orientation, mark_of(image), "")


def mark_of(image: NDArray[np.uint8]) -> bytes:
    """The mark of a picture [h, w, 3]: where its grey values, on a grid of 8 x 8, rise to the right and downwards.

    A difference hash in both directions (N. Krawetz, "Kind of Like That", 2013).
    """
    import cv2

    # Two steps: a picture of a hundred pixels is grey in no time, and has all that counts.
    small = cv2.cvtColor(cv2.resize(image, (72, 72), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    grid = cv2.resize(small, (9, 9), interpolation=cv2.INTER_AREA).astype(np.float32)
    if float(grid.std()) < _FLAT:
        return b""
    right, down = grid[:8, 1:] > grid[:8, :-1], grid[1:, :8] > grid[:-1, :8]
    return np.packbits(np.concatenate([right.ravel(), down.ravel()])).tobytes()


class LookCache:
    """Facts of files, kept from one time to the next. Where the disk refuses, nothing is kept.

    Args:
        file: the database; by default in the user's cache.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._base: sqlite3.Connection | None = None
        self._fresh: list[tuple[bytes, bytes]] = []
        path = cache_folder("data") / "looks-1.sqlite" if file is None else file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(path, timeout=5)
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=OFF")  # it can be made again
            base.execute(
                "CREATE TABLE IF NOT EXISTS looks (digest BLOB PRIMARY KEY, height INT, width INT, orientation INT, "
                "mark BLOB, fault TEXT) WITHOUT ROWID"
            )
            base.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, time INT, digest BLOB) "
                "WITHOUT ROWID"
            )
            base.execute("CREATE TABLE IF NOT EXISTS outlines (digest BLOB PRIMARY KEY, crossing BLOB) WITHOUT ROWID")
        except (OSError, sqlite3.Error):
            return
        self._base = base

    def known(self, keys: Sequence[Key]) -> dict[Key, Look]:
        """The facts of those files that are as they were."""
        query = (
            "SELECT digest, height, width, orientation, mark, fault FROM files JOIN looks USING (digest) "
            "WHERE path = ? AND size = ? AND time = ?"
        )
        return {key: look for key in keys if (look := self._look(query, key)) is not None}

    def of_content(self, digest: bytes) -> Look | None:
        """The facts of a file with that content."""
        query = "SELECT digest, height, width, orientation, mark, fault FROM looks WHERE digest = ?"
        return self._look(query, (digest,))

    def _look(self, query: str, values: tuple[Any, ...]) -> Look | None:
        if self._base is None:
            return None
        try:
            row = self._base.execute(query, values).fetchone()
        except sqlite3.Error:
            self._base = None
            return None
        return None if row is None else Look(*row)

    def keep(self, found: Iterable[tuple[Key, Look]]) -> None:
        """Keep facts; of a file that could not be read there are none."""
        rows = [(key, look) for key, look in found if look.digest]
        outlines, self._fresh = self._fresh, []
        if self._base is None or not (rows or outlines):
            return
        try:
            with self._base:
                self._base.executemany("INSERT OR REPLACE INTO outlines VALUES (?, ?)", outlines)
                self._base.executemany(
                    "INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?, ?, ?)",
                    [(one.digest, one.height, one.width, one.orientation, one.mark, one.fault) for _, one in rows],
                )
                self._base.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", [(*key, look.digest) for key, look in rows]
                )
        except sqlite3.Error:
            self._base = None

    def crossing(self, outlines: Sequence[Sequence[NDArray[np.float32]]]) -> NDArray[np.bool_]:
        """Which of the objects of an image, given by their polygons, have one that crosses itself."""
        content = hashlib.blake2b(digest_size=16)
        for one in outlines:
            for polygon in one:
                content.update(len(polygon).to_bytes(4) + polygon.tobytes())
            content.update(b"\0\0\0\0")
        if self._base is not None:
            try:
                row = self._base.execute(
                    "SELECT crossing FROM outlines WHERE digest = ?", (content.digest(),)
                ).fetchone()
            except sqlite3.Error:
                self._base, row = None, None
            if row is not None and len(row[0]) == len(outlines):
                return np.frombuffer(row[0], np.bool_)
        found = np.array([any(map(crosses_itself, one)) for one in outlines], np.bool_)
        self._fresh.append((content.digest(), found.tobytes()))
        return found

    def close(self) -> None:
        """Close the database, with all that is to be kept."""
        if self._fresh and self._base is not None:
            self.keep(())
        if self._base is not None:
            self._base.close()
            self._base = None
