"""Lists of images: text files that name one a line."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from segc.data.samples import LabelFaultsError, left_out
from segc.diagnostics import Diagnostic, Findings, fail

_LINE_BREAK = re.compile("\r\n|\n|\r")


def read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, as they are written, with their numbers from 1 on.

    Raises:
        SegcError: D001 where it is no text.
        OSError: where it cannot be read.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise fail("D001", "neither an image nor a text file that lists images", file=file) from None
    return [(number, line) for number, line in enumerate(_LINE_BREAK.split(text), 1) if line.strip()]


def plain(path: Path) -> Path:
    """A path without `..` on its way, where that is the same file: one image has one path."""
    if os.pardir not in path.parts:
        return path
    straight = Path(os.path.normpath(path))
    return straight if straight.is_file() and straight.samefile(path) else path


class Listed:
    """The images that lists name, one list after another; an image counts once.

    Args:
        found: takes in, as warnings, what is named twice, and with ``skip`` what is not there.
        skip: leave out images that are not there.
    """

    def __init__(self, found: Findings, *, skip: bool) -> None:
        self._found, self._skip = found, skip
        self._first: dict[Path, tuple[Path, int]] = {}
        self._missing = Findings()

    def add(self, file: Path, line: int, name: str, image: Path | None, place: str = "") -> None:
        """Take in a line of a list.

        Args:
            file: the list.
            line: the number of the line.
            name: the image as it is named there.
            image: the image of that name; None where there is none.
            place: where it would be, for the message.
        """
        if image is None:
            missing = Diagnostic("D007", f"no such image: `{name}`{place}", file=file, line=line)
            (self._found if self._skip else self._missing).add(left_out(missing) if self._skip else missing)
            return
        before, at = self._first.setdefault(image, (file, line))
        if (before, at) != (file, line):
            where = f"line {at}" if before == file else f"line {at} of {before}"
            text = f"the image is named in {where} already, and counts once"
            self._found.add(Diagnostic("D019", text, "warning", file=file, line=line, help=_OFTENER))

    def images(self) -> Sequence[Path]:
        """All of them, in the order they are named.

        Raises:
            LabelFaultsError: D007 for all that are not there.
        """
        if self._missing:
            raise LabelFaultsError(self._missing)
        return tuple(self._first)


_OFTENER = "to let rare classes count more, set hyperparameters.class_weights"
