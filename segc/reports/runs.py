"""Runs beside one another: a table, the settings that differ, and their curves on one page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segc.reports import plots
from segc.reports.page import Figure, column, duration
from segc.reports.plots import Axis, Line
from segc.reports.template import render
from segc.runs import (
    RESULTS,
    UNMEASURED,
    RunRecord,
    as_numbers,
    best_epochs,
    chosen_run,
    fitness,
    flat,
    ranked,
    read_record,
    read_results,
    run_folder,
    run_names,
    state_of,
)

_LAST = 5
"""Validations at the end of a run that its spread is taken over."""

SCORES = ("box_map", "box_map50", "mask_map", "mask_map50")


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it is shown.

    Attributes:
        name: of its folder.
        folder: the same.
        state: running, finished, or how it ended.
        record: what is known about it; None where its record cannot be read.
        rows: of ``results.csv``.
        ranked: those of them that the best one was chosen from.
        best: the best epoch's row; empty before the first validation.
        ties: epochs that were as good.
        used: whether the commands take its weights.
    """

    name: str
    folder: Path
    state: str
    record: RunRecord | None
    rows: Sequence[Mapping[str, Any]]
    ranked: Sequence[Mapping[str, Any]]
    best: Mapping[str, Any]
    ties: tuple[int, ...]
    used: bool

    @property
    def fitness(self) -> float:
        """Of the best epoch; below 0 where there is none."""
        value = fitness(self.best) if self.best else None
        return -1.0 if value is None else value

    @property
    def epochs(self) -> str:
        """Epochs done, of how many."""
        done = self.rows[-1]["epoch"] if self.rows else 0
        return f"{done}/{self.record.epochs or '?'}" if self.record else str(done)

    def score(self, name: str) -> str:
        """A figure of the best epoch, as text."""
        value = str(self.best.get(name, ""))
        return f"{float(value):.3f}" if value not in {"", UNMEASURED} else "-"

    def spread(self, name: str) -> str:
        """Mean and range of a figure over the last validations."""
        values = [value for value in column(self.ranked, name) if not math.isnan(value)][-_LAST:]
        if not values:
            return "-"
        mean = sum(values) / len(values)
        return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f}, last {len(values)})"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that it was trained by, by dotted key."""
        if self.record is None:
            return {}
        last = self.record.segments[-1]
        return {
            **{f"hyperparameters.{key}": value for key, value in flat("", self.record.hyperparameters)},
            **self.record.dataset,
            "started from": self.record.weights or "random weights",
            **{f"version of {key}": value for key, value in last.versions.items()},
            **{f"machine: {key}": value for key, value in last.machine.items()},
        }

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        from dataclasses import asdict

        return {
            "name": self.name,
            "state": self.state,
            "used": self.used,
            "best": as_numbers(self.best),
            "ties": list(self.ties),
            "spread": {name: self.spread(name) for name in SCORES},
            "record": None if self.record is None else asdict(self.record),
        }


def view_runs(build_dir: Path, names: Sequence[str] | None = None) -> list[RunView]:
    """Runs of a build directory, the one that ended last at the end.

    Args:
        build_dir: the build directory.
        names: those to view, in this order; all where not given.

    Raises:
        SegcError: R001 where one is not there.
    """
    folders = [run_folder(build_dir, name) for name in (run_names(build_dir) if names is None else names)]
    choice = chosen_run(build_dir)
    views = []
    for folder in folders:
        record, rows = read_record(folder), read_results(folder / RESULTS)
        comparable = ranked(rows, record.measured_anew if record else ())
        best, ties = best_epochs(comparable)
        used = choice is not None and choice.name == folder.name
        views.append(RunView(folder.name, folder, state_of(folder, record), record, rows, comparable, best, ties, used))
    return views if names is not None else sorted(views, key=lambda one: one.record.when if one.record else (0, ""))


def table(views: Sequence[RunView]) -> list[list[str]]:
    """Rows of texts, with a heading: one a run."""
    heading = ["run", "state", "epochs", "best", "box mAP50-95", "mask mAP50-95", "time", "ended", ""]
    return [
        heading,
        *(
            [
                one.name,
                one.state,
                one.epochs,
                str(one.best.get("epoch", "-")),
                one.score("box_map"),
                one.score("mask_map"),
                duration(float(one.rows[-1]["seconds"])) if one.rows else "-",
                one.record.time if one.record else "-",
                "used" if one.used else "",
            ]
            for one in views
        ),
    ]


def comparison(views: Sequence[RunView]) -> list[list[str]]:
    """Rows of texts, with a heading: figures with their spread, then each setting that differs; a column a run."""
    absent = object()
    settings = [one.settings for one in views]
    keys = list(dict.fromkeys(key for found in settings for key in found))
    different = [key for key in keys if len({str(found.get(key, absent)) for found in settings}) > 1]
    return [
        ["", *(one.name for one in views)],
        ["best epoch", *(str(one.best.get("epoch", "-")) for one in views)],
        *([f"best {name}", *(one.score(name) for one in views)] for name in SCORES),
        *([f"{name} at the end", *(one.spread(name) for one in views)] for name in SCORES),
        *([key, *(said(found.get(key, "-")) for found in settings)] for key in different),
    ]


def said(value: Any) -> str:
    """A setting as the project file has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def runs_page(project: str, views: Sequence[RunView]) -> str:
    """One HTML file: the table, the curves of all over one another, and what differs."""
    return render(
        "runs.html.j2",
        heading=f"{project}: runs",
        table=table(views),
        differences=comparison(views),
        curves=_curves(views),
    )


def _curves(views: Sequence[RunView]) -> list[Figure]:
    figures = []
    trained = [one for one in views if one.rows]
    if not trained:
        return []
    along = Axis.around("epoch", *(column(one.rows, "epoch") for one in trained), whole=True)
    losses = [name for name in trained[-1].rows[-1] if name.startswith("train_")]
    for name in (*SCORES, *losses, "learning_rate", "images_per_second"):
        lines = []
        for index, one in enumerate(trained):
            pairs = zip(column(one.rows, "epoch"), column(one.rows, name), strict=True)
            points = [(x, y) for x, y in pairs if not math.isnan(y)]
            lines.append(Line(one.name, [x for x, _ in points], [y for _, y in points], f"s{index % 8}", one.name))
        up = Axis.unit("") if name in SCORES else Axis.around("", *(line.ys for line in lines), zero=True)
        caption = name.replace("_", " ")
        figures.append(Figure(plots.line_chart(lines, along, up, title=caption), caption))
    return figures
