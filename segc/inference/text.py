"""Text that comes from files, servers and names of files, as it may be shown and passed on."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

_T = TypeVar("_T")


def while_read(say: Callable[[_T], None], stream: TextIO) -> Callable[[_T], None]:
    """The same, until whoever reads the stream goes away (``| head``): then it says nothing, and the work goes on."""

    def said(what: _T) -> None:
        try:
            say(what)
        except BrokenPipeError:
            # What the stream still holds would be an error once more when the program ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    return said


def printable(text: object) -> str:
    r"""A text as it may be shown: what would move the cursor, change colours or start a line is escaped.

    Escapes are Python's: ``\x1b``, ``\n``, ``\udcff`` for a byte of a file name that is no UTF-8.
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_printable_character, shown))


def _printable_character(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


@contextmanager
def named_in_text(path: Path) -> Iterator[Path]:
    """An absolute path for libraries that take texts alone, while the block runs, in which they open what is there.

    Bytes of a name that are no UTF-8 end the process in some and are refused by others: what has such a name, or is in
    a folder of such a name, gets another one meanwhile.

    Raises:
        OSError: where it cannot get one.
    """
    place = path.absolute()
    if _is_text(place):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="segc-") as folder:
        link = Path(folder, "link")
        if _is_text(place.name):  # what lies beside it may belong to it
            link.symlink_to(place.parent, target_is_directory=True)
            yield link / place.name
        else:
            link = link.with_suffix(place.suffix if _is_text(place.suffix) else "")
            link.symlink_to(place, target_is_directory=place.is_dir())
            yield link


def _is_text(name: object) -> bool:
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True
