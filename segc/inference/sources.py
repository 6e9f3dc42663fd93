"""Where photographs come from: files, folders, patterns and web addresses, read with bounds on size and time."""

import contextlib
import glob
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection, InvalidURL
from pathlib import Path
from threading import Thread
from typing import IO

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.image_headers import HeaderError, check_image_header, quiet_decoders
from segc.inference.kinds import IMAGE_SUFFIXES

MAX_DOWNLOAD = 64 << 20
"""Bytes that an image from the web may have."""

SOCKET_SECONDS = 20.0
"""How long a server may be silent."""

DOWNLOAD_SECONDS = 120.0
"""How long a download may take in all."""


class SourceError(ValueError):
    """A source that names no image."""


class ImageError(ValueError):
    """An image that cannot be fetched, read or decoded."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image to read. ``path`` is None for a web address.

    Attributes:
        name: as the user would name it: the path as reached from what was given, or the address.
        path: the file.
    """

    name: str
    path: Path | None = None

    @property
    def stem(self) -> str:
        """File name without its suffix, for naming what is made of it: fit for any system, and never empty."""
        stem = Path(self._file_name).stem
        return "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in stem)[:80] or "image"

    @property
    def suffix(self) -> str:
        """Suffix of the file name in lower case, with its dot; perhaps empty."""
        return Path(self._file_name).suffix.lower()

    @property
    def _file_name(self) -> str:
        if self.path is not None:
            return self.path.name
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(self.name).path)).name

    def read(self) -> npt.NDArray[np.uint8]:
        """The image, [h, w, 3] BGR, turned as its EXIF orientation says.

        Raises:
            ImageError: where it cannot be fetched, read or decoded; the text names it.
        """
        return decode_image(fetch(self.name) if self.path is None else _file_bytes(self.path, self.name), self.name)


def find_sources(items: Sequence[str]) -> list[Source]:
    """The images that arguments name, in the order given; an image named twice comes once.

    An argument is an http(s) address, a file, a folder (its images, sorted by name, not those in folders below it) or a
    pattern with ``*``, ``?``, ``[…]``, and ``**`` for all folders below. What exists under the very name is no pattern.

    Raises:
        SourceError: where an argument names nothing.
    """
    found: dict[str, Source] = {}
    for item in items:
        try:
            os.fsencode(item)
        except UnicodeEncodeError:
            raise SourceError(f"{item!r} cannot be the name of a file") from None
        for source in _expand(item):
            key = source.name if source.path is None else str(source.path.resolve())
            found.setdefault(key, source)
    return list(found.values())


def _expand(item: str) -> Iterator[Source]:
    scheme, separator, _ = item.partition("://")
    if separator:
        if scheme.lower() not in ("http", "https"):
            raise SourceError(f"{item}: only http and https addresses can be fetched")
        try:
            urllib.parse.urlsplit(item)
        except ValueError as error:
            raise SourceError(f"{item}: not an address ({error})") from None
        yield Source(item)
        return
    path = Path(item)
    if not item:
        raise SourceError("an empty name is no image")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _is_image_file(file))
        if not files:
            raise SourceError(f"{item}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
    elif path.exists():
        files = [path]
    elif glob.has_magic(item):
        # `glob` knows `**` and absolute patterns, which Path.glob does not take.
        files = sorted(file for file in map(Path, glob.glob(item, recursive=True)) if _is_image_file(file))  # noqa: PTH207
        if not files:
            raise SourceError(f"{item}: no image matches this pattern")
    else:
        raise SourceError(f"{item}: no such file or folder")
    # A file name may be any bytes; texts, JSON among them, may not.
    yield from (Source(os.fsencode(file).decode("utf-8", "replace"), file) for file in files)


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        # A pipe or a device would never end.
        if not path.is_file():
            raise ImageError(f"{name}: not a file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or error}") from None


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows few redirects, and none away from the web."""

    max_redirections = 5

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise ImageError(f"{req.full_url}: redirects to an address that is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Exchange(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """One download with all its redirects; its connections are known, so that it can be cut short.

    Args:
        url: the address.
        limit: bytes at most.
    """

    def __init__(self, url: str, limit: int) -> None:
        super().__init__()
        self.url, self.limit = url, limit
        self.outcome: Future[bytes] = Future()
        self._sockets: list[socket.socket] = []
        self._is_cut = False

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        """As the handler does it, through connections that are remembered."""
        return self.do_open(self._connection(HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        """As the handler does it, through connections that are remembered."""
        return self.do_open(self._connection(HTTPSConnection), req)

    def _connection(self, kind: type[HTTPConnection]) -> Callable[..., HTTPConnection]:
        exchange = self

        class Remembered(kind):  # type: ignore[misc, valid-type]
            def connect(self) -> None:
                super().connect()
                exchange.remember(self.sock)

        return Remembered

    def remember(self, connected: socket.socket) -> None:
        """Take in a connection; one that comes too late is closed at once."""
        self._sockets.append(connected)
        if self._is_cut:
            self.cut()

    def cut(self) -> None:
        """End every connection: whatever waits for a server does so no longer."""
        self._is_cut = True
        for connected in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def run(self) -> None:
        """Download; the bytes, or the error, become the outcome."""
        try:
            self.outcome.set_result(self._download())
        except Exception as error:  # noqa: BLE001 - handed on to the thread that waits for the outcome
            self.outcome.set_exception(error)

    def _download(self) -> bytes:
        if urllib.parse.urlsplit(self.url).scheme.lower() not in ("http", "https"):
            raise ImageError(f"{self.url}: only http and https addresses can be fetched")
        # Spaces and letters beyond ASCII, as people paste them, are escaped; what is escaped already stays.
        quoted = urllib.parse.quote(self.url, safe=":/?#[]@!$&'()*+,;=%~")
        request = urllib.request.Request(quoted, headers={"User-Agent": "segc", "Accept": "image/*,*/*;q=0.5"})  # noqa: S310
        opener = urllib.request.build_opener(_WebRedirects, self)
        chunks, size = [], 0
        with opener.open(request, timeout=SOCKET_SECONDS) as response:
            promised = response.length or 0
            if promised > self.limit:
                raise ImageError(f"{self.url}: larger than {self.limit >> 20} MB")
            while chunk := response.read1(1 << 16):
                chunks.append(chunk)
                size += len(chunk)
                if size > self.limit:
                    raise ImageError(f"{self.url}: larger than {self.limit >> 20} MB")
        if size < promised:
            raise ImageError(f"{self.url}: the download broke off after {size} of {promised} bytes")
        return b"".join(chunks)


def fetch(url: str, *, limit: int = MAX_DOWNLOAD, seconds: float = DOWNLOAD_SECONDS) -> bytes:
    """Bytes of an http(s) address.

    Args:
        url: the address.
        limit: bytes at most.
        seconds: time at most for all of it: name, connections, headers, redirects and body. Each wait for the server
            is bounded by ``SOCKET_SECONDS`` too.

    Raises:
        ImageError: for an address of another kind, a fault of the server or the network, too many bytes or seconds.
    """
    exchange = _Exchange(url, limit)
    try:
        # A thread, since nothing else bounds the look-up of a name, and a server that sends a byte now and then.
        Thread(target=exchange.run, daemon=True).start()
        return exchange.outcome.result(seconds)
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url}: the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise ImageError(f"{url}: cannot be reached ({error.reason})") from None
    except ImageError:
        raise
    except (InvalidURL, ValueError, OverflowError) as error:
        raise ImageError(f"{url}: not an address ({error})") from None
    except (HTTPException, OSError) as error:
        if not exchange.outcome.done():
            raise ImageError(f"{url}: not downloaded within {seconds:g} seconds") from None
        raise ImageError(f"{url}: the download broke off ({error or type(error).__name__})") from None
    finally:
        exchange.cut()


def decode_image(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode an image file as training does: 8-bit BGR [h, w, 3], EXIF orientation applied, transparency dropped.

    Grey images get three equal channels, of animations the first frame counts. Samples of 16 bits are brought to 8 by
    the fewest of 8, 10, 12, 14 and 16 bits that hold the brightest one: cameras of 12 bits write 16-bit files too.

    Args:
        data: the file's bytes.
        name: what an error calls it.

    Raises:
        ImageError: where this is no image that OpenCV reads, or `check_image_header` finds fault with it.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        check_image_header(data)
        flags = cv2.IMREAD_COLOR | (_is_deep(data) and cv2.IMREAD_ANYDEPTH)
        with quiet_decoders():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except HeaderError as error:
        raise ImageError(f"{name}: {error}") from None
    except cv2.error as error:
        raise ImageError(f"{name}: not decoded ({error.err or 'beyond what OpenCV takes'})") from None
    if image is None:
        raise ImageError(f"{name}: not an image that OpenCV can decode")
    return _eight_bits(image, name)


def _is_deep(data: bytes) -> bool:
    """Whether samples may have more than 8 bits, by the kind of the file; those that cannot are decoded at once."""
    if data.startswith(b"\x89PNG"):
        return data[24:25] == b"\x10"
    return not data.startswith((b"\xff\xd8", b"RIFF", b"BM", b"GIF8"))


def _eight_bits(image: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.uint8]:
    """Samples of 16 bits as 8, by how many of them are in use."""
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype != np.uint16:
        raise ImageError(f"{name}: samples are {image.dtype}; those of 8 and 16 bits are read")
    brightest = int(image.max(initial=0))
    bits = next(bits for bits in (8, 10, 12, 14, 16) if brightest < 1 << bits)
    return np.asarray(np.right_shift(image, bits - 8), np.uint8)
