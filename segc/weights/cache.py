"""Weights in the shared cache: a folder for each address, a file counts once its record stands beside it.

weights/<key>/origin.json        address, digest and length of the file; the last thing written
weights/<key>/<file name>        the file, whole and checked
weights/<key>/<file name>.part   what came of a download that was cut, and part.json, what it was
weights/locks/<key>.lock         held while the entry changes
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segc.caches import cache_folder
from segc.files import canonical_json, digest_file, write_atomic
from segc.spec.weights import SHA256

ORIGIN = "origin.json"
PART = "part.json"
_LOCKS = "locks"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file came from.

    Attributes:
        address: the address as people name it, not a mirror's.
        file: the file's name.
        sha256: hex digits of its digest.
        size: bytes.
    """

    address: str
    file: str
    sha256: str
    size: int


def read_record(path: Path, most: int = 1 << 16) -> dict[str, Any]:
    """A JSON object of at most so many bytes; empty where there is none, or it is broken."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(most))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def origin_of(path: Path) -> Origin | None:
    """What the record beside a file of the cache says of it; None for any other file."""
    # Elsewhere such a record would be a stranger's word on where a file comes from.
    if path.absolute().parent.parent != cache_folder("weights"):
        return None
    value = read_record(path.parent / ORIGIN)
    try:
        found = Origin(**value)
    except TypeError:
        return None
    sound = (
        all(isinstance(text, str) for text in (found.address, found.file, found.sha256))
        and type(found.size) is int
        and SHA256.fullmatch(found.sha256)
        and found.file == path.name
    )
    return found if sound else None


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of one address in the cache.

    Attributes:
        folder: its folder, which need not be there.
        name: the file's name.
    """

    folder: Path
    name: str

    @classmethod
    def of(cls, address: str, name: str) -> "Entry":
        """The entry of an address."""
        return cls(cache_folder("weights") / hashlib.sha256(address.encode()).hexdigest()[:16], name)

    @property
    def file(self) -> Path:
        """The file, where it is there."""
        return self.folder / self.name

    @property
    def part(self) -> Path:
        """What came of it so far."""
        return self.folder / f"{self.name}.part"

    def origin(self) -> Origin | None:
        """The record of the file; None where there is none, or no file of that length."""
        found = origin_of(self.file)
        try:
            return found if found and self.file.stat().st_size == found.size else None
        except OSError:
            return None

    def sound(self) -> bool:
        """Whether the file is what its record says, byte by byte."""
        found = self.origin()
        return found is not None and digest_file(self.file) == f"sha256:{found.sha256}"

    def keep(self, origin: Origin) -> None:
        """Make the finished part the file, and record it."""
        self.part.replace(self.file)
        write_atomic(self.folder / ORIGIN, canonical_json(asdict(origin)))
        (self.folder / PART).unlink(missing_ok=True)

    def drop_part(self) -> None:
        """Forget what came so far."""
        self.part.unlink(missing_ok=True)
        (self.folder / PART).unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes of the entry on the disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*") if path.is_file())

    @contextmanager
    def lock(self, seconds: float, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the entry; the system lets go where the process ends.

        Args:
            seconds: how long to wait for it.
            waiting: told where another process holds it.

        Raises:
            TimeoutError: where another process holds it for longer.
            OSError: where the cache cannot be written.
        """
        from filelock import FileLock, Timeout

        locks = self.folder.parent / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{self.folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:  # a TimeoutError
            waiting()
            lock.acquire(timeout=seconds)
        try:
            yield
        finally:
            lock.release()

    def remove(self) -> None:
        """Remove the entry, the record first: what is left of it counts for nothing."""
        (self.folder / ORIGIN).unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def entries() -> list[Entry]:
    """All entries of the cache that hold anything, by their addresses."""
    folder = cache_folder("weights")
    found: list[tuple[str, Entry]] = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name != _LOCKS and path.is_dir() and any(path.iterdir()):
                record = read_record(path / ORIGIN) or read_record(path / PART)
                name = record.get("file")
                sound = isinstance(name, str) and name and "/" not in name and "\\" not in name
                found.append((str(record.get("address", "~")), Entry(path, str(name) if sound else "damaged")))
    return [entry for _, entry in sorted(found, key=lambda item: (item[0], item[1].folder))]
