"""``artifact.json``: what an artifact folder says about itself, read strictly."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segc.diagnostics import fail
from segc.files import digest_file
from segc.inference.text import printable
from segc.targets.registry import targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DESCRIPTION = "artifact.json"
"""The file that describes an artifact folder."""

FORMAT = 3
"""Version of ``artifact.json``."""

LONGEST = 1 << 24
"""Most bytes of it that are read."""

Status = Literal["verified", "evaluated", "deferred", "unjudged", "failed"]
"""What came of an artifact's verification.

- ``verified``: what ships ran in the runtime that people deploy on, predict script and all, and agreed with PyTorch;
- ``evaluated``: something that stands in for that runtime agreed;
- ``deferred``: as far as this machine goes it agreed, and it has to be finished on another;
- ``unjudged``: it runs, but on no photograph of the split the trained network finds anything to compare, or what it
  loses could not be measured;
- ``failed``: it does not compute what was trained, or loses more accuracy than is accepted.
"""


class FileEntry(BaseModel):
    """A file of the artifact: its size and digest."""

    model_config = ConfigDict(frozen=True, strict=True)

    bytes: int = Field(ge=0)
    digest: str


class Description(BaseModel):
    """What ``artifact.json`` holds, as far as segc reads it back; everything else in it is for people."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    format: int = Field(ge=1)
    target: str
    model: str = Field(pattern=r"^[^/\\\x00-\x1f]{1,255}$")
    status: Status
    key: str = ""
    weights: dict[str, Any] = {}
    files: dict[str, FileEntry] = {}
    notes: list[str] = []
    parity: dict[str, Any] = {}
    accuracy: dict[str, Any] | None = None

    def model_files(self) -> list[str]:
        """Names of the files that the model consists of: one, or those of its folder."""
        parts = {name: PurePosixPath(name).parts for name in self.files}
        return [name for name, steps in parts.items() if steps[:1] == (self.model,) and ".." not in steps]


def is_as_described(folder: Path, name: str, entries: Mapping[str, FileEntry]) -> bool:
    """Whether an artifact's file is there, and is what its description says."""
    path, entry = folder / name, entries.get(name)
    return (
        entry is not None
        and path.is_file()
        and path.stat().st_size == entry.bytes
        and digest_file(path) == entry.digest
    )


def changed_files(folder: Path, description: Description, names: Iterable[str]) -> list[str]:
    """Those of an artifact's files that are gone, or are not what its description says."""
    return [name for name in names if not is_as_described(folder, name, description.files)]


def read_description(folder: Path) -> Description:
    """The contents of an artifact folder's ``artifact.json``.

    Raises:
        SegcError: T006 where there is none, or it is not one that segc wrote.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise fail("T006", f"no {DESCRIPTION} in {folder}: not an artifact of segc", file=folder)
    try:
        text = path.read_bytes() if path.stat().st_size <= LONGEST else b""
        found = Description.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise fail("T006", f"damaged: {printable(place)[:100]}: {first['msg']}", file=path) from None
    except (ValueError, RecursionError):
        raise fail("T006", "damaged: not a description that segc wrote", file=path) from None
    if found.format > FORMAT:
        raise fail("T006", f"of format {found.format}, this segc reads up to {FORMAT}", file=path, help="update segc")
    if found.target not in targets():
        raise fail("T006", f"damaged: there is no target {printable(found.target)[:60]!r}", file=path)
    # The name comes from a file: it must not lead out of the folder.
    if found.model in {"..", "."}:
        raise fail("T006", "damaged: it names no model beside it", file=path)
    return found
