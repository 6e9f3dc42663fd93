"""``segc init``: write a commented project.yaml."""

from pathlib import Path

import click

from segc.commands.common import say


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("project.yaml"), metavar="[PATH]")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Take over a data file, a run's args.yaml, a model's .yaml, COCO or CVAT annotations, a dataset's folder.",
)
@click.option("--weights", metavar="WEIGHTS", help="Weights to start from: a name of `segc weights list`, or a file.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(path: Path, source: Path | None, weights: str | None, force: bool) -> None:
    """Write a commented project file to PATH, by default project.yaml. A folder gets a project.yaml."""
    from segc.diagnostics import fail
    from segc.files import write_atomic
    from segc.spec.init import project_text

    path = Path.cwd() / path
    if path.is_dir():
        path /= "project.yaml"
    if path.exists() and not force:
        raise fail("F005", "there is a file already", file=path, help="--force replaces it")
    text, notes = project_text(path, source if source is None else Path.cwd() / source, weights)
    write_atomic(path, text)
    for note in notes:
        say(f"  {note}")
    say(f"wrote {path}; next: segc validate, segc build")
