"""Benchmarking what a project has come to: its artifacts in their runtimes and its weights in PyTorch.

Rounds are interleaved: in each, every model in turn is opened, warmed up and run on the same photographs by a process
of its own, with no other of them beside it, and the round after begins with another model. So a machine that slows down
does so for all of them, and the range of the rounds tells how much of a difference is chance.
"""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.benchmark.rows import Benchmark, Row, measured
from segc.benchmark.tasks import BenchTask
from segc.compute import memory_limit, processors
from segc.diagnostics import SegcError, fail
from segc.emission.publish import FAILED_SUFFIX
from segc.emission.worker import Worker
from segc.sessions.artifact import locate
from segc.targets.description import DESCRIPTION, read_description
from segc.targets.registry import targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from segc.spec.load import LoadedProject

WEIGHTS, TORCH = "weights", "torch"
"""Name and target of the row of trained weights."""

TIME_LIMIT = 600.0
"""Seconds that a process may take for a round, or for mAP."""

_ROUND, _ACCURACY = "segc.benchmark.tasks:time_round", "segc.benchmark.tasks:measure_accuracy"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a benchmark is taken.

    Attributes:
        rounds: how often every model is opened and run.
        images: photographs of the validation split a round.
        warm_up: runs before them.
        threads: of every runtime; 0 for its choice.
        device: where every runtime is to run; None for where its artifact was verified.
        sample: images that mAP is measured on; 0 for the whole split, None for no mAP.
    """

    rounds: int = 5
    images: int = 16
    warm_up: int = 3
    threads: int = 0
    device: str | None = None
    sample: int | None = 128


def benchmark(
    loaded: LoadedProject,
    build_dir: Path,
    weights: Path | None,
    settings: Settings,
    names: Sequence[str] = (),
    *,
    watch: Callable[[str], None] = lambda _: None,
) -> Benchmark:
    """Measure all artifacts of a build directory, and weights in PyTorch.

    Args:
        loaded: the project.
        build_dir: its build directory.
        weights: trained weights; None leaves them out.
        settings: how.
        names: of artifacts, and ``weights``; all there are where none is given.
        watch: is told what is being done.

    Raises:
        SegcError: F001 where there is nothing to measure, or one of ``names`` is not there; D0xx for faults of the
            dataset. What goes wrong with a model is its row's ``problem``.
    """
    from segc.data.dataset import list_images
    from segc.emission.verify import choose

    rows = _subjects(build_dir, weights, names)
    photographs = choose(list_images(loaded, "val"), settings.images)
    task = BenchTask(
        str(loaded.path),
        loaded.overrides,
        str(build_dir),
        artifact="",
        weights=str(weights or ""),
        threads=settings.threads,
        device=settings.device,
        images=[str(path) for path in photographs],
        warm_up=settings.warm_up,
        sample=settings.sample or 0,
        seed=loaded.project.hyperparameters.seed,
    )
    before = _load()
    rounds: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for number in range(settings.rounds):
        turn = number % len(rows)
        for name in [*list(rows)[turn:], *list(rows)[:turn]]:
            watch(f"round {number + 1} of {settings.rounds}: {name}")
            if answer := _try(rows, name, _ROUND, task):
                rounds[name].append(answer)
    for name, taken in rounds.items():
        if rows[name].problem is None:
            rows[name] = replace(rows[name], **measured(taken))
    after, sample = _load(), 0
    for name in rows if settings.sample is not None else ():
        watch(f"mAP: {name}")
        if answer := _try(rows, name, _ACCURACY, task):
            sample = answer["images"]
            rows[name] = replace(rows[name], box_map=answer["box"], mask_map=answer["mask"])
    chosen = {"images": len(photographs), "rounds": settings.rounds, "warm-up": settings.warm_up, "seed": task.seed}
    told = {"threads": settings.threads or "the runtime's choice", "device": settings.device or "as verified"}
    if loaded.project.hyperparameters.tiles is not None:
        told["frames"] = "whole photographs, not the project's tiles"
    used = {row.target for row in rows.values()}
    return Benchmark(
        loaded.project.name,
        machine(),
        {**chosen, **told},
        (before, after),
        dict(_versions(used)),
        tuple(rows.values()),
        sample,
    )


def _subjects(build_dir: Path, weights: Path | None, names: Sequence[str]) -> dict[str, Row]:
    """A row for everything that is to be measured, by name; those that cannot be have their reason."""
    rows = {WEIGHTS: Row(WEIGHTS, TORCH, bytes=weights.stat().st_size, precision="fp32")} if weights else {}
    folders = sorted((build_dir / "artifacts").glob(f"*/{DESCRIPTION}"))
    rows |= {folder.parent.name: _row(folder.parent) for folder in folders}
    if missing := [name for name in names if name not in rows]:
        there = f"there are {', '.join(rows)}" if rows else "there are none"
        raise fail("F001", f"nothing of this name to measure: {', '.join(missing)}; {there}", file=build_dir)
    if not rows:
        raise fail(
            "F001", "nothing to measure: no artifacts and no weights", file=build_dir, help="segc emit writes artifacts"
        )
    return {name: row for name, row in rows.items() if not names or name in names}


def _row(folder: Path) -> Row:
    name = folder.name
    try:
        about = read_description(folder)
        inside = (name for name in about.files if name == about.model or name.startswith(f"{about.model}/"))
        size = sum(about.files[name].bytes for name in inside)
        row = Row(name, about.target, size, about.status, str(about.parity.get("summary", "")))
        locate(folder)
    except SegcError as error:
        known = name.removesuffix(FAILED_SUFFIX)
        return Row(name, known if known in targets() else "", problem=_reason(error))
    return row


def _try(rows: dict[str, Row], name: str, kind: str, task: BenchTask) -> dict[str, Any] | None:
    """What a process answers about a model; where it goes wrong, or did before, None, and the row says why."""
    if rows[name].problem is not None:
        return None
    try:
        return _ask(kind, task, rows[name])
    except SegcError as error:
        rows[name] = replace(rows[name], problem=_reason(error))
        return None


def _reason(error: SegcError) -> str:
    first = error.diagnostics[0]
    return f"{first.code}: {first.message}" + (f" ({first.help})" if first.help else "")


def _ask(kind: str, task: BenchTask, row: Row) -> dict[str, Any]:
    """What a process of its own answers about a model."""
    build_dir = Path(task.build_dir)
    artifact = "" if row.target == TORCH else str(build_dir / "artifacts" / row.name)
    title = f"the benchmark of {row.name}"
    log = build_dir / "logs" / f"bench-{row.name}.txt"
    with Worker(title, threads=task.threads, log=log, beside=False) as worker:
        worker.start(kind, replace(task, artifact=artifact), TIME_LIMIT)
        answer: dict[str, Any] = worker.result()
        return answer


def machine() -> dict[str, str]:
    """The machine, by names for people; no name of it, and no path."""
    return {
        "processor": _processor(),
        "processors": str(processors()),
        "memory": f"{memory_limit() / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _load() -> float:
    """The load average over a minute; 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _versions(used: set[str]) -> Iterator[tuple[str, str | None]]:
    """Of the packages that run models of these targets."""
    from segc.emission.reference import TORCH as PYTORCH

    needed = [r for name in sorted(used & set(targets())) for r in targets()[name].needed]
    for requirement in (*needed, *([PYTORCH] if TORCH in used else [])):
        yield requirement.package, requirement.version()
