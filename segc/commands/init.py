"""``segc init``: write a commented project.yaml."""

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("project.yaml"), metavar="[PATH]")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Take over a YOLO data file, a run's args.yaml, a model's .yaml, a COCO .json, or a folder with a dataset.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(path: Path, source: Path | None, force: bool) -> None:
    """Write a commented project file to PATH, by default project.yaml. A folder gets a project.yaml."""
    from segc.diagnostics import fail
    from segc.files import write_atomic
    from segc.spec.init import project_text

    path = Path.cwd() / path
    if path.is_dir():
        path /= "project.yaml"
    if path.exists() and not force:
        raise fail("F005", "there is a file already", file=path, help="--force replaces it")
    text, notes = project_text(path, source if source is None else Path.cwd() / source)
    write_atomic(path, text)
    for note in notes:
        click.echo(f"  {note}")
    click.echo(f"wrote {path}; next: segc validate, segc build")
