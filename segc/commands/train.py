"""``segc train``."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segc.commands.common import (
    build_dir_option,
    console,
    image_bar,
    project_argument,
    say,
    set_option,
    warn,
)
from segc.compute import prepare_to_compute
from segc.diagnostics import SegcError

if TYPE_CHECKING:
    from segc.runs import Choice
    from segc.spec.load import LoadedProject
    from segc.training.loop import Outcome


@click.command()
@project_argument
@set_option
@build_dir_option
@click.option("--name", metavar="RUN", help="Name of the run; by default train, train-2, and so on.")
@click.option("--resume", is_flag=True, help="Go on with the run of that name, or with the one that trained last.")
@click.option("--from", "source", metavar="RUN", help="Start from the best weights of this run.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Try a step of all that is to come: training, validation, every target.",
)
@click.option("--allow-changed", is_flag=True, help="With --resume: go on even though the project changed.")
def command(
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    name: str | None,
    resume: bool,
    allow_changed: bool,
    source: str | None,
    dry_run: bool,
) -> None:
    """Compile a project and train it.

    A run keeps its state in runs/RUN of the build directory, its best and last weights in weights/ there. Interrupted
    at any moment, it goes on with --resume, by the --set values that it was started with, unless others are given.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end it after the step at hand, and what was done is kept; a second one ends at
    once.

    Several GPUs train together when torchrun starts this command; `segc build` prints the line.
    """
    here = Path(os.path.abspath(project))  # noqa: PTH100 - links stay
    _check_usage(name, source, resume=resume, allow_changed=allow_changed)
    prepare_to_compute()
    from segc.interrupts import Interrupted
    from segc.runs import chosen_run, resume_command, started_with, without_report
    from segc.spec.load import load_project
    from segc.training.distributed import launched_world
    from segc.training.project import train_project

    folder = here.parent / "build" if build_dir is None else build_dir
    if source is not None:
        overrides = (*overrides, _start_from(folder, source, project))
    loaded = load_project(project, started_with(here, folder, name, overrides) if resume else overrides)
    if dry_run:
        _try_out(loaded)
        return
    if resume and (unreported := without_report(here, folder, name)):
        # It was killed between its last epoch and its report.
        say(f"run {unreported.name} is complete but for its report", err=True)
        say(f"report: {_report(loaded, unreported)}")
        return
    screen = console()
    if launched_world().leads:
        warn(loaded.warnings)
    before = chosen_run(folder)
    started: list[Path] = []
    try:
        outcome = train_project(
            loaded, folder, screen, name=name, resume=resume, allow_changed=allow_changed, started=started.append
        )
    except Interrupted as stop:
        if started:
            _show_interrupted(loaded, folder, started[0], str(stop))
        raise
    except (SegcError, OSError) as error:
        allow = _may_be_taken_out(error)
        _end(error, resume_command(loaded.path, folder, started[0].name, allow_changed=allow) if started else None)
        raise
    if outcome is not None:
        _show_outcome(loaded, folder, outcome, before)


def _may_be_taken_out(error: SegcError | OSError) -> bool:
    """Whether it is about files of the dataset that are there: without one of them the project is a changed one."""
    found = error.diagnostics if isinstance(error, SegcError) else ()
    return any(one.code.startswith("D") and one.file is not None and one.file.exists() for one in found)


def _end(error: SegcError | OSError, going_on: str | None) -> None:
    """End the launch, where there is one, by what segc refused; note the line that goes on, where there is one."""
    from segc.training.distributed import give_up

    code = ""
    if isinstance(error, SegcError):
        give_up()
        code = error.diagnostics[0].code
    # A training that diverged would do so again.
    if going_on is not None and code != "R006":
        error.add_note(f"then go on with: {going_on}")


def _check_usage(name: str | None, source: str | None, *, resume: bool, allow_changed: bool) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: with the reason.
    """
    from segc.runs import name_fault

    if allow_changed and not resume:
        raise click.UsageError("--allow-changed is about a run that goes on: give --resume too")
    if name is not None and (fault := name_fault(name)):
        raise click.BadParameter(fault, param_hint="--name")
    if source is not None and resume:
        raise click.UsageError("--from is for a new run: one that goes on has its weights")


def _start_from(build_dir: Path, run: str, project: Path) -> str:
    """The override by which a training starts from the weights of a run."""
    from segc.runs import chosen_run, weights_of

    choice = chosen_run(build_dir, run)
    path = weights_of(choice.folder) if choice else None
    start = os.path.relpath(path or build_dir, project.absolute().parent)
    return f"architecture.weights={json.dumps(Path(start).as_posix())}"


def _try_out(loaded: "LoadedProject") -> None:
    from segc.dry_run import dry_run

    warn(loaded.warnings)
    if problems := dry_run(loaded, say):
        raise SegcError(problems)
    click.echo("all that is to come works here, with seeded weights; nothing was kept")


def _show_outcome(loaded: "LoadedProject", build_dir: Path, outcome: "Outcome", before: "Choice | None") -> None:
    from segc.interrupts import too_late
    from segc.runs import is_measured, told_ties
    from segc.training.report import figure

    row = outcome.row
    for what in ("box", "mask"):
        click.echo(f"{what:<5} mAP50-95 {figure(row[f'{what}_map'])}  mAP50 {figure(row[f'{what}_map50'])}")
    why = told_ties(outcome.ties) if is_measured(row) else ", the last one, as nothing was measured"
    say(f"best epoch {row['epoch']}{why}: {outcome.best}")
    say(f"last epoch: {outcome.last}")
    say(f"run: {outcome.folder}")
    report = _report(loaded, outcome.folder)
    # Ended after this, it would be a failure for whoever started it, and complete for `--resume`.
    with too_late():
        say(f"report: {report}")
        say(_used(loaded.path, build_dir, outcome.folder.name, before))


def _report(loaded: "LoadedProject", run: Path) -> Path:
    from segc.reports.run import report_run

    with image_bar("report") as advance:
        return report_run(loaded, run, progress=advance, warn=warn)


def _used(project: Path, build_dir: Path, name: str, before: "Choice | None") -> str:
    """Which run the other commands take after this one, and how to change that."""
    from segc.runs import chosen_run, typed

    def use(run: str) -> str:
        return typed("runs use", project, build_dir, run)

    choice = chosen_run(build_dir)
    if choice is not None and choice.name != name:
        return f"val, emit and predict use run {choice.name}, {choice.why}; this one: {use(name)}"
    if before is None or before.name == name:
        return f"val, emit and predict use run {name}"
    return f"val, emit and predict use run {name} from now on; {before.name} again: {use(before.name)}"


def _show_interrupted(loaded: "LoadedProject", build_dir: Path, run: Path, why: str) -> None:
    """Say what is kept and how to go on; then write the report as far as that is quick."""
    from segc.reports.run import is_quick, report_run
    from segc.runs import resume_command

    say(f"interrupted ({why}): all that was done is kept in {run}", err=True)
    say(f"go on with: {resume_command(loaded.path, build_dir, run.name)}", err=True)
    with suppress(SegcError, OSError):  # of what is kept nothing is missing without a page
        say(f"report: {report_run(loaded, run, measure=is_quick(run))}", err=True)
