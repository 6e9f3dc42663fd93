"""What is in the folders of a dataset: images, label files, and all that is neither, so that nothing goes unsaid.

One rule for all: links are followed, names that begin with a dot are no part of a dataset, images are known by the
endings that prediction searches folders for.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segc.diagnostics import Diagnostic
from segc.inference.kinds import IMAGE_SUFFIXES
from segc.spec.layouts import ACCOUNT

Note = Callable[[Diagnostic], None]
"""Told about one thing that is not used."""

_LITTER = frozenset({"__macosx", "desktop.ini", "thumbs.db"})
"""What operating systems leave in folders, in lower case."""

NOT_LABELS = frozenset({"classes.txt", "readme.txt", ACCOUNT})
"""Files that labelling tools, and segc itself, put among labels."""


def is_image_name(path: Path) -> bool:
    """Whether a file is an image by its ending, in capitals or not."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def walk(folder: Path, note: Note) -> Iterator[Path]:
    """All files in a folder and those below it, links followed, each folder once; hidden names are noted.

    Raises:
        OSError: where a folder cannot be read.
    """
    yield from _walk(folder, note, set())


def _walk(folder: Path, note: Note, seen: set[tuple[int, int]]) -> Iterator[Path]:
    found = folder.stat()
    if (found.st_dev, found.st_ino) in seen:
        note(_unused("D011", folder, "this link leads to a folder that is read already"))
        return
    seen.add((found.st_dev, found.st_ino))
    # A folder counts under its own name rather than under that of a link to it.
    for entry in sorted(os.scandir(folder), key=lambda one: (one.is_symlink(), one.name)):
        path = Path(entry.path)
        if _is_hidden(entry.name):
            if entry.is_dir() or is_image_name(path):
                note(_unused("D013", path, "hidden names are no part of a dataset"))
        elif entry.is_dir():
            yield from _walk(path, note, seen)
        elif entry.is_file():
            yield path
        elif entry.is_symlink():
            note(_unused("D011", path, f"this link leads nowhere: `{path.readlink()}`"))
        else:
            note(_unused("D010", path, "this is neither a file nor a folder"))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _unused(code: str, path: Path, message: str, help: str | None = None) -> Diagnostic:  # noqa: A002
    return Diagnostic(code, message, "warning", file=path, help=help)


@dataclass
class FolderImages:
    """The images of a folder, and the files beside them that are of no use.

    Attributes:
        images: the images, in the order they were found.
        unread: files that are no images as far as segc knows.
    """

    images: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)


def folder_images(folder: Path, note: Note) -> FolderImages:
    """The images in a folder and below it; what is left out is noted, but for files of other kinds.

    Raises:
        OSError: where a folder cannot be read.
    """
    found = FolderImages()
    for path in walk(folder, note):
        (found.images if is_image_name(path) else found.unread).append(path)
    return found


_TO_PNG = "save them as PNG or JPEG"
_TO_FRAMES = "take frames out of them: ffmpeg -i FILE frame%05d.png"
_WAYS_OUT: Mapping[str, str] = {
    **dict.fromkeys(
        (".heic", ".heif", ".jxl", ".psd", ".svg", ".tga", ".exr", ".hdr", ".ico", ".pcx", ".pdf"), _TO_PNG
    ),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm", ".npy"), _TO_PNG),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".wmv"), _TO_FRAMES),
    ".json": "`format: coco` takes annotation files of COCO's kind",
}


def note_unused(
    folders: Sequence[Path],
    images: Sequence[Path],
    unread: Sequence[Path],
    label_of: Callable[[Path], Path],
    note: Note,
) -> None:
    """Hold label files against images, both ways, and note what is neither.

    Args:
        folders: those of the images, whose label files are looked through.
        images: all images of the split.
        unread: files beside the images that are none, label files among them perhaps.
        label_of: where the label file of an image is.
        note: told about label files of no image, of several images, and of another ending, and about other files.

    Raises:
        OSError: where a folder cannot be read.
    """
    claims: dict[Path, list[str]] = {}
    for image in images:
        claims.setdefault(label_of(image), []).append(image.name)
    for label, names in claims.items():
        if len(names) > 1 and label.is_file():
            text = f"`{', '.join(sorted(names))}` share this label file"
            note(_unused("D012", label, text, "rename one of them, and its label file"))
    label_folders = {label.parent for label in claims}
    elsewhere = [label_of(folder / "any").parent for folder in folders]
    files = list(unread)
    for folder in dict.fromkeys(elsewhere):
        if folder.is_dir() and not any(folder.is_relative_to(walked) for walked in folders):
            label_folders.add(folder)
            files += walk(folder, note)
    _note_files(files, claims, label_folders, {label_of(path) for path in unread if not _is_text(path)}, note)


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def _note_files(
    files: Iterable[Path], claims: Mapping[Path, object], label_folders: set[Path], explained: set[Path], note: Note
) -> None:
    """Note those of the files that are no label file of an image."""
    namesakes: dict[str, list[Path]] = {}
    for label in claims:
        namesakes.setdefault(label.name, []).append(label)
    for path in files:
        # Reached through another link, it may be the label file of an image after all.
        same = namesakes.get(path.name, ())
        if path in claims or any(os.path.realpath(path) == os.path.realpath(label) for label in same):
            continue
        if not _is_text(path) or path.parent not in label_folders or path.name.lower() in NOT_LABELS:
            _note_unread(path, note)
        elif path.suffix != ".txt":
            text = "label files end in .txt, in small letters: this one is not read"
            note(_unused("D009", path, text, "rename it"))
        elif path in explained:
            note(_unused("D009", path, "its picture is of a kind that is not read"))
        else:
            note(_unused("D009", path, "no image belongs to this label file", "take it out, or find its image"))


def _note_unread(path: Path, note: Note) -> None:
    """Note a file that is of no kind that is read."""
    kind = path.suffix.lower() or "no ending"
    if path.name.lower() not in NOT_LABELS:
        note(_unused("D010", path, f"files of this kind are not read ({kind})", _WAYS_OUT.get(kind)))
