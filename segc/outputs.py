"""Diagnostics as other programs take them: SARIF 2.1.0, and the annotations of GitHub's workflows."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from segc.diagnostics import CODES, Diagnostic, place
from segc.inference.text import printable
from segc.version import __version__

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """A SARIF log of one run, as JSON values; paths below the working directory are relative to it."""
    codes = sorted({one.code for one in diagnostics})
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "segc",
                        "version": __version__,
                        "rules": [{"id": code, "shortDescription": {"text": CODES[code]}} for code in codes],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(one, codes.index(one.code)) for one in diagnostics],
            }
        ],
    }


def _result(one: Diagnostic, rule: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": one.code,
        "ruleIndex": rule,
        "level": one.severity,
        "message": {"text": _text(one)},
    }
    if one.file is not None:
        result["locations"] = [_location(one)]
    if others := [_location(other) for other in one.examples if other.file is not None]:
        result["relatedLocations"] = others
    if one.count > 1:
        result["occurrenceCount"] = one.count
    return result


def _location(one: Diagnostic) -> dict[str, Any]:
    assert one.file is not None  # noqa: S101 - callers look
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(one.file)}}
    if one.line is not None:
        region = {"startLine": one.line}
        if one.column is not None:
            region |= {"startColumn": one.column, "endColumn": one.column + one.length}
        physical["region"] = region
    return {"physicalLocation": physical}


def _uri(file: Path) -> str:
    """A path as a URI reference: relative below the working directory, else absolute."""
    from urllib.parse import quote_from_bytes

    path = Path(os.path.abspath(file))  # noqa: PTH100 - links are left as they are
    inside = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else None
    return path.as_uri() if inside is None else quote_from_bytes(os.fsencode(inside.as_posix()))


def _text(one: Diagnostic) -> str:
    about = f"{place(one)}: " if one.argument is not None else ""
    count = f" ({one.like_this})" if one.like_this else ""
    return f"{about}{one.message}{count}" + (f"; {one.help}" if one.help else "")


def to_github(diagnostics: Iterable[Diagnostic]) -> str:
    """Workflow commands, a line each, which GitHub shows beside the lines of a pull request."""
    return "".join(_workflow_command(one) + "\n" for one in diagnostics)


def _workflow_command(one: Diagnostic) -> str:
    properties = {
        "file": None if one.file is None else os.path.relpath(one.file),
        "line": one.line,
        "col": one.column,
        "endColumn": None if one.column is None else one.column + one.length,
        "title": f"segc {one.code}: {CODES[one.code]}",
    }
    listed = ",".join(f"{key}={_escaped(str(value), ',:')}" for key, value in properties.items() if value is not None)
    return f"::{one.severity} {listed}::{_escaped(_text(one))}"


def _escaped(text: str, more: str = "") -> str:
    """As GitHub takes it: its own signs and ends of lines in its way, the rest as by `printable`."""
    own = "%\r\n" + more
    return "".join(f"%{ord(one):02X}" if one in own else printable(one) for one in text)
