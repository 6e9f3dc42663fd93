"""``segc init``: write a commented project.yaml."""

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("project.yaml"), metavar="[PATH]")
@click.option(
    "--from", "data", type=click.Path(path_type=Path), metavar="DATA.YAML", help="Take over an existing YOLO data file."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(path: Path, data: Path | None, force: bool) -> None:
    """Write a commented project file to PATH, by default project.yaml. A folder gets a project.yaml."""
    from segc.diagnostics import fail
    from segc.files import write_atomic
    from segc.spec.init import project_text

    path = Path.cwd() / path
    if path.is_dir():
        path /= "project.yaml"
    if path.exists() and not force:
        raise fail("F005", "there is a file already", file=path, help="--force replaces it")
    write_atomic(path, project_text(path, data if data is None else Path.cwd() / data))
    click.echo(f"wrote {path}; next: segc validate, segc build")
