"""What earlier runs wrote into the same folder: that alone is replaced or removed, all else there is the user's."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from segc.inference.output import FOLDERS, crop_place, frame_place, index_place, label_place, mask_place
from segc.inference.sources import file_stem

ALONE: dict[str, Callable[[str], PurePosixPath]] = {"txt": label_place, "index": index_place}
"""Where the one file of a picture is, by kind."""

PLACES: dict[str, tuple[str, str]] = {
    "txt": (FOLDERS["txt"], r"{place}\.txt"),
    "crops": (FOLDERS["crops"], r"{name}/{place}-[0-9]+\.(?:png|jpg)"),
    "masks": (FOLDERS["masks"], r"{place}/{name}_[0-9]+\.png"),
    "index": (FOLDERS["index"], r"{place}\.png"),
}
"""The folder of a kind, and what the files of pictures and frames are called in it."""

WRITTEN_NAME = ".segc-predict"
"""The file of an output folder that names what runs wrote there."""

FRAME_FILE = r"([0-9]{6,})(?:\.txt|\.png|-[0-9]+\.[a-z]+)?"
"""What files of a video's frames are called, and the folders of their masks."""


class Written:
    """The files that runs wrote into a folder. Each is named in a file there before it is written, whatever ends a run.

    Args:
        folder: of all files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._read_to = folder, 0
        self._names: set[str] = set()

    def is_foreign(self, path: Path) -> bool:
        """Whether there is a file or a link that no run wrote; ``path`` begins with the folder's."""
        return os.path.lexists(path) and not self._is_named(self._name(path))

    def add(self, path: Path) -> None:
        """Name a file that is going to be written.

        Raises:
            OSError: where the folder cannot be written to.
        """
        name = self._name(path)
        if self._is_named(name):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # On a line of its own, also after one that a killed run has torn.
        with (self._folder / WRITTEN_NAME).open("ab") as file:
            file.write(f"\n{json.dumps(name)}\n".encode())

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _is_named(self, name: str) -> bool:
        if name not in self._names:
            self._read()
        return name in self._names

    def _read(self) -> None:
        """Read on: another run may be writing other parts of the sources."""
        with contextlib.suppress(FileNotFoundError), (self._folder / WRITTEN_NAME).open("rb") as file:
            file.seek(self._read_to)
            whole = file.read().rpartition(b"\n")
            self._read_to += len(whole[0]) + len(whole[1])
            for line in whole[0].splitlines():
                with contextlib.suppress(ValueError):  # torn
                    self._names.add(str(json.loads(line)))


def first_beside(folder: Path, kinds: Collection[str], images: Iterable[Path]) -> Path | None:
    """A file that no run wrote in a folder that is going to be written into and is where the labels of images may be.

    Such is ``masks`` beside ``images`` (the last of that name counts), else beside the image itself.

    Args:
        folder: of all files that are written.
        kinds: what is written.
        images: the images, by absolute paths.
    """
    written = Written(folder)
    tops = {top for kind, (top, _) in PLACES.items() if kind in kinds and (folder / top).is_dir()}
    parents = {image.parent for image in images} if tops else set()
    beside = {_labelled_from(parent) for parent in parents}
    for top in sorted(tops):
        if not any(_is_same(root / top, folder / top) for root in beside):
            continue
        for path in _walked(folder / top):
            if not path.name.startswith(".") and written.is_foreign(path):
                return path
    return None


def _labelled_from(parent: Path) -> Path:
    """The folder that ``labels`` and ``masks`` of the images of a folder are in."""
    return next((one.parent for one in (parent, *parent.parents) if one.name == "images"), parent)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _walked(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        yield from (Path(here, name) for name in sorted(names))


class Earlier:
    """Finds such files of pictures and frames and removes them: they are called as a run with these classes calls them.

    Args:
        folder: of all files.
        kinds: what this run writes.
        names: the model's classes.
        is_kept: whether a file that is there stays: it is one of those that are predicted, or no run wrote it.

    Attributes:
        removed: how many files were removed.
    """

    def __init__(
        self, folder: Path, kinds: Collection[str], names: Sequence[str], is_kept: Callable[[Path], bool]
    ) -> None:
        self._folder, self._kinds, self._names, self._is_kept = folder, kinds, names, is_kept
        self._alone = [place for kind, place in ALONE.items() if kind in kinds]
        # Classes that have no crops yet have none to be removed.
        self._cropped = [name for name in names if "crops" in kinds and self._crops_of(name).is_dir()]
        self._masked = [*names] if "masks" in kinds else []
        self._frames: set[int] = set()
        self.removed = 0

    def called_alike(self, stems: Collection[str]) -> Iterator[Path]:
        """Files that are called as this run may call those of pictures and videos with these names."""
        place = r"(?P<stem>[^/]+)(?:/[0-9]{6,})?"
        name = "|".join(re.escape(file_stem(name) or "_") for name in self._names)
        for kind, (top, form) in PLACES.items():
            if kind not in self._kinds:
                continue
            pattern = re.compile(form.format(place=place, name=f"(?:{name})"))
            for path in _walked(self._folder / top):
                match = pattern.fullmatch(path.relative_to(self._folder / top).as_posix())
                if match and match["stem"] in stems:
                    yield path

    def clear_picture(self, place: str, suffix: str, written: Collection[Path]) -> None:
        """Remove what is left of a picture, or of a frame.

        Args:
            place: of its files, without a suffix.
            suffix: of its crops.
            written: its files of this run.
        """
        found = self._of_objects(self._cropped, lambda name, number: crop_place(name, place, number, suffix))
        if (self._folder / mask_place("", place, 0)).parent.is_dir():
            found |= self._of_objects(self._masked, lambda name, number: mask_place(name, place, number))
        self._remove(found - set(written))

    def begin_video(self, stem: str) -> None:
        """Look for frames of a video that has this name."""
        tops = [self._folder / place(frame_place(stem, 0)) for place in self._alone]
        tops += [self._crops_of(name) / frame_place(stem, 0) for name in self._cropped]
        if self._masked:
            tops.append((self._folder / mask_place("", frame_place(stem, 0), 0)).parent)
        listed = (name for top in tops for name in _entries(top.parent))
        self._frames = {int(match[1]) for name in listed if (match := re.fullmatch(FRAME_FILE, name))}

    def take_frame(self, index: int) -> None:
        """Hear of a frame that this run has written."""
        self._frames.discard(index)

    def end_video(self, stem: str, suffix: str) -> None:
        """Remove what is left of frames that this run has not written; ``suffix`` is that of crops."""
        for index in sorted(self._frames):
            self._remove(self._folder / place(frame_place(stem, index)) for place in self._alone)
            self.clear_picture(frame_place(stem, index), suffix, ())

    def _crops_of(self, name: str) -> Path:
        return self._folder / crop_place(name, "", 0, "").parent

    def _of_objects(self, names: Sequence[str], place: Callable[[str, int], PurePosixPath]) -> set[Path]:
        """A run numbers the objects of a picture from 1 on, whatever their classes are."""
        found: set[Path] = set()
        number = 1
        while here := {path for name in names if (path := self._folder / place(name, number)).is_file()}:
            found |= here
            number += 1
        return found

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if self._is_kept(path):
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                self.removed += 1
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()


def _entries(folder: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from [entry.name for entry in entries]
