"""XML of strangers, element by element, with its lines.

expat is asked directly: that gives the line of every element, which messages need, in memory that does not grow with
the file. A document type, by which entities and files would be brought in, is refused, as defusedxml does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from segc.diagnostics import Diagnostic, SegcError, fail

MOST_BYTES = 2**31
"""Largest XML file that is read."""

_CHUNK = 1 << 16
_DEEPEST = 32
_LONGEST_TEXT = 1 << 16


@dataclass(slots=True, eq=False)
class Element:
    """An element with what it encloses.

    Attributes:
        tag: its name.
        attributes: its attributes.
        line: where it begins, from 1.
        children: the elements in it.
        text: the text in it, of at most 65,536 characters.
    """

    tag: str
    attributes: dict[str, str]
    line: int
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def child(self, tag: str) -> "Element | None":
        """The first element of that name in it."""
        return next((one for one in self.children if one.tag == tag), None)

    def text_of(self, tag: str) -> str | None:
        """The text of the first element of that name in it."""
        found = self.child(tag)
        return None if found is None else found.text.strip()

    def to_xml(self, indent: str = "") -> str:
        """The element as text, a line or more; blanks between elements and comments are not kept."""
        head = (
            indent
            + "<"
            + " ".join([self.tag, *(f"{key}={quoteattr(value)}" for key, value in self.attributes.items())])
        )
        inner = escape(self.text.strip())
        if not self.children:
            return f"{head}>{inner}</{self.tag}>\n" if inner else f"{head}/>\n"
        below = "".join(child.to_xml(f"{indent}  ") for child in self.children)
        return f"{head}>{inner}\n{below}{indent}</{self.tag}>\n"


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    pass


class _Builder:
    """Elements as they end."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.parser, self.root = parser, ""
        self.open: list[Element] = []
        self.done: list[Element] = []
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype

    def _doctype(self, *_: object) -> None:
        raise _Refused("a document type is not read: it could bring in other files")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self.root = self.root or tag
        if len(self.open) >= _DEEPEST:
            raise _Refused("elements lie too deep in each other")
        self.open.append(Element(tag, attributes, self.parser.CurrentLineNumber))

    def _text(self, text: str) -> None:
        self.open[-1].text += text[: _LONGEST_TEXT - len(self.open[-1].text)]

    def _end(self, _: str) -> None:
        ended = self.open.pop()
        if len(self.open) == 1:
            self.done.append(ended)
        elif self.open:
            self.open[-1].children.append(ended)


def elements(path: Path, root: str) -> Iterator[Element]:
    """The elements right below the root of an XML file, one after another.

    Args:
        path: the file.
        root: the tag that the root must have.

    Raises:
        SegcError: D003 where it is no such XML, while it is gone through.
        OSError: where it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise fail("D003", f"the file is larger than {MOST_BYTES >> 30} GiB", file=path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    builder = _Builder(parser)
    with path.open("rb") as file:
        last = False
        while not last:
            chunk = file.read(_CHUNK)
            last = not chunk
            try:
                parser.Parse(chunk, last)
            except expat.ExpatError as error:
                text = f"not XML: {expat.errors.messages.get(error.code, 'damaged')}"
                raise SegcError(
                    Diagnostic("D003", text, file=path, line=error.lineno, column=error.offset + 1)
                ) from None
            except _Refused as error:
                raise SegcError(Diagnostic("D003", str(error), file=path, line=parser.CurrentLineNumber)) from None
            except (ValueError, LookupError) as error:  # an encoding that Python does not have
                raise SegcError(Diagnostic("D003", f"not XML that can be read: {error}", file=path)) from None
            if builder.root and builder.root != root:
                text = f"the root is `{builder.root}`, not `{root}`"
                raise SegcError(Diagnostic("D003", text, file=path, line=1))
            yield from builder.done
            builder.done.clear()
