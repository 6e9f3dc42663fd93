"""The generated pages of ``docs/``: targets with their options, which of them has which operator, all codes, the API.

    python tests/conformance/pages.py

writes them anew, from the options' models, the recipes, the refusals that ``test_operators.py`` checks, and the
explanations of diagnostics.
"""

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from api_page import api_page  # noqa: E402
from operators import RECIPES  # noqa: E402
from refusals import REFUSALS  # noqa: E402
from run import BESIDE  # noqa: E402

from segc.explanations import diagnostics_page  # noqa: E402
from segc.schema import ImageSize  # noqa: E402
from segc.targets.contract import Accept  # noqa: E402
from segc.targets.int8 import KeepFloat  # noqa: E402
from segc.targets.registry import targets  # noqa: E402

DOCS = HERE.parents[1] / "docs"

OPERATORS_HEAD = """\
# Operators and targets

Every row is a graph of one operator (or the few that belong together), run through every target in its own runtime
and compared with PyTorch by `tests/conformance/test_operators.py`; generated from there by
`python tests/conformance/pages.py`. A number stands where a target refuses, with the reason below.
"""

TARGETS_HEAD = """\
# Targets

What `segc emit --target NAME` writes, beside `README.md` and `artifact.json`, and what each entry of `targets:` in a
`project.yaml` can say. Generated from the
options' models by `python tests/conformance/pages.py`; `segc doctor` tells what of it this machine can do.
"""


def operators_page() -> str:
    """Operators by target, as Markdown."""
    names = [*targets(), *BESIDE]
    notes: list[str] = []
    lines = [OPERATORS_HEAD, f"| operator | {' | '.join(names)} |", f"| --- |{' :-: |' * len(names)}"]
    for recipe in RECIPES:
        cells = []
        for name in names:
            reason = REFUSALS.get(name, {}).get(recipe)
            if reason is None:
                cells.append("✓")
                continue
            note = f"{name}: {reason}"
            if note not in notes:
                notes.append(note)
            cells.append(str(notes.index(note) + 1))
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines).rstrip() + "\n"


def targets_page() -> str:
    """The targets and their options, as Markdown."""
    lines = [TARGETS_HEAD, "| target | artifact | beside it | to emit | to run |", "| --- | --- | --- | --- | --- |"]
    for name, target in targets().items():
        beside = ", ".join(file for _, file in target.templates)
        packages = (target.requirements(target.default_options()), target.needed)
        needs, runs = (", ".join(map(str, found)) or "nothing more" for found in packages)
        known = " or ".join(f"`{word}`" for word in (name, *target.aliases))
        lines.append(f"| {known} | `<name>{target.suffix}` | {beside} | {needs} | {runs} |")
    for name, target in targets().items():
        lines += [
            "",
            f"## {target.title}: `{name}`",
            "",
            "| option | values | default | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for option, field in target.options.model_fields.items():
            if option != "format":
                default = "" if field.default in (None, ()) else f"`{str(field.default).lower()}`"
                lines.append(f"| `{option}` | {_values(field.annotation)} | {default} | {field.description} |")
        lines += [
            "",
            f"    pip install 'segc[train,{target.extra}]'"
            if target.extra != "train"
            else "    pip install 'segc[train]'",
        ]
    return "\n".join(lines) + "\n"


def _values(annotation: object) -> str:
    """What an option takes; KeyError where there are no words for it yet."""
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if Accept in get_args(annotation):
        return f"true, false, or {{{', '.join(Accept.model_fields)}}}"
    return WORDS[annotation]


WORDS: dict[object, str] = {
    bool: "true, false",
    int: "whole number",
    float: "number",
    float | None: "number",
    int | None: "whole number",
    ImageSize | None: "pixels",
    str | None: "text",
    KeepFloat: "auto, false, or a list of patterns",
}
"""What an option takes, by its type."""

PAGES = {
    "operators.md": operators_page,
    "targets.md": targets_page,
    "diagnostics.md": diagnostics_page,
    "api.md": api_page,
}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).write_text(page(), encoding="utf-8")
