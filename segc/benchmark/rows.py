"""What a benchmark comes to: a row a model, what is to be said about them, and what changed since another one."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FORMAT = 1
"""Version of the JSON."""

FULL_PRECISION = "fp32"

LEAST_CHANGE = 0.02
"""Share of a time below which a change is none, however steady both benchmarks were."""

MEMORY_CHANGE = 0.1
"""The same of memory, of which no spread is taken."""

MAP_CHANGE = 0.001
"""The same of an average precision on the same images."""

STEADY = 0.05
"""Largest spread of a benchmark that is called steady."""


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds an image, over all rounds.

    Attributes:
        median: of all.
        p95: what 95 % of them stay below.
        spread: range of the rounds' own medians, as a share of their median.
    """

    median: float
    p95: float
    spread: float

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]]) -> Times:
        """Of the measurements of rounds, one or more each."""
        ordered = sorted(value for one in rounds for value in one)
        return cls(
            statistics.median(ordered),
            ordered[round(0.95 * (len(ordered) - 1))],
            spread([statistics.median(one) for one in rounds]),
        )


def spread(values: Sequence[float]) -> float:
    """The range of values as a share of their median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """A model in a benchmark.

    Attributes:
        name: of the artifact, or of the weights.
        target: the artifact's; ``torch`` for weights.
        bytes: size of the model.
        status: of the artifact's verification; empty for weights.
        parity: how it compares with PyTorch, as its verification found.
        problem: why it could not be measured; None where it was.
        precision: what it computes or stores in.
        size: input (height, width) in pixels.
        runtime: what ran it, and on what.
        load: seconds from nothing to a model that can run, median of the rounds.
        load_spread: range of the rounds' load times, as a share of their median.
        pre: from a photograph that is read to the network's input.
        inference: the network.
        post: from its outputs to masks on the photograph.
        total: all three.
        images_per_second: one image after the other, by the mean of ``total``.
        memory: most bytes that its process held.
        box_map: mAP50-95 of boxes; None where it was not measured.
        mask_map: of masks.
        rounds: how many there were.
    """

    name: str
    target: str
    bytes: int = 0
    status: str = ""
    parity: str = ""
    problem: str | None = None
    precision: str = ""
    size: tuple[int, ...] = ()
    runtime: str = ""
    load: float | None = None
    load_spread: float | None = None
    pre: Times | None = None
    inference: Times | None = None
    post: Times | None = None
    total: Times | None = None
    images_per_second: float | None = None
    memory: int | None = None
    box_map: float | None = None
    mask_map: float | None = None
    rounds: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values, numbers to six digits."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def measured(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a row that come of its rounds, as ``segc.benchmark.tasks.time_round`` gives them."""
    parts = {part: [one[part] for one in rounds] for part in ("pre", "inference", "post")}
    totals = [[sum(three) for three in zip(*several, strict=True)] for several in zip(*parts.values(), strict=True)]
    loads = [one["load"] for one in rounds]
    return {
        **{part: Times.of(values) for part, values in parts.items()},
        "total": Times.of(totals),
        "images_per_second": 1000 / statistics.fmean(value for one in totals for value in one),
        "load": statistics.median(loads),
        "load_spread": spread(loads),
        "memory": max(one["memory"] for one in rounds),
        "rounds": len(rounds),
        **{key: rounds[0][key] for key in ("runtime", "precision")},
        "size": tuple(rounds[0]["size"]),
    }


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A whole benchmark.

    Attributes:
        project: its name.
        machine: what it was taken on, by names for people.
        settings: how.
        load: the system's load average over a minute, before and after.
        versions: of the packages that ran the models.
        rows: a row a model.
        sample: images that mAP was measured on; 0 where it was not.
    """

    project: str
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    load: tuple[float, float]
    versions: Mapping[str, str | None]
    rows: tuple[Row, ...]
    sample: int = 0
    changes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": FORMAT,
            "project": self.project,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "load": [round(value, 2) for value in self.load],
            "versions": dict(self.versions),
            "sample": self.sample,
            "rows": [row.to_json() for row in self.rows],
            "remarks": list(self.remarks()),
            "changes": list(self.changes),
        }

    def to_csv(self) -> str:
        """A line a model, with names of the columns above."""
        flat = [_flat(row.to_json()) for row in self.rows]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        written = io.StringIO()
        writer = csv.DictWriter(written, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return written.getvalue()

    def remarks(self) -> Iterator[str]:
        """What is to be known about the figures, a sentence each."""
        yield self.steadiness()
        yield "milliseconds are medians; images a second follow from the mean, which slow ones lower"
        yield from _not_faster(self.rows)
        if self.sample:
            yield f"mAP50-95 on {self.sample} images of the validation split"

    def steadiness(self) -> str:
        """How far the figures can be relied on."""
        spreads = [row.inference.spread for row in self.rows if row.inference]
        load = f"load {self.load[0]:.1f} before and {self.load[1]:.1f} after on {self.machine['processors']} processors"
        if not spreads:
            return load
        if max(row.rounds for row in self.rows) < 2:
            return f"one round, so that nothing tells how steady it was, {load}"
        worst = max(spreads)
        word = "steady" if worst <= STEADY else "unsteady"
        return f"{word}: inference of the rounds differs by up to {worst:.0%}, {load}"


def _not_faster(rows: Sequence[Row]) -> Iterator[str]:
    """Smaller precisions that are not faster than the full one of the same target and size."""
    full = {(row.target, row.size): row for row in rows if row.precision == FULL_PRECISION and row.inference}
    for row in rows:
        other = full.get((row.target, row.size))
        if row.precision == FULL_PRECISION or other is None or row.inference is None or other.inference is None:
            continue
        ours, theirs = row.inference.median, other.inference.median
        bound = _bound(row.inference.spread, other.inference.spread)
        told = f"{ours:.1f} ms against {theirs:.1f}, {ours / theirs:.2f} times"
        if ours >= theirs:
            yield f"{row.name} ({row.precision}) is not faster than {other.name} here: {told}"
        elif ours >= theirs * (1 - bound):
            yield f"{row.name} ({row.precision}) may not be faster than {other.name} here: {told}, within {bound:.0%}"


def _bound(*spreads: float) -> float:
    """The share of a time below which a difference says nothing."""
    return max(LEAST_CHANGE, *spreads)


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed beyond the spread between two benchmarks as JSON values, a sentence each.

    Raises:
        KeyError, TypeError: where ``before`` is no benchmark.
    """
    found = [
        f"{key} was {before[what][key]}, is {now[what][key]}"
        for what in ("machine", "settings", "versions")
        for key in before[what]
        if key in now[what] and before[what][key] != now[what][key]
    ]
    old, new = ({row["name"]: row for row in one["rows"]} for one in (before, now))
    found += [f"{name}: not in this benchmark" for name in old if name not in new]
    found += [f"{name}: new" for name in new if name not in old]
    if before["sample"] != now["sample"] and before["sample"] and now["sample"]:
        found.append(f"mAP was measured on {before['sample']} images, is on {now['sample']}: it cannot be compared")
    same_images = before["sample"] == now["sample"] and before["settings"]["seed"] == now["settings"]["seed"]
    for name in (name for name in new if name in old):
        found += [f"{name}: {text}" for text in _changes(old[name], new[name], same_images=same_images)]
    return found


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], *, same_images: bool) -> Iterator[str]:
    if old["problem"] or new["problem"]:
        if bool(old["problem"]) != bool(new["problem"]):
            yield f"fails now: {new['problem']}" if new["problem"] else "can be measured now"
        return
    times = [
        (part, old[part]["median"], new[part]["median"], "ms", _bound(old[part]["spread"], new[part]["spread"]))
        for part in ("pre", "inference", "post")
    ]
    times.append(("load", old["load"], new["load"], "s", _bound(old["load_spread"], new["load_spread"])))
    times.append(("memory", old["memory"] / 1e6, new["memory"] / 1e6, "MB", MEMORY_CHANGE))
    times.append(("size", old["bytes"] / 1e6, new["bytes"] / 1e6, "MB", LEAST_CHANGE))
    for what, before, after, unit, least in times:
        if before and abs(after / before - 1) > least:
            yield f"{what} {before:.2f} -> {after:.2f} {unit} ({after / before - 1:+.0%}, beyond {least:.0%})"
    for what in ("box_map", "mask_map"):
        before, after = old[what], new[what]
        if same_images and None not in {before, after} and abs(after - before) >= MAP_CHANGE:
            yield f"{what.replace('_map', ' mAP')} {before:.4f} -> {after:.4f}"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values by column: times have two, sizes are ``height x width``."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= {f"{key}_{name}": part for name, part in value.items()}
        else:
            found[key] = "x".join(map(str, value)) if isinstance(value, list) else value
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value
