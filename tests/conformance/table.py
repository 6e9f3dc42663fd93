"""Which target has which operator: the table in ``docs/operators.md``.

    python tests/conformance/table.py

writes it anew, from the recipes and the refusals that ``test_operators.py`` checks.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from operators import RECIPES  # noqa: E402
from refusals import REFUSALS  # noqa: E402

from segc.targets.registry import targets  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "operators.md"

HEAD = """\
# Operators and targets

Every row is a graph of one operator (or the few that belong together), run through every target in its own runtime
and compared with PyTorch by `tests/conformance/test_operators.py`; generated from there by
`python tests/conformance/table.py`. A number stands where a target refuses, with the reason below.
"""


def page() -> str:
    """The table as Markdown."""
    names = list(targets())
    notes: list[str] = []
    lines = [HEAD, f"| operator | {' | '.join(names)} |", f"| --- |{' :-: |' * len(names)}"]
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


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
