"""A benchmark as a table, and as one HTML page with latency against accuracy."""

from collections.abc import Sequence

from segc.benchmark.rows import Benchmark, Row, Times
from segc.reports import plots
from segc.reports.page import Figure
from segc.reports.plots import Axis, Line
from segc.reports.template import render

WORDS = ("model", "precision", "runs in", "against PyTorch")
"""Columns of words; the others are numbers, times in milliseconds."""

COLUMNS = (
    "model", "precision", "MB", "load s", "pre", "inference", "p95", "post", "total ms", "img/s", "MB held", "spread",
    "box mAP", "mask mAP", "runs in", "against PyTorch",
)  # fmt: skip


_ROOM = 0.02


def cells(row: Row) -> list[str]:
    """A row of the table, as texts below ``COLUMNS``."""
    head = [row.name, row.precision, f"{row.bytes / 1e6:.1f}" if row.bytes else ""]
    if row.inference is None:
        return [*head, "failed", *[""] * (len(COLUMNS) - len(head) - 1)]
    return [
        *head,
        _figure(row.load, ".2f"),
        _median(row.pre),
        _median(row.inference),
        f"{row.inference.p95:.1f}",
        _median(row.post),
        _median(row.total),
        _figure(row.images_per_second, ".1f"),
        _figure(None if row.memory is None else row.memory / 1e6, ".0f"),
        _figure(row.inference.spread if row.rounds > 1 else None, ".0%"),
        _figure(row.box_map, ".3f"),
        _figure(row.mask_map, ".3f"),
        row.runtime,
        row.parity,
    ]


def _median(times: Times | None) -> str:
    return "" if times is None else f"{times.median:.1f}"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def bench_page(found: Benchmark) -> str:
    """One HTML file: the machine, latency against mAP, the table, what is to be known about it, and what changed."""
    return render(
        "bench.html.j2",
        heading=f"{found.project}: benchmark",
        facts=[*found.machine.items(), *found.settings.items(), *((k, v or "?") for k, v in found.versions.items())],
        figures=_figures(found.rows),
        table=[list(COLUMNS), *map(cells, found.rows)],
        remarks=list(found.remarks()),
        problems=[(row.name, row.problem) for row in found.rows if row.problem],
        changes=found.changes,
    )


def _figures(rows: Sequence[Row]) -> list[Figure]:
    """Mask and box mAP over the milliseconds that the network takes, where there are both."""
    found = []
    for what in ("mask", "box"):
        points = [
            (row, row.inference.median, value)
            for row in rows
            if row.inference is not None and (value := getattr(row, f"{what}_map")) is not None
        ]
        if not points:
            continue
        along = Axis.around("inference, ms", [x for _, x, _ in points], zero=True)
        # Some room above and below: points on one level are no reason for a scale of their own.
        reach = [min(max(y + room, 0.0), 1.0) for _, _, y in points for room in (-_ROOM, _ROOM)]
        up = Axis.around(f"{what} mAP50-95", reach)
        lines = [Line(row.name, [x], [y], hint=f"{row.name}: {x:.1f} ms, {y:.3f}") for row, x, y in points]
        title = f"{what} mAP50-95 over inference time"
        found.append(Figure(plots.line_chart(lines, along, up, title=title), f"{title}: left and high is good"))
    return found
