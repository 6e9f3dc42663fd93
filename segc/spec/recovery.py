"""Further faults of a YAML text whose first one ends the parser's reading: its top-level parts are read one by one."""

import re
from collections.abc import Sequence
from dataclasses import replace

from segc.diagnostics import Diagnostic
from segc.spec.source import SpecText, compose

_MOST_PARTS = 100
_SYNTAX = frozenset({"Y002", "Y007"})
_TOP_LEVEL_KEY = re.compile(r"[A-Za-z_\"'][^#]*?:(\s|$)")


def syntax_faults(source: SpecText, found: Sequence[Diagnostic]) -> list[Diagnostic]:
    """What is wrong with a text that could not be read to its end.

    Args:
        source: the text.
        found: what reading it at once came to.

    Returns:
        The faults of all its parts, where several have one; else ``found``.
    """
    starts = [line for line, text in enumerate(source.lines) if _TOP_LEVEL_KEY.match(text)]
    if not any(one.code in _SYNTAX for one in found) or not 1 < len(starts) <= _MOST_PARTS:
        return list(found)
    ends = [*starts[1:], len(source.lines)]
    faults = [fault for start, end in zip(starts, ends, strict=True) if (fault := _fault(source, start, end))]
    return faults if len(faults) > 1 else list(found)


def _fault(source: SpecText, start: int, end: int) -> Diagnostic | None:
    """The fault of some lines, with its place in the whole text."""
    # Empty lines before them keep their numbers.
    part = replace(source, text="\n" * start + "\n".join(source.lines[start:end]))
    root, found = compose(part)
    return next((one for one in found if one.code in _SYNTAX), None) if root is None else None
