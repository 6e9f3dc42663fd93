"""What an earlier run wrote of the same picture or video into the same folder: it would pass for this run's."""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from segc.inference.sources import file_stem

FOLDERS = {"txt": "labels", "crops": "crops", "masks": "masks", "index": "index"}
"""Where the files of a kind are that have one a frame or more."""

FRAME_FILE = r"([0-9]{6,})(?:\.txt|\.png|-[0-9]+\.[a-z]+)?"
"""What such files of a video are called, and the folders of its masks."""


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
        self._tops = {kind: folder / name for kind, name in FOLDERS.items() if kind in kinds}
        self._tops = {kind: top for kind, top in self._tops.items() if top.is_dir()}
        stems = [file_stem(name) for name in names]
        self._mask = re.compile(rf"(?:{'|'.join(map(re.escape, stems))})_[0-9]+\.png")
        classes = {stem or "_" for stem in stems}
        self._crops = [path for path in _entries(self._tops.get("crops")) if path.name in classes]
        self._frames: set[int] = set()
        self._is_source = is_source
        self.removed = 0

    def clear_picture(self, place: str, suffix: str, written: Collection[Path]) -> None:
        """Remove what is left of a picture, or of a frame.

        Args:
            place: of its files, without a suffix.
            suffix: of its crops.
            written: its files of this run.
        """
        self._remove(path for path in (*self._masks(place), *self._cropped(place, suffix)) if path not in written)

    def begin_video(self, stem: str) -> None:
        """Look for frames of a video that has this name."""
        beside = (self._tops[kind] / stem for kind in self._tops if kind != "crops")
        listed = (path.name for top in (*beside, *(top / stem for top in self._crops)) for path in _entries(top))
        self._frames = {int(match[1]) for name in listed if (match := re.fullmatch(FRAME_FILE, name))}

    def take_frame(self, index: int) -> None:
        """Hear of a frame that this run has written."""
        self._frames.discard(index)

    def end_video(self, stem: str, suffix: str) -> None:
        """Remove what is left of frames that this run has not written; ``suffix`` is that of crops."""
        for index in sorted(self._frames):
            place = f"{stem}/{index:06d}"
            ends = {"txt": ".txt", "index": ".png"}
            self._remove(self._tops[kind] / f"{place}{end}" for kind, end in ends.items() if kind in self._tops)
            self.clear_picture(place, suffix, ())

    def _masks(self, place: str) -> list[Path]:
        top = self._tops.get("masks")
        return [path for path in _entries(top and top / place) if self._mask.fullmatch(path.name)]

    def _cropped(self, place: str, suffix: str) -> list[Path]:
        found: list[Path] = []
        number = 1
        # A run numbers the objects of a picture from 1 on, whatever their classes are.
        while here := [path for top in self._crops if (path := top / f"{place}-{number}{suffix}").is_file()]:
            found += here
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


def _entries(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            yield from [Path(entry.path) for entry in entries]
