"""The categories of a COCO annotation file of any size, read without the rest of it."""

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segc.json_stream import Elements, JsonError, members

_KEY = re.compile(rb'"categories"\s*:\s*\[')
_LARGEST_LIST = 1 << 24


class CategoriesError(ValueError):
    """A file without categories that could be class names; the text says why."""


def read_categories(file: Path) -> dict[int | str, str]:
    """Names by id, in the order of the ids.

    Raises:
        CategoriesError: where there are none, or none that could be read.
        OSError: where the file cannot be read.
    """
    categories: dict[int | str, str] = {}
    for entry in _entries(file):
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int | str) or not isinstance(name, str):
            raise CategoriesError(f"a category has an id and a name, not {json.dumps(entry)[:60]}")
        if name.strip() in categories.values():
            raise CategoriesError(f"two categories are called `{name.strip()}`")
        if number in categories:
            raise CategoriesError(f"two categories have the id {number}")
        categories[number] = name.strip()
    if not categories:
        raise CategoriesError("there are no categories")
    return dict(sorted(categories.items(), key=_order))


def _order(item: tuple[int | str, str]) -> tuple[bool, int, str]:
    number = item[0]
    text = str(number)
    return (False, int(text), "") if re.fullmatch("-?[0-9]{1,18}", text) else (True, 0, text)


def _entries(file: Path) -> list[Any]:
    """The list of categories: found by its key where that stands in the file once, else by going through all."""
    if file.stat().st_size == 0:
        raise CategoriesError("the file is empty")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        starts = list(_few(match.end() - 1 for match in _KEY.finditer(data)))
        if len(starts) == 1:
            entries: list[Any] = _parsed(_list_at(data, starts[0]))
            return entries
        if not starts:
            raise CategoriesError("there is no list of categories in it")
    return _gone_through(file)


def _gone_through(file: Path) -> list[Any]:
    """The list of categories of a file that has the key in other places, too."""
    try:
        lists = [list(value) for key, value in members(file) if key == "categories" and isinstance(value, Elements)]
    except JsonError as error:
        raise CategoriesError(f"this is no JSON: {error}") from None
    if len(lists) != 1:
        raise CategoriesError(f"there are {len(lists) or 'no'} lists of categories in it")
    return lists[0]


def _few(places: Iterator[int]) -> Iterator[int]:
    for _, place in zip(range(2), places, strict=False):
        yield place


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]]', re.DOTALL)


def _list_at(data: mmap.mmap, start: int) -> bytes:
    """The text of the list that begins there."""
    depth = 0
    for token in _TOKEN.finditer(data, start, min(len(data), start + _LARGEST_LIST)):
        depth += {b"[": 1, b"]": -1}.get(token[0], 0)
        if not depth:
            return data[start : token.end()]
    raise CategoriesError("the list of categories has no end")


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CategoriesError(f"this is no JSON: {error}") from None


_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def first_image(file: Path) -> str | None:
    """The first name of an image in an annotation file, if there is one.

    Raises:
        OSError: where the file cannot be read.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = _FILE_NAME.search(data)
        return None if found is None else str(_parsed(found[1]))
