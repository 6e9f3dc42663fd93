"""Edits of a spec that are safe to make: those whose diagnostics say what is meant. Comments and layout stay."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from segc.diagnostics import LINE_BREAK, Diagnostic
from segc.files import write_atomic
from segc.spec.load import check_text
from segc.spec.source import SpecText, read_source

_MOST_ROUNDS = 20
"""Times that a text is looked at again: a fault of the syntax hides those behind it."""


def fix_file(path: Path) -> str:
    """Make the safe edits in a spec.

    Returns:
        What changed, as a unified diff; empty where nothing did, or the file cannot be read.

    Raises:
        OSError: where it cannot be written.
    """
    source = read_source(path)
    if not isinstance(source, SpecText):
        return ""
    text = fixed(source.text, path)
    if text == source.text:
        return ""
    mark = "\ufeff" if path.read_bytes().startswith(b"\xef\xbb\xbf") else ""
    write_atomic(path, (mark + text).encode())
    lines = (source.text.splitlines(), text.splitlines())
    return "\n".join(difflib.unified_diff(*lines, f"{path}", f"{path}, mended", n=1, lineterm=""))


def fixed(text: str, path: Path) -> str:
    """A spec's text with the safe edits made; an edit after which more would be wrong is not."""
    faults = _faults(text, path)
    for _ in range(_MOST_ROUNDS):
        edited = _edited(text, [one for one in faults if one.fix is not None])
        left = _faults(edited, path)
        if edited == text or (len(left) > len(faults) and not any(one.code.startswith("Y") for one in faults)):
            break
        text, faults = edited, left
    return text


def _faults(text: str, path: Path) -> list[Diagnostic]:
    _, found = check_text(text, path)
    return [one for one in found if one.severity == "error" and one.file == path]


def _edited(text: str, faults: Sequence[Diagnostic]) -> str:
    starts = [0, *(match.end() for match in LINE_BREAK.finditer(text))]
    places = {
        (start := starts[one.line - 1] + one.column - 1, start + one.length): one.fix or ""
        for one in faults
        if one.line is not None and one.column is not None
    }
    for (start, end), replacement in sorted(places.items(), reverse=True):
        text = text[:start] + replacement + text[end:]
    return text
