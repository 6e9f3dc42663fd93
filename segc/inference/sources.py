"""Where pictures come from: files, folders, patterns, lists, addresses, cameras; read with bounds on size and time."""

import contextlib
import glob
import os
import re
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection, InvalidURL
from pathlib import Path
from threading import Thread
from typing import IO

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.image_headers import MAX_PIXELS, HeaderError, check_image_header, further_pictures, quiet_decoders
from segc.inference.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MAX_DOWNLOAD = 64 << 20
"""Bytes that an image from the web may have."""

SOCKET_SECONDS = 20.0
"""How long a server may be silent."""

DOWNLOAD_SECONDS = 120.0
"""How long a download may take in all."""


MOST_LISTED = 64 << 20
"""Bytes that a list of sources may have: a million names."""

VIDEO_START = (
    rb"(?s:.{4})ftyp(?!avif|avis|mif1|miaf|hei[cs])|(?s:.{4})(moov|mdat|free|skip|wide)|\x1a\x45\xdf\xa3"
    rb"|RIFF(?s:.{4})AVI |FLV\x01|OggS|YUV4MPEG2 |\x30\x26\xb2\x75\x8e\x66\xcf\x11|\0\0\x01[\xb3\xba]"
    rb"|\x47(?s:.{187})\x47|(?s:.{4})\x47(?s:.{191})\x47"
)
"""How files begin that are read as videos: MP4 and MOV, Matroska and WebM, AVI, FLV, Ogg, YUV4MPEG, ASF, MPEG.

FFmpeg reads playlists and other texts too, which may name any file or address; none of them begins so.
"""


COUNTED_START = rb"(?s:.{4})(ftyp|moov|mdat|free|skip|wide)|RIFF(?s:.{4})AVI "
"""How files begin that hold the number of their frames: MP4, MOV, AVI. Of others OpenCV tells duration times rate."""


class SourceError(ValueError):
    """A source that names no image."""


class ImageError(ValueError):
    """An image that cannot be fetched, read or decoded."""


class StreamFoundError(ImageError):
    """An address gives no picture but frames without end, or a video; ``kind`` is the content type it names."""

    def __init__(self, url: str, kind: str) -> None:
        super().__init__(f"{url}: a stream or a video ({kind}), not an image")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Source:
    """One image, video, camera or stream to read. ``path`` is None for what is no file.

    Attributes:
        name: as the user would name it: the path as reached from what was given, or the address.
        path: the file.
        kind: ``image``, a file; ``web``, what an http(s) address gives, an image or a stream; ``stdin``, an image;
            ``video``, a file; ``camera``, by its number; ``stream``, an rtsp(s) address.
    """

    name: str
    path: Path | None = None
    kind: str = "image"

    @property
    def is_still(self) -> bool:
        """Whether ``read`` gives a picture, or may."""
        return self.kind in ("image", "web", "stdin")

    @property
    def stem(self) -> str:
        """File name without its suffix, for naming what is made of it: fit for any system, and never empty."""
        return file_stem(Path(self._file_name).stem) or "image"

    @property
    def suffix(self) -> str:
        """Suffix of the file name in lower case, with its dot; perhaps empty."""
        return Path(self._file_name).suffix.lower()

    @property
    def _file_name(self) -> str:
        if self.path is not None:
            return self.path.name
        if self.kind in ("camera", "stdin"):
            return f"camera-{self.name}" if self.kind == "camera" else self.kind
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(self.name).path)).name

    def read(
        self, most_pixels: int = MAX_PIXELS, noted: Callable[[int], object] = lambda _: None
    ) -> npt.NDArray[np.uint8]:
        """The image, [h, w, 3] BGR, turned as its EXIF orientation says.

        Args:
            most_pixels: that it may have.
            noted: takes how many more pictures the file holds, see `further_pictures`.

        Raises:
            ImageError: where it cannot be fetched, read or decoded; the text names it. ``StreamFoundError`` for a
                stream.
        """
        data = self._bytes()
        image = decode_image(data, self.name, most_pixels)
        noted(further_pictures(data))
        return image

    def local(self) -> contextlib.AbstractContextManager["Source"]:
        """While the block lasts, the same source as a file of this machine, if it can be one.

        Raises:
            ImageError: where it cannot be fetched; the text names it.
        """
        return contextlib.nullcontext(self)

    def _bytes(self) -> bytes:
        if self.path is not None:
            return _file_bytes(self.path, self.name)
        if self.kind != "stdin":
            return fetch(self.name)
        if sys.stdin is None:
            raise ImageError("standard input: closed")
        data = sys.stdin.buffer.read(MAX_DOWNLOAD + 1)
        if len(data) > MAX_DOWNLOAD:
            raise ImageError(f"standard input: larger than {MAX_DOWNLOAD >> 20} MB")
        return data


def file_stem(text: str) -> str:
    """A text as the stem of a file's name on any system; perhaps empty."""
    return "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in text)[:80]


def find_sources(items: Sequence[str], failed: Callable[[SourceError], None] | None = None) -> list[Source]:
    """The sources that arguments name, in the order given; one that is named twice comes once.

    An argument is a file (an image or a video), a folder (its images and videos, sorted by name, numbers in names by
    their value, not those in folders below it), a pattern with ``*``, ``?``, ``[…]``, and ``**`` for all folders below,
    a ``.txt`` list with one of these or an address a line, an http(s) or rtsp(s) address, the number of a camera, or
    ``-``: an image's bytes on standard input. What exists under the very name is no pattern and no camera.

    Args:
        items: the arguments.
        failed: takes what is wrong with an argument, or a line of a list, that names nothing, where others do.

    Raises:
        SourceError: where nothing is named, or, without ``failed``, where an argument or a line names nothing.
    """
    found: dict[str, Source] = {}
    problems: list[SourceError] = []
    for item in items:
        for one in _expand(item):
            if isinstance(one, SourceError):
                problems.append(one)
            else:
                found.setdefault(one.name if one.path is None else str(one.path.resolve()), one)
    for problem in problems:
        if failed is None or not found:
            raise problem
        failed(problem)
    return list(found.values())


def _expand(item: str) -> Iterator[Source | SourceError]:
    """The sources that an argument names, and what is wrong with it, or with a line of a list."""
    try:
        os.fsencode(item)
        yield from _named_by(item)
    except UnicodeEncodeError:
        yield SourceError(f"{item!r} cannot be the name of a file")
    except SourceError as error:
        yield error


def _named_by(item: str) -> Iterator[Source | SourceError]:
    scheme, separator, _ = item.partition("://")
    path = Path(item)
    if separator:
        yield _address(item, scheme.lower())
    elif not item:
        raise SourceError("an empty name is no image")
    elif item == "-":
        yield Source(item, kind="stdin")
    # os.path answers for names that no file can have, too, where pathlib raises.
    elif os.path.isdir(item):  # noqa: PTH112
        yield from _files(path.iterdir(), f"{item}: no images or videos in this folder ({', '.join(IMAGE_SUFFIXES)})")
    elif path.suffix.lower() == ".txt" and os.path.isfile(item):  # noqa: PTH113
        yield from _listed(path, item)
    elif os.path.exists(item):  # noqa: PTH110
        yield _file_source(path)
    elif glob.has_magic(item):
        # `glob` knows `**` and absolute patterns, which Path.glob does not take.
        yield from _files(map(Path, glob.glob(item, recursive=True)), f"{item}: no image or video matches this pattern")  # noqa: PTH207
    elif re.fullmatch(r"[0-9]{1,3}", item):
        yield Source(item, kind="camera")
    else:
        raise SourceError(f"{item}: no such file or folder")


def _address(item: str, scheme: str) -> Source:
    kind = {"http": "web", "https": "web", "rtsp": "stream", "rtsps": "stream"}.get(scheme)
    if kind is None:
        raise SourceError(f"{item}: only http, https, rtsp and rtsps addresses can be read")
    try:
        urllib.parse.urlsplit(item)
    except ValueError as error:
        raise SourceError(f"{item}: not an address ({error})") from None
    return Source(item, kind=kind)


def _files(paths: Iterable[Path], none: str) -> list[Source]:
    """The images and videos among files, sorted; an error with the text ``none`` where there are none."""
    files = sorted(filter(_is_picture_file, paths), key=_by_name_and_number)
    if not files:
        raise SourceError(none)
    return [_named(path, "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image") for path in files]


def _by_name_and_number(path: Path) -> tuple[list[list[str | int]], Path]:
    """What paths are sorted by, so that frame 10 comes after frame 9 whether or not there are zeros before it."""
    halves = [re.split("([0-9]+)", part) for part in path.parts]
    return [[int(text) if index % 2 else text for index, text in enumerate(part)] for part in halves], path


def _is_picture_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _named(path: Path, kind: str) -> Source:
    # A file name may be any bytes; texts, JSON among them, may not.
    return Source(os.fsencode(path).decode("utf-8", "replace"), path, kind)


def _file_source(path: Path) -> Source:
    """A file that is named outright: a video by its name, or by its beginning where the name says nothing."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return _named(path, "image")
    try:
        is_video = suffix in VIDEO_SUFFIXES or (path.is_file() and begins_as(path))
    except OSError:  # reading it will tell
        is_video = False
    return _named(path, "video" if is_video else "image")


def begins_as(path: Path, start: bytes = VIDEO_START) -> bool:
    """Whether a file has the first bytes of a video of a kind that is read, or of those kinds that ``start`` matches.

    Raises:
        OSError: where it cannot be read.
    """
    with path.open("rb") as file:
        return re.match(start, file.read(512)) is not None


def _listed(path: Path, item: str) -> Iterator[Source | SourceError]:
    """The sources that a list names, one a line, relative to it or to the current folder; ``#`` begins a comment."""
    try:
        if path.stat().st_size > MOST_LISTED:
            raise SourceError(f"{item}: a list of more than {MOST_LISTED >> 20} MB")
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SourceError(f"{item}: not a text that lists images") from None
    except OSError as error:
        raise SourceError(f"{item}: {error.strerror or error}") from None
    named = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]
    if not named:
        raise SourceError(f"{item}: an empty list")
    for number, name in named:
        if name == "-" or name.lower().endswith(".txt"):
            yield SourceError(f"{item}:{number}: {name}: a list names no list and no standard input")
            continue
        beside = path.parent / name
        try:
            for one in _expand(str(beside) if "://" not in name and beside.exists() else name):
                yield SourceError(f"{item}:{number}: {one}") if isinstance(one, SourceError) else one
        except (OSError, ValueError) as error:
            yield SourceError(f"{item}:{number}: {error}")


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        # A pipe or a device would never end.
        if not path.is_file():
            raise ImageError(f"{name}: not a file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or error}") from None


STREAM_TYPES = r"multipart/|video/|application/(vnd\.apple\.mpegurl|x-mpegurl)"
"""Content types of what is no image but frames one after another."""


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


class WebExchange(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
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

    def open(self) -> HTTPResponse:
        """The answer, with its headers read.

        Raises:
            ImageError: for an address of another kind; else as ``urllib.request`` has it.
        """
        if urllib.parse.urlsplit(self.url).scheme.lower() not in ("http", "https"):
            raise ImageError(f"{self.url}: only http and https addresses can be fetched")
        # Spaces and letters beyond ASCII, as people paste them, are escaped; what is escaped already stays.
        quoted = urllib.parse.quote(self.url, safe=":/?#[]@!$&'()*+,;=%~")
        request = urllib.request.Request(quoted, headers={"User-Agent": "segc", "Accept": "image/*,*/*;q=0.5"})  # noqa: S310
        opened: HTTPResponse = urllib.request.build_opener(_WebRedirects, self).open(request, timeout=SOCKET_SECONDS)
        return opened

    def _download(self) -> bytes:
        chunks, size = [], 0
        with self.open() as response:
            kind = response.headers.get_content_type()
            if re.match(STREAM_TYPES, kind):
                raise StreamFoundError(self.url, kind)
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
        ImageError: for an address of another kind, a fault of the server or the network, too many bytes or seconds;
            ``StreamFoundError`` where the server says that it sends a stream or a video.
    """
    exchange = WebExchange(url, limit)
    try:
        # A thread, since nothing else bounds the look-up of a name, and a server that sends a byte now and then.
        Thread(target=exchange.run, daemon=True).start()
        return exchange.outcome.result(seconds)
    except Exception as error:  # noqa: BLE001 - what is not the web's own fault comes back as it is
        if isinstance(error, TimeoutError) and not exchange.outcome.done():
            raise ImageError(f"{url}: not downloaded within {seconds:g} seconds") from None
        raise web_problem(url, error) from None
    finally:
        exchange.cut()


def web_problem(url: str, error: Exception) -> Exception:
    """What went wrong with an address, as an ``ImageError``; any error that is not the web's as it is."""
    match error:
        case ImageError():
            return error
        case urllib.error.HTTPError():
            return ImageError(f"{url}: the server answered {error.code} {error.reason}")
        case urllib.error.URLError():
            return ImageError(f"{url}: cannot be reached ({error.reason})")
        case InvalidURL() | ValueError() | OverflowError():
            return ImageError(f"{url}: not an address ({error})")
        case HTTPException() | OSError():
            return ImageError(f"{url}: the download broke off ({error or type(error).__name__})")
    return error


def decode_image(data: bytes, name: str, most_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image file as training does: 8-bit BGR [h, w, 3], EXIF orientation applied, transparency dropped.

    Grey images get three equal channels, of animations the first frame counts. Samples of 16 bits are brought to 8 by
    the fewest of 8, 10, 12, 14 and 16 bits that hold the brightest one: cameras of 12 bits write 16-bit files too.

    Args:
        data: the file's bytes.
        name: what an error calls it.
        most_pixels: that it may have.

    Raises:
        ImageError: where this is no image that OpenCV reads, or `check_image_header` finds fault with it.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        check_image_header(data, most_pixels)
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
