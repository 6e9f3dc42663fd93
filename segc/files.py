"""Files as segc writes and finds them: whole or not at all, the same bytes for the same content."""

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Path of a file or folder of ``templates/`` or ``schemas/``, in a checkout as in an installed wheel."""
    installed = _PACKAGE.joinpath("_resources", *parts)
    return installed if installed.exists() else _PACKAGE.parent.joinpath(*parts)


def is_file(path: Path) -> bool:
    """Whether there is a file of that name; for names that strangers write, of which no file can have some.

    ``Path.is_file`` raises for a name that is too long.
    """
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; as `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, two-space indent, a newline at the end."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return encoded(text).decode()


def digest(data: bytes | str) -> str:
    """``sha256:…`` of bytes, or of the UTF-8 bytes of a text."""
    return "sha256:" + hashlib.sha256(encoded(data) if isinstance(data, str) else data).hexdigest()


def encoded(text: str) -> bytes:
    r"""UTF-8 bytes of a text. What stands in it for a byte of a file name that is no UTF-8 is escaped: ``\udcff``.

    JSON has the same escapes, so a text of ``canonical_json`` gives back the name that it was made of.
    """
    return text.encode(errors="backslashreplace")


def digest_file(path: Path) -> str:
    """``sha256:…`` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_name(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mktemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))  # noqa: S306


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what processes that were killed left of files and folders of a name, which they were writing.

    A folder that was taken out of its place, and had none put there yet, goes back. The caller must hold the lock of
    all that writes there.
    """
    start = f".{name if name == '*' else glob.escape(name)}.*"
    for path in folder.glob(f"{start}.retired"):
        original = folder / path.name.removeprefix(".").rsplit(".", 2)[0]
        if not original.exists():
            path.replace(original)
    for path in (*folder.glob(f"{start}.retired"), *folder.glob(f"{start}.partial")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def name_full_disk(error: OSError, path: Path) -> None:
    """Have an error that says that a disk is full name what was being written: there may be several disks.

    Python names no file where a write fails, and where a copy fails the one that was read.
    """
    if error.errno in FULL:
        error.filename, error.filename2 = os.fspath(path), None


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors that say that a disk is full."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to, which replaces ``path`` when the block ends without an error.

    The bytes reach the disk before the name does, so a crash leaves the old file or the new one.
    """
    temporary = _temporary_name(path)
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        name_full_disk(error, path)
        error.filename = error.filename or os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary sibling folder to fill, which takes the place of ``path`` when the block ends without an error."""
    temporary = _temporary_name(path)
    temporary.mkdir()
    retired = temporary.with_suffix(".retired")
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _to_disk(file)
        if path.exists():
            path.replace(retired)
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            name_full_disk(error, path)
            error.filename = error.filename or os.fspath(path)
        if retired.exists() and not path.exists():
            retired.replace(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all, creating the folders above it. Texts are written as UTF-8.

    Raises:
        OSError: where the folder cannot be written or the disk is full; ``path`` is then as it was.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded(content) if isinstance(content, str) else content)
