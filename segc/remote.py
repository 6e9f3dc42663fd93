"""Sources and outputs that fsspec reaches: ``s3://``, ``gs://``, ``file://`` and what else its packages know.

Needs ``pip install 'segc[remote]'``, and the package of the store, such as s3fs.
"""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from segc.diagnostics import fail
from segc.inference.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from segc.inference.sources import MAX_DOWNLOAD, ImageError, Source

_OWN = ("http", "https", "rtsp", "rtsps")
"""Addresses that are read without fsspec."""


def is_remote(text: str) -> bool:
    """Whether a text is an address that fsspec is asked for."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() not in _OWN


@dataclass(frozen=True, slots=True)
class RemoteSource(Source):
    """An image or a video that fsspec reads; its ``name`` is the address."""

    @contextmanager
    def local(self) -> Iterator[Source]:
        """See `Source`: a video is copied here, whole, as long as it is read; one that is here is read where it is."""
        import fsspec

        with TemporaryDirectory(prefix="segc-") as folder:
            copy = Path(folder) / f"video{self.suffix}"
            try:
                store, path = fsspec.core.url_to_fs(self.name)
                if "file" in store.protocol:
                    copy = Path(path)
                else:
                    store.get_file(path, str(copy))
            except Exception as error:  # noqa: BLE001 - stores raise errors of their own, which have no common base
                raise ImageError(f"{self.name}: cannot be copied here ({error or type(error).__name__})") from None
            yield Source(self.name, copy, "video")

    def _bytes(self) -> bytes:
        import fsspec

        try:
            with fsspec.open(self.name, "rb") as file:
                data: bytes = file.read(MAX_DOWNLOAD + 1)
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own, which have no common base
            raise ImageError(f"{self.name}: cannot be read ({error or type(error).__name__})") from None
        if len(data) > MAX_DOWNLOAD:
            raise ImageError(f"{self.name}: larger than {MAX_DOWNLOAD >> 20} MB")
        return data


def remote_sources(address: str) -> list[Source]:
    """The images and videos of an address: one, those of a folder, sorted, or of a pattern.

    Raises:
        SegcError: I001 where there are none, or the store cannot be reached.
    """
    store, path = _store(address)
    try:
        if glob.has_magic(path):
            found = store.glob(path)
        elif store.isdir(path):
            found = store.ls(path, detail=False)
        else:
            found = [path] if store.exists(path) else []
    except Exception as error:  # noqa: BLE001 - likewise
        raise fail("I001", f"{address}: cannot be listed ({error or type(error).__name__})") from None
    kinds = dict.fromkeys(IMAGE_SUFFIXES, "web") | dict.fromkeys(VIDEO_SUFFIXES, "video")
    names = [(name, kinds.get(PurePosixPath(name).suffix.lower())) for name in sorted(map(str, found))]
    sources: list[Source] = [RemoteSource(store.unstrip_protocol(name), None, kind) for name, kind in names if kind]
    if not sources:
        endings = f"images end in {', '.join(IMAGE_SUFFIXES)}, videos in {', '.join(VIDEO_SUFFIXES)}"
        raise fail("I001", f"{address}: no image or video is there", help=endings)
    return sources


@contextmanager
def sent(address: str) -> Iterator[Path]:
    """A folder of this machine whose files are copied to an address when the block ends, by an error, too.

    Raises:
        SegcError: F003 where the store takes no files.
    """
    store, path = _store(address)
    with TemporaryDirectory(prefix="segc-") as name:
        folder = Path(name)
        try:
            yield folder
        finally:
            try:
                for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                    place = f"{path.rstrip('/')}/{file.relative_to(folder).as_posix()}"
                    store.makedirs(place.rpartition("/")[0], exist_ok=True)
                    store.put_file(str(file), place)
            except Exception as error:  # noqa: BLE001 - likewise
                raise fail("F003", f"{address}: not written ({error or type(error).__name__})") from None


def _store(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path on it.

    Raises:
        SegcError: I001 where there is no such kind of address, its package is missing, or nobody answers.
    """
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise fail(
            "I001", f"{address}: {error}", help="addresses are those that fsspec and its packages know"
        ) from None
    except Exception as error:  # noqa: BLE001 - likewise; some connect at once
        raise fail("I001", f"{address}: cannot be reached ({error or type(error).__name__})") from None
    return store, str(path)
