"""Annotated videos: frames drawn on, one after another, at a constant rate that keeps their times."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.frames import Frame
from segc.inference.image_headers import quiet_decoders
from segc.inference.output import partial_path
from segc.inference.sources import ImageError
from segc.inference.text import named_in_text

VIDEO_CODES: Mapping[str, str] = {"avc1": "H.264", "mp4v": "MPEG-4 Part 2"}
"""Codecs that are tried, by their four letters, and what people call them. Most builds of OpenCV bring no H.264."""

LIVE_RATE = 10.0
"""Frames a second in the video of a live source, whose frames come when they come."""

BELIEVED_RATES = (1.0, 240.0)
"""The lowest and the highest rate of a video that is believed."""

LONGEST_GAP = 10.0
"""Seconds between two frames that a video keeps; a longer gap is shortened to this."""


class Recording:
    """The annotated video of one source.

    The video of a file takes its place when it is finished, whole or not at all. That of a live source is written in
    its place, in a container (Matroska) that can be played up to where it ends, whatever ended it.

    Args:
        stem: path without a suffix.
        first: the first frame of the source.
        stride: every such-and-such frame comes.

    Attributes:
        path: the file.
    """

    def __init__(self, stem: Path, first: Frame, stride: int) -> None:
        self.path = stem.with_name(stem.name + recording_suffix(is_live=first.is_live))
        self._written_to = self.path
        if not first.is_live:
            self._written_to = partial_path(stem, self.path.suffix)
        rate = LIVE_RATE if first.is_live else first.rate / stride
        self._rate = rate if BELIEVED_RATES[0] <= rate <= BELIEVED_RATES[1] else LIVE_RATE
        self._writer: cv2.VideoWriter | None = None
        self._codec, self._size = "", (0, 0)
        self._last: npt.NDArray[np.uint8] | None = None
        self._written = self._repeated = self._fitted = self._skipped = 0
        self._origin, self._before = first.seconds or 0.0, first.seconds or 0.0

    def add(self, picture: npt.NDArray[np.uint8], seconds: float) -> None:
        """Take in a picture [h, w, 3] BGR and the time of its frame.

        Raises:
            ImageError: where no codec takes pictures of this size.
        """
        if self._writer is None:
            self._open(picture)
        # A clock that jumps, or a stream that was lost for a while, makes no minutes of one picture.
        self._origin += max(0.0, seconds - self._before - LONGEST_GAP) + min(0.0, seconds - self._before)
        self._before = seconds
        due = round((seconds - self._origin) * self._rate)
        while self._last is not None and self._written < due:
            self._put(self._last)
            self._repeated += 1
        self._last = self._fit(picture)
        if self._written > due:
            self._skipped += 1
        else:
            self._put(self._last)

    def _open(self, picture: npt.NDArray[np.uint8]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        height, width = picture.shape[:2]
        # Both sides even: colours are kept for two by two pixels.
        self._size = (width + width % 2, height + height % 2)
        for code, name in VIDEO_CODES.items():
            fourcc = cv2.VideoWriter.fourcc(*code)
            with quiet_decoders(), named_in_text(self._written_to) as place:
                writer = cv2.VideoWriter(str(place), cv2.CAP_FFMPEG, fourcc, self._rate, self._size)
            if writer.isOpened():
                self._writer, self._codec = writer, name
                return
        raise ImageError(f"{self.path}: OpenCV cannot write a video of {width} by {height} pixels here")

    def _fit(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        width, height = self._size
        if picture.shape[0] in (height, height - 1) and picture.shape[1] in (width, width - 1):
            below, right = height - picture.shape[0], width - picture.shape[1]
            if not below and not right:
                return picture
            return np.asarray(cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        self._fitted += 1
        return np.asarray(cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA), np.uint8)

    def _put(self, picture: npt.NDArray[np.uint8]) -> None:
        if self._writer is not None:
            with quiet_decoders():
                self._writer.write(picture)
            self._written += 1

    def finish(self) -> str:
        """Close the file; what is to be said of it.

        Raises:
            ImageError: where nothing could be written.
        """
        self._release()
        if not self._written_to.is_file() or not self._written_to.stat().st_size:
            raise ImageError(f"{self.path}: the video could not be written")
        self._written_to.replace(self.path)
        remarks = [
            f"{number} {what}"
            for number, what in (
                (self._repeated, "repeated to keep the time"),
                (self._skipped, "left out to keep the time"),
                (self._fitted, "of another size, fitted in"),
            )
            if number
        ]
        return ", ".join([f"{self._codec} at {self._rate:.4g} frames a second", *remarks])

    def discard(self) -> None:
        """Close the file; what was to take its place whole is gone, what is written in its place stays."""
        self._release()
        if self._written_to != self.path:
            self._written_to.unlink(missing_ok=True)

    def _release(self) -> None:
        if self._writer is not None:
            with quiet_decoders():
                self._writer.release()
            self._writer = None


def recording_suffix(*, is_live: bool) -> str:
    """Suffix of an annotated video."""
    return ".mkv" if is_live else ".mp4"
