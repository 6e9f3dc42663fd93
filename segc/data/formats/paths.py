"""Names of images that label files give: they stay in their folder."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from segc.data.formats.common import Fault, shown
from segc.files import is_file


def as_written(name: str, folders: Sequence[Path]) -> Path | None:
    """The image of the very name, a backslash and a colon in it included, in the first of the folders that has it."""
    path = Path(name)
    if path.anchor or path.drive or ".." in path.parts or "\0" in name or not path.parts:
        return None
    return next((folder / path for folder in folders if is_file(folder / path)), None)


def inside(name: str, folders: Sequence[Path]) -> Path:
    """The image of that name in the first of the folders that has it.

    Raises:
        Fault: D003 where the name leaves the folder, D007 where it is in none.
    """
    if written := as_written(name, folders):
        return written
    relative = PurePosixPath(name.replace("\\", "/"))
    leaves = relative.is_absolute() or PureWindowsPath(name).drive or ".." in relative.parts or "\0" in name
    if leaves or not relative.parts:
        raise Fault("D003", f"{shown(name)} is no file name inside the folder of the images")
    path = next((folder / relative for folder in folders if is_file(folder / relative)), None)
    if path is None:
        where = ", ".join(str(folder) for folder in folders)
        raise Fault("D007", f"there is no image {shown(name)} in {where}")
    return path
