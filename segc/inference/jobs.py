"""Predicting sources: reading, the network, drawing and writing at the same time, in order, within bounds."""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, Literal, TextIO, TypeVar

import numpy as np
import numpy.typing as npt

from segc.inference.draw import draw_prediction
from segc.inference.filters import Filters, Tiling, search_filters
from segc.inference.frames import Ended, Frame, Reading, Unread, read_frames
from segc.inference.letterbox import Letterbox
from segc.inference.metadata import Metadata
from segc.inference.output import file_identity, first_in_place_of, output_stems, overlay_suffix
from segc.inference.pipeline import Line
from segc.inference.predict import Run, image_prediction, network_input, predict_tiled
from segc.inference.recording import Recording, recording_suffix
from segc.inference.results import Prediction
from segc.inference.show import Window
from segc.inference.sources import ImageError, Source, SourceError
from segc.inference.text import printable
from segc.inference.tiles import DecodedPicture
from segc.inference.tracking import Follower
from segc.inference.writers import PICTURES, PictureFiles, Shown, Table, tables

MOST_UNDER_WAY = 1 << 28
"""Bytes of pictures between reading and writing; few pictures may be under way whatever their size."""

MOST_READY = 1000
"""Objects of a frame up to which all its files are made before they are written, by several threads; of more, which
tiles find on a large picture, they are made one by one, so that they are not in memory together.
"""

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
        kept: files that must not be replaced.
        mark: what the names of tables have before their suffix: a part of the sources writes tables of its own.
        lengths: bytes of the tables of a run that ended early, by kind: this one goes on after them.
    """

    folder: Path
    kinds: frozenset[str]
    stems: Mapping[Source, str]
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
        SourceError: where a source, or one of ``kept``, would be replaced.
    """
    stems = dict(zip(sources, output_stems(sources), strict=True))
    originals = tuple(source.path for source in sources if source.path is not None)
    plan = Plan(folder, frozenset(kinds), stems, (*originals, *kept))
    if replaced := first_in_place_of(_foreseen(plan), plan.kept):
        raise _in_place_of(replaced)
    return plan


def _in_place_of(path: Path) -> SourceError:
    return SourceError(f"{printable(path)} is a source, or the label file of one: choose another folder with -o")


def _foreseen(plan: Plan) -> Iterator[Path]:
    """The files whose names are known before anything is predicted."""
    places = {"txt": "labels/{}.txt", "index": "index/{}.png"}
    for kind in plan.kinds & tables().keys():
        yield plan.folder / tables()[kind].name
    for source, stem in plan.stems.items():
        for kind in plan.kinds & places.keys():
            yield plan.folder / places[kind].format(stem)
        if "overlay" in plan.kinds:
            suffixes = [overlay_suffix(source)] if source.is_still else []
            for suffix in (*suffixes, recording_suffix(is_live=True), recording_suffix(is_live=False)):
                yield plan.folder / f"{stem}{suffix}"


@dataclass(frozen=True, slots=True)
class _Ready:
    """A frame as the network takes it."""

    frame: Frame
    tensor: npt.NDArray[np.float32]
    geometry: Letterbox
    seconds: float


@dataclass(frozen=True, slots=True)
class _Answered:
    """A frame and what the network says about it."""

    frame: Frame
    outputs: Mapping[str, npt.NDArray[np.float32]]
    geometry: Letterbox
    seconds: float


@dataclass(frozen=True, slots=True)
class _Predicted:
    """A frame and what was found on it; ``seconds`` is what that took, without reading and writing."""

    frame: Frame
    prediction: Prediction
    seconds: float


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A frame with the contents of all files and what belongs into tables, by their kinds; or why there are none."""

    found: _Predicted
    files: PictureFiles
    texts: Mapping[str, list[str]]
    picture: npt.NDArray[np.uint8] | None
    error: PictureError | None = None


_Event = Unread | Ended
"""What comes between frames, and goes through all stages in its place."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _over(function: Callable[[_In], _Out], kind: type[_In], items: Iterable[_In | _Event]) -> Iterator[_Out | _Event]:
    """``function`` of all items of one kind; what comes between them stays."""
    for item in items:
        yield function(item) if isinstance(item, kind) else item  # type: ignore[misc]


def predict_sources(
    sources: Sequence[Source],
    plan: Plan,
    run: Run,
    metadata: Metadata,
    filters: Filters,
    *,
    runtime: str,
    told: Callable[[str], None],
    failed: Callable[[ImageError], None],
    reading: Reading,
    finished: Callable[[Source], None] = lambda _: None,
    window: Window | None = None,
) -> int:
    """Predict source after source and write what is planned.

    Reading, the network and writing go on at the same time, each a few pictures ahead of the next, and in order. A
    signal that asks to end is heard between two pictures: what was predicted until then is written and closed.

    Args:
        sources: what to predict.
        plan: what is written.
        run: runs the model.
        metadata: the model's.
        filters: what counts as a detection.
        runtime: what runs the model, for people.
        told: takes a line about each photograph, and some about each video.
        failed: takes what is wrong with one that cannot be predicted; the others go on.
        reading: how frames are taken.
        finished: hears of a photograph once all of it is written.
        window: shows every annotated frame, as fast as they are predicted; a photograph stays until a key is pressed.
            Where a person ends it, the rest of the sources is left out, and what was predicted is written.

    Returns:
        How many sources could not be predicted, or not to their end.

    Raises:
        KeyboardInterrupt: after a signal; all that was predicted is written.
        ModelError: where the model cannot be run. Tables that are written whole are then not written.
        OSError: where a file cannot be written; likewise.
    """
    asked = search_filters(filters, metadata)
    reading = replace(reading, in_parts=filters.tiles is not None)
    # What waits between two stages of a live source would only grow old.
    is_live = any(source.kind in ("camera", "stream") for source in sources) or [s.kind for s in sources] == ["web"]
    with Line() as line, _Interruption(line, told), _Outputs(plan, told, failed, reading.stride, finished) as outputs:
        size = 1 if metadata.dynamic or is_live else metadata.batch
        budget = _Budget(line, size + 1)

        def stage(items: Iterable[_In]) -> Iterator[_In]:
            return iter(items) if is_live else line.stage(items)

        frames = stage(budget.admitted(read_frames(sources, line, reading, told)))
        if filters.tiles is None:
            ready = stage(_over(lambda frame: _make_ready(frame, metadata), Frame, frames))
            answered = line.stage(_answers(ready, run, metadata, size), 1)
            found = stage(_over(lambda one: _find(one, metadata, asked), _Answered, answered))
        else:
            found = line.stage(
                _over(lambda frame: _find_in_tiles(frame, run, metadata, asked, budget), Frame, frames), 1
            )
        if filters.track is not None:
            follower = Follower(filters)
            found = _over(lambda one: _follow(one, follower), _Predicted, found)
        shown = window is not None
        workers = 1 if is_live else reading.workers
        rendered = line.spread(lambda one: _render(one, plan, runtime, is_shown=shown), found, workers)
        for one in rendered:
            outputs.take(one)
            if isinstance(one, _Rendered):
                budget.release(one.found.frame)
                if window is not None and not _goes_on(one, window, line):
                    told("ended in the window: what was predicted until then is written")
                    break
    return outputs.failures


def _goes_on(one: _Rendered, window: Window, line: Line) -> bool:
    """Show a frame; whether a person wants to see more."""
    if one.picture is None:
        return True
    return window.show(one.picture, line.stopped, waits=one.found.frame.seconds is None)


class _Budget:
    """Bounds the bytes of pictures that are under way: reading waits until enough of them are written.

    Args:
        line: that the waiting ends with.
        least: so many may always be under way, as later stages wait for them.
    """

    def __init__(self, line: Line, least: int) -> None:
        self._line, self._least = line, least
        self._change = threading.Condition()
        self._number = self._bytes = 0

    def admitted(self, items: Iterable[Frame | _Event]) -> Iterator[Frame | _Event]:
        """The same items, each when there is room for it."""
        for item in items:
            if isinstance(item, Frame):
                with self._change:
                    while self._is_full(item) and not self._line.stopped.is_set():
                        self._change.wait(0.5)
                    self._number, self._bytes = self._number + 1, self._bytes + item.image.nbytes
            yield item

    def _is_full(self, frame: Frame) -> bool:
        return self._number >= self._least and self._bytes + frame.image.nbytes > MOST_UNDER_WAY

    def release(self, frame: Frame) -> None:
        """A frame is written."""
        with self._change:
            self._number, self._bytes = self._number - 1, self._bytes - frame.image.nbytes
            self._change.notify_all()


def _make_ready(frame: Frame, metadata: Metadata) -> _Ready:
    started = time.perf_counter()
    tensor, geometry = network_input(frame.image, metadata.imgsz)
    return _Ready(frame, tensor, geometry, time.perf_counter() - started)


def _answers(items: Iterable[_Ready | _Event], run: Run, metadata: Metadata, size: int) -> Iterator[_Answered | _Event]:
    """What the network says of frames, ``size`` of which go through it together.

    A batch that is not full is filled with its last frame, for a model of a fixed batch.
    """
    waiting: list[_Ready | _Event] = []
    for item in items:
        waiting.append(item)
        if sum(isinstance(one, _Ready) for one in waiting) == size or not any(isinstance(o, _Ready) for o in waiting):
            yield from _answer(waiting, run, metadata)
            waiting = []
    yield from _answer(waiting, run, metadata)


def _answer(items: Sequence[_Ready | _Event], run: Run, metadata: Metadata) -> Iterator[_Answered | _Event]:
    frames = [item for item in items if isinstance(item, _Ready)]
    if not frames:
        yield from items  # type: ignore[misc]
        return
    started = time.perf_counter()
    tensors = [frame.tensor for frame in frames]
    missing = 0 if metadata.dynamic else metadata.batch - len(tensors)
    batch = np.concatenate(tensors + tensors[-1:] * missing) if len(tensors) + missing > 1 else tensors[0]
    outputs = run(batch)
    share = (time.perf_counter() - started) / len(frames)
    rows = itertools.count()
    for item in items:
        if isinstance(item, _Ready):
            row = next(rows)
            mine = {name: value[row] for name, value in outputs.items()}
            yield _Answered(item.frame, mine, item.geometry, item.seconds + share)
        else:
            yield item


def _find(answered: _Answered, metadata: Metadata, filters: Filters) -> _Predicted:
    started = time.perf_counter()
    name = answered.frame.source.name
    prediction = image_prediction(answered.outputs, answered.geometry, metadata.names, filters, name)
    return _Predicted(answered.frame, prediction, answered.seconds + time.perf_counter() - started)


def _find_in_tiles(
    frame: Frame, run: Run, metadata: Metadata, filters: Filters, budget: _Budget
) -> "_Predicted | _Event":
    started = time.perf_counter()
    picture = DecodedPicture(frame.image) if frame.picture is None else frame.picture
    try:
        tiling = filters.tiles or Tiling()
        prediction = predict_tiled(picture, run, metadata, filters, tiling, path=frame.source.name)
    except ImageError as error:
        budget.release(frame)
        return Unread(frame.source, error)
    return _Predicted(frame, prediction, time.perf_counter() - started)


def _follow(found: _Predicted, follower: Follower) -> _Predicted:
    """A frame with numbers. Photographs that are given one after another are a sequence; a video is one of its own."""
    frame = found.frame
    film = None if frame.seconds is None else frame.source
    return replace(found, prediction=follower.follow(found.prediction, film, frame.index))


def _render(found: "_Predicted | _Event", plan: Plan, runtime: str, *, is_shown: bool = False) -> "_Rendered | _Event":
    """Contents of all that is written of a frame; what no format can hold is an error of its source."""
    if not isinstance(found, _Predicted):
        return found
    shown = Shown(found.frame, found.prediction, plan.stems[found.frame.source], runtime)
    files: PictureFiles = (file for kind, make in PICTURES.items() if kind in plan.kinds for file in make(shown))
    if len(found.prediction) <= MOST_READY:
        try:
            files = list(files)
        except ValueError as error:
            return _Rendered(found, [], {}, None, _picture_error(found, error))
    texts = {kind: table.rows(shown) for kind, table in tables().items() if kind in plan.kinds}
    is_recorded = found.frame.seconds is not None and "overlay" in plan.kinds
    picture = draw_prediction(found.frame.image, found.prediction) if is_recorded or is_shown else None
    return _Rendered(found, files, texts, picture)


def _picture_error(found: _Predicted, error: ValueError) -> PictureError:
    """What is wrong with a file that is made of a frame."""
    return PictureError(f"{found.prediction.path}: {error}")


class _Outputs:
    """Writes what is rendered, in order, and tells about it.

    Leaving the block closes what is open: tables and videos that are whole only at their end take their place, unless
    an error led out of it.

    Attributes:
        failures: sources that could not be predicted.
    """

    def __init__(
        self,
        plan: Plan,
        told: Callable[[str], None],
        failed: Callable[[ImageError], None],
        stride: int,
        finished: Callable[[Source], None],
    ) -> None:
        self._plan, self._told, self._failed, self._stride, self._finished = plan, told, failed, stride, finished
        self._tables = {
            kind: _TableFile(plan.table_path(table), table, (plan.lengths or {}).get(kind, 0))
            for kind, table in tables().items()
            if kind in plan.kinds
        }
        self._kept: set[tuple[int, int] | None] | None = None
        self._progress: _Progress | None = None
        self._noun = "images"
        self.failures = self._pictures = 0

    def __enter__(self) -> "_Outputs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            if self._progress is not None and self._progress.recording is not None:
                self._progress.recording.discard()
            for table in self._tables.values():
                table.discard()
            return
        if self._progress is not None:
            self._end(at_end=False)
        for table in self._tables.values():
            path = table.finish()
            self._told(f"{printable(path)}: {self._pictures} of {self._pictures + self.failures} {self._noun}")

    def take(self, item: "_Rendered | _Event") -> None:
        """Write a frame, or hear of a source."""
        match item:
            case _Rendered(error=None):
                self._write_frame(item)
            case Unread(error=error) | _Rendered(error=PictureError() as error):
                self.failures += 1
                self._failed(error)
            case Ended():
                self._end(at_end=True)

    def _write_frame(self, item: _Rendered) -> None:
        frame, prediction = item.found.frame, item.found.prediction
        overlay = None
        try:
            for place, content in item.files:
                self._write(place, content)
                overlay = self._plan.folder / place if len(place.parts) == 1 else overlay
        except SourceError:  # ends the run: what was planned is wrong, not this frame
            raise
        except ValueError as error:
            self.failures += 1
            self._failed(_picture_error(item.found, error))
            return
        for kind, texts in item.texts.items():
            self._tables[kind].add(texts)
        self._pictures += 1
        if frame.seconds is None:
            there = "" if overlay is None else f" -> {printable(overlay)}"
            size, milliseconds = f"{prediction.width}x{prediction.height}", item.found.seconds * 1000
            name = printable(frame.source.name)
            self._told(f"{name}: {size}, {prediction.summary()}, {milliseconds:.0f} ms{there}")
            self._finished(frame.source)
            return
        if self._progress is None:
            self._progress, self._noun = _Progress(frame), "images and frames"
        self._record(item, self._progress)
        if line := self._progress.add(prediction):
            self._told(line)

    def _record(self, item: _Rendered, progress: "_Progress") -> None:
        frame = item.found.frame
        if item.picture is None or progress.is_unrecorded or "overlay" not in self._plan.kinds:
            return
        try:
            if progress.recording is None:
                stem = self._plan.folder / self._plan.stems[frame.source]
                progress.recording = Recording(stem, frame, self._stride)
                self._check(progress.recording.path)
            progress.recording.add(item.picture, frame.seconds or 0.0)
        except ImageError as error:
            progress.is_unrecorded = True
            self.failures += 1
            self._failed(PictureError(str(error)))

    def _end(self, *, at_end: bool) -> None:
        """The video or stream at hand has no more frames, or is left before its end."""
        if self._progress is None:
            return
        progress, self._progress = self._progress, None
        there = ""
        if progress.recording is not None and not progress.is_unrecorded:
            try:
                said = progress.recording.finish()
                there = f" -> {printable(progress.recording.path)} ({said})"
            except ImageError as error:
                self.failures += 1
                self._failed(PictureError(str(error)))
        self._told("; ".join([progress.line(), *progress.remarks(at_end=at_end)]) + there)

    def _write(self, place: PurePosixPath, content: bytes) -> None:
        path = self._plan.folder / place
        self._check(path)
        write_whole(path, content)

    def _check(self, path: Path) -> None:
        """Whatever was planned, no source is ever replaced."""
        if (identity := file_identity(path)) is not None:
            if self._kept is None:
                self._kept = {file_identity(kept) for kept in self._plan.kept}
            if identity in self._kept:
                raise _in_place_of(path)


class _Progress:
    """How far a video or a stream is."""

    def __init__(self, first: Frame) -> None:
        self.recording: Recording | None = None
        self.is_unrecorded = False
        self._first = first
        self._frames = 0
        self._found: Counter[str] = Counter()
        self._started = self._told = time.monotonic()

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
    """A table on its way to disk."""

    def __init__(self, path: Path, table: Table, length: int) -> None:
        self._table, self._path, self._length = table, path, length
        self._written_to = self._path
        if not table.grows:
            self._written_to = self._path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._file: TextIO | None = None
        self._is_empty = True

    def add(self, texts: Iterable[str]) -> None:
        """Write texts; of a file that grows, whole lines at once."""
        for text in texts:
            file = self._open()
            if self._table.grows:
                file.write(text + self._table.between)
                file.flush()
            else:
                file.write((self._table.head if self._is_empty else self._table.between) + text)
            self._is_empty = False

    def _open(self) -> TextIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            goes_on = self._length > 0
            if goes_on:
                os.truncate(self._written_to, self._length)
            mode: Literal["a", "w"] = "a" if goes_on else "w"
            self._file = self._written_to.open(mode, encoding="utf-8", errors="backslashreplace", newline="")
            if self._table.grows and not goes_on:
                self._file.write(self._table.head)
        return self._file

    def finish(self) -> Path:
        """Write the end; where the file is."""
        file = self._open()
        if not self._table.grows:
            file.write(self._table.empty if self._is_empty else self._table.foot)
        file.close()
        self._written_to.replace(self._path)
        return self._path

    def discard(self) -> None:
        """Close the file; what was to be whole is gone."""
        if self._file is not None:
            self._file.close()
            if not self._table.grows:
                self._written_to.unlink(missing_ok=True)


class _Interruption:
    """While it is open, the first signal that asks to end ends the line; what it stands for happens at the block's end.

    A second one does at once what the signal did before. Signals that are ignored, as under nohup, stay so.
    """

    def __init__(self, line: Line, told: Callable[[str], None]) -> None:
        self._line, self._told = line, told
        self._number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def _heard(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self._restore()
        self._number = number
        self._line.stop()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # a handler that is none of Python's
                signal.signal(number, handler)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore()
        if kind is None and self._number:
            self._told("ended early: what was predicted until then is written")
            signal.raise_signal(self._number)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, creating the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        # A full disk names no file by itself.
        error.filename = error.filename or os.fspath(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
