"""What every diagnostic is about: why it matters, an example, and how it is mended. The docs' page comes from here."""

from functools import cache
from textwrap import indent
from typing import NamedTuple

from segc.diagnostics import CODES
from segc.files import resource


class Explanation(NamedTuple):
    """What there is to know about a diagnostic beside its title.

    Attributes:
        why: what happened, and why segc does not go on as if nothing had.
        example: what brings it about.
        mend: what to do.
    """

    why: str
    example: str
    mend: str


GROUPS = {
    "Y": "The YAML text",
    "S": "The structure of a spec",
    "X": "Values that cannot go together, or mean nothing in their place",
    "W": "Weights files",
    "D": "Images and labels",
    "R": "Training runs",
    "E": "Evaluation",
    "T": "Targets and artifacts",
    "I": "Images to predict on",
    "F": "Files and the machine",
    "N": "The network",
}
"""What the first letter of a code stands for."""


@cache
def explanations() -> dict[str, Explanation]:
    """By code, from ``templates/diagnostics.txt``: the code, why, an indented example, what to do; an empty line."""
    text = resource("templates", "diagnostics.txt").read_text(encoding="utf-8")
    return dict(_explanation(block) for block in text.strip().split("\n\n"))


def _explanation(block: str) -> tuple[str, Explanation]:
    code, *lines = block.splitlines()
    indented = [index for index, line in enumerate(lines) if line.startswith(_INDENT)]
    start, end = indented[0], indented[-1] + 1
    example = "\n".join(line.removeprefix(_INDENT) for line in lines[start:end])
    return code, Explanation(" ".join(lines[:start]), example, " ".join(lines[end:]))


_INDENT = "    "


def explained(code: str) -> str:
    """A code's explanation for a terminal."""
    return f"{code}: {CODES[code]}\n\n{_body(code)}"


def diagnostics_page() -> str:
    """All explanations as Markdown."""
    head = (
        "# Diagnostics\n\nEvery code that segc reports, which keeps its meaning for good; `segc explain CODE` shows\n"
        "the same. Generated from `templates/diagnostics.txt` by `python tests/conformance/pages.py`.\n"
    )
    parts = [head]
    for letter, title in GROUPS.items():
        codes = [code for code in sorted(CODES) if code.startswith(letter)]
        if codes:
            parts.append(f"## {title}\n")
            parts += [f"### {code}: {CODES[code]}\n\n{_body(code)}" for code in codes]
    return "\n".join(parts)


def _body(code: str) -> str:
    known = explanations().get(code)
    if known is None:
        return "Nothing more is written about it.\n"
    return f"{known.why}\n\n{indent(known.example, _INDENT)}\n\n{known.mend}\n"
