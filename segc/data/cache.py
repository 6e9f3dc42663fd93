"""Where decoded and resized training images are kept: in memory that worker processes share, or in a folder.

A cache changes no batch, only how fast it comes. What it has no room for is decoded again every time.
"""

import errno
import hashlib
import mmap
import multiprocessing
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segc.caches import cache_folder
from segc.data.workers import START_METHOD, shared_numbers

Picture = tuple[NDArray[np.uint8], tuple[int, int]]
"""An image [h, w, 3] as large as the network takes it, RGB, not to be written to; and (height, width) of its file."""


Region = tuple[int, int, int, int]
"""Columns x1 to x2 of rows y1 to y2 of an image, as (x1, y1, x2, y2), ends excluded."""


class Cache(Protocol):
    """Keeps the pictures of a list of images by their places in it."""

    def get(self, index: int) -> Picture | None:
        """The picture, or None where it is not kept."""

    def put(self, index: int, picture: Picture) -> None:
        """Keep a picture, if there is room."""

    def wants(self, index: int) -> bool:
        """Whether a picture that is at hand anyway would be kept."""

    def notice(self) -> str | None:
        """Why pictures are not kept any more, or None while there is room for all."""

    def mend(self) -> None:
        """Called when no worker is left: whatever one was about when it was killed, others are to start well."""


class NoCache:
    """Keeps nothing."""

    def get(self, index: int) -> Picture | None:  # noqa: ARG002
        """None."""
        return None

    def put(self, index: int, picture: Picture) -> None:
        """Nothing is kept."""

    def wants(self, index: int) -> bool:  # noqa: ARG002
        """False."""
        return False

    def notice(self) -> str | None:
        """None: nobody expects anything to be kept."""
        return None

    def mend(self) -> None:
        """There is nothing to mend."""


class MemoryCache:
    """Pictures in memory, one behind the other.

    Forked workers share it; where processes are spawned each has its own.

    Args:
        count: number of images.
        largest: bytes of the largest picture.
        budget: most bytes it may take.
    """

    def __init__(self, count: int, largest: int, budget: int) -> None:
        self._count, self._most, self._budget = count, max(min(count * largest, budget), 1), budget
        self._lock = multiprocessing.get_context(START_METHOD).Lock()
        self._allocate()

    def _allocate(self) -> None:
        # One row a picture: where it begins, its height and width, those of its file, and whether it is there.
        self._table = shared_numbers(6 * self._count).reshape(-1, 6)
        self._state = shared_numbers(2)  # bytes taken, pictures refused
        self._pixels = np.frombuffer(mmap.mmap(-1, self._most), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("_count", "_most", "_budget", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()

    def get(self, index: int) -> Picture | None:
        """The picture, or None where it is not kept."""
        with self._lock:
            start, height, width, *original, there = self._table[index].tolist()
        if not there:
            return None
        image = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        return image, (original[0], original[1])

    def put(self, index: int, picture: Picture) -> None:
        """Keep a picture, if there is room. The first of two processes that have the same one keeps it."""
        image, original = picture
        with self._lock:
            taken = self._table[index, 1] != 0
            start = int(self._state[0])
            fits = start + image.size <= self._most
            if not taken and fits:
                self._state[0] += image.size
                self._table[index] = (start, *image.shape[:2], *original, 0)
            elif not taken:
                self._state[1] = 1
        if not taken and fits:
            self._pixels[start : start + image.size] = image.reshape(-1)
            with self._lock:
                self._table[index, 5] = 1

    def wants(self, index: int) -> bool:
        """Whether it is not there, and none was refused so far."""
        with self._lock:
            return not self._state[1] and not self._table[index, 1]

    def mend(self) -> None:
        """A new lock; places of pictures that were not written to the end are lost."""
        self._lock = multiprocessing.get_context(START_METHOD).Lock()
        self._table[self._table[:, 5] == 0] = 0

    def notice(self) -> str | None:
        """That there is no room for all pictures, where it is so."""
        if not self._state[1]:
            return None
        kept = int(self._table[:, 5].sum())
        return (
            f"{kept} of {self._count} images are kept in memory, all that fit into {self._budget / 2**30:.3g} GiB; the "
            "others are decoded every time: raise hyperparameters.cache_gib, or set hyperparameters.cache to disk"
        )


_HEADER = struct.Struct("<8s5I")
_MAGIC = b"segcimg1"
"""Changes with the format of the files and with how pictures are made."""

_SUFFIX = ".rgb"
_ABANDONED = 3600
"""Seconds after which a file that is being written has been left behind by a process that was killed."""


class DiskCache:
    """Pictures in a folder, a file each, which any number of trainings use at once.

    A file is named by what its picture was made of: path, length and time of the image's file, the part of it that
    counts, and the size. It appears whole or not at all. What no training has used for longest gives way where room is
    needed.

    Args:
        pictures: file of each image, and the part of it that counts, x1, y1, x2, y2 in pixels; None for all of it.
        size: (height, width) that pictures are fitted into.
        budget: most bytes that the folder may take.
        folder: the folder; made where it is not there.
    """

    def __init__(
        self,
        pictures: Sequence[tuple[Path, Region | None]],
        size: tuple[int, int],
        budget: int,
        folder: Path | None = None,
    ) -> None:
        self._pictures, self._size, self._budget = pictures, size, budget
        self._folder = cache_folder("images") if folder is None else folder
        self._lock = multiprocessing.get_context(START_METHOD).Lock()
        self._state = shared_numbers(2)  # bytes in the folder, and the number of the error that ended the keeping
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._state[0] = self._make_room(len(pictures) * size[0] * size[1] * 3)
        except OSError as error:
            self._state[1] = error.errno or errno.EIO

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": self._state.copy()}

    def _make_room(self, needed: int) -> int:
        """Remove what others left, oldest first, as far as this training needs the room; gives the bytes that stay."""
        own = {self._file(index).name for index, (path, _) in enumerate(self._pictures) if path.is_file()}
        total, foreign = 0, list[tuple[float, int, Path]]()
        for entry in os.scandir(self._folder):
            found = entry.stat()
            path = Path(entry.path)
            if entry.name.endswith(".partial"):
                foreign.append((0, found.st_size, path)) if _abandoned(found) else None
            elif entry.name in own:
                os.utime(path)
            elif entry.name.endswith(_SUFFIX):
                foreign.append((found.st_mtime, found.st_size, path))
            total += found.st_size
        kept = total - sum(size for _, size, _ in foreign)
        for time, length, path in sorted(foreign):
            if time and total - kept + max(needed, kept) <= self._budget:
                break
            path.unlink(missing_ok=True)
            total -= length
        return total

    def _file(self, index: int) -> Path:
        path, region = self._pictures[index]
        found = path.stat()
        identity = (str(path.absolute()), found.st_size, found.st_mtime_ns, *self._size, *(region or ()))
        return self._folder / (hashlib.sha256(repr(identity).encode()).hexdigest()[:40] + _SUFFIX)

    def get(self, index: int) -> Picture | None:
        """The picture, or None where it is not kept, or its file is damaged."""
        try:
            data = self._file(index).read_bytes()
        except OSError:
            return None
        if len(data) < _HEADER.size:
            return None
        magic, height, width, original_height, original_width, checksum = _HEADER.unpack_from(data)
        pixels = memoryview(data)[_HEADER.size :]
        if magic != _MAGIC or len(pixels) != height * width * 3 or zlib.crc32(pixels) != checksum:
            return None
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3), (original_height, original_width)

    def put(self, index: int, picture: Picture) -> None:
        """Keep a picture, if there is room."""
        image, original = picture
        length = _HEADER.size + image.size
        with self._lock:
            if self._state[1] == 0 and self._state[0] + length > self._budget:
                self._state[1] = errno.EDQUOT
            if self._state[1]:
                return
            self._state[0] += length
        try:
            header = _HEADER.pack(_MAGIC, *image.shape[:2], *original, zlib.crc32(image.data))
            _write(self._file(index), (header, image))
        except OSError as error:
            with self._lock:
                self._state[1] = error.errno or errno.EIO

    def wants(self, index: int) -> bool:
        """Whether it is not there, and none was refused so far."""
        try:
            return not self._state[1] and not self._file(index).exists()
        except OSError:  # the image is gone
            return False

    def mend(self) -> None:
        """A new lock."""
        self._lock = multiprocessing.get_context(START_METHOD).Lock()

    def notice(self) -> str | None:
        """Why no more pictures are written, where it is so."""
        if not self._state[1]:
            return None
        if self._state[1] == errno.EDQUOT:
            reason = f"{self._budget / 2**30:g} GiB are taken: raise hyperparameters.cache_gib"
        else:
            reason = os.strerror(int(self._state[1]))
        return f"no more images are kept in {self._folder}: {reason}; those that are not there are decoded every time"


def _abandoned(found: os.stat_result) -> bool:
    import time

    return time.time() - found.st_mtime > _ABANDONED


def _write(path: Path, parts: Iterable[Any]) -> None:
    """Write a file whole or not at all. It need not have reached the disk: its checksum tells."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
