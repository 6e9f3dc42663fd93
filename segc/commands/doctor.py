"""``segc doctor``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from segc.commands.common import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segc.doctor import Ability, Checkup


@click.command()
@click.option(
    "-t",
    "--target",
    "names",
    multiple=True,
    metavar="TARGET",
    help="Look at this target only, and exit with status 1 if it cannot be emitted and run here; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(names: tuple[str, ...], as_json: bool) -> int:
    """Tell, target by target, whether it can be emitted and run on this machine, and what to install if not.

    Nothing is installed, and no framework is imported.
    """
    from segc.doctor import examine_all, machine
    from segc.targets.registry import find_target

    checkups = examine_all(find_target(name).name for name in names)
    if as_json:
        click.echo(json.dumps({"machine": machine(), "targets": [c.to_json() for c in checkups]}, indent=2))
    else:
        _print(machine(), checkups)
    return 1 if names and not all(c.emit.possible and c.run.possible for c in checkups) else 0


def _print(machine: str, checkups: Sequence[Checkup]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console(stderr=False, width=160)
    screen.print(machine)
    table = Table("target", "emit", "run", "packages", box=None, pad_edge=False)
    for c in checkups:
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in c.versions.items())
        table.add_row(c.target, Text(*_word(c.emit)), Text(*_word(c.run)), packages)
    screen.print(table)
    for c in checkups:
        for text in (*dict.fromkeys((*c.emit.problems, *c.run.problems)), *c.remarks):
            screen.print(f"{c.target}: {text}")
        if c.install:
            screen.print(f"{c.target}: get it with: {c.install}", soft_wrap=True)


def _word(ability: Ability) -> tuple[str, str]:
    """A word, and its colour."""
    return ("yes", "green") if ability.possible else ("no", "red")
