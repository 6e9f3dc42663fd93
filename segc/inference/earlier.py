"""What an earlier run wrote of the same picture or video into the same folder: it would pass for this run's."""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from segc.inference.output import crop_place, frame_place, index_place, label_place, mask_place

ALONE: dict[str, Callable[[str], PurePosixPath]] = {"txt": label_place, "index": index_place}
"""Where the one file of a picture is, by kind."""

FRAME_FILE = r"([0-9]{6,})(?:\.txt|\.png|-[0-9]+\.[a-z]+)?"
"""What files of a video's frames are called, and the folders of their masks."""


class Earlier:
    """Finds such files and removes them, and no others: they are called as a run with these classes calls them.

    Args:
        folder: of all files.
        kinds: what this run writes.
        names: the model's classes.
        is_source: whether a file is one of those that are predicted, which stay.

    Attributes:
        removed: how many files were removed.
    """

    def __init__(
        self, folder: Path, kinds: Collection[str], names: Sequence[str], is_source: Callable[[Path], bool]
    ) -> None:
        self._folder, self._is_source = folder, is_source
        self._alone = [place for kind, place in ALONE.items() if kind in kinds]
        # Classes that have no crops yet have none to be removed.
        self._cropped = [name for name in names if "crops" in kinds and self._crops_of(name).is_dir()]
        self._masked = [*names] if "masks" in kinds else []
        self._frames: set[int] = set()
        self.removed = 0

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
            if self._is_source(path):
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                self.removed += 1
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()


def _entries(folder: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from [entry.name for entry in entries]
