"""Checkpoints made for the tests: archives around a given pickle, and small ones that PyTorch itself writes."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Archive = Callable[..., Path]


def archive_bytes(pickled: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> bytes:
    """A zip as torch.save lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("it/data.pkl", pickled)
        archive.writestr("it/byteorder", "little")
        for key, data in (storages or {}).items():
            archive.writestr(f"it/data/{key}", data)
        archive.writestr("it/version", "3\n")
        for name, data in more.items():
            archive.writestr(f"it/{name}", data)
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Write ``archive_bytes(…)`` to a file."""

    def write(pickled: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> Path:
        path = tmp_path / "made.pt"
        path.write_bytes(archive_bytes(pickled, storages, **more))
        return path

    return write
