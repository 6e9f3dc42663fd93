"""``segc train``."""

from pathlib import Path

import click

from segc.commands.common import (
    build_dir_option,
    build_folder,
    console,
    image_bar,
    project_argument,
    say,
    set_option,
    warn,
)
from segc.compute import prepare_to_compute


@click.command()
@project_argument
@set_option
@build_dir_option
@click.option("--name", metavar="RUN", help="Name of the run; by default train, train-2, and so on.")
@click.option("--resume", is_flag=True, help="Go on with the run of that name, or with the one that trained last.")
@click.option("--allow-changed", is_flag=True, help="With --resume: go on even though the project changed.")
def command(
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    name: str | None,
    resume: bool,
    allow_changed: bool,
) -> None:
    """Compile a project and train it.

    A run keeps its state in runs/RUN of the build directory; interrupted at any moment, it goes on with --resume. The
    best and the last weights are in weights/.

    Several GPUs train together when torchrun starts this command; `segc build` prints the line.
    """
    if allow_changed and not resume:
        raise click.UsageError("--allow-changed is about a run that goes on: give --resume too")
    if name is not None and (name.startswith(".") or Path(name).name != name):
        raise click.BadParameter("a run's name is the name of a folder", param_hint="--name")
    prepare_to_compute()
    from segc.reports.run import report_run
    from segc.spec.load import load_project
    from segc.training.project import train_project

    loaded = load_project(project, overrides)
    folder = build_folder(loaded, build_dir)
    screen = console()
    try:
        outcome = train_project(loaded, folder, screen, name=name, resume=resume, allow_changed=allow_changed)
    except KeyboardInterrupt:
        screen.print("interrupted; `segc train --resume` goes on", highlight=False)
        raise
    if outcome is None:
        return
    row = outcome.row
    for what in ("box", "mask"):
        click.echo(f"{what:<5} mAP50-95 {row[f'{what}_map']:.3f}  mAP50 {row[f'{what}_map50']:.3f}")
    say(f"best epoch {row['epoch']}: {outcome.best}")
    say(f"last epoch: {outcome.last}")
    say(f"run: {outcome.folder}")
    with image_bar("report") as advance:
        page = report_run(loaded, outcome.folder, progress=advance, warn=warn)
    say(f"report: {page}")
