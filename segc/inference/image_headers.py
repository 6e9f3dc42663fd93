"""What an image file says about itself, checked before anything is decoded.

Decoders believe lengths and sizes that they read: a chunk of 46 bytes can ask for 4 GB, a few thousand scans or code
blocks for minutes. So the format is found by its first bytes, every length that a decoder would set memory aside for is
held against the file, and the size against a bound. The formats are those of PNG (ISO 15948), JPEG (ITU T.81), WebP
(RFC 9649), TIFF 6.0 and BigTIFF, JPEG 2000 (ITU T.800), GIF 89a, BMP, AVIF (ISO 23008-12), Netpbm, PFM, Radiance, Sun.
"""

import contextlib
import ctypes
import mmap
import os
import re
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import cv2

MAX_PIXELS = 1 << 27
"""Pixels that an image may have: 134 million, 400 MB once decoded."""

MOST_BLOCKS = 1 << 20
"""Chunks, segments or boxes of a file: a photograph has hundreds; more would only cost time."""

MOST_SCANNED = 1 << 31
"""Pixels times scans of a JPEG: sixteen passes over the largest image; progressive photographs take ten."""

MOST_CODE_BLOCKS = 1 << 22
"""Code blocks and precincts of a JPEG 2000 image, for each of which its decoder sets some hundred bytes aside."""

MOST_UNPACKED = 1032
"""Bytes that one of deflate's can stand for, at most (RFC 1951: 258 for two bits)."""

_CUT_OFF = "cut off, its end is missing"


class HeaderError(ValueError):
    """An image file whose header asks for what it cannot have; the text says what."""


def check_image_header(data: bytes, most_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Hold what an image file asks of its decoder against the file and the bounds.

    Args:
        data: the whole file.
        most_pixels: that it may have.

    Returns:
        (height, width) in pixels as stored: before a turn that EXIF asks for.

    Raises:
        HeaderError: where it is none of the formats that are decoded, is cut off, has a length that reaches beyond its
            end, or is larger than ``most_pixels``.
    """
    reader = next((reader for magic, reader in _IMAGE_FORMATS if re.match(magic, data)), None)
    if reader is None:
        raise HeaderError("not an image that OpenCV can decode")
    try:
        size = reader(data)
    except (struct.error, IndexError):
        raise HeaderError(_CUT_OFF) from None
    if size is None:
        raise HeaderError("damaged: its header names no size")
    height, width = size
    if height < 1 or width < 1:
        raise HeaderError(f"damaged: {width} by {height} pixels")
    if height * width > most_pixels:
        raise HeaderError(f"{width} by {height} pixels; the limit is {most_pixels >> 20} Mi pixels")
    return height, width


def image_header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) by the header of an image file; None where `check_image_header` finds fault with it."""
    try:
        return check_image_header(data)
    except HeaderError:
        return None


def _reach(at: int, length: int, data: bytes | mmap.mmap, what: str) -> int:
    """Where a block of ``length`` bytes at ``at`` ends, inside the file."""
    if length > len(data) - at:
        raise HeaderError(f"damaged or cut off: {what} of {length} bytes at byte {at}, the file has {len(data)}")
    return at + length


def _bounded(blocks: int, what: str) -> None:
    if blocks > MOST_BLOCKS:
        raise HeaderError(f"more than {MOST_BLOCKS} {what}")


def _png_header(data: bytes) -> tuple[int, int]:
    at, number, size = 8, 0, None
    least = packed = 0  # bytes of the pixels, and of what is deflated
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = _reach(at + 8, length, data, f"a chunk {kind.decode('ascii', 'replace')}")
        if size is None:
            if kind != b"IHDR" or length != 13:
                raise HeaderError("damaged: a PNG without its header")
            width, height, bits, colours = struct.unpack_from(">IIBB", data, at + 8)
            size = height, width
            least = height * (width * bits * (1, 1, 3, 1, 2, 1, 4)[min(colours, 6)] // 8)
        if kind == b"IDAT":
            packed += length
        if kind == b"IEND":
            if least > packed * MOST_UNPACKED:
                raise HeaderError(f"damaged or cut off: {packed} bytes cannot hold {width} by {height} pixels")
            return size
        at, number = end + 4, number + 1
        _bounded(number, "chunks")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers and where each stands, up to the first scan; what they hold, a thumbnail perhaps, is stepped over."""
    at, number = 2, 0
    while (at := data.find(b"\xff", at)) >= 0:
        marker = data[at + 1]
        number += 1
        _bounded(number, "segments")
        yield marker, at
        if marker == 0xDA:
            return
        # Fill bytes, and the markers without a length.
        bare = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9
        at += (1 if marker == 0xFF else 2) if bare else 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise HeaderError(_CUT_OFF)


def _jpeg_header(data: bytes) -> tuple[int, int] | None:
    size, at, progressive, components = None, 0, False, 0
    for marker, at in _jpeg_segments(data):
        # Start-of-frame markers are C0 to CF, but for the three that define tables.
        if size is None and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            *size, components = struct.unpack_from(">HHB", data, at + 5)
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
    # In the data of a scan these are markers and nothing else: a byte FF of its own is followed by 00.
    end = data.rfind(b"\xff\xd9", at)
    if end < 0:
        # The decoder would fill the rest with grey and say nothing.
        raise HeaderError(_CUT_OFF)
    if size is None:
        return None
    scans = data.count(b"\xff\xda", at, end) if progressive or data[at + 4] < components else 1
    if size[0] * size[1] <= MAX_PIXELS and size[0] * size[1] * scans > MOST_SCANNED:
        raise HeaderError(f"{scans} scans of {size[1]} by {size[0]} pixels would take too long to decode")
    return size[0], size[1]


def _webp_header(data: bytes) -> tuple[int, int] | None:
    length = struct.unpack_from("<I", data, 4)[0]
    # An odd last chunk may lack its byte of padding.
    end = _reach(8, max(length - 1, 0), data, "a picture") + 1
    at, size, number = 12, None, 0
    while at + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from("<4sI", data, at)
        if size is None:
            size = _webp_size(data, kind, at + 8)
        at = _reach(at + 8, length, data, f"a chunk {kind.decode('ascii', 'replace')}") + length % 2
        number += 1
        _bounded(number, "chunks")
    return size


def _webp_size(data: bytes, kind: bytes, at: int) -> tuple[int, int] | None:
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at + place : at + place + 3], "little") + 1 for place in (4, 7))
        return height, width
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, at + 1)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, at + 6)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _bmp_header(data: bytes) -> tuple[int, int]:
    # The oldest header has 16-bit sides; a negative height means rows from the top.
    width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    _reach(0, struct.unpack_from("<I", data, 10)[0], data, "headers")
    return abs(height), abs(width)


def _gif_header(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type in a TIFF file."""


def tiff_entries(data: bytes | mmap.mmap) -> tuple[str, list[tuple[int, int, int, int]]]:
    """The first directory of a TIFF or BigTIFF file.

    Args:
        data: the whole file; a memory map will do.

    Returns:
        The byte order, ``<`` or ``>``, and of each entry the tag, the type, the number of values, and where they stand.

    Raises:
        HeaderError: where a length reaches beyond the end of the file.
        struct.error: where it is cut off.
    """
    order, word, few, row, first = _tiff_form(data)
    start = struct.unpack_from(f"{order}{word}", data, first)[0]
    number = struct.unpack_from(f"{order}{few}", data, _reach(0, start, data, "headers"))[0]
    at = start + struct.calcsize(few)
    _reach(at, number * row, data, "a directory")
    _bounded(number, "entries")
    entries = []
    for entry in range(at, at + number * row, row):
        tag, kind, count = struct.unpack_from(f"{order}HH{word}", data, entry)
        size, place = count * TIFF_SIZES.get(kind, 1), entry + 4 + struct.calcsize(word)
        _reach(0, size, data, f"an entry {tag}")
        if size > struct.calcsize(word):
            place = struct.unpack_from(f"{order}{word}", data, place)[0]
        entries.append((tag, kind, count, place))
    return order, entries


def _tiff_form(data: bytes | mmap.mmap) -> tuple[str, str, str, int, int]:
    """Byte order, codes of offsets and of numbers of entries, bytes of an entry, where the first directory is named."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    # BigTIFF has 64-bit counts and offsets in place of 32-bit ones.
    return (order, "Q", "Q", 20, 8) if big else (order, "I", "H", 12, 4)


def _tiff_header(data: bytes) -> tuple[int, int] | None:
    order, entries = tiff_entries(data)
    # Width, height and those of tiles are 16-bit or 32-bit.
    codes = {3: "H", 4: "I", 16: "Q"}
    sides: dict[int, int] = {
        tag: struct.unpack_from(f"{order}{codes.get(kind, 'I')}", data, place)[0]
        for tag, kind, _, place in entries
        if tag in (256, 257, 322, 323)
    }
    if sides.get(322, 1) * sides.get(323, 1) > MAX_PIXELS:
        raise HeaderError(f"tiles of {sides[322]} by {sides[323]} pixels")
    return (sides[257], sides[256]) if {256, 257} <= sides.keys() else None


def _boxes(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """Kinds of the boxes at the top of an ISO base media file, and where their contents begin."""
    number = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        yield kind, at + head
        if length == 0:  # to the end of the file
            return
        if length < head:
            raise HeaderError("damaged: a box smaller than its own header")
        at = _reach(at, length, data, f"a box {kind.decode('ascii', 'replace')}")
        number += 1
        _bounded(number, "boxes")


def _jp2_header(data: bytes) -> tuple[int, int] | None:
    start = next((at for kind, at in _boxes(data, 0) if kind == b"jp2c"), None)
    return None if start is None else _codestream_header(data, start)


def _codestream_header(data: bytes, start: int = 0) -> tuple[int, int] | None:
    """The size in a JPEG 2000 codestream, which is checked up to its first tile."""
    if data[start : start + 4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", data, start + 8)
    components = struct.unpack_from(">H", data, start + 40)[0]
    height, width = bottom - top, right - left
    if not 1 <= components <= 4 or min(height, width, tile_width, tile_height) < 1:
        raise HeaderError(f"damaged: {width} by {height} pixels of {components} components")
    tiles = -(-height // tile_height) * -(-width // tile_width)
    at = start + 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0x90:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if marker in (0x52, 0x53):
            # What follows the number of components in COC is what COD has from its number of levels on.
            place = at + (9 if marker == 0x52 else 6)
            precincts = bool(data[at + 4 if marker == 0x52 else at + 5] & 1)
            blocks = _code_blocks(data[place : at + 2 + length], height * width, precincts=precincts)
            if (blocks + tiles) * components > MOST_CODE_BLOCKS:
                raise HeaderError("more code blocks than an image of its size has a use for")
        at = _reach(at + 2, length, data, f"a segment {marker:02X}")
    return height, width


def _code_blocks(style: bytes, pixels: int, *, precincts: bool) -> int:
    """Code blocks and precincts of a component, at most, by the coding style: levels, block sides, precinct sides."""
    levels = style[0]
    count = pixels >> min((style[1] & 15) + 2 + (style[2] & 15) + 2, 12)
    for level, sides in enumerate(style[5 : 6 + levels]) if precincts else ():
        # The smallest resolution comes first.
        count += (pixels >> 2 * (levels - level)) >> (sides & 15) + (sides >> 4)
    return count


_IMAGE_EXTENT = rb"(?s:ispe\0\0\0\0(.{4})(.{4}))"


def _avif_header(data: bytes) -> tuple[int, int] | None:
    for _ in _boxes(data, 0):
        pass
    extents = [(int.from_bytes(found[2]), int.from_bytes(found[1])) for found in re.finditer(_IMAGE_EXTENT, data)]
    return max(extents, key=lambda size: size[0] * size[1], default=None)


_NETPBM = rb"P[1-6Ff](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s"
_PAM_SIDES = (rb"\nHEIGHT\s+(\d{1,9})\s", rb"\nWIDTH\s+(\d{1,9})\s")
_RADIANCE = rb"\n[-+]Y\s+(\d{1,9})\s+[-+]X\s+(\d{1,9})\s"
_TEXT_HEADER = 4096
"""Bytes in which a header of text ends."""


def _netpbm_header(data: bytes) -> tuple[int, int] | None:
    found = re.match(_NETPBM, data[:_TEXT_HEADER])
    return None if found is None else (int(found[2]), int(found[1]))


def _pam_header(data: bytes) -> tuple[int, int] | None:
    height, width = (re.search(side, data[:_TEXT_HEADER]) for side in _PAM_SIDES)
    return None if height is None or width is None else (int(height[1]), int(width[1]))


def _radiance_header(data: bytes) -> tuple[int, int] | None:
    found = re.search(_RADIANCE, data[:_TEXT_HEADER])
    return None if found is None else (int(found[1]), int(found[2]))


def _sun_header(data: bytes) -> tuple[int, int]:
    width, height, _, _, _, _, palette = struct.unpack_from(">7I", data, 4)
    _reach(32, palette, data, "a palette")
    return height, width


_IMAGE_FORMATS: tuple[tuple[bytes, Callable[[bytes], tuple[int, int] | None]], ...] = (
    (rb"\xff\xd8\xff", _jpeg_header),
    (rb"\x89PNG\r\n\x1a\n", _png_header),
    (rb"RIFF(?s:.{4})WEBP", _webp_header),
    (rb"BM", _bmp_header),
    (rb"II[*+]\0|MM\0[*+]", _tiff_header),
    (rb"\0\0\0\x0cjP  \r\n\x87\n", _jp2_header),
    (rb"\xff\x4f\xff\x51", _codestream_header),
    (rb"GIF8[79]a", _gif_header),
    (rb"(?s:.{4})ftyp(avif|avis|mif1|miaf)", _avif_header),
    (rb"P[1-6Ff]", _netpbm_header),
    (rb"P7", _pam_header),
    (rb"#\?R(ADIANCE|GBE)", _radiance_header),
    (rb"\x59\xa6\x6a\x95", _sun_header),
)
"""The first bytes of the formats that are decoded, and what reads their size and checks their lengths."""


def further_pictures(data: bytes | mmap.mmap) -> int:
    """How many pictures an image file holds behind the first, which alone is decoded: frames of a GIF, PNG or WebP that
    moves, pages of a TIFF file; what shows the same smaller, or is a mask, is none. Of a damaged file those before the
    damage count.
    """  # noqa: D205 - the first sentence is long
    found = 0
    pictures = next((pictures for magic, pictures in _SEVERAL if re.match(magic, data)), lambda _: iter(()))
    with contextlib.suppress(struct.error, IndexError, HeaderError):
        for _ in pictures(data):
            found += 1
    return max(0, found - 1)


def _gif_pictures(data: bytes | mmap.mmap) -> Iterator[int]:
    at = 13 + _gif_palette(data[10])
    while data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:
            yield at
            at += 11 + _gif_palette(data[at + 9])
        else:
            at += 2
        while length := data[at]:
            at += 1 + length
        at += 1


def _gif_palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _png_pictures(data: bytes | mmap.mmap) -> Iterator[int]:
    at, is_moving = 8, False
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        is_moving |= kind == b"acTL"
        if kind == b"fcTL":
            yield at
        elif kind == b"IDAT" and not is_moving:
            return
        at += 12 + length


def _webp_pictures(data: bytes | mmap.mmap) -> Iterator[int]:
    at = 12
    while True:
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"ANMF":
            yield at
        elif kind in (b"VP8 ", b"VP8L"):
            return
        at += 8 + length + length % 2


def _tiff_pictures(data: bytes | mmap.mmap) -> Iterator[int]:
    order, word, few, row, at = _tiff_form(data)
    seen, entries = set(), 0
    while (start := struct.unpack_from(f"{order}{word}", data, at)[0]) and start not in seen:
        seen.add(start)
        number = struct.unpack_from(f"{order}{few}", data, start)[0]
        entries += 1 + number
        _bounded(entries, "entries")
        first, at = start + struct.calcsize(few), start + struct.calcsize(few) + number * row
        tags = {struct.unpack_from(f"{order}H", data, entry)[0]: entry for entry in range(first, at, row)}
        # NewSubfileType: 1 is of a smaller one of the same, 4 of a mask.
        place = 4 + struct.calcsize(word)
        if 254 not in tags or not struct.unpack_from(f"{order}I", data, tags[254] + place)[0] & 5:
            yield start


_SEVERAL: tuple[tuple[bytes, Callable[[bytes | mmap.mmap], Iterator[int]]], ...] = (
    (rb"GIF8[79]a", _gif_pictures),
    (rb"\x89PNG\r\n\x1a\n", _png_pictures),
    (rb"RIFF(?s:.{4})WEBP", _webp_pictures),
    (rb"II[*+]\0|MM\0[*+]", _tiff_pictures),
)
"""The first bytes of formats whose files may hold several pictures, and what tells where each stands."""


def _log_level(level: int) -> int:
    """Set how much OpenCV writes, 0 for nothing; returns what it was."""
    # It stands there since 4.13, and directly in the module before.
    home = getattr(cv2.utils, "logging", cv2)
    before: int = home.setLogLevel(level)
    return before


class _Quietness:
    """Counts who decodes, and leads the streams for errors elsewhere while anybody does."""

    def __init__(self) -> None:
        self._begin()
        self._nowhere: int | None = None

    def _begin(self) -> None:
        self._lock, self._process, self._inside = threading.Lock(), os.getpid(), 0
        self._level, self._kept = 0, 0

    def enter(self) -> None:
        """Be quiet from now on, unless somebody else has seen to it already."""
        if self._process != os.getpid():
            # A forked process has its parent's lock, perhaps held by a thread that it has not.
            if self._inside:
                self._speak()
            self._begin()
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._level = _log_level(0)
                if (stream := _c_stream()) is not None:
                    self._nowhere = self._nowhere or _open_nowhere()
                    self._kept, stream.value = stream.value or 0, self._nowhere

    def leave(self) -> None:
        """The last one turns the light on."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._speak()

    def _speak(self) -> None:
        _log_level(self._level)
        if (stream := _c_stream()) is not None:
            stream.value = self._kept


@cache
def _quietness() -> _Quietness:
    return _Quietness()


@cache
def _c_stream() -> ctypes.c_void_p | None:
    """The C library's variable that holds its stream for errors; None where there is none that may be set."""
    library = ctypes.CDLL(None) if os.name == "posix" else None
    # Other C libraries of Linux than GNU's keep it in memory that is not to be written to.
    name = "__stderrp" if sys.platform == "darwin" else "stderr" if hasattr(library, "gnu_get_libc_version") else None
    try:
        return None if library is None or name is None else ctypes.c_void_p.in_dll(library, name)
    except ValueError:  # it has no such variable
        return None


def _open_nowhere() -> int | None:
    opened = ctypes.CDLL(None).fopen
    opened.restype = ctypes.c_void_p
    stream: int | None = opened(os.devnull.encode(), b"w")
    return stream


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep OpenCV, and the C libraries in it, from writing to the terminal what they think of an image.

    libpng and libjpeg write to the C library's stream for errors; that alone is led elsewhere, so nothing of what
    Python or other threads print is lost. Threads may be inside at the same time.
    """
    _quietness().enter()
    try:
        yield
    finally:
        _quietness().leave()
