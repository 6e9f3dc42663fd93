"""What segc tells people about their input: diagnostics with a stable code and a place, and their error."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

Severity = Literal["error", "warning"]

CODES: dict[str, str] = {
    # Y is for the YAML text
    "Y001": "file cannot be read",
    "Y002": "YAML syntax error",
    "Y003": "duplicate key",
    "Y004": "file is not UTF-8 text",
    "Y005": "beyond the limits of a spec",
    "Y006": "file is empty",
    "Y007": "tab in the indentation",
    "Y008": "YAML feature not supported",
    "Y009": "alias without its anchor",
    # S is for the structure of a spec, key by key
    "S101": "missing key",
    "S102": "unknown key",
    "S103": "wrong type",
    "S104": "number out of range",
    "S105": "unknown value",
    "S106": "malformed text",
    "S107": "wrong number of items",
    "S108": "number is not finite",
    "S109": "override does not fit the spec",
    "S110": "version not known",
    # X is for values that cannot go together, or mean nothing in their place
    "X201": "image size the network cannot have",
    "X202": "class names not usable",
    "X203": "class indices not contiguous",
    "X204": "class names given twice",
    "X205": "class names not given",
    "X206": "warm-up longer than the training",
    "X207": "no weights of this name",
    "X208": "validation on the training images",
    "X209": "same target twice",
    "X210": "target cannot do this",
    "X211": "number of classes contradicted",
    "X212": "path not there",
    "X213": "mask size the network cannot have",
    "X214": "annotation files do not fit the format",
    "X215": "class not known",
    "X216": "nothing to freeze, or nothing left to train",
    "X217": "published weights of another network",
    "X218": "licence of published weights not allowed",
    "X221": "variable in a path not set",
    "X222": "path not read as it is written",
    "X223": "file of another kind",
    "X224": "key without effect",
    "X225": "range that cannot be searched",
    # W is for weights files and what becomes of them
    "W001": "not a weights file segc can read",
    "W002": "weights file damaged",
    "W003": "checkpoint asks for something outside of the allow-list",
    "W004": "weights file beyond the limits",
    "W005": "number format not supported",
    "W006": "no weights in the file",
    "W007": "weights do not fit the network",
    "W008": "no trained weights",
    "W009": "class names differ",
    "W010": "weights hold values that are not numbers",
    "W011": "network not recognised from the weights",
    "W012": "licence of weights not allowed",
    "W013": "weights not in the cache",
    # N is for the network, and what is fetched from it
    "N001": "address cannot be reached",
    "N002": "server does not give the file",
    "N003": "file is not the one expected",
    "N004": "certificate not accepted",
    "N005": "not done within the time limit",
    "N006": "larger than it may be",
    "N007": "redirect not followed",
    "N008": "download broke off",
    "N009": "offline",
    # D is for images and labels
    "D001": "no images found",
    "D002": "image cannot be read",
    "D003": "malformed label",
    "D004": "coordinates out of range",
    "D005": "class out of range",
    "D006": "no labels found",
    "D007": "listed image not found",
    "D008": "image of another size than its labels say",
    "D009": "label file without its image",
    "D010": "file of a kind that is not read",
    "D011": "link that leads nowhere new",
    "D012": "label file that several images claim",
    "D013": "hidden file left out",
    "D014": "object given twice",
    "D015": "object without area",
    "D016": "box where a mask is wanted",
    "D017": "nothing to learn",
    "D018": "class without an object",
    "D019": "image given twice",
    "D020": "picture turned by its EXIF data",
    "D021": "object of no class of the project left out",
    "D022": "image that no annotation file lists",
    "D023": "categories contradict the class names",
    "D030": "shape without area left out",
    "D031": "outline crosses itself",
    "D032": "images nearly the same",
    "D033": "image in two splits",
    "D034": "dataset cannot be written in this format",
    "D035": "format of a dataset not recognised",
    # R is for training runs
    "R001": "nothing to resume",
    "R002": "the project changed since the run began",
    "R003": "run exists already",
    "R004": "run is complete",
    "R005": "checkpoint of a run cannot be read",
    "R006": "training diverged",
    "R007": "device not available",
    "R008": "batch too small to train on",
    "R009": "network cannot be compiled here",
    "R010": "not one image fits into the memory",
    "R011": "processes of a training do not fit together",
    "R012": "run is in use",
    "R013": "worker process died",
    "R014": "memory ran out in training",
    # E is for evaluation
    "E001": "nothing to evaluate against",
    "E002": "model and dataset have different classes",
    "E003": "masks have no grid of prototypes",
    # T is for targets and artifacts
    "T001": "target not known",
    "T002": "package too old for a target",
    "T003": "machine cannot emit this target",
    "T004": "worker process failed",
    "T005": "worker process did not finish in time",
    "T006": "artifact cannot be opened",
    "T007": "artifact differs from the trained network",
    "T008": "operator that a target does not have",
    "T009": "worker process took too much memory",
    "T010": "artifact loses more accuracy than is accepted",
    "T014": "no part of the network to keep in float",
    "T015": "images that int8 cannot be calibrated on",
    # I is for images to predict on
    "I001": "source not found",
    "I002": "image cannot be read",
    "I003": "output would replace a source or another file of yours",
    "I004": "picture cannot be written",
    "I005": "model has left out what is asked for",
    "I006": "frames of files are not dropped",
    "I008": "there are no tiles",
    "I009": "nothing can be shown here",
    # F is for files and the machine
    "F001": "file or folder not found",
    "F002": "file cannot be read",
    "F003": "file cannot be written",
    "F004": "package missing",
    "F005": "file exists already",
    "F006": "another process works here",
    "F007": "package cannot be loaded",
    "F008": "memory ran out",
}
"""Every code that segc can report, with its title. A code keeps its meaning for good."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. ``line`` and ``column`` count from 1; without them the finding is about the whole file.

    Attributes:
        code: A key of `CODES`.
        message: What is wrong, in one sentence without a full stop.
        severity: ``warning`` where segc can go on.
        file: The file it is about.
        line: Line in ``file``.
        column: Column in that line, or in ``argument``, in characters.
        help: What to do about it.
        argument: The command-line argument it is about, whole, in place of ``file``.
        length: Characters from ``column`` on that are meant.
        snippet: The text of the line; read from ``file`` when it is shown, where it is not given.
        count: How often it was found; more than once where it stands for others of its kind, see `Findings`.
        examples: The next ones of those others, few.
        fix: What to write in place of the characters that are meant, where that is safe to do unasked.
    """

    code: str
    message: str
    severity: Severity = "error"
    file: Path | None = None
    line: int | None = None
    column: int | None = None
    help: str | None = None
    argument: str | None = None
    length: int = 1
    snippet: str | None = None
    count: int = 1
    examples: tuple["Diagnostic", ...] = ()
    fix: str | None = None

    @property
    def like_this(self) -> str:
        """How many it stands for, in words; empty where there are no others, and its message has the number."""
        return f"{self.count} like this" if self.count > 1 and self.examples else ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unknown diagnostic code {self.code}")


class SegcError(Exception):
    """Bad input, or a condition of the machine that the user can mend; all else is a bug and keeps its traceback.

    Its text has a line a diagnostic: place, code and message.

    Args:
        diagnostics: what is wrong, one or several.

    Attributes:
        diagnostics: what is wrong, as a tuple of ``segc.diagnostics.Diagnostic``: each has ``code``, ``message`` and
            ``severity``, and where they are known ``file``, ``line`` and ``column`` (from 1), and ``help``, the way
            out.
    """

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        self.diagnostics = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        super().__init__("\n".join(map(_line, self.diagnostics)))

    def __reduce__(self) -> tuple[type["SegcError"], tuple[tuple[Diagnostic, ...]]]:
        # Exceptions pickle their text; loader workers must hand over the diagnostics.
        return SegcError, (self.diagnostics,)


def fail(code: str, message: str, *, file: Path | None = None, help: str | None = None) -> SegcError:  # noqa: A002
    """A ``SegcError`` with one diagnostic, to be raised by the caller."""
    return SegcError(Diagnostic(code, message, file=file, help=help))


MOST_EXAMPLES = 3
"""Diagnostics of one kind that are shown; more are counted."""

_NUMBERS_AND_PATHS = re.compile(r"\S*[/\\]\S*|[-+]?\d[\w.,+-]*")
_NAMES = re.compile(r"""`[^`]*`|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")

_Kind = tuple[str, str, str, str]


class Findings:
    """Diagnostics gathered by kind, in flat memory: of each kind the first few and the number of all.

    Two are of a kind where code, message and way out are the same but for names, paths and numbers; a way out that
    names something else is another one.
    """

    def __init__(self, found: Iterable[Diagnostic] = ()) -> None:
        self.counts: Counter[str] = Counter()
        """Number of diagnostics by code."""
        self._kinds: dict[_Kind, list[tuple[int, Diagnostic]]] = {}
        self._totals: Counter[_Kind] = Counter()
        self.extend(found)

    def add(self, diagnostic: Diagnostic) -> None:
        """Take one in."""
        message = _NUMBERS_AND_PATHS.sub("", _NAMES.sub("", diagnostic.message))
        way_out = _NUMBERS_AND_PATHS.sub("", diagnostic.help or "")
        kind = (diagnostic.code, diagnostic.severity, message, way_out)
        first = self._kinds.setdefault(kind, [])
        if len(first) < MOST_EXAMPLES:
            first.append((self.counts.total(), diagnostic))
        self._totals[kind] += diagnostic.count
        self.counts[diagnostic.code] += diagnostic.count

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Take several in."""
        for diagnostic in diagnostics:
            self.add(diagnostic)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __iter__(self) -> Iterator[Diagnostic]:
        """In the order they came: each diagnostic, or, of kinds with many, the first one, which stands for all."""
        shown: list[tuple[int, Diagnostic]] = []
        for kind, first in self._kinds.items():
            total = self._totals[kind]
            if total == sum(one.count for _, one in first):
                shown += first
            else:
                (at, head), *others = first
                examples = (*head.examples, *(one for _, one in others))[: MOST_EXAMPLES - 1]
                shown.append((at, replace(head, count=total, examples=examples)))
        yield from (one for _, one in sorted(shown, key=lambda pair: pair[0]))


LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line in YAML, and so in the places of diagnostics."""

_WIDEST_SNIPPET = 120
_LONGEST_FILE_READ = 16 * 1024 * 1024
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "bold": "\x1b[1m", "dim": "\x1b[36m", "off": "\x1b[0m"}
_NO_COLOURS = dict.fromkeys(_COLOURS, "")


def wants_colour(stream: TextIO) -> bool:
    """Whether colour is welcome there: a terminal, not a dumb one, and ``NO_COLOR`` is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def sort_diagnostics(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """In the order of a reader: by file, then line and column; arguments last."""
    return tuple(
        sorted(diagnostics, key=lambda d: (d.argument or "", str(d.file or ""), d.line or 0, d.column or 0, d.code))
    )


def render_text(diagnostics: Iterable[Diagnostic], *, colour: bool = False) -> str:
    """Diagnostics for people: place, code and message; the line with the place underlined; the way out.

    Args:
        diagnostics: What to show, in that order.
        colour: Use ANSI colours.

    Returns:
        Lines, each block ended by a newline; an empty text where there is nothing to show.
    """
    paint = _COLOURS if colour else _NO_COLOURS
    return "\n".join(_block(diagnostic, paint) for diagnostic in diagnostics)


def to_dict(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic as JSON values: its fields, with the code's title and the line's text; null where not known."""
    return {
        "code": diagnostic.code,
        "title": CODES[diagnostic.code],
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "file": None if diagnostic.file is None else str(diagnostic.file),
        "line": diagnostic.line,
        "column": diagnostic.column,
        "length": diagnostic.length,
        "argument": diagnostic.argument,
        "snippet": _snippet(diagnostic),
        "help": diagnostic.help,
        "count": diagnostic.count,
        "examples": [{"place": place(one), "message": one.message} for one in diagnostic.examples],
    }


def place(diagnostic: Diagnostic) -> str:
    """``file:line:column`` as far as they are known, or the name of the command-line option."""
    if diagnostic.argument is not None:
        return diagnostic.argument.split(maxsplit=1)[0]
    parts = (diagnostic.file, diagnostic.line, diagnostic.column)
    return ":".join(str(part) for part in parts if part is not None)


def _line(diagnostic: Diagnostic) -> str:
    """A diagnostic in a line, without its way out."""
    where = diagnostic.argument or place(diagnostic)
    lead = f"{where}: " if where else ""
    return _printable(f"{lead}{diagnostic.code}: {diagnostic.message}")


def _block(diagnostic: Diagnostic, paint: dict[str, str]) -> str:
    where = place(diagnostic)
    lead = f"{paint['bold']}{_printable(where)}{paint['off']}: " if where else ""
    title = f"{paint[diagnostic.severity]}{diagnostic.severity}[{diagnostic.code}]{paint['off']}"
    lines = [f"{lead}{title}: {paint['bold']}{_printable(diagnostic.message)}{paint['off']}"]
    number = "" if diagnostic.line is None else str(diagnostic.line)
    margin = " " * len(number)
    snippet = _snippet(diagnostic)
    if snippet is not None:
        text, caret = _window(snippet, (diagnostic.column or 1) - 1, diagnostic.length)
        lines.append(f"{paint['dim']} {number} |{paint['off']} {text}".rstrip())
        if diagnostic.column is not None:
            lines.append(f"{paint['dim']} {margin} |{paint['off']} {paint[diagnostic.severity]}{caret}{paint['off']}")
    if diagnostic.like_this:
        others = "; ".join(filter(None, map(place, diagnostic.examples)))
        text = diagnostic.like_this + (f", the next ones at {others}" if others else "")
        lines.append(f"{paint['dim']} {margin} ={paint['off']} {_printable(text)}")
    if diagnostic.help:
        lines.append(f"{paint['dim']} {margin} ={paint['off']} help: {_printable(diagnostic.help)}")
    return "\n".join(lines) + "\n"


def _snippet(diagnostic: Diagnostic) -> str | None:
    """The offending line: as given, or from the file if that is still there and not enormous."""
    if diagnostic.snippet is not None or diagnostic.file is None or diagnostic.line is None:
        return diagnostic.snippet if diagnostic.argument is None else diagnostic.argument
    try:
        with diagnostic.file.open("rb") as file:
            text = file.read(_LONGEST_FILE_READ).decode("utf-8-sig", errors="replace")
    except OSError:
        return None
    lines = LINE_BREAK.split(text)
    return lines[diagnostic.line - 1] if diagnostic.line <= len(lines) else None


def _printable(text: str) -> str:
    """One line that cannot move the terminal's cursor or colour it: a space for other blanks, escapes for the rest."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else " "
        if character.isspace()
        else character.encode("unicode_escape").decode()
        for character in text
    )


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: east Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _window(line: str, column: int, length: int) -> tuple[str, str]:
    """A part of ``line`` around ``column`` (from 0) that fits a terminal, and the text that underlines it."""
    column = min(column, len(line))
    start = 0 if column < _WIDEST_SNIPPET * 3 // 4 else column - _WIDEST_SNIPPET // 2
    stop = start + _WIDEST_SNIPPET
    before, after = "\u2026" * (start > 0), "\u2026" * (stop < len(line))
    shown = before + _printable(line[start:stop]) + after
    lead = before + _printable(line[start:column])
    meant = _printable(line[column : min(column + length, stop)])
    return shown, " " * _width(lead) + "^" * max(_width(meant), 1)
