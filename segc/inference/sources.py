"""Where photographs come from: files, folders, patterns and web addresses, read with bounds on size and time."""

import glob
import os
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.kinds import IMAGE_SUFFIXES

MAX_PIXELS = 1 << 27
"""Pixels that an image may have: 134 million, 400 MB once decoded."""

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


def fetch(url: str, *, limit: int = MAX_DOWNLOAD, seconds: float = DOWNLOAD_SECONDS) -> bytes:
    """Bytes of an http(s) address.

    Args:
        url: the address.
        limit: bytes at most.
        seconds: time at most for the whole download; each wait for the server is bounded by ``SOCKET_SECONDS`` too.

    Raises:
        ImageError: for an address of another kind, a fault of the server or the network, too many bytes or seconds.
    """
    if urllib.parse.urlsplit(url).scheme.lower() not in ("http", "https"):
        raise ImageError(f"{url}: only http and https addresses can be fetched")
    end = time.monotonic() + seconds
    chunks, size = [], 0
    try:
        # Spaces and letters beyond ASCII, as people paste them, are escaped; what is escaped already stays.
        quoted = urllib.parse.quote(url, safe=":/?#[]@!$&'()*+,;=%~")
        request = urllib.request.Request(quoted, headers={"User-Agent": "segc", "Accept": "image/*,*/*;q=0.5"})  # noqa: S310
        opener = urllib.request.build_opener(_WebRedirects)
        with opener.open(request, timeout=min(SOCKET_SECONDS, seconds)) as response:
            promised = response.length or 0
            if promised > limit:
                raise ImageError(f"{url}: larger than {limit >> 20} MB")
            while chunk := response.read1(1 << 16):
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise ImageError(f"{url}: larger than {limit >> 20} MB")
                if time.monotonic() > end:
                    raise ImageError(f"{url}: not downloaded within {seconds:g} seconds")
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url}: the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise ImageError(f"{url}: cannot be reached ({error.reason})") from None
    except (HTTPException, OSError) as error:
        raise ImageError(f"{url}: the download broke off ({error or type(error).__name__})") from None
    if size < promised:
        raise ImageError(f"{url}: the download broke off after {size} of {promised} bytes")
    return b"".join(chunks)


def decode_image(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode an image file as training does: 8-bit BGR [h, w, 3], EXIF orientation applied, transparency dropped.

    Grey images get three equal channels, of animations the first frame counts. Samples of 16 bits are brought to 8 by
    the fewest of 8, 10, 12, 14 and 16 bits that hold the brightest one: cameras of 12 bits write 16-bit files too.

    Args:
        data: the file's bytes.
        name: what an error calls it.

    Raises:
        ImageError: where this is no image that OpenCV reads, or one with more than ``MAX_PIXELS``.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    size = image_header_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{name}: {size[1]} by {size[0]} pixels; the limit is {MAX_PIXELS >> 20} Mi pixels")
    if _is_cut_off_jpeg(data):
        raise ImageError(f"{name}: cut off, its end is missing")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | (_is_deep(data) and cv2.IMREAD_ANYDEPTH))
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


def image_header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) by the header of a PNG, JPEG, WebP, BMP or TIFF file; None for others and for broken headers.

    A few bytes can decode to gigabytes, so the size is looked at before anything is decoded.
    """
    readers: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
        b"\x89PNG": _png_size,
        b"\xff\xd8\xff": _jpeg_size,
        b"RIFF": _webp_size,
        b"BM": _bmp_size,
        b"II*\0": _tiff_size,
        b"MM\0*": _tiff_size,
    }
    reader = next((reader for magic, reader in readers.items() if data.startswith(magic)), None)
    try:
        return None if reader is None else reader(data)
    except (struct.error, IndexError):
        return None


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _bmp_size(data: bytes) -> tuple[int, int]:
    # The oldest header has 16-bit sides; a negative height means rows from the top.
    width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    return abs(height), abs(width)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers and where each stands, up to the first scan; what they hold, a thumbnail perhaps, is stepped over."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        yield marker, at
        if marker == 0xDA:
            return
        # Fill bytes, and the markers without a length.
        bare = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        at += (1 if marker == 0xFF else 2) if bare else 2 + struct.unpack_from(">H", data, at + 2)[0]


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    # Start-of-frame markers are C0 to CF, but for the three that define tables.
    frames = (at for marker, at in _jpeg_segments(data) if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))
    at = next(frames, None)
    if at is None:
        return None
    height, width = struct.unpack_from(">HH", data, at + 5)
    return height, width


def _is_cut_off_jpeg(data: bytes) -> bool:
    """Whether the end marker is missing: the decoder would fill the rest with grey and say nothing."""
    if not data.startswith(b"\xff\xd8"):
        return False
    scan = next((at for marker, at in _jpeg_segments(data) if marker == 0xDA), len(data))
    return data.find(b"\xff\xd9", scan) < 0


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    order = "<" if data.startswith(b"II") else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    sides: dict[int, int] = {}
    for index in range(struct.unpack_from(f"{order}H", data, start)[0]):
        entry = start + 2 + 12 * index
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        # Width (256) and height (257) are 16-bit (kind 3) or 32-bit.
        if tag in (256, 257):
            sides[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)[0]
    return (sides[257], sides[256]) if len(sides) == 2 else None
