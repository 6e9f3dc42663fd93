"""Small plots as SVG text. Colours come from the page's style sheet, so that they suit light and dark screens.

Every text that is drawn is escaped: class names come from strangers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 260
"""Size of a chart in the units of its drawing; on the page it takes the width that is there."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 44
_COLOURS = 8
"""Colours that the style sheet has for lines: classes s0 to s7."""

_MOST_POINTS = 400
_ROOM_FOR_NUMBERS = 22
"""Most rows of a matrix whose cells have room for a number."""

Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        label: its name in the legend; empty for a line that shows its ``hint`` only.
        xs: values along.
        ys: values up; nothing is drawn where they are not finite.
        style: style-sheet class in place of the next colour: ``faint`` or ``bold``.
        hint: what is shown when the pointer rests on it.
    """

    label: str
    xs: Values
    ys: Values
    style: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale of a chart.

    Attributes:
        name: written along it.
        low: its start.
        high: its end, above ``low``.
        ticks: where it has marks.
    """

    name: str
    low: float
    high: float
    ticks: tuple[float, ...] = field(default=())

    @classmethod
    def unit(cls, name: str) -> "Axis":
        """From 0 to 1."""
        return cls(name, 0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))

    @classmethod
    def around(cls, name: str, *several: Values, zero: bool = False, whole: bool = False) -> "Axis":
        """A round scale that holds all finite values; from 0 on with ``zero``, with marks at whole numbers only."""
        values = [v for one in several for v in np.asarray(one, np.float64).tolist() if math.isfinite(v)]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        low = min(low, 0.0) if zero else low
        if high - low <= abs(high) * 1e-9:
            low, high = low - (abs(low) / 2 or 0.5) * (not zero), high + (abs(high) / 2 or 0.5)
        step = _round_step((high - low) / 5)
        step = max(math.ceil(step), 1) if whole else step
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(name, first * step, last * step, tuple(i * step for i in range(first, last + 1)))


def _round_step(rough: float) -> float:
    """The least of 1, 2, 2.5, 5 and 10 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power >= rough * (1 - 1e-9))


def number(value: float) -> str:
    """A number as short as it can be read."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, *, title: str, mark: tuple[float, float, str] | None = None
) -> str:
    """Lines over a common scale, with a legend where they have labels.

    Args:
        lines: what to draw, the last on top.
        x: scale along.
        y: scale up.
        title: read aloud in place of the picture.
        mark: a point (x, y) to point out, and what to say about it.
    """
    inner = [_frame(x, y)]
    colour = 0
    legend: list[tuple[str, str]] = []
    for line in lines:
        style = line.style
        if not style:
            style, colour = f"s{colour % _COLOURS}", colour + 1
        hint = f"<title>{escape(line.hint or line.label)}</title>" if line.hint or line.label else ""
        inner += [f'<g class="line {style}">{hint}{_path(line, x, y)}</g>']
        if line.label:
            legend.append((line.label, style))
    if mark:
        px, py = _place(x, mark[0], along=True), _place(y, mark[1], along=False)
        anchor, shift = ("end", -8) if px > WIDTH * 0.6 else ("start", 8)
        inner.append(f'<g class="mark"><circle cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
        inner.append(
            f'<text x="{px + shift:.1f}" y="{py + 18:.1f}" text-anchor="{anchor}">{escape(mark[2])}</text></g>'
        )
    return f'<div class="plot">{_svg("".join(inner), title)}{_legend(legend)}</div>'


def _path(line: Line, x: Axis, y: Axis) -> str:
    """The line, thinned where it has more points than can be seen; gaps where values are not finite."""
    xs, ys = (np.asarray(values, np.float64) for values in (line.xs, line.ys))
    stride = max(1, len(xs) // _MOST_POINTS)
    keep = sorted({*range(0, len(xs), stride), *range(len(xs))[-1:]})
    pieces: list[list[str]] = [[]]
    for index in keep:
        if not (math.isfinite(xs[index]) and math.isfinite(ys[index])):
            pieces.append([])
            continue
        px, py = _place(x, float(xs[index]), along=True), _place(y, float(ys[index]), along=False)
        pieces[-1].append(f"{px:.1f},{py:.1f}")
    drawn = []
    for piece in pieces:
        if len(piece) == 1:
            left, _, top = piece[0].partition(",")
            drawn.append(f'<circle cx="{left}" cy="{top}" r="2.5"/>')
        elif piece:
            drawn.append(f'<polyline points="{" ".join(piece)}"/>')
    return "".join(drawn)


def _place(axis: Axis, value: float, *, along: bool) -> float:
    share = min(max((value - axis.low) / (axis.high - axis.low), 0.0), 1.0)
    if along:
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)
    return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _frame(x: Axis, y: Axis) -> str:
    """Grid, marks and names of the scales."""
    parts = []
    for tick in x.ticks:
        place = _place(x, tick, along=True)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{number(tick)}</text>')
    for tick in y.ticks:
        place = _place(y, tick, along=False)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{place + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    middle_x, middle_y = (_LEFT + WIDTH - _RIGHT) / 2, (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(f'<text class="name" x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.name)}</text>')
    turn = f'transform="rotate(-90 12 {middle_y})"'
    parts.append(f'<text class="name" x="12" y="{middle_y}" text-anchor="middle" {turn}>{escape(y.name)}</text>')
    return "".join(parts)


def _svg(inner: str, title: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{inner}</svg>'


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    if not entries:
        return ""
    items = "".join(f'<li class="{style}">{escape(label)}</li>' for label, style in entries)
    return f'<ul class="legend">{items}</ul>'


def bars(labels: Sequence[str], series: Sequence[tuple[str, Sequence[int]]], *, title: str) -> str:
    """Horizontal bars, one a label and series, with their numbers; for counts.

    Args:
        labels: one a row.
        series: names and values, a value a row.
        title: read aloud in place of the picture.
    """
    thick, gap, left = (11 if len(series) > 1 else 15), 7, 130
    most = max((value for _, values in series for value in values), default=0) or 1
    parts, y = [], 4
    for row, label in enumerate(labels):
        middle = y + thick * len(series) / 2 + 4
        short = label if len(label) <= 20 else label[:19] + "…"
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{escape(short)}</text>')
        for index, (name, values) in enumerate(series):
            wide = values[row] / most * (WIDTH - left - 58)
            parts.append(
                f'<rect class="fill s{index}" x="{left}" y="{y}" width="{wide:.1f}" height="{thick - 1}" rx="1.5">'
                f"<title>{escape(label)}, {escape(name)}: {values[row]}</title></rect>"
                f'<text x="{left + wide + 5:.1f}" y="{y + thick - 2}">{values[row]}</text>'
            )
            y += thick
        y += gap
    legend = _legend([(name, f"s{index}") for index, (name, _) in enumerate(series)] if len(series) > 1 else [])
    return f'<div class="plot">{_svg("".join(parts), title, WIDTH, y)}{legend}</div>'


def density(counts: NDArray[np.integer], x: Axis, y: Axis, *, title: str) -> str:
    """How often values meet, as shades over two scales.

    Args:
        counts: [rows, columns], the first row at the low end of ``y``.
        x: scale along.
        y: scale up; may run downwards, as rows of an image do, if its ``low`` is above its ``high``.
        title: read aloud in place of the picture.
    """
    rows, columns = counts.shape
    most = int(counts.max(initial=0)) or 1
    wide, high = (WIDTH - _LEFT - _RIGHT) / columns, (HEIGHT - _TOP - _BOTTOM) / rows
    cells = [
        f'<rect class="heat" x="{_LEFT + column * wide:.1f}" y="{HEIGHT - _BOTTOM - (row + 1) * high:.1f}" '
        f'width="{wide + 0.3:.1f}" height="{high + 0.3:.1f}" fill-opacity="{(counts[row, column] / most) ** 0.5:.2f}">'
        f"<title>{counts[row, column]}</title></rect>"
        for row, column in np.argwhere(counts).tolist()
    ]
    return f'<div class="plot">{_svg(_frame(x, y) + "".join(cells), title)}</div>'


def matrix(counts: NDArray[np.integer], labels: Sequence[str], *, title: str) -> str:
    """A confusion matrix: columns are true, rows predicted; shades are shares of a column.

    Args:
        counts: [n, n].
        labels: n names.
        title: read aloud in place of the picture.
    """
    n = len(labels)
    cell = max(11, min(44, 640 // n))
    left, top = 138, 26
    shares = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    size = cell * n
    text = min(11, max(6, cell - 3))
    parts = [f'<rect class="ground" x="{left}" y="{top}" width="{size}" height="{size}"/>']
    for row, column in np.argwhere(counts).tolist():
        share, count = shares[row, column], int(counts[row, column])
        kind = "right" if row == column else "wrong"
        px, py = left + column * cell, top + row * cell
        hint = f"{labels[column]} taken for {labels[row]}: {count} ({share:.0%})"
        parts.append(
            f'<rect class="{kind}" x="{px}" y="{py}" width="{cell - 1}" height="{cell - 1}" '
            f'fill-opacity="{0.12 + 0.88 * share:.2f}"><title>{escape(hint)}</title></rect>'
        )
        if n <= _ROOM_FOR_NUMBERS:
            style = "on" if share > 0.55 else "off"
            parts.append(
                f'<text class="{style}" x="{px + cell / 2 - 0.5:.1f}" y="{py + cell / 2 + 4:.1f}" '
                f'text-anchor="middle">{count}</text>'
            )
    for index, label in enumerate(labels):
        short = escape(label if len(label) <= 20 else label[:19] + "…")
        middle = index * cell + cell / 2
        x, y = left + middle + text / 3, top + size + 10
        parts.append(
            f'<text x="{left - 6}" y="{top + middle + text / 3:.1f}" text-anchor="end" font-size="{text}">'
            f"{short}</text>"
            f'<text x="{x:.1f}" y="{y}" text-anchor="end" font-size="{text}" '
            f'transform="rotate(-55 {x:.1f} {y})">{short}</text>'
        )
    parts.append(f'<text class="name" x="{left - 6}" y="14" text-anchor="end">predicted</text>')
    parts.append(f'<text class="name" x="{left - 6}" y="{top + size + 22}" text-anchor="end">true</text>')
    longest = max(min(len(label), 20) for label in labels)
    width, height = left + size + 12, top + size + 20 + round(longest * text * 0.5)
    # Small matrices are not blown up to the width of the page.
    drawing = _svg("".join(parts), title, width, height)
    return f'<div class="plot matrix" style="max-width:{width * 1.25:.0f}px">{drawing}</div>'
