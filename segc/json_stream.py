"""JSON files of any size: the members of the object that a file holds, the lists among them an element at a time.

What is in memory is a window of the text that holds the element at hand, so files may be larger than that. Elements
are parsed by Python's own scanner: what is JSON, and where it is none, is as :mod:`json` says. (The library ijson was
looked at: it names no line and column, and refuses NaN and Infinity, which Python writes and annotations hold.)
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

LONGEST = 1 << 28
"""Characters of one element, or of a member that is no list."""

_CHUNK = 1 << 20
_LONGEST_TOKEN = 16
"""What is wrong this near to the end of the window may only be cut off: no name or escape of JSON is longer."""

_LONGEST_TAIL = 2
"""A number that has more than this behind it does not go on: that of `1e+5` may be cut off behind the sign."""

_BLANKS = re.compile(r"[ \t\n\r]*")


class JsonError(ValueError):
    """A file that is no JSON, or none that can be read.

    Attributes:
        line: where, from 1; None where that is not known.
        column: where in that line, from 1.
    """

    def __init__(self, text: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(text)
        self.line, self.column = line, column


class NoObjectError(JsonError):
    """A file that holds JSON, but no object.

    Attributes:
        is_list: it holds a list.
    """

    def __init__(self, *, is_list: bool) -> None:
        super().__init__(f"the file holds {'a list' if is_list else 'a single value'}, no object")
        self.is_list = is_list


class Elements:
    """The elements of a list, read as they are gone through, once."""

    def __init__(self, window: "_Window") -> None:
        self._read = _elements(window)

    def __iter__(self) -> Iterator[Any]:
        return self._read


def members(file: Path) -> Iterator[tuple[str, Any]]:
    """The keys and values of the object that a JSON file holds, in its order; a list is :class:`Elements`.

    What is left of a list is passed over when the next member is asked for. A key may come several times.

    Raises:
        JsonError: where it is no JSON, which is noticed on the way.
        NoObjectError: where it holds something else.
        OSError: where it cannot be read.
    """
    with file.open("rb") as stream:
        yield from _members(_Window(stream))


def _members(window: "_Window") -> Iterator[tuple[str, Any]]:
    if window.peek() != "{":
        is_list = window.peek() == "["
        _pass_over(_value(window))
        window.end()
        raise NoObjectError(is_list=is_list)
    window.take("{", "an object")
    more = window.peek() != "}"
    if not more:
        window.take("}", "'}'")
    while more:
        if window.peek() != '"':
            raise window.error("Expecting property name enclosed in double quotes")
        key = window.value()
        window.take(":", "':' delimiter")
        value = _value(window)
        yield key, value
        _pass_over(value)
        more = window.take(",}", "',' delimiter") == ","
    window.end()


def _value(window: "_Window") -> Any:
    return Elements(window) if window.peek() == "[" else window.value()


def _pass_over(value: Any) -> None:
    if isinstance(value, Elements):
        for _ in value:
            pass


def _elements(window: "_Window") -> Iterator[Any]:
    window.take("[", "a list")
    if window.peek() == "]":
        window.take("]", "']'")
        return
    yield window.value()
    while window.take(",]", "',' delimiter") == ",":
        yield window.value()


class _Window:
    """A part of the text, and a place in it."""

    def __init__(self, stream: BinaryIO) -> None:
        head = stream.read(_CHUNK)
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(json.detect_encoding(head))("surrogatepass")
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self._line = self._column = 1  # of the beginning of the window
        self._take_in(head)

    def peek(self) -> str:
        """The next character that is no blank, and go there; empty at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def take(self, wanted: str, what: str) -> str:
        """Go over one of some characters.

        Raises:
            JsonError: where none of them comes next.
        """
        found = self.peek()
        if not found or found not in wanted:
            raise self.error(f"Expecting {what}")
        self._at += 1
        return found

    def value(self) -> Any:
        """The value that comes next, whole.

        Raises:
            JsonError: where that is none, or too long a one.
        """
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                wrong, at = error.msg, error.pos
            except (ValueError, RecursionError) as error:  # a number of too many digits, or too many brackets
                raise self.error(str(error)) from None
            else:
                if end < len(self._text) - _LONGEST_TAIL or self._ended:
                    self._at = end
                    return value
                wrong, at = "", end
            is_cut_off = at > len(self._text) - _LONGEST_TOKEN or wrong.startswith("Unterminated string")
            if not (is_cut_off and self._read_on()):
                raise self.error(wrong, at)

    def end(self) -> None:
        """Make sure that nothing else follows.

        Raises:
            JsonError: where something does.
        """
        if self.peek():
            raise self.error("Extra data")

    def error(self, text: str, at: int | None = None) -> JsonError:
        """What is wrong, at a place of the window or right here."""
        at = self._at if at is None else at
        return JsonError(text, *self._place(at))

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column of a place of the window."""
        lines = self._text.count("\n", 0, at)
        if lines:
            return self._line + lines, at - self._text.rfind("\n", 0, at)
        return self._line, self._column + at

    def _read_on(self) -> bool:
        """Leave behind what is done with, and read as much again as is left; False at the end of the file."""
        if self._ended:
            return False
        self._line, self._column = self._place(self._at)
        self._text, self._at = self._text[self._at :], 0
        if len(self._text) > LONGEST:
            raise self.error(f"one value of more than {LONGEST >> 20} million characters")
        data = self._stream.read(max(_CHUNK, len(self._text)))
        self._ended = not data
        self._take_in(data)
        return True

    def _take_in(self, data: bytes) -> None:
        try:
            self._text += self._decoder.decode(data, self._ended)
        except UnicodeDecodeError as error:
            raise self.error(f"{error.reason}: it is no text in {error.encoding}", len(self._text)) from None
