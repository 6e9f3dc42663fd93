"""``segc tune``."""

from pathlib import Path

import click

from segc.commands.common import build_dir_option, build_folder, project_argument, say, set_option, warn
from segc.compute import prepare_to_compute


@click.command()
@project_argument
@set_option
@build_dir_option
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="Trials the study shall have.")
@click.option("--study", default="tune", show_default=True, metavar="NAME", help="Its name; runs are NAME-0, NAME-1, …")
@click.option("--storage", metavar="URL", help="A database that machines share; by default a file in build/tune.")
def command(
    project: Path, overrides: tuple[str, ...], build_dir: Path | None, trials: int, study: str, storage: str | None
) -> None:
    """Search hyperparameters in the ranges that the project declares under `tune`.

    Every trial is a run on record. Start the command again to go on, or several times at once to search together: the
    study has --trials of them in all. Trials that fall behind by their validation are given up early.
    """
    from segc.runs import name_fault, typed, weights_of

    if fault := name_fault(study):
        raise click.BadParameter(f"{fault}; a study's name begins those of its runs", param_hint="--study")
    prepare_to_compute()
    from segc.spec.load import load_project
    from segc.tuning import tune

    loaded = load_project(project, overrides)
    warn(loaded.warnings)
    folder = build_folder(loaded, build_dir)
    best = tune(loaded, folder, trials=trials, study=study, storage=storage, said=lambda text: say(text, err=True))
    if best is None:
        click.echo("no trial was completed")
        return
    say(f"best: run {best.run}, mean of box and mask mAP50-95 {best.value:.4f}")
    for change in best.changes:
        say(f"  {change}")
    words = [word for text in best.overrides for word in ("--set", text)]
    say(f"train it again: {typed('train', loaded.path, folder, *words)}")
    if weights_of(folder / "runs" / best.run) is None:
        say(f"run {best.run} has no weights in {folder}: it was removed, or another machine trained it")
    else:
        say(f"use its weights: {typed('runs use', loaded.path, folder, best.run)}")
