"""Writing what was found: files for each picture, tables, annotated videos, and the lines that tell of it."""

import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TextIO

import numpy as np
import numpy.typing as npt

from segc.inference.earlier import ALONE, Earlier, Written, first_beside
from segc.inference.frames import Ended, Frame, Unread
from segc.inference.output import (
    abandoned_files,
    file_identity,
    first_in_place_of,
    output_stems,
    overlay_suffix,
    partial_path,
)
from segc.inference.recording import Recording, recording_suffix
from segc.inference.results import Prediction
from segc.inference.sources import ImageError, Source, SourceError
from segc.inference.text import printable
from segc.inference.writers import PictureFiles, Table, coco_image_ids, tables

PROGRESS_SECONDS = 10.0
"""How often a line tells how far a video or a stream is."""


class PictureError(ImageError):
    """A picture that its format cannot hold."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is written, and where.

    Attributes:
        folder: for all files.
        kinds: what is written, keys of ``PICTURES`` and ``tables()``.
        stems: by source the name of what is made of it, no two the same.
        image_ids: what COCO's results call photographs, by these names.
        kept: files that must not be replaced.
        mark: what the names of tables have before their suffix: a part of the sources writes tables of its own.
        lengths: bytes of the tables of a run that ended early, by kind: this one goes on after them.
    """

    folder: Path
    kinds: frozenset[str]
    stems: Mapping[Source, str]
    image_ids: Mapping[str, int | str]
    kept: tuple[Path, ...] = ()
    mark: str = ""
    lengths: Mapping[str, int] | None = None

    def table_path(self, table: Table) -> Path:
        """Where a table is written."""
        name = PurePosixPath(table.name)
        return self.folder / f"{name.stem}{self.mark}{name.suffix}"


def plan_files(sources: Sequence[Source], folder: Path, kinds: Iterable[str], *, kept: Iterable[Path] = ()) -> Plan:
    """Plan what is written of sources.

    Args:
        sources: what is going to be predicted.
        folder: for all files.
        kinds: what to write.
        kept: files that must not be replaced, beside the sources themselves.

    Raises:
        SourceError: where a source, one of ``kept``, or a file that no earlier run wrote would be replaced, where files
            would come among labels of the sources, or where the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise SourceError(f"{printable(folder)} is a file: name a folder with -o")
    stems = dict(zip(sources, output_stems(sources), strict=True))
    originals = tuple(source.path for source in sources if source.path is not None)
    plan = Plan(folder, frozenset(kinds), stems, coco_image_ids(list(stems.values())), (*originals, *kept))
    if replaced := first_in_place_of(_foreseen(plan), plan.kept):
        raise _in_place_of(replaced)
    written = Written(folder)
    if foreign := next(filter(written.is_foreign, _foreseen(plan)), None):
        raise foreign_file(foreign)
    if label := first_beside(folder, plan.kinds, (path.absolute() for path in originals)):
        raise SourceError(
            f"{printable(label)} is beside the sources, may be a label of theirs, and no earlier run wrote it: choose "
            "another folder with -o"
        )
    return plan


def foreign_file(path: Path) -> SourceError:
    """What is wrong where a file of the user would be replaced."""
    return SourceError(
        f"{printable(path)} is there already, and no earlier run wrote it: choose another folder with -o"
    )


def _in_place_of(path: Path) -> SourceError:
    return SourceError(f"{printable(path)} is a source, or the label file of one: choose another folder with -o")


def _foreseen(plan: Plan) -> Iterator[Path]:
    """The files whose names are known before anything is predicted."""
    for kind in plan.kinds & tables().keys():
        yield plan.folder / tables()[kind].name
    for source, stem in plan.stems.items():
        for kind in plan.kinds & ALONE.keys():
            yield plan.folder / ALONE[kind](stem)
        if "overlay" in plan.kinds:
            for suffix in _overlay_suffixes(source):
                yield plan.folder / f"{stem}{suffix}"


def _overlay_suffixes(source: Source) -> list[str]:
    """What an overlay of a source may end with: an address tells only when it is read what it gives."""
    recorded = [recording_suffix(is_live=is_live) for is_live in RECORDED_LIVE[source.kind]]
    return [*([overlay_suffix(source)] if source.is_still else []), *recorded]


RECORDED_LIVE: Mapping[str, tuple[bool, ...]] = {
    "image": (),
    "stdin": (),
    "video": (False,),
    "camera": (True,),
    "stream": (True,),
    "web": (False, True),
}
"""Whether the video that is made of a source is one of a live source, by the source's kind; perhaps there is none."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """A frame and what was found on it; ``seconds`` is what that took, without reading and writing."""

    frame: Frame
    prediction: Prediction
    seconds: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """A frame with the contents of all files and what belongs into tables, by their kinds; or why there are none.

    Attributes:
        place: see `Shown.place`.
    """

    found: Predicted
    files: PictureFiles
    texts: Mapping[str, list[str]]
    picture: npt.NDArray[np.uint8] | None
    place: str = ""
    error: PictureError | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """A source that nothing more is written of.

    Attributes:
        source: the source.
        lengths: bytes of the tables that grow, by kind, with all its rows.
        is_whole: it came to its end, and nothing of it failed.
    """

    source: Source
    lengths: Mapping[str, int]
    is_whole: bool


Event = Unread | Ended
"""What comes between frames, and goes through all stages in its place."""


def picture_error(found: Predicted, error: ValueError) -> PictureError:
    """What is wrong with a file that is made of a frame."""
    return PictureError(f"{found.prediction.path}: {error}")


class Outputs:
    """Writes what is rendered, in order, and tells about it.

    Leaving the block closes what is open: tables and videos that are whole only at their end take their place, unless
    an error led out of it.

    Attributes:
        failures: sources that could not be predicted.

    Raises:
        SourceError: where a file that no earlier run wrote might be replaced.
    """

    def __init__(
        self,
        plan: Plan,
        names: Sequence[str],
        told: Callable[[str], None],
        failed: Callable[[ImageError], None],
        stride: int,
        finished: Callable[[Completed], None],
    ) -> None:
        self._plan, self._told, self._failed = plan, told, failed
        self._written = Written(plan.folder)
        self._earlier = Earlier(plan.folder, plan.kinds, names, self._is_kept)
        self._stride, self._finished = stride, finished
        self._kept: set[tuple[int, int] | None] | None = None
        self._tables = {
            kind: _TableFile(plan.table_path(table), table, (plan.lengths or {}).get(kind, 0), self._claim)
            for kind, table in tables().items()
            if kind in plan.kinds
        }
        alike = self._earlier.called_alike({*plan.stems.values()})
        for path in itertools.chain((table.path for table in self._tables.values()), alike):
            if self._written.is_foreign(path) and not self._is_source(path):
                raise foreign_file(path)
        self._progress: _Progress | None = None
        self._noun = "images"
        self._failing: Source | None = None
        self.failures = self._pictures = 0

    def __enter__(self) -> "Outputs":
        abandoned = [path for path in abandoned_files(self._plan.folder) if not self._is_source(path)]
        for path in abandoned:
            path.unlink(missing_ok=True)
        if abandoned:
            self._told(f"{printable(self._plan.folder)}: {len(abandoned)} unfinished files of killed runs removed")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            if self._progress is not None and self._progress.recording is not None:
                self._progress.recording.discard()
            self._discard_tables()
            return
        if self._progress is not None:
            self._end(at_end=False)
        try:
            for table in self._tables.values():
                path = table.finish()
                self._told(f"{printable(path)}: {self._pictures} of {self._pictures + self.failures} {self._noun}")
        except (OSError, SourceError):
            self._discard_tables()
            raise
        if removed := self._earlier.removed:
            self._told(
                f"{printable(self._plan.folder)}: {removed} files of the same images from an earlier run removed"
            )

    def _discard_tables(self) -> None:
        for table in self._tables.values():
            table.discard()

    def take(self, item: "Rendered | Event") -> None:
        """Write a frame, or hear of a source."""
        match item:
            case Rendered(error=None):
                self._write_frame(item)
            case Unread(source, error):
                self._fail(source, error)
            case Rendered(error=PictureError() as error):
                self._fail(item.found.frame.source, error)
            case Ended(source):
                self._end(at_end=True)
                self._finish(source)

    def _fail(self, source: Source, error: ImageError) -> None:
        self.failures += 1
        self._failing = source
        self._failed(error)

    def _finish(self, source: Source) -> None:
        lengths = {kind: table.length for kind, table in self._tables.items() if table.grows}
        self._finished(Completed(source, lengths, source != self._failing))

    def _write_frame(self, item: Rendered) -> None:
        frame, prediction = item.found.frame, item.found.prediction
        overlay, written = None, set()
        try:
            for place, content in item.files:
                path = self._write(place, content)
                written.add(path)
                overlay = path if len(place.parts) == 1 else overlay
        except SourceError:  # ends the run: what was planned is wrong, not this frame
            raise
        except ValueError as error:
            self._fail(frame.source, picture_error(item.found, error))
            return
        for kind, texts in item.texts.items():
            self._tables[kind].add(texts)
        self._pictures += 1
        self._earlier.clear_picture(item.place, overlay_suffix(frame.source), written)
        if frame.seconds is None:
            there = "" if overlay is None else f" -> {printable(overlay)}"
            size, milliseconds = f"{prediction.width}x{prediction.height}", item.found.seconds * 1000
            name = printable(frame.source.name)
            said = f"{name}: {size}, {prediction.summary()}, {milliseconds:.0f} ms"
            self._told("; ".join([said, *frame.remarks()]) + there)
            self._finish(frame.source)
            return
        if self._progress is None:
            self._progress, self._noun = _Progress(frame), "images and frames"
            self._earlier.begin_video(self._plan.stems[frame.source])
        self._earlier.take_frame(frame.index)
        self._record(item, self._progress)
        if line := self._progress.add(prediction):
            self._told(line)

    def _record(self, item: Rendered, progress: "_Progress") -> None:
        frame = item.found.frame
        if item.picture is None or progress.is_unrecorded or "overlay" not in self._plan.kinds:
            return
        try:
            if progress.recording is None:
                stem = self._plan.folder / self._plan.stems[frame.source]
                progress.recording = Recording(stem, frame, self._stride)
                self._claim(progress.recording.path)
            progress.recording.add(item.picture, frame.seconds or 0.0)
        except ImageError as error:
            progress.is_unrecorded = True
            self._fail(frame.source, PictureError(str(error)))

    def _end(self, *, at_end: bool) -> None:
        """The video or stream at hand has no more frames, or is left before its end."""
        if self._progress is None:
            return
        progress, self._progress = self._progress, None
        self._earlier.end_video(self._plan.stems[progress.source], overlay_suffix(progress.source))
        there = ""
        if progress.recording is not None and not progress.is_unrecorded:
            try:
                said = progress.recording.finish()
                there = f" -> {printable(progress.recording.path)} ({said})"
            except ImageError as error:
                self._fail(progress.source, PictureError(str(error)))
        self._told("; ".join([progress.line(), *progress.remarks(at_end=at_end)]) + there)

    def _write(self, place: PurePosixPath, content: bytes) -> Path:
        path = self._plan.folder / place
        self._claim(path)
        write_whole(path, content)
        return path

    def _claim(self, path: Path) -> None:
        """Name a file as one of this run; whatever was planned, no source and no foreign file is ever replaced."""
        if self._is_source(path):
            raise _in_place_of(path)
        if self._written.is_foreign(path):
            raise foreign_file(path)
        self._written.add(path)

    def _is_kept(self, path: Path) -> bool:
        return self._written.is_foreign(path) or self._is_source(path)

    def _is_source(self, path: Path) -> bool:
        if (identity := file_identity(path)) is None:
            return False
        if self._kept is None:
            self._kept = {file_identity(kept) for kept in self._plan.kept}
        return identity in self._kept


class _Progress:
    """How far a video or a stream is."""

    def __init__(self, first: Frame) -> None:
        self.recording: Recording | None = None
        self.is_unrecorded = False
        self._first = first
        self._frames = 0
        self._found: Counter[str] = Counter()
        self._started = self._told = time.monotonic()

    @property
    def source(self) -> Source:
        """What is being predicted."""
        return self._first.source

    def add(self, prediction: Prediction) -> str:
        """Count a frame; a line where it is time for one."""
        self._frames += 1
        self._found.update(prediction.counts())
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS:
            return ""
        self._told = now
        return self.line()

    def remarks(self, *, at_end: bool) -> list[str]:
        """What happened to frames that are not among them."""
        return [] if self._first.tally is None else self._first.tally.remarks(at_end=at_end)

    def line(self) -> str:
        """What there is to say until now."""
        height, width = self._first.image.shape[:2]
        found = ", ".join(f"{number} {name}" for name, number in sorted(self._found.items())) or "nothing"
        rate = self._frames / max(1e-3, time.monotonic() - self._started)
        name = printable(self._first.source.name)
        return f"{name}: {self._frames} frames of {width}x{height}, {found}, {rate:.1f} frames a second"


class _TableFile:
    """A table on its way to disk.

    Attributes:
        path: where it goes.
        grows: see `Table`.
        length: bytes of what grows, whole lines; 0 before the first.
    """

    def __init__(self, path: Path, table: Table, length: int, claim: Callable[[Path], None]) -> None:
        self.path, self._table, self.length, self._claim = path, table, length, claim
        self.grows = table.grows
        self._written_to = self.path
        if not table.grows:
            self._written_to = partial_path(path)
        self._file: TextIO | None = None
        self._is_empty = True

    def add(self, texts: Iterable[str]) -> None:
        """Write texts; of a file that grows, whole lines at once.

        Raises:
            OSError: where the disk is full; of a file that grows, whole lines are left.
        """
        try:
            for text in texts:
                file = self._open()
                if self.grows:
                    file.write(text + self._table.between)
                    file.flush()
                    self.length = file.tell()
                else:
                    file.write((self._table.head if self._is_empty else self._table.between) + text)
                self._is_empty = False
        except OSError as error:
            error.filename = error.filename or os.fspath(self.path)
            raise

    def _open(self) -> TextIO:
        if self._file is None:
            if self.grows:
                self._claim(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            goes_on = self.length > 0
            if goes_on:
                os.truncate(self._written_to, self.length)
            mode: Literal["a", "w"] = "a" if goes_on else "w"
            self._file = self._written_to.open(mode, encoding="utf-8", errors="backslashreplace", newline="")
            if self.grows and not goes_on:
                self._file.write(self._table.head)
        return self._file

    def finish(self) -> Path:
        """Write the end; where the file is.

        Raises:
            OSError: where the disk is full; it names the file.
        """
        try:
            file = self._open()
            if not self.grows:
                file.write(self._table.empty if self._is_empty else self._table.foot)
            file.close()
            if not self.grows:
                self._claim(self.path)
            self._written_to.replace(self.path)
        except OSError as error:
            error.filename = error.filename or os.fspath(self.path)
            raise
        return self.path

    def discard(self) -> None:
        """Close the file; what was to be whole is gone, and what grows ends with its last whole line."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # a full disk, once more
            self._file.close()
        if self.grows and self.length:
            os.truncate(self._written_to, self.length)
        else:
            self._written_to.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, creating the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        # A full disk names no file by itself.
        error.filename = error.filename or os.fspath(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
