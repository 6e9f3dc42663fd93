"""``segc emit``."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segc.commands.common import (
    Number,
    build_dir_option,
    build_folder,
    console,
    project_argument,
    run_option,
    set_option,
    told_weights,
    warn,
    weights_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.table import Table

    from segc.emission.order import Emission


@click.command()
@project_argument
@click.option(
    "-t",
    "--target",
    "names",
    multiple=True,
    metavar="TARGET",
    help="An artifact by its name in the project, or a target: all of the project's artifacts of it, else one with "
    "default options; may be repeated; `all` for all targets there are. By default all that the project lists.",
)
@weights_option
@run_option
@click.option("--untrained", is_flag=True, help="Emit seeded weights as they are before training, to try a target out.")
@click.option("--force", is_flag=True, help="Emit again what is up to date.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Targets at a time; as many as there are processors if not given.",
)
@click.option(
    "--time-limit",
    type=Number(1, 86400),
    default=900,
    show_default=True,
    metavar="SECONDS",
    help="Time that one worker process may take.",
)
@click.option(
    "--memory-limit",
    type=Number(0.1, 65536),
    metavar="GB",
    help="Memory that one worker process may hold; three quarters of the machine's if not given.",
)
@click.option(
    "--sensitivity",
    is_flag=True,
    help="Emit nothing, but rank the scopes of int8 artifacts by the error that eight bits bring there.",
)
@set_option
@build_dir_option
def command(
    project: Path,
    names: tuple[str, ...],
    weights: str | None,
    run: str | None,
    untrained: bool,
    force: bool,
    jobs: int | None,
    time_limit: float,
    memory_limit: float | None,
    sensitivity: bool,
    overrides: tuple[str, ...],
    build_dir: Path | None,
) -> None:
    """Emit artifacts with their predict scripts, each verified against the trained network.

    An artifact is a folder, build/artifacts/<target>/: the model, its predict script (needs no segc), and artifact.json
    with digests, options, versions and the verification's result. One that does not compute what was trained is kept as
    build/artifacts/<target>.failed/ for inspection, and the exit status is 1. What is up to date is left alone.
    """
    from segc.diagnostics import SegcError
    from segc.emission.project import emit_project, rank_project, requested
    from segc.spec.load import load_project
    from segc.targets.registry import artifact_name

    if untrained and (weights is not None or run is not None):
        raise click.UsageError(f"--{'run' if weights is None else 'weights'} and --untrained exclude each other")
    loaded = load_project(project, overrides)
    wanted = [artifact_name(options) for options in requested(loaded, names)]
    file = None
    if not untrained:
        file = told_weights(loaded, build_folder(loaded, build_dir), weights, run)
    if sensitivity:
        rankings = rank_project(
            loaded,
            build_folder(loaded, build_dir),
            names,
            weights=file,
            untrained=untrained,
            time_limit=time_limit,
            memory_limit=round((memory_limit or 0) * 1e9),
            warn=warn,
        )
        for name, ranking in rankings.items():
            _report_ranking(name, ranking, build_folder(loaded, build_dir) / "sensitivity" / f"{name}.json")
        return
    with _live(wanted) as board:
        emissions = emit_project(
            loaded,
            build_folder(loaded, build_dir),
            names,
            weights=file,
            untrained=untrained,
            force=force,
            jobs=jobs or 0,
            time_limit=time_limit,
            memory_limit=round((memory_limit or 0) * 1e9),
            warn=warn,
            watch=board.watch,
            finished=board.finished,
        )
    _report(emissions)
    problems = [diagnostic for emission in emissions for diagnostic in emission.diagnostics]
    if problems:
        raise SegcError(problems)


class Board:
    """What is being done with each target, and what came of it.

    Args:
        names: the targets, in the order of the table.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._states: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._made: dict[str, Emission] = {}

    def watch(self, name: str, state: str) -> None:
        """Take in what is being done with a target."""
        self._states[name] = state
        self._since.setdefault(name, time.monotonic())

    def finished(self, emission: Emission) -> None:
        """Take in what came of a target."""
        self._made[emission.name] = emission

    def table(self) -> Table:
        """A row a target: state, seconds so far, and, once it is finished, size and parity."""
        from rich.table import Table

        rows = Table("target", "state", "seconds", "MB", "against PyTorch", box=None, pad_edge=False)
        for name in self._names:
            if made := self._made.get(name):
                rows.add_row(name, made.status, f"{made.seconds:.1f}", _megabytes(made), made.summary)
            elif name in self._since:
                rows.add_row(name, self._states[name], f"{time.monotonic() - self._since[name]:.0f}")
            else:
                rows.add_row(name, "waiting")
        return rows


@contextmanager
def _live(names: Sequence[str]) -> Iterator[Board]:
    """A board that is shown while the block runs, in a terminal."""
    board, screen = Board(names), console()
    if not screen.is_terminal:
        yield board
        return

    from rich.live import Live

    with Live(console=screen, get_renderable=board.table, refresh_per_second=8, transient=True):
        yield board


def _megabytes(emission: Emission) -> str:
    return f"{emission.size / 1e6:.1f}" if emission.size else ""


def _report(emissions: Sequence[Emission]) -> None:
    from rich.table import Table

    table = Table("target", "artifact", "MB", "seconds", "against PyTorch", "status", box=None, pad_edge=False)
    for emission in emissions:
        table.add_row(
            emission.name,
            "" if emission.folder is None else _shown(emission.folder / emission.model),
            _megabytes(emission),
            f"{emission.seconds:.1f}",
            emission.summary,
            emission.status,
        )
    # Where nobody looks at a terminal, paths are better whole than wrapped.
    screen = console(stderr=False, width=200)
    screen.print(table)
    for descent in dict.fromkeys(emission.descent for emission in emissions if emission.descent):
        screen.print(descent)
    for emission in emissions:
        if emission.status == "failed" and emission.figures:
            screen.print()
            screen.print(f"{emission.name}, measured beside the trained network in PyTorch:")
            screen.print(_class_table(emission))
        for note in emission.notes:
            screen.print(f"{emission.name}: {note}")


MOST_SCOPES = 20
"""Scopes of a ranking that are shown; its file has all."""


def _report_ranking(name: str, ranking: Sequence[Mapping[str, Any]], place: Path) -> None:
    """The scopes that bring the largest errors, and where the rest stands."""
    from rich.table import Table

    outputs = list(ranking[0]["outputs"]) if ranking else []
    table = Table("scope", "error", *outputs, "arithmetic", "kB more", box=None, pad_edge=False)
    for one in ranking[:MOST_SCOPES]:
        errors = (f"{value:.2%}" for value in (one["error"], *one["outputs"].values()))
        table.add_row(one["scope"], *errors, f"{one['arithmetic']:.1%}", f"{one['bytes'] / 1e3:.1f}")
    screen = console(stderr=False, width=200)
    screen.print(f"{name}: error of the outputs, as a share of their size, where one scope alone is in eight bits")
    screen.print(table)
    more = f"{len(ranking) - MOST_SCOPES} more scopes and all" if len(ranking) > MOST_SCOPES else "All"
    screen.print(f"{more} figures: {_shown(place)}")


def _class_table(emission: Emission) -> Table:
    """MAP50-95 of an artifact and of the trained network: all classes together, then each, what loses most first."""
    from rich.table import Table

    from segc.emission.accuracy import PARTS, figure

    table = Table("mAP50-95", "objects", box=None, pad_edge=False)
    for part in PARTS:
        for side in ("network", "artifact"):
            table.add_column(f"{part}, {side}", justify="right")
    everything, *classes = emission.figures
    for row in (everything, *sorted(classes, key=lambda row: -row.lost)):
        table.add_row(row.name, str(row.objects), *(figure(value) for pair in (row.box, row.mask) for value in pair))
    return table


def _shown(path: Path) -> str:
    """A path as people would type it: from the working directory, if it lies below."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
