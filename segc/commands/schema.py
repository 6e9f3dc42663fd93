"""``segc schema``: the JSON Schema of project.yaml."""

from pathlib import Path

import click


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it to FILE.")
def command(output: Path | None) -> None:
    """Print the JSON Schema (draft 2020-12) of project.yaml, for editors and other programs."""
    from segc.files import write_atomic
    from segc.spec.json_schema import schema_text

    if output is None:
        click.echo(schema_text(), nl=False)
    else:
        write_atomic(output, schema_text())
