"""Pictures that are read in parts: a TIFF file block by block, any other decoded whole.

OpenCV decodes whole files only. A block of a TIFF file, a tile or a strip, is decoded by writing a small TIFF file
around it, with the tags of the large one (TIFF 6.0; JPEG blocks have their tables in a tag, TechNote 2).
"""

import contextlib
import mmap
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.image_headers import (
    MOST_BLOCKS,
    TIFF_SIZES,
    HeaderError,
    further_pictures,
    quiet_decoders,
    tiff_entries,
)
from segc.inference.sources import ImageError, Source
from segc.inference.tiles import DecodedPicture, Picture

MOST_DECODED_PIXELS = 1 << 29
"""Pixels of a picture that is decoded whole for its tiles: 537 million, 1.6 GB; read in parts it may have more."""

MOST_BLOCK_PIXELS = 1 << 24
"""Pixels of a block of a TIFF file that is read in parts; with larger ones it is decoded whole."""

BLOCK_CACHE = 1 << 28
"""Bytes of decoded blocks that are kept: neighbouring tiles share them."""

_KEPT_TAGS = (258, 259, 262, 266, 277, 284, 292, 317, 320, 338, 339, 347, 530, 531, 532)
"""Tags of a TIFF file that say how a block is coded, and not where it lies."""

_ROWS_A_BLOCK = 64
"""Rows of what is not compressed, and may be cut anywhere."""


class TiffPicture:
    """A TIFF file of 8-bit samples, read block by block as they are asked for.

    Args:
        data: the file; a memory map, so that no more than the blocks that are read comes into memory.
        name: what an error calls it.

    Raises:
        HeaderError: where it cannot be read so, which does not say that it cannot be decoded as a whole.
        struct.error: where it is cut off.
    """

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        self._data, self._name = data, name
        self._order, entries = tiff_entries(data)
        self._entries = {tag: (kind, count, place) for tag, kind, count, place in entries}
        (width,), (height,) = self._values(256), self._values(257)
        self.size = height, width
        self._check()
        self._lay_out()
        self._decoded: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0

    @property
    def further(self) -> int:
        """How many more pictures the file holds."""
        return further_pictures(self._data)

    def _values(self, tag: int, default: Sequence[int] = ()) -> Sequence[int]:
        """The whole numbers of an entry, or ``default`` where there is none."""
        if tag not in self._entries:
            return default
        kind, count, place = self._entries[tag]
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if code is None or count > MOST_BLOCKS:
            raise HeaderError(f"an entry {tag} of {count} values of type {kind}")
        found = struct.unpack_from(f"{self._order}{count}{code}", self._data, place)
        return found or default

    def _check(self) -> None:
        samples = self._values(277, (1,))[0]
        wanted = {
            "bits": (set(self._values(258, (1,))), {8}),
            "format": (set(self._values(339, (1,))), {1}),
            "planes": (set(self._values(284, (1,))), {1}),
            "orientation": (set(self._values(274, (1,))), {1}),
        }
        if odd := [what for what, (found, fit) in wanted.items() if found != fit]:
            raise HeaderError(f"not read in parts: {', '.join(odd)}")
        if not 1 <= samples <= 4:
            raise HeaderError(f"{samples} samples a pixel")

    def _lay_out(self) -> None:
        """Where the blocks lie in the picture and in the file."""
        height, width = self.size
        if 322 in self._entries:
            (across,), (down,) = self._values(322), self._values(323)
            places, lengths = self._values(324), self._values(325)
        else:
            across, down = width, min(self._values(278, (height,))[0], height)
            places, lengths = self._values(273), self._values(279)
            if self._values(259, (1,))[0] == 1 and down > _ROWS_A_BLOCK:
                down, places, lengths = self._cut_strips(down, places, lengths)
        if min(height, width, across, down) < 1 or across * down > MOST_BLOCK_PIXELS:
            raise HeaderError(f"blocks of {across} by {down} pixels")
        self._block = down, across
        self._columns = -(-width // across)
        if not len(places) == len(lengths) == self._columns * -(-height // down):
            raise HeaderError("damaged: another number of blocks than its size asks for")
        self._places, self._lengths = places, lengths

    def _cut_strips(
        self, rows: int, places: Sequence[int], lengths: Sequence[int]
    ) -> tuple[int, Sequence[int], Sequence[int]]:
        """Strips without compression as shorter ones, of equal heights but for the end of the picture."""
        line = self.size[1] * self._values(277, (1,))[0]
        short = next(n for n in range(_ROWS_A_BLOCK, 0, -1) if len(places) == 1 or rows % n == 0)
        cut = [
            (place + first * line, min(short, length // line - first) * line)
            for place, length in zip(places, lengths, strict=False)
            for first in range(0, min(rows, length // line), short)
        ]
        return short, [place for place, _ in cut], [length for _, length in cut]

    def region(self, x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.uint8]:
        """See `Picture`."""
        down, across = self._block
        found = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
        for row in range(y1 // down, -(-y2 // down)):
            for column in range(x1 // across, -(-x2 // across)):
                block = self._read(row, column)
                top, left = row * down, column * across
                high, low = max(y1, top), min(y2, top + block.shape[0])
                near, far = max(x1, left), min(x2, left + block.shape[1])
                found[high - y1 : low - y1, near - x1 : far - x1] = block[
                    high - top : low - top, near - left : far - left
                ]
        return found

    def reduced(self, longest: int) -> npt.NDArray[np.uint8]:
        """See `Picture`: every pixel is the mean of those that it stands for."""
        height, width = self.size
        factor = max(1, max(height, width) // longest)
        rows = max(1, self._block[0] // factor) * factor
        bands = []
        for top in range(0, height, rows):
            band = self.region(0, top, width, min(top + rows, height))
            # The last pixels may stand for fewer than the others: what is missing repeats the border.
            odd = -band.shape[0] % factor, -width % factor
            if any(odd):
                band = np.asarray(cv2.copyMakeBorder(band, 0, odd[0], 0, odd[1], cv2.BORDER_REPLICATE), np.uint8)
            size = band.shape[1] // factor, band.shape[0] // factor
            bands.append(np.asarray(cv2.resize(band, size, interpolation=cv2.INTER_AREA), np.uint8))
        return np.concatenate(bands)

    def _read(self, row: int, column: int) -> npt.NDArray[np.uint8]:
        """The decoded block [rows, columns, 3] at a place, without what lies beyond the picture."""
        number = row * self._columns + column
        if number in self._decoded:
            self._decoded.move_to_end(number)
            return self._decoded[number]
        height, width = self.size
        down, across = self._block
        left = height - row * down
        # A tile is always whole; the last strip is not.
        rows = down if 322 in self._entries else min(down, left)
        block = self._decode(number, rows)[:left, : width - column * across]
        self._decoded[number] = block
        self._bytes += block.nbytes
        while self._bytes > BLOCK_CACHE and len(self._decoded) > 1:
            self._bytes -= self._decoded.popitem(last=False)[1].nbytes
        return block

    def _decode(self, number: int, rows: int) -> npt.NDArray[np.uint8]:
        place, length = self._places[number], self._lengths[number]
        where = f"{self._name}: block {number} of {len(self._places)}"
        content = self._data[place : place + length]
        # What was read of the file would count as this process's memory for as long as the file is open.
        if isinstance(self._data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)
        if not length or len(content) < length:
            raise ImageError(f"{where} is cut off or missing")
        try:
            with quiet_decoders():
                image = cv2.imdecode(np.frombuffer(self._small_file(content, rows), np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise ImageError(f"{where}: not decoded ({error.err})") from None
        if image is None or image.shape != (rows, self._block[1], 3):
            raise ImageError(f"{where} is damaged, or of a kind that OpenCV does not decode")
        return np.asarray(image, np.uint8)

    def _small_file(self, content: bytes, rows: int) -> bytes:
        """A TIFF file of one strip."""
        order = self._order
        tags = {
            tag: (kind, count, bytes(self._data[place : place + count * TIFF_SIZES[kind]]))
            for tag, (kind, count, place) in self._entries.items()
            if tag in _KEPT_TAGS and kind in TIFF_SIZES
        }
        for tag, number in ((256, self._block[1]), (257, rows), (273, 8), (278, rows), (279, len(content))):
            tags[tag] = (4, 1, struct.pack(f"{order}I", number))
        start = 8 + len(content) + len(content) % 2
        beyond = start + 2 + 12 * len(tags) + 4
        head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start)
        directory, values = struct.pack(f"{order}H", len(tags)), b""
        for tag, (kind, count, value) in sorted(tags.items()):
            directory += struct.pack(f"{order}HHI", tag, kind, count)
            if len(value) <= 4:
                directory += value.ljust(4, b"\0")
            else:
                directory += struct.pack(f"{order}I", beyond + len(values))
                values += value + b"\0" * (len(value) % 2)
        return head + content + b"\0" * (len(content) % 2) + directory + bytes(4) + values


def open_picture(source: Source, noted: Callable[[int], object] = lambda _: None) -> Picture:
    """A source as a picture whose parts can be had: a TIFF file is read in parts where it can be, else it is decoded.

    Args:
        source: the source.
        noted: takes how many more pictures the file holds, see `further_pictures`.

    Raises:
        ImageError: where it cannot be fetched, read or decoded; the text names it.
    """
    if source.path is not None:
        with contextlib.suppress(OSError):
            if (picture := tiff_picture(source.path, source.name)) is not None:
                noted(picture.further)
                return picture
    return DecodedPicture(source.read(MOST_DECODED_PIXELS, noted))


def tiff_picture(path: Path, name: str) -> TiffPicture | None:
    """A TIFF file that can be read in parts; None where a file is none, which does not say that it cannot be decoded.

    Args:
        path: the file.
        name: what an error calls it.

    Raises:
        OSError: where it cannot be opened.
    """
    with path.open("rb") as file:
        if file.read(4) not in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
            return None
        with contextlib.suppress(HeaderError, struct.error, ValueError):
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return TiffPicture(data, name)
    return None
