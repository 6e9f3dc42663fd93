"""The rows of ``results.csv``."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segc.evaluation.metrics import Metrics
from segc.files import write_atomic
from segc.runs import UNMEASURED


def scores(metrics: Metrics | None) -> dict[str, Any]:
    """The columns of a validation: empty where there was none, ``-`` where nothing was labelled."""
    parts = {"box": metrics.box, "mask": metrics.seg} if metrics else {"box": None, "mask": None}
    return {
        f"{part}_{name}": "" if values is None else _measured(getattr(values, name))
        for part, values in parts.items()
        for name in ("map50", "map")
    }


def _measured(value: float) -> float | str:
    return UNMEASURED if math.isnan(value) else round(value, 5)


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a ``results.csv``; columns are those of the first row and, where it has more, the last."""
    columns = list(dict.fromkeys([*rows[0], *rows[-1]]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
