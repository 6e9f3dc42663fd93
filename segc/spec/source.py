"""YAML text to a tree of values that know their places.

ruamel.yaml does the parsing; what plain scalars mean is decided here, by the core schema of YAML 1.2 alone: ``1e-3``
is a number, ``yes`` and dates are text. Everything a spec has no use for (tags, merge keys, several documents, keys
that are not scalars, endless nesting) is refused with its place.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    Event,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import Reader, ReaderError

from segc.diagnostics import LINE_BREAK, Diagnostic, Severity

LARGEST_FILE = 1024 * 1024
"""Bytes of a spec or a data file; the names of ten thousand classes are a quarter of it."""

DEEPEST = 32
"""Levels of nesting; a spec has five."""

MOST_VALUES = 40_000
"""Keys and values in a file, those behind aliases counted as often as they are used."""

LONGEST_NUMBER = 40
"""Characters of a number."""

LONGEST_TAG = 255
"""Characters of a tag, which no spec has a use for; reading one takes time by the square of its length."""


@dataclass(frozen=True)
class SpecText:
    """A text that values come from: a file's, or a command-line argument's from ``offset`` on."""

    text: str
    file: Path | None = None
    argument: str | None = None
    offset: int = 0

    @cached_property
    def lines(self) -> list[str]:
        """The text's lines without their ends."""
        return LINE_BREAK.split(self.text)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(match.end() for match in LINE_BREAK.finditer(self.text))]

    def place(self, line: int, column: int, end: tuple[int, int] | None = None) -> "Place":
        """The place at ``line`` and ``column`` (from 0), pulled back into the text where it is past its end."""
        last = len(self.lines) - 1
        if line > last or (line == last and line and not self.lines[line].strip()):
            line = next((at for at in range(min(line, last), -1, -1) if self.lines[at].strip()), 0)
            column = len(self.lines[line])
        column = min(column, len(self.lines[line]))
        stop = end[1] if end and end[0] == line else len(self.lines[line].rstrip())
        return Place(self, line, column, max(min(stop, len(self.lines[line])) - column, 1))

    def diagnostic(self, place: "Place", code: str, message: str, help: str | None, severity: Severity) -> Diagnostic:  # noqa: A002
        """A diagnostic at a place of this text."""
        if self.argument is not None:
            column = self.offset + self._starts[place.line] + place.column + 1
            return Diagnostic(
                code, message, severity, column=column, help=help, argument=self.argument, length=place.length
            )
        return Diagnostic(
            code,
            message,
            severity,
            file=self.file,
            line=place.line + 1,
            column=place.column + 1,
            help=help,
            length=place.length,
            snippet=self.lines[place.line],
        )


class Place(NamedTuple):
    """Where something is written: line and column from 0, and how many characters of that line are meant."""

    source: SpecText
    line: int
    column: int
    length: int

    def diagnostic(
        self,
        code: str,
        message: str,
        help: str | None = None,  # noqa: A002
        severity: Severity = "error",
    ) -> Diagnostic:
        """A diagnostic at this place."""
        return self.source.diagnostic(self, code, message, help, severity)


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place.

    Attributes:
        value: None, bool, int, float, str, a dict of key to node, or a list of nodes.
        place: Where the value is written.
        key: Where its key is written, if it has one.
        text: A scalar as it was written, without quotes.
        quoted: Whether a scalar was in quotes or a block.
        size: Values in it, itself included.
        height: Levels of nesting in it.
    """

    value: Any
    place: Place
    key: Place | None = None
    text: str = ""
    quoted: bool = False
    size: int = 1
    height: int = 1

    def plain(self) -> Any:
        """The value without places; lists as tuples, as strict models want them."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return tuple(node.plain() for node in self.value)
        return self.value

    def child(self, key: Any) -> "Node | None":
        """The node under a key or index, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and type(key) is int and 0 <= key < len(self.value):
            found: Node = self.value[key]
            return found
        return None


def collection(value: dict[Any, Node] | list[Node], place: Place, key: Place | None = None) -> Node:
    """A mapping or sequence node of these nodes."""
    inner = list(value.values()) if isinstance(value, dict) else value
    return Node(
        value,
        place,
        key,
        size=1 + sum(node.size for node in inner),
        height=1 + max((node.height for node in inner), default=0),
    )


_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""How JSON escapes a character beyond the first 65,536, and so YAML in double quotes."""
_LONG_TAG = re.compile(rf"(?<![^\s,\[{{])![^\s,\]}}\"']{{{LONGEST_TAG}}}")
_NANS = frozenset({".nan", ".NaN", ".NAN"})


def resolve(text: str) -> Any:
    """What a plain scalar means by the core schema of YAML 1.2."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text, 0 if text.startswith(("0o", "0x")) else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if text in _NANS else text


class _Stop(Exception):  # noqa: N818 - a way out of the parser, not an error anyone sees
    """Reading cannot go on; why is in the diagnostics."""


def compose(source: SpecText) -> tuple[Node | None, list[Diagnostic]]:
    """The tree of the one document in a text.

    Returns:
        The root, and what was found wrong. Without a root the text could not be read to its end; with one and
        diagnostics, what they are about has been left out of the tree. An empty text gives a null root.
    """
    composer = _Composer(source)
    if (tag := _LONG_TAG.search(source.text)) is not None:
        before = LINE_BREAK.split(source.text[: tag.start()])
        place = source.place(len(before) - 1, len(before[-1]))._replace(length=LONGEST_TAG)
        return None, [place.diagnostic("Y005", f"a tag of more than {LONGEST_TAG} characters", "quotes make it text")]
    try:
        return composer.document(), composer.diagnostics
    except _Stop:
        pass
    except MarkedYAMLError as error:
        composer.diagnostics.append(_syntax(source, error))
    except ReaderError as error:
        composer.diagnostics.append(_unprintable(source, error))
    except (YAMLError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
        # ruamel.yaml meets some malformed directives and escapes with bare Python errors.
        place = source.place(*composer.at)
        composer.diagnostics.append(place.diagnostic("Y002", f"this cannot be read as YAML: {error}"))
    return None, composer.diagnostics


class _Reader(Reader):
    """ruamel.yaml's reader, without the regular expression over all of Unicode that it compiles for every text."""

    def check_printable(self, data: Any) -> None:
        if not all(map(_is_printable, set(data))):
            super().check_printable(data)  # which says where


def _is_printable(character: str) -> bool:
    """Whether YAML allows a character; some are left to ruamel.yaml to judge."""
    return " " <= character <= "~" or character in "\t\n\r\x85" or "\xa0" <= character < "\ud800"


class _Composer:
    """Builds nodes from parser events."""

    def __init__(self, source: SpecText) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self.at = (0, 0)
        self._anchors: dict[str, Node] = {}
        self._open: list[str | None] = []
        self._count = 0
        self._events = self._parse()

    def document(self) -> Node:
        self._next()  # start of the stream
        if isinstance(self._next(), StreamEndEvent):
            return Node(None, self.source.place(0, 0))
        root = self._node(self._next(), None, 1)
        self._next()  # end of the document
        following = self._next()
        if not isinstance(following, StreamEndEvent):
            self._report(following, "Y008", "a second document starts here", "leave one document, without `---`")
        return root

    def _parse(self) -> Iterator[Event]:
        yaml = YAML(typ="safe", pure=True)
        yaml.Reader = _Reader
        yield from yaml.parse(self.source.text)

    def _next(self) -> Event:
        event = next(self._events)
        self.at = (event.start_mark.line, event.start_mark.column)
        return event

    def _place(self, event: Event) -> Place:
        start, end = event.start_mark, event.end_mark
        return self.source.place(start.line, start.column, (end.line, end.column))

    def _report(self, event: Event, code: str, message: str, help: str | None = None) -> None:  # noqa: A002
        self.diagnostics.append(self._place(event).diagnostic(code, message, help))

    def _node(self, event: Event, key: Place | None, depth: int) -> Node:
        if depth > DEEPEST:
            self._report(event, "Y005", f"more than {DEEPEST} levels of nesting")
            raise _Stop
        self._count += 1
        if isinstance(event, AliasEvent):
            return self._alias(event, key)
        assert isinstance(event, NodeEvent)  # noqa: S101 - the parser's own contract
        self._tag(event)
        self._open.append(event.anchor)
        if isinstance(event, ScalarEvent):
            node = self._scalar(event, key)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(event, key, depth)
        else:
            node = self._mapping(event, key, depth)
        self._open.pop()
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if max(node.size, self._count) > MOST_VALUES or node.height > DEEPEST:
            self._report(
                event, "Y005", f"more than {MOST_VALUES} keys and values or {DEEPEST} levels, aliases followed"
            )
            raise _Stop
        return node

    def _tag(self, event: Any) -> None:
        if event.tag is not None and event.tag != "!":
            text = "a tag is not supported here"
            self._report(event, "Y008", text, "write the value without the `!`; quotes make it text")

    def _alias(self, event: AliasEvent, key: Place | None) -> Node:
        found = self._anchors.get(event.anchor)
        if found is None:
            inside = event.anchor in self._open
            text = f"alias *{event.anchor} is inside the value it stands for" if inside else (
                f"alias *{event.anchor} has no anchor &{event.anchor} before it"
            )  # fmt: skip
            self._report(event, "Y009", text)
            return Node(None, self._place(event), key, f"*{event.anchor}")
        return replace(found, place=self._place(event), key=key)

    def _scalar(self, event: ScalarEvent, key: Place | None) -> Node:
        text, quoted, place = event.value, not event.implicit[0], self._place(event)
        if event.style in {"|", ">"}:
            place = self.source.place(event.start_mark.line, event.start_mark.column)
        if quoted and _NO_TEXT.search(text):
            text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
        if _NO_TEXT.search(text):
            self._report(event, "Y002", "an escape stands for a character that no text can have")
            return Node(None, place, key, text)
        if quoted:
            return Node(text, place, key, text, quoted)
        if len(text) > LONGEST_NUMBER and (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
            self._report(event, "Y005", f"a number of more than {LONGEST_NUMBER} characters", "quotes make it text")
            return Node(text, place, key, text, quoted=True)
        return Node(resolve(text), place, key, text)

    def _sequence(self, start: Event, key: Place | None, depth: int) -> Node:
        nodes: list[Node] = []
        while not isinstance(event := self._next(), CollectionEndEvent):
            nodes.append(self._node(event, None, depth + 1))
        return collection(nodes, self._collection_place(start, event), key)

    def _mapping(self, start: Event, key: Place | None, depth: int) -> Node:
        nodes: dict[Any, Node] = {}
        while not isinstance(event := self._next(), CollectionEndEvent):
            name = self._node(event, None, depth + 1)
            where = self._place(event)
            node = self._node(self._next(), where, depth + 1)
            if self._key(name, where, nodes):
                nodes[name.value] = node
        return collection(nodes, self._collection_place(start, event), key)

    def _collection_place(self, start: Event, end: Event) -> Place:
        if getattr(start, "flow_style", False):
            return self.source.place(
                start.start_mark.line, start.start_mark.column, (end.end_mark.line, end.end_mark.column)
            )
        return self.source.place(start.start_mark.line, start.start_mark.column)

    def _key(self, name: Node, where: Place, before: dict[Any, Node]) -> bool:
        """Whether the key can stand; what is wrong with it is reported."""
        if isinstance(name.value, dict | list):
            self.diagnostics.append(name.place.diagnostic("Y008", "a key is a single word, not a collection"))
        elif name.value == "<<" and not name.quoted:
            text = "merge keys are not part of YAML 1.2"
            self.diagnostics.append(where.diagnostic("Y008", text, "write the keys out, or use an alias for a value"))
        elif name.value in before:
            first = before[name.value].key
            line = f", first in line {first.line + 1}" if first and first.source.argument is None else ""
            text = f"key `{name.text}` is given twice{line}"
            self.diagnostics.append(where.diagnostic("Y003", text, "keep one of the two"))
        else:
            return True
        return False


_SYNTAX_HELP = (
    ("mapping values are not allowed", "text that has `: ` in it needs quotes; otherwise check the indentation"),
    ("expected <block end>", "check the indentation: the keys of one mapping start in the same column"),
    ("could not find expected ':'", "a key is followed by `: ` and its value"),
    ("but found '<stream end>'", "a bracket is not closed"),
    ("expected ',' or", "a bracket is not closed, or a comma is missing"),
    ("found unexpected end of stream", "the closing quote is missing"),
    ("character '\\t' that cannot start any token", "put blanks in place of the tab"),
    ("that cannot start any token", "text that starts with this character needs quotes"),
    ("found unknown escape character", "in double quotes a backslash is written twice; single quotes keep it as it is"),
)


def _syntax(source: SpecText, error: MarkedYAMLError) -> Diagnostic:
    problem = str(error.problem or error.context or "not YAML")
    mark: StringMark | None = error.problem_mark or error.context_mark
    if problem.startswith("found unexpected end of stream") and error.context_mark is not None:
        mark = error.context_mark  # the opening quote says more than the end of the file
    place = source.place(mark.line, mark.column, (mark.line, mark.column + 1)) if mark else source.place(0, 0)
    indentation = re.match(r"[ \t]*", source.lines[place.line])
    if indentation and "\t" in indentation[0] and place.column <= indentation.end():
        tab = indentation[0].index("\t")
        tabs = Place(source, place.line, tab, indentation.end() - tab)
        found = tabs.diagnostic("Y007", "YAML is indented with spaces, not tabs", "replace each tab by two spaces")
        return replace(found, fix=source.lines[place.line][tab : indentation.end()].replace("\t", "  "))
    advice = next((text for part, text in _SYNTAX_HELP if part in problem), None)
    context = f" {error.context}" if error.context and error.context != problem else ""
    if context and error.context_mark is not None and error.context_mark.line < place.line:
        context += f" that starts in line {error.context_mark.line + 1}"
    return place.diagnostic("Y002", f"{problem}{context}".replace("\x00", "end of file"), advice)


def _unprintable(source: SpecText, error: ReaderError) -> Diagnostic:
    at = error.position if isinstance(error.position, int) else 0
    before = LINE_BREAK.split(source.text[:at])
    line, column = len(before) - 1, len(before[-1])
    character = source.text[at : at + 1]
    text = f"character U+{ord(character or chr(0)):04X} cannot stand in YAML"
    return source.place(line, column, (line, column + 1)).diagnostic("Y002", text, "remove it")


def read_source(path: Path) -> SpecText | Diagnostic:
    """The text of a file, or why it cannot be had."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return Diagnostic("F001", "there is no such file", file=path)
    except IsADirectoryError:
        return Diagnostic(
            "Y001", "this is a folder, not a file", file=path, help=f"for example {path / 'project.yaml'}"
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Diagnostic("Y001", f"the file cannot be read: {reason}", file=path)
    if len(data) > LARGEST_FILE:
        return Diagnostic("Y005", f"the file is larger than {LARGEST_FILE // 1024} KiB", file=path)
    return decode(data, path)


def decode(data: bytes, path: Path) -> SpecText | Diagnostic:
    """UTF-8 text, with or without a byte order mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Diagnostic("Y004", "the file is UTF-16 text", file=path, help="save it as UTF-8")
    if b"\x00" in data:
        return Diagnostic("Y004", "this is a binary file, not YAML", file=path)
    try:
        return SpecText(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        before = LINE_BREAK.split(data[: error.start].decode("utf-8-sig", errors="replace"))
        return Diagnostic(
            "Y004",
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            file=path,
            line=len(before),
            column=len(before[-1]) + 1,
            help="save the file as UTF-8",
        )
