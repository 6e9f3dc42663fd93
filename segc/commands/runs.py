"""``segc runs``: the trainings of a project."""

import json
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from segc.commands.common import Output, build_dir_option, project_option, say
from segc.runs import PROJECT_SUFFIXES

if TYPE_CHECKING:
    from segc.reports.runs import RunView


@click.group()
def command() -> None:
    """Show, compare, choose and remove the runs of a project."""


def _of_project(runs: str, least: int, most: int | None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Arguments and options by which the build directory and runs are found: ``build_dir``, and ``names`` if any.

    A word that ends as a project file does is the project, as other commands take it, unless --project names another
    one: then all words are runs.

    Args:
        runs: how the help shows the names.
        least: how many names there must be.
        most: how many there may be; None for any number.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @click.argument("words", nargs=-1, metavar=f"[PROJECT] {runs}".strip())
        @build_dir_option
        @project_option
        @wraps(function)
        def with_folder(*, words: tuple[str, ...], project: Path, build_dir: Path | None, **others: Any) -> None:
            given = click.get_current_context().get_parameter_source("project") is ParameterSource.COMMANDLINE
            files = [] if given else [word for word in words if Path(word).suffix in PROJECT_SUFFIXES]
            names = tuple(word for word in words if word not in files)
            if len(files) > 1:
                raise click.UsageError(f"one project at a time: {', '.join(files)}")
            if len(names) < least or (most is not None and len(names) > most):
                had = " ".join(names) or "none"
                raise click.UsageError(f"{runs or 'no run'} is what it takes, not {had}; segc runs list shows all")
            # Without reading the project: its runs stay, whatever it says by now.
            here = Path(os.path.abspath(files[0] if files else project)).parent / "build"  # noqa: PTH100 - links stay
            named = {"names": names} if runs else {}
            function(build_dir=here if build_dir is None else build_dir, **named, **others)

        return with_folder

    return decorate


_json_option = click.option("--json", "as_json", is_flag=True, help="Show JSON.")
_page_option = click.option(
    "--html", "page", type=Output("page"), metavar="FILE", help="Write a page with the curves, too."
)


@command.command("list")
@_of_project("", 0, 0)
@_json_option
@_page_option
def list_command(build_dir: Path, page: Path | None, *, as_json: bool) -> None:
    """Show all runs, the one that ended last at the end."""
    from segc.reports.runs import table, view_runs

    views = view_runs(build_dir)
    _show(views, table(views), build_dir, page, as_json=as_json)
    if not views and not as_json:
        say(f"no runs in {build_dir}; segc train makes one", err=True)


@command.command("compare")
@_of_project("RUN RUN...", 2, None)
@_json_option
@_page_option
def compare_command(names: tuple[str, ...], build_dir: Path, page: Path | None, *, as_json: bool) -> None:
    """Show figures of runs with their spread, and every setting that differs."""
    from segc.reports.runs import comparison, view_runs

    views = view_runs(build_dir, names)
    _show(views, comparison(views), build_dir, page, as_json=as_json)


@command.command("show")
@_of_project("RUN", 1, 1)
@_json_option
def show_command(names: tuple[str, ...], build_dir: Path, *, as_json: bool) -> None:
    """Show how a run was trained, in which parts, and what came out."""
    from segc.reports.runs import SCORES, said, view_runs
    from segc.runs import told_anew, told_ties, weights_of

    (view,) = views = view_runs(build_dir, names)
    if as_json:
        _show(views, [], build_dir, None, as_json=True)
        return
    rows = [
        ["folder", str(view.folder)],
        ["state", view.state],
        ["epochs", view.epochs],
        ["best epoch", f"{view.best.get('epoch', '-')}{told_ties(view.ties)}"],
        *([["", text]] if view.record and (text := told_anew(view.record.measured_anew)) else []),
        *([name, f"{view.score(name)}, at the end {view.spread(name)}"] for name in SCORES),
        ["weights", str(weights_of(view.folder) or "none yet")],
    ]
    for one in view.record.segments if view.record else ():
        rows.append([f"from epoch {one.epoch + 1}", f"{one.started} to {one.ended or '?'}, {one.end or view.state}"])
        rows += [["", f"--set {text}"] for text in one.overrides]
        rows += [["", f"changed: {text}"] for text in one.changes]
    rows += [[key, said(value)] for key, value in view.settings.items()]
    _show(views, rows, build_dir, None, as_json=False)


@command.command("use")
@click.option("--last", is_flag=True, help="The one that finished last, as without a choice.")
@_of_project("[RUN]", 0, 1)
def use_command(names: tuple[str, ...], build_dir: Path, *, last: bool) -> None:
    """Have val, emit and predict take the weights of a run."""
    from segc.runs import chosen_run, use_run

    if bool(names) == last:
        raise click.UsageError("give the name of a run, or --last")
    use_run(build_dir, None if last else names[0])
    choice = chosen_run(build_dir)
    say(f"val, emit and predict use run {choice.name}, {choice.why}" if choice else "there is no run yet")


@command.command("rm")
@_of_project("RUN...", 1, None)
def rm_command(names: tuple[str, ...], build_dir: Path) -> None:
    """Remove runs with their weights, checkpoints and reports."""
    from segc.runs import chosen_run, remove_run, run_folder

    for name in names:
        run_folder(build_dir, name)  # nothing is removed where one is not there
    before = chosen_run(build_dir)
    for name in dict.fromkeys(names):
        say(f"removed {name}: {remove_run(build_dir, name) / 2**20:.1f} MiB")
    if before is not None and before.name in names:
        choice = chosen_run(build_dir)
        say(f"val, emit and predict use run {choice.name}, {choice.why}" if choice else "there is no run any more")


@command.command("prune")
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, help="How many of the best stay.")
@click.option("--yes", is_flag=True, help="Remove them; without, they are only named.")
@_of_project("", 0, 0)
def prune_command(keep: int, build_dir: Path, *, yes: bool) -> None:
    """Remove all runs but the best ones, the one in use and those that are being trained."""
    from segc.reports.runs import view_runs
    from segc.runs import remove_run

    views = sorted(view_runs(build_dir), key=lambda one: -one.fitness)
    doomed = [one for one in views[keep:] if not one.used and one.state != "running"]
    for one in doomed:
        freed = f": {remove_run(build_dir, one.name) / 2**20:.1f} MiB" if yes else ""
        say(f"{'removed' if yes else 'would remove'} {one.name} (mask mAP50-95 {one.score('mask_map')}){freed}")
    if not doomed:
        click.echo("nothing to remove")
    elif not yes:
        click.echo("to remove them: --yes", err=True)


def _show(
    views: "Sequence[RunView]", rows: Sequence[Sequence[str]], build_dir: Path, page: Path | None, *, as_json: bool
) -> None:
    from segc.files import write_atomic

    if page is not None:
        from segc.reports.runs import runs_page

        project = next((one.record.project for one in views if one.record), build_dir.parent.name)
        write_atomic(page, runs_page(project, views))
    if as_json:
        click.echo(json.dumps([one.to_json() for one in views], sort_keys=True, indent=2))
    elif views:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
