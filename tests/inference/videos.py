"""Videos for tests, written by OpenCV; what it cannot write is changed in the bytes."""

import re
import struct
from pathlib import Path

import cv2
import numpy as np


def pictures(number, size=(96, 128)):
    """Frames that tell each other apart: a bright square that walks, on a level of grey that rises."""
    height, width = size
    for index in range(number):
        image = np.full((height, width, 3), 30 + 5 * index % 200, np.uint8)
        image[10:40, 4 * index % (width - 30) :][:, :30] = (20, 200, 240)
        yield image


def write_video(path: Path, number=12, size=(96, 128), code="mp4v", rate=10.0):
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), rate, size[::-1])
    assert writer.isOpened()
    for image in pictures(number, size):
        writer.write(image)
    writer.release()
    return path


def turn(path: Path, width: int):
    """Have an MP4 ask for a turn of 90 degrees clockwise: the matrix in its track header (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    struct.pack_into(">9i", data, matrix, 0, 1 << 16, 0, -(1 << 16), 0, 0, width << 16, 0, 1 << 30)
    path.write_bytes(data)


def vary_rate(path: Path, durations: list[tuple[int, int]]):
    """Give an MP4's frames other durations, (number of frames, ticks) each: its table of times (8.6.1.2)."""
    data = bytearray(path.read_bytes())
    table = data.index(b"stts") - 4
    size, count = struct.unpack_from(">I8xI", data, table)
    assert (size, count) == (24, 1)
    grown = struct.pack(">I4s4xI", 16 + 8 * len(durations), b"stts", len(durations))
    grown += b"".join(struct.pack(">II", *pair) for pair in durations)
    more = len(grown) - size
    data[table : table + size] = grown
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = data.index(box) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + more)
    path.write_bytes(data)


def time_matroska(path: Path, milliseconds: list[int], frame: float, duration: float):
    """Give the frames of a Matroska file other times, and the file another length of a frame and duration (RFC 9559).

    Args:
        path: a file of one cluster, as OpenCV writes it.
        milliseconds: when each frame is shown.
        frame: what the file says a frame lasts, in milliseconds.
        duration: likewise of the whole.
    """
    data = bytearray(path.read_bytes())
    blocks = list(re.finditer(rb"(?s)\xa3(?:[\x80-\xff]|[\x40-\x7f].)\x81(..)[\x00\x80]", data))
    assert len(blocks) == len(milliseconds)
    for block, time in zip(blocks, milliseconds, strict=True):
        struct.pack_into(">h", data, block.start(1), time)
    for mark, kind, value in ((b"\x44\x89\x88", ">d", duration), (b"\x23\xe3\x83\x84", ">I", round(frame * 1e6))):
        assert data.count(mark) == 1
        struct.pack_into(kind, data, data.index(mark) + len(mark), value)
    path.write_bytes(data)
