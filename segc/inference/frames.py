"""Frames of photographs, videos, cameras and streams, in order; what happened to those that are missing is counted."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.image_headers import MAX_PIXELS, quiet_decoders
from segc.inference.pipeline import Line
from segc.inference.regions import open_picture
from segc.inference.sources import (
    COUNTED_START,
    MAX_DOWNLOAD,
    SOCKET_SECONDS,
    ImageError,
    Source,
    SourceError,
    StreamFoundError,
    WebExchange,
    begins_as,
    decode_image,
    web_problem,
)
from segc.inference.text import named_in_text
from segc.inference.tiles import DecodedPicture, Picture

MOST_MISSED = 64
"""Frames on end of a video file that cannot be decoded before the rest of it is given up."""

MOST_TRIES = 8
"""Times on end that a lost stream is asked for again: some two minutes."""

LONGEST_PAUSE = 30.0
"""Seconds between two of them, at most; the first comes after one second, each further pause is twice as long."""

PART_HEADER = 8192
"""Bytes of what stands before a picture in a stream of pictures."""

OVERVIEW = 2048
"""Pixels, at least, of the longer side of a picture that stands for one that is read in parts."""

STEADY_FRAMES = 1.0
"""Frames by which times of a video may be off its rate, where its duration times its rate is to tell their number."""

LONGER_SECONDS = 1.0
"""What a file may last longer than its frames, where that is to tell their number: sound ends a little later."""

VARIABLE_RATE = 1.5
"""The longest interval between two frames over the shortest one, from which on the rate is called variable."""


NOT_OPENED = {
    "camera": "no such camera, or another program uses it",
    "video": "damaged, cut off, or of a kind that OpenCV does not read here",
    "stream": "cannot be reached, or sends no video",
}
"""Why a source may not open, by its kind, an address of any kind as a stream; OpenCV does not tell."""


@dataclass(slots=True)
class Tally:
    """What happened to the frames of a video or a stream.

    Attributes:
        promised: how many the file speaks of; 0 where nothing does.
        counted: that is its own number, and not its duration times its rate.
        seen: how many came, those included that were not asked for.
        broken: not decoded, between others that were.
        dropped: of a live source, gone before there was time for them.
        reconnected: times that a lost stream was asked for again.
        turned: degrees by which frames are turned, as the file asks for.
        shortest: interval between two frames in seconds.
        longest: likewise.
    """

    promised: int = 0
    counted: bool = False
    seen: int = 0
    broken: int = 0
    dropped: int = 0
    reconnected: int = 0
    turned: int = 0
    shortest: float = float("inf")
    longest: float = 0.0

    def drop(self) -> None:
        """Count a frame that is gone."""
        self.dropped += 1

    def interval(self, seconds: float) -> None:
        """Take in the time between two frames."""
        self.shortest, self.longest = min(self.shortest, seconds), max(self.longest, seconds)

    def remarks(self, *, at_end: bool = True) -> list[str]:
        """What is to be said of a source, at its end or before; nothing where all goes as it should."""
        missing = self.promised - self.seen - self.broken if at_end else 0
        varies = self.longest > VARIABLE_RATE * self.shortest > 0
        return [
            text
            for said, text in (
                (self.turned, f"turned by {self.turned} degrees as the file says"),
                (varies, f"variable frame rate: {self.shortest * 1000:.0f} to {self.longest * 1000:.0f} ms a frame"),
                (self.broken, f"{self.broken} broken and left out"),
                (
                    missing > 0 and self.counted,
                    f"the file speaks of {self.promised} frames: {missing} are not in it",
                ),
                (
                    missing > 0 and not self.counted,
                    f"duration and rate of the file make {self.promised} frames: {missing} are not in it",
                ),
                (self.dropped, f"{self.dropped} dropped, as newer ones were there"),
                (self.reconnected, f"lost and asked for again {self.reconnected} times"),
            )
            if said
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture to predict.

    Attributes:
        image: [H, W, 3] uint8 BGR, turned as its metadata say.
        source: where it comes from.
        index: its number in a video or since a stream was opened, from 0; frames that are left out count.
        seconds: since the beginning of a video, by its own clock, or since a stream was opened; None for a photograph.
        rate: frames a second of a video, as its file names it; 0 where nothing does.
        is_live: from a camera or a stream, which do not wait.
        tally: what happened to the source's frames until now; None for a photograph.
        picture: what the whole photograph is read from, where ``image`` is a smaller picture of it.
        further: pictures that a photograph's file holds behind this one, which are left out.
    """

    image: npt.NDArray[np.uint8]
    source: Source
    index: int = 0
    seconds: float | None = None
    rate: float = 0.0
    is_live: bool = False
    tally: Tally | None = None
    picture: Picture | None = None
    further: int = 0

    def remarks(self) -> list[str]:
        """What is to be said of a photograph; nothing where all goes as it should."""
        return [f"only the first picture of the file, without {self.further} more"] if self.further else []


@dataclass(frozen=True, slots=True)
class Unread:
    """A source that cannot be read, or not any further."""

    source: Source
    error: ImageError


@dataclass(frozen=True, slots=True)
class Ended:
    """A video or a stream has no more frames."""

    source: Source
    tally: Tally


@dataclass(frozen=True, slots=True)
class Reading:
    """How frames are taken.

    Attributes:
        newest: of a live source the newest frame counts and older ones are dropped; else its frames wait. Of files
            nothing is ever dropped.
        stride: every such-and-such frame is taken; the others count neither as seen by the model nor as dropped.
        workers: threads that read photographs.
        in_parts: open photographs that can be read in parts, and decode larger ones than otherwise.
    """

    newest: bool = True
    stride: int = 1
    workers: int = 1
    in_parts: bool = False


def reading_of(sources: Sequence[Source], every: str | None, stride: int) -> Reading:
    """How frames are taken, from what is asked for.

    Args:
        sources: what is going to be read.
        every: ``frame``, ``latest``, or None where nothing is said.
        stride: every such-and-such frame.

    Raises:
        SourceError: where frames of files would have to be dropped.
    """
    if every == "latest" and not any(source.kind in ("camera", "stream", "web") for source in sources):
        raise SourceError("the latest frame is asked for, but none of these is live: a stride leaves frames out")
    workers = max(1, min(4, (os.cpu_count() or 1) - 1))
    return Reading(newest=every != "frame", stride=stride, workers=workers)


def read_frames(
    sources: Sequence[Source], line: Line, reading: Reading, told: Callable[[str], None]
) -> Iterator[Frame | Unread | Ended]:
    """The frames of sources, one source after another.

    Args:
        sources: what to read.
        line: for the threads that read live sources, which end with it.
        reading: how frames are taken.
        told: takes a line about a stream that was lost.

    Yields:
        A frame a photograph; those of a video or stream, and then how it ended; what cannot be read.
    """
    read = partial(read_still, in_parts=reading.in_parts)
    for is_still, group in groupby(sources, key=lambda source: source.is_still):
        if not is_still:
            for source in group:
                yield from _moving(source, "", line, reading, told)
            continue
        for frame in line.spread(read, group, reading.workers):
            if isinstance(frame, Unread) and isinstance(frame.error, StreamFoundError):
                yield from _moving(frame.source, frame.error.kind, line, reading, told)
            else:
                yield frame


def read_still(source: Source, *, in_parts: bool) -> Frame | Unread:
    """The frame of a photograph.

    Args:
        source: the photograph.
        in_parts: see `Reading`.
    """
    further: list[int] = []
    try:
        if not in_parts:
            return Frame(source.read(noted=further.append), source, further=sum(further))
        picture = open_picture(source, further.append)
        if isinstance(picture, DecodedPicture):
            return Frame(picture.image, source, further=sum(further))
        return Frame(picture.reduced(OVERVIEW), source, picture=picture, further=sum(further))
    except ImageError as error:
        return Unread(source, error)


def _moving(
    source: Source, content: str, line: Line, reading: Reading, told: Callable[[str], None]
) -> Iterator[Frame | Unread | Ended]:
    """The frames of a video or a stream; ``content`` is the type that a server names."""
    tally = Tally()
    try:
        with quiet_decoders():  # all the time: threads of FFmpeg decode ahead, and speak between two frames
            if source.kind == "video":
                with source.local() as file:
                    capture = _open_file(file)
                    tally.counted = file.path is not None and begins_as(file.path, COUNTED_START)
                    yield from _video_frames(source, capture, tally, reading)
            elif content.startswith("multipart/"):
                yield from _live_frames(source, lambda: _motion_jpeg(source.name), tally, line, reading, told)
            elif content and (capture := _open_capture(source)).get(cv2.CAP_PROP_FRAME_COUNT) > 0:
                yield from _video_frames(source, capture, tally, reading)
            else:
                yield from _live_frames(source, lambda: _captured(source), tally, line, reading, told)
    except ImageError as error:
        yield Unread(source, error)
    if tally.seen:
        yield Ended(source, tally)


def _open_file(source: Source) -> cv2.VideoCapture:
    try:
        if source.path is None or not source.path.is_file():
            raise ImageError(f"{source.name}: not a file")
        if not begins_as(source.path):
            raise ImageError(f"{source.name}: not a video of a kind that is read, or its beginning is damaged")
    except OSError as error:
        raise ImageError(f"{source.name}: {error.strerror or error}") from None
    return _open_capture(source)


def _open_capture(source: Source) -> cv2.VideoCapture:
    """What decodes a video, a camera or a stream.

    Raises:
        ImageError: where it cannot be opened, or its frames are too large.
    """
    milliseconds = round(SOCKET_SECONDS * 1000)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    if source.kind == "camera":
        capture = cv2.VideoCapture(int(source.name))
    else:
        with nullcontext(source.name) if source.path is None else named_in_text(source.path) as place:
            capture = cv2.VideoCapture(str(place), cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        raise ImageError(f"{_named_source(source)}: {NOT_OPENED.get(source.kind, NOT_OPENED['stream'])}")
    width, height = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        raise ImageError(f"{source.name}: {width:g} by {height:g} pixels; the limit is {MAX_PIXELS >> 20} Mi pixels")
    return capture


def _named_source(source: Source) -> str:
    return f"camera {source.name}" if source.kind == "camera" else source.name


def _grab(capture: cv2.VideoCapture, *, wanted: bool = True) -> npt.NDArray[np.uint8] | bool:
    """The next frame where it is wanted, whether there is one where it is not; False where there is none."""
    if not capture.grab():
        return False
    done, image = capture.retrieve() if wanted else (True, True)
    return image if done else False  # type: ignore[return-value]


def _video_frames(source: Source, capture: cv2.VideoCapture, tally: Tally, reading: Reading) -> Iterator[Frame]:
    """The frames of a video. What cannot be decoded is stepped over where the file speaks of more frames."""
    tally.promised = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    tally.turned = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
    rate = max(0.0, capture.get(cv2.CAP_PROP_FPS))
    index, missed, before, first, last = 0, 0, -1.0, (0, 0.0), (0, 0.0)
    try:
        while missed < MOST_MISSED:
            image = _grab(capture, wanted=index % reading.stride == 0)
            index += 1
            if image is False:
                if index > tally.promised:
                    break
                missed += 1
                continue
            tally.seen, tally.broken, seconds = tally.seen + 1, tally.broken + missed, _position(capture)
            if before >= 0 and not missed:
                tally.interval(seconds - before)
            missed, before = 0, seconds
            first, last = first if tally.seen > 1 else (index, seconds), (index, seconds)
            if not isinstance(image, bool):
                yield Frame(image, source, index - 1, seconds, rate, tally=tally)
    finally:
        capture.release()
    if not tally.seen:
        raise ImageError(f"{source.name}: none of its frames can be decoded")
    if not tally.counted and not _tells_number(tally.promised, rate, first, last):
        tally.promised = 0


def _tells_number(promised: int, rate: float, first: tuple[int, float], last: tuple[int, float]) -> bool:
    """Whether a number that is duration times rate may be that of the frames.

    Args:
        promised: the number.
        rate: frames a second.
        first: number and seconds of the first frame that was read.
        last: likewise.
    """
    off = abs((last[1] - first[1]) * rate - (last[0] - first[0]))
    return off <= STEADY_FRAMES and promised - last[0] > LONGER_SECONDS * rate


def _position(capture: cv2.VideoCapture) -> float:
    return round(max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000, 6)


def _captured(source: Source) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames of a camera or a stream, as long as they come."""
    with quiet_decoders():  # in a thread of its own, which may end later than what takes the frames
        capture = _open_capture(source)
        try:
            while not isinstance(image := _grab(capture), bool):
                yield image
        finally:
            capture.release()
    raise ImageError(f"{_named_source(source)}: no more frames come")


def _live_frames(
    source: Source,
    connect: Callable[[], Iterator[npt.NDArray[np.uint8] | bytes]],
    tally: Tally,
    line: Line,
    reading: Reading,
    told: Callable[[str], None],
) -> Iterator[Frame]:
    """Frames of what does not wait: taken by a thread as they come, decoded where they are wanted."""
    taken = _connected(connect, tally, line, reading, told)
    drop = tally.drop if reading.newest else None
    for index, seconds, content in line.stage(taken, 1 if reading.newest else 4, dropped=drop):
        try:
            image = decode_image(content, source.name) if isinstance(content, bytes) else content
        except ImageError:
            tally.broken += 1
        else:
            yield Frame(image, source, index, seconds, is_live=True, tally=tally)


def _connected(
    connect: Callable[[], Iterator[npt.NDArray[np.uint8] | bytes]],
    tally: Tally,
    line: Line,
    reading: Reading,
    told: Callable[[str], None],
) -> Iterator[tuple[int, float, npt.NDArray[np.uint8] | bytes]]:
    """Number, seconds and content of frames; a stream that is lost is asked for again, after longer and longer pauses.

    Raises:
        ImageError: where it cannot be opened at all, or not again.
    """
    started, tries = time.monotonic(), 0
    while not line.stopped.is_set():
        try:
            for content in connect():
                tries = 0
                if tally.seen % reading.stride == 0:
                    yield tally.seen, round(time.monotonic() - started, 3), content
                tally.seen += 1
        except ImageError as error:
            if not tally.seen or tries == MOST_TRIES:
                raise
            pause = min(LONGEST_PAUSE, 2.0**tries)
            tries += 1
            tally.reconnected += 1
            told(f"{error}; asked for again in {pause:g} s")
            line.stopped.wait(pause)
        else:
            return


def _motion_jpeg(url: str) -> Iterator[bytes]:
    """The pictures of a stream in which a server sends one after another (multipart/x-mixed-replace), as files.

    Raises:
        ImageError: where it cannot be reached, or breaks off.
    """
    exchange = WebExchange(url, MAX_DOWNLOAD)
    deadline = threading.Timer(SOCKET_SECONDS, exchange.cut)
    try:
        deadline.start()
        with exchange.open() as response:
            deadline.cancel()
            # Without a name of its own the boundary would be the dashes alone, which pictures may hold.
            boundary = response.headers.get_boundary("").strip("-") or "\0"
            yield from Multipart(response.read1, boundary.encode("latin-1", "replace")).bodies()
    except Exception as error:  # noqa: BLE001 - what is not the web's own fault comes back as it is
        raise web_problem(url, error) from None
    finally:
        deadline.cancel()
        exchange.cut()


class Multipart:
    """The parts of a multipart answer (RFC 2046).

    Args:
        read: gives some bytes, none at the end.
        boundary: what stands between parts, behind two dashes. Some cameras count these as its own, some do not.
    """

    def __init__(self, read: Callable[[int], bytes], boundary: bytes) -> None:
        self._read = read
        self._mark = rb"(?:^|\r?\n)--+" + re.escape(boundary.strip(b"-"))
        self._buffer = bytearray()
        self._deadline = 0.0

    def bodies(self) -> Iterator[bytes]:
        """What the parts hold, one after another, until the answer says that it ends.

        Raises:
            ConnectionError: where it ends without saying so.
            ImageError: where a part or its head is too large, or takes too long.
        """
        self._deadline = time.monotonic() + SOCKET_SECONDS
        while True:
            self._take(self._reach(self._mark, PART_HEADER)[1])
            self._fill(2)
            if self._buffer.startswith(b"--"):
                return
            head = self._take(self._reach(rb"\r\n\r\n", PART_HEADER)[1])
            named = re.search(rb"(?i)\ncontent-length:\s*(\d{1,9})\s", head)
            if named is not None and int(named[1]) <= MAX_DOWNLOAD:
                self._fill(int(named[1]))
                yield self._take(int(named[1]))
            else:
                yield self._take(self._reach(self._mark, MAX_DOWNLOAD)[0])
            self._deadline = time.monotonic() + SOCKET_SECONDS

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _reach(self, what: bytes, limit: int) -> tuple[int, int]:
        """Where a pattern's first match in the buffer begins and ends; the buffer is filled until there is one."""
        looked = 0
        while (found := re.compile(what).search(self._buffer, looked)) is None:
            looked = max(0, len(self._buffer) - len(what))
            if len(self._buffer) > limit:
                raise ImageError("the stream's parts are larger than any picture")
            self._fill(len(self._buffer) + 1)
        return found.span()

    def _fill(self, length: int) -> None:
        while len(self._buffer) < length:
            if time.monotonic() > self._deadline:
                raise ImageError(f"the stream sent no whole picture for {SOCKET_SECONDS:g} s")
            more = self._read(1 << 16)
            if not more:
                raise ConnectionError("the stream ended in the middle")
            self._buffer.extend(more)
