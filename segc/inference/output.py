"""What predictions become on disk: names that do not clash, and encoded pictures."""

import os
import re
import socket
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.sources import Source, file_stem

JPEG_QUALITY = 92

FOLDERS = {"txt": "labels", "crops": "crops", "masks": "masks", "index": "index"}
"""Folders of an output folder that have files of pictures, some in folders below, by kind."""


def output_stems(sources: Sequence[Source]) -> list[str]:
    """A file stem for each source, no two alike in any case: ``photo``, ``photo-2``, ``photo-3`` and so on.

    Sources with a stem of their own keep it.
    """
    stems = [source.stem for source in sources]
    own = {stem.casefold() for stem in stems}
    taken: set[str] = set()
    result = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in own):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        result.append(name)
    return result


def frame_place(stem: str, index: int) -> str:
    """Where files of a video's frame are in the folders of their kinds, without a suffix; a photograph's stem tells."""
    return f"{stem}/{index:06d}"


def label_place(place: str) -> PurePosixPath:
    """Where the label file of a picture is."""
    return PurePosixPath(FOLDERS["txt"], f"{place}.txt")


def index_place(place: str) -> PurePosixPath:
    """Where the picture with the numbers of its objects is."""
    return PurePosixPath(FOLDERS["index"], f"{place}.png")


def crop_place(name: str, place: str, number: int, suffix: str) -> PurePosixPath:
    """Where the crop of an object is, by its class and its number from 1 on."""
    return PurePosixPath(FOLDERS["crops"], file_stem(name) or "_", f"{place}-{number}{suffix}")


def mask_place(name: str, place: str, number: int) -> PurePosixPath:
    """Where the mask of an object is, likewise."""
    return PurePosixPath(FOLDERS["masks"], place, f"{file_stem(name)}_{number}.png")


def partial_path(path: Path, suffix: str = "") -> Path:
    """Where a file is while it is written: the name says by whom, see `abandoned_files`; ``suffix`` is its last one."""
    # Many file systems have 255 bytes for a name, and letters of up to four.
    return path.with_name(f".{path.name[-50:]}.{machine_mark()}.{os.getpid()}.partial{suffix}")


def machine_mark() -> str:
    """What tells machines apart that write into the same folder: on each one, processes are counted anew."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def abandoned_files(folder: Path) -> Iterator[Path]:
    """Files of an output folder that processes of this machine were writing when they were killed."""
    pattern = re.compile(rf"\..+\.{machine_mark()}\.([1-9][0-9]{{0,8}})\.partial(\.[a-z0-9]+)?")
    for place, _, names in chain(islice(os.walk(folder), 1), *(os.walk(folder / name) for name in FOLDERS.values())):
        for name in names:
            if (match := pattern.fullmatch(name)) and not is_running(int(match[1])):
                yield Path(place, name)


def is_running(process: int) -> bool:
    """Whether there is a process of this number; where that cannot be asked without harm, there is."""
    if os.name != "posix":  # elsewhere the signal would reach it
        return True
    try:
        os.kill(process, 0)
    except OSError as error:  # another user's may not be asked
        return not isinstance(error, ProcessLookupError)
    try:
        status = Path("/proc", str(process), "stat").read_bytes()
    except OSError:  # no Linux, or it has ended since
        return True
    # One that was killed keeps its number until it is waited for, which in a container may be never.
    return status.rpartition(b")")[2].split()[:1] != [b"Z"]


def first_in_place_of(outputs: Iterable[Path], originals: Iterable[Path]) -> Path | None:
    """The first of ``outputs`` that exists and is one of ``originals``, by whatever link or spelling."""
    existing = [(path, identity) for path in outputs if (identity := file_identity(path)) is not None]
    # Only where something would be replaced is there anything to compare.
    kept = {file_identity(path) for path in originals} if existing else set()
    return next((path for path, identity in existing if identity in kept), None)


def file_identity(path: Path) -> tuple[int, int] | None:
    """What a file is known by, whatever its name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def overlay_suffix(source: Source) -> str:
    """``.png`` for an overlay on a PNG, ``.jpg`` for any other."""
    return ".png" if source.suffix == ".png" else ".jpg"


def encode_picture(picture: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], suffix: str) -> bytes:
    """Bytes of a picture, [h, w, 3] BGR or [h, w] grey, as ``.png`` (of 8 or 16 bits) or ``.jpg``.

    Raises:
        ValueError: where the format cannot hold it (JPEG: sides above 65535).
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    try:
        done, data = cv2.imencode(suffix, picture, options)
    except cv2.error as error:
        done, data = False, np.frombuffer(str(error).encode(), np.uint8)
    if not done:
        raise ValueError(f"a picture of {picture.shape[1]} by {picture.shape[0]} pixels cannot be written as {suffix}")
    return bytes(data)
