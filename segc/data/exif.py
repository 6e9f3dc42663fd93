"""The orientation that a picture's EXIF data asks for, and how to take the turn back."""

import struct

import numpy as np
from numpy.typing import NDArray

FIRST_TRANSPOSED = 5
"""From this orientation on, height and width change places."""

_LONGEST_HEADER = 1 << 17
_ORIENTATION = 0x0112


def exif_orientation(data: bytes) -> int:
    """The orientation, 1 to 8, of an image file; 1, upright, where it says nothing or nothing legible."""
    at = data.find(b"Exif\0\0", 0, _LONGEST_HEADER) + 6
    if at == 5:
        at = data.find(b"eXIf", 0, _LONGEST_HEADER) + 4  # of PNG
        if at == 3:
            return 1
    try:
        order = {b"II": "<", b"MM": ">"}[data[at : at + 2]]
        directory = at + struct.unpack_from(f"{order}I", data, at + 4)[0]
        for entry in range(min(struct.unpack_from(f"{order}H", data, directory)[0], 512)):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, directory + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1


def as_stored(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """An upright picture [h, w, 3] with the turn of an orientation taken back."""
    turns = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }
    return np.ascontiguousarray(turns[orientation](image))


def upright_points(points: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Points [K, 2], x and y in 0..1 of the picture as it is stored, in 0..1 of the upright one."""
    x, y = points[:, 0], points[:, 1]
    turns = {
        1: (x, y),
        2: (1 - x, y),
        3: (1 - x, 1 - y),
        4: (x, 1 - y),
        5: (y, x),
        6: (1 - y, x),
        7: (1 - y, 1 - x),
        8: (y, 1 - x),
    }
    return np.stack(turns[orientation], axis=1)
