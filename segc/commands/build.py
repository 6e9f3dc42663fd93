"""``segc build``."""

from pathlib import Path

import click

from segc.commands.common import build_dir_option, build_folder, project_argument, say, set_option, warn


@click.command()
@project_argument
@set_option
@build_dir_option
def command(project: Path, overrides: tuple[str, ...], build_dir: Path | None) -> None:
    """Compile a project: lock, graph, layer table and training plan.

    Writes project.lock.json, graph.json, plan.json and summary.txt; the same input gives the same bytes.
    """
    from segc.build import build
    from segc.data.check import listing_findings
    from segc.spec.load import load_project
    from segc.weights.starting import start_facts, told

    loaded = load_project(project, overrides)
    warn(loaded.warnings)
    folder = build_folder(loaded, build_dir)
    compiled = build(loaded, folder)
    if found := listing_findings(loaded):
        warn(found)
    click.echo(compiled.files["summary.txt"])
    if facts := start_facts(loaded, folder):
        say(told(facts))
    say(f"written to {folder}: {', '.join(compiled.files)}")
