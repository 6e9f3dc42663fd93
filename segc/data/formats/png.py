"""PNG files as numbers: palette indices as they are, grey values of 8 and 16 bits, and colours as one number each."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.data.formats.common import MOST_BYTES, MOST_PIXELS

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE, _GREY_AND_ALPHA = 0, 3, 4


def read_png(data: bytes, name: str) -> NDArray[np.uint32]:
    """The values of a PNG, [h, w]: indices of a palette, grey values, or colours as one number, 0xRRGGBB.

    OpenCV gives the colours of a palette, not the indices. It gives the indices of the same picture with a header that
    says grey in place of palette.

    Args:
        data: the file's bytes.
        name: what messages call it.

    Raises:
        ValueError: where it is no PNG, is cut off, or too large.
    """
    if len(data) < 33 or data[:8] != _SIGNATURE or data[12:16] != b"IHDR":
        raise ValueError(f"{name} is no PNG")
    depth, kind = data[24:26]
    values = _decoded(data, name)
    if values.ndim == 2:
        # Less than 8 bits are spread over the whole range.
        return (values // (255 // (2**depth - 1) if depth < 8 else 1)).astype(np.uint32)
    shift = 8 if depth == 16 else 0
    packed = (values[:, :, 0] >> shift).astype(np.uint32)
    if kind != _GREY_AND_ALPHA:
        for channel, place in ((1, 8), (2, 16)):
            packed |= (values[:, :, channel] >> shift).astype(np.uint32) << place
    if values.shape[2] == 4:
        packed[values[:, :, 3] == 0] = 0
    return packed


def _decoded(data: bytes, name: str) -> NDArray[np.unsignedinteger[Any]]:
    """What OpenCV makes of a PNG, [h, w] or [h, w, channels], of 8 or 16 bits."""
    import cv2

    from segc.inference.image_headers import HeaderError, check_image_header, quiet_decoders

    try:
        size = check_image_header(data, MOST_PIXELS)
        if data[25] == _PALETTE:
            data = _as_grey(data)
        with quiet_decoders():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except HeaderError as error:
        raise ValueError(f"{name}: {error}") from None
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != size:
        raise ValueError(f"{name} is damaged")
    return np.asarray(pixels)


def _as_grey(data: bytes) -> bytes:
    """A palette PNG with a header that says grey."""
    header = data[12:25] + bytes([_GREY]) + data[26:29]
    parts = [data[:12], header, struct.pack(">I", zlib.crc32(header))]
    place = 33
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if data[place + 4 : place + 8] in (b"IDAT", b"IEND"):  # all else is about the colours
            parts.append(data[place : place + 12 + length])
        place += 12 + length
    return b"".join(parts)


def read_png_file(path: Path) -> NDArray[np.uint32]:
    """As :func:`read_png`, of a file.

    Raises:
        ValueError: as there, and where the file is too large.
        OSError: where it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} is larger than {MOST_BYTES >> 20} MiB")
    return read_png(path.read_bytes(), path.name)


def indexed_png(values: NDArray[np.uint8]) -> bytes:
    """A PNG with a palette whose indices are ``values`` [h, w], in the colours of Pascal VOC."""
    height, width = values.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), values], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0)
    return b"".join(
        [
            _SIGNATURE,
            chunk(b"IHDR", header),
            chunk(b"PLTE", voc_palette().tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
            chunk(b"IEND", b""),
        ]
    )


def voc_palette() -> NDArray[np.uint8]:
    """The 256 colours [256, 3], RGB, of Pascal VOC: bits of the index go to the channels in turn, highest first."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.int64)
    for step in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * step + channel)) & 1) << (7 - step)
    return palette.astype(np.uint8)
