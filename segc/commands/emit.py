"""``segc emit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segc.commands.common import build_dir_option, build_folder, console, project_argument, set_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segc.diagnostics import Diagnostic
    from segc.targets.emit import Emission


@click.command()
@project_argument
@click.option(
    "-t",
    "--target",
    "names",
    multiple=True,
    metavar="TARGET",
    help="A target to emit, as the project describes it or else with default options; may be repeated; "
    "`all` for all there are. By default all that the project lists.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights to emit, instead of the build directory's best or last.",
)
@click.option("--untrained", is_flag=True, help="Emit seeded weights as they are before training, to try a target out.")
@click.option(
    "--time-limit",
    type=click.FloatRange(1, 86400),
    default=900,
    show_default=True,
    metavar="SECONDS",
    help="Time that one worker process may take.",
)
@set_option
@build_dir_option
def command(
    project: Path,
    names: tuple[str, ...],
    weights: Path | None,
    untrained: bool,
    time_limit: float,
    overrides: tuple[str, ...],
    build_dir: Path | None,
) -> None:
    """Emit artifacts with their predict scripts, each verified against the trained network.

    An artifact is a folder, build/artifacts/<target>/: the model, predict.py (needs no segc), and artifact.json with
    digests, options, versions and the verification's result. One that does not compute what was trained is kept as
    build/artifacts/<target>.failed/ for inspection, and the exit status is 1.
    """
    from segc.diagnostics import SegcError
    from segc.spec.load import load_project
    from segc.targets.emit import emit_project

    if weights is not None and untrained:
        raise click.UsageError("--weights and --untrained exclude each other")
    loaded = load_project(project, overrides)
    with console().status("emitting and verifying"):
        emissions = emit_project(
            loaded,
            build_folder(loaded, build_dir),
            names,
            weights=weights,
            untrained=untrained,
            time_limit=time_limit,
            warn=_warn,
        )
    _report(emissions)
    problems = [diagnostic for emission in emissions for diagnostic in emission.diagnostics]
    if problems:
        raise SegcError(problems)


def _warn(diagnostics: Sequence[Diagnostic]) -> None:
    from segc.diagnostics import render_text, wants_colour

    click.echo(render_text(diagnostics, colour=wants_colour(sys.stderr)), err=True, nl=False)


def _report(emissions: Sequence[Emission]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("target", "artifact", "MB", "seconds", "against PyTorch", "status", box=None, pad_edge=False)
    for emission in emissions:
        table.add_row(
            emission.target,
            "" if emission.folder is None else _shown(emission.folder / emission.model),
            f"{emission.size / 1e6:.1f}" if emission.size else "",
            f"{emission.seconds:.1f}",
            emission.parity.summary() if emission.parity else "",
            emission.status,
        )
    # Where nobody looks at a terminal, paths are better whole than wrapped.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _shown(path: Path) -> str:
    """A path as people would type it: from the working directory, if it lies below."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
