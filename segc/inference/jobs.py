"""Predicting sources: reading, the network, drawing and writing at the same time, in order, within bounds."""

import contextlib
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from segc.inference.draw import draw_prediction
from segc.inference.filters import Filters, Tiling, search_filters
from segc.inference.frames import Frame, Reading, Unread, read_frames
from segc.inference.letterbox import Letterbox
from segc.inference.metadata import Metadata
from segc.inference.pipeline import Line
from segc.inference.predict import Run, image_prediction, network_input, predict_tiled
from segc.inference.show import Window
from segc.inference.sources import ImageError, Source
from segc.inference.text import printable, while_read
from segc.inference.tiles import DecodedPicture
from segc.inference.tracking import Follower
from segc.inference.writers import PICTURES, PictureFiles, Shown, tables
from segc.inference.writing import Completed, Event, Outputs, Plan, Predicted, Rendered, picture_error

MOST_UNDER_WAY = 1 << 28
"""Bytes of pictures between reading and writing; few pictures may be under way whatever their size."""

MOST_READY = 1000
"""Objects of a frame up to which all its files are made before they are written, by several threads; of more, which
tiles find on a large picture, they are made one by one, so that they are not in memory together.
"""


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


_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _over(function: Callable[[_In], _Out], kind: type[_In], items: Iterable[_In | Event]) -> Iterator[_Out | Event]:
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
    finished: Callable[[Completed], None] = lambda _: None,
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
        finished: hears of a photograph once all of it is written, and of a video or stream that has no more frames.
        window: shows every annotated frame, as fast as they are predicted; a photograph stays until a key is pressed.
            Where a person ends it, the rest of the sources is left out, and what was predicted is written.

    Returns:
        How many sources could not be predicted, or not to their end.

    Raises:
        KeyboardInterrupt: after a signal; all that was predicted is written.
        ModelError: where the model cannot be run. Tables that are written whole are then not written.
        OSError: where a file cannot be written; likewise.
        SourceError: where a file that no earlier run wrote would be replaced.
    """
    asked = search_filters(filters, metadata)
    told, failed = while_read(told, sys.stdout), while_read(failed, sys.stderr)
    alike = [stem for stem, own in plan.image_ids.items() if own == stem and stem.isascii() and stem.isdigit()]
    if alike and "coco" in plan.kinds:
        names = printable(", ".join(alike[:3])) + ", …" * (len(alike) > 3)
        told(f"coco_results.json: {len(alike)} names are the same number ({names}): the names are the image_id")
    reading = replace(reading, in_parts=filters.tiles is not None)
    # What waits between two stages of a live source would only grow old.
    is_live = any(source.kind in ("camera", "stream") for source in sources) or [s.kind for s in sources] == ["web"]
    writing = Outputs(plan, metadata.names, told, failed, reading.stride, finished)
    with Line() as line, _Interruption(line, told), writing as outputs:
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
            found = _over(lambda one: _follow(one, follower), Predicted, found)
        shown = window is not None
        workers = 1 if is_live else reading.workers
        rendered = line.spread(lambda one: _render(one, plan, runtime, is_shown=shown), found, workers)
        for one in rendered:
            outputs.take(one)
            if isinstance(one, Rendered):
                budget.release(one.found.frame)
                if window is not None and not _goes_on(one, window, line):
                    told("ended in the window: what was predicted until then is written")
                    break
    return outputs.failures


def _goes_on(one: Rendered, window: Window, line: Line) -> bool:
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

    def admitted(self, items: Iterable[Frame | Event]) -> Iterator[Frame | Event]:
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


def _answers(items: Iterable[_Ready | Event], run: Run, metadata: Metadata, size: int) -> Iterator[_Answered | Event]:
    """What the network says of frames, ``size`` of which go through it together.

    A batch that is not full is filled with its last frame, for a model of a fixed batch.
    """
    waiting: list[_Ready | Event] = []
    for item in items:
        waiting.append(item)
        if sum(isinstance(one, _Ready) for one in waiting) == size or not any(isinstance(o, _Ready) for o in waiting):
            yield from _answer(waiting, run, metadata)
            waiting = []
    yield from _answer(waiting, run, metadata)


def _answer(items: Sequence[_Ready | Event], run: Run, metadata: Metadata) -> Iterator[_Answered | Event]:
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


def _find(answered: _Answered, metadata: Metadata, filters: Filters) -> Predicted:
    started = time.perf_counter()
    name = answered.frame.source.name
    prediction = image_prediction(answered.outputs, answered.geometry, metadata.names, filters, name)
    return Predicted(answered.frame, prediction, answered.seconds + time.perf_counter() - started)


def _find_in_tiles(
    frame: Frame, run: Run, metadata: Metadata, filters: Filters, budget: _Budget
) -> "Predicted | Event":
    started = time.perf_counter()
    picture = DecodedPicture(frame.image) if frame.picture is None else frame.picture
    try:
        tiling = filters.tiles or Tiling()
        prediction = predict_tiled(picture, run, metadata, filters, tiling, path=frame.source.name)
    except ImageError as error:
        budget.release(frame)
        return Unread(frame.source, error)
    return Predicted(frame, prediction, time.perf_counter() - started)


def _follow(found: Predicted, follower: Follower) -> Predicted:
    """A frame with numbers. Photographs that are given one after another are a sequence; a video is one of its own."""
    frame = found.frame
    film = None if frame.seconds is None else frame.source
    return replace(found, prediction=follower.follow(found.prediction, film, frame.index))


def _render(found: "Predicted | Event", plan: Plan, runtime: str, *, is_shown: bool = False) -> "Rendered | Event":
    """Contents of all that is written of a frame; what no format can hold is an error of its source."""
    if not isinstance(found, Predicted):
        return found
    stem = plan.stems[found.frame.source]
    shown = Shown(found.frame, found.prediction, stem, runtime, plan.image_ids[stem])
    files: PictureFiles = (file for kind, make in PICTURES.items() if kind in plan.kinds for file in make(shown))
    if len(found.prediction) <= MOST_READY:
        try:
            files = list(files)
        except ValueError as error:
            return Rendered(found, [], {}, None, error=picture_error(found, error))
    texts = {kind: table.rows(shown) for kind, table in tables().items() if kind in plan.kinds}
    is_recorded = found.frame.seconds is not None and "overlay" in plan.kinds
    picture = draw_prediction(found.frame.image, found.prediction) if is_recorded or is_shown else None
    return Rendered(found, files, texts, picture, shown.place)


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
