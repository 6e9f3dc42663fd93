"""Metadata in a file beside the model's own, with the digests of those."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segc.inference.metadata import LONGEST_METADATA, SIDECAR, ModelError, read_json

FILES = "files"
"""Key beside the metadata: digests of a model's files by their names."""

_PART = 1 << 20
"""Bytes of a file that are read at a time."""


def read_sidecar(path: Path) -> dict[str, Any]:
    """What stands in the sidecar of a model's folder.

    Raises:
        ModelError: where there is none, or nothing that it could be.
    """
    if not path.is_dir():
        raise ModelError("no such model: it is a folder")
    sidecar = path / SIDECAR
    small = sidecar.is_file() and sidecar.stat().st_size <= LONGEST_METADATA
    return read_json(sidecar.read_bytes() if small else None)


def check_files(path: Path, names: Iterable[str], digests: Any) -> None:
    """See that a model's files are whole: runtimes end their process on some that are not.

    Args:
        path: the folder.
        names: of the files.
        digests: by the names of the files, out of the sidecar; None where the files only have to be there.

    Raises:
        ModelError: where one is missing, or not the one that was written.
    """
    for name in names:
        if not (path / name).is_file():
            raise ModelError(f"{name} is not in it: not a model of segc")
        if digests is None:
            continue
        digest = hashlib.sha256()
        with (path / name).open("rb") as file:
            while part := file.read(_PART):
                digest.update(part)
        if not isinstance(digests, dict) or digests.get(name) != f"sha256:{digest.hexdigest()}":
            raise ModelError(f"damaged: {name} is not what segc wrote")
