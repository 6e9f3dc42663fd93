"""``segc bench``: time, memory and accuracy of all artifacts, and of the weights in PyTorch, side by side."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segc.commands.common import (
    Output,
    build_dir_option,
    build_folder,
    console,
    device_option,
    project_argument,
    run_option,
    say,
    set_option,
    told_weights,
    warn,
    weights_option,
)
from segc.inference.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from segc.benchmark.rows import Benchmark
    from segc.spec.load import LoadedProject

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("bench")
@project_argument
@set_option
@build_dir_option
@weights_option
@run_option
@click.option("--artifact", "names", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@device_option
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="Threads of every runtime; it chooses if not given."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Each opens every model anew.")
@click.option("--images", type=click.IntRange(1), default=16, show_default=True, help="Photographs a round.")
@click.option("--warm-up", type=click.IntRange(0), default=3, show_default=True, help="Runs a round before they count.")
@click.option("--sample", type=click.IntRange(0), default=128, show_default=True, help="Images for mAP; 0 for all.")
@click.option("--no-map", is_flag=True, help="Measure no mAP.")
@click.option("--json", "json_path", type=Output("JSON"), metavar="FILE", help="Write all figures, for --compare too.")
@click.option("--csv", "csv_path", type=Output("CSV"), metavar="FILE", help="Write the table.")
@click.option("--report", "report_path", type=Output("page"), metavar="FILE", help="Write an HTML page.")
@click.option("--compare", "before", type=_FILE, metavar="FILE", help="Say what changed since this --json.")
def command(
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    weights: str | None,
    run: str | None,
    names: tuple[str, ...],
    device: str | None,
    threads: int | None,
    rounds: int,
    images: int,
    warm_up: int,
    sample: int,
    no_map: bool,
    json_path: Path | None,
    csv_path: Path | None,
    report_path: Path | None,
    before: Path | None,
) -> int:
    """Measure all artifacts of the build, and the weights in PyTorch, on the same photographs.

    Rounds are interleaved, and every model runs in a process of its own with nothing beside it: give the machine some
    rest, too. Reading a photograph does not count; pre is from there to the network's input, post from its outputs to
    masks. A model that cannot be measured is a row with the reason, and the exit status is then 1.
    """
    from dataclasses import replace

    from segc.benchmark.project import WEIGHTS, Settings, benchmark
    from segc.benchmark.rows import compare
    from segc.files import canonical_json, write_atomic
    from segc.spec.load import load_project

    loaded = load_project(project, overrides)
    folder = build_folder(loaded, build_dir)
    earlier = None if before is None else _read(before)
    file = _weights(loaded, folder, weights, run) if not names or WEIGHTS in names else None
    settings = Settings(rounds, images, warm_up, threads or 0, device, None if no_map else sample)
    with _told() as watch:
        found = benchmark(loaded, folder, file, settings, names, watch=watch)
    if earlier is not None:
        found = replace(found, changes=tuple(compare(earlier, found.to_json())))
    if json_path is not None:
        write_atomic(json_path, canonical_json(found.to_json()))
    if csv_path is not None:
        write_atomic(csv_path, found.to_csv())
    if report_path is not None:
        from segc.reports.bench import bench_page

        write_atomic(report_path, bench_page(found))
    _show(found)
    return 1 if any(row.problem for row in found.rows) else 0


def _weights(loaded: LoadedProject, folder: Path, weights: str | None, run: str | None) -> Path | None:
    """The weights to measure; where there are none and nobody asked for some, that is said and there is no row."""
    from dataclasses import replace

    from segc.diagnostics import SegcError

    try:
        return told_weights(loaded, folder, weights, run)
    except SegcError as error:
        if weights is not None or run is not None or error.diagnostics[0].code != "W008":
            raise
        # The artifacts are measured all the same.
        warn([replace(one, severity="warning", message=f"{one.message}: they get no row") for one in error.diagnostics])
        return None


def _read(path: Path) -> dict[str, Any]:
    """What an earlier --json holds.

    Raises:
        SegcError: F001 where there is no such file, F002 where it is no benchmark that this segc reads.
    """
    import json

    from segc.benchmark.rows import FORMAT, compare
    from segc.diagnostics import fail

    if not path.is_file():
        raise fail("F001", f"no such file: {path}", file=path, help="segc bench --json FILE writes one")
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        known = found["format"] == FORMAT and isinstance(found["rows"], list)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise fail("F002", "not the JSON of a benchmark, or of another segc's", file=path, help="take that of --json")
    try:
        # Before anything is measured: what cannot be compared with itself cannot be with what will be found.
        compare(found, found)
    except (KeyError, TypeError, AttributeError):
        raise fail("F002", "the JSON of a benchmark, but damaged", file=path) from None
    return found


@contextmanager
def _told() -> Iterator[Callable[[str], None]]:
    """A line that says what is being measured, in a terminal."""
    screen = console()
    if not screen.is_terminal:
        yield lambda _: None
        return

    from rich.text import Text

    with screen.status("") as status:
        yield lambda text: status.update(Text(printable(text)))


def _show(found: Benchmark) -> None:
    # Where nobody looks at a terminal, rows are better whole than wrapped.
    console(stderr=False, width=240).print(_table(found))
    say(", ".join(f"{name} {value}" for name, value in found.machine.items()))
    say(", ".join(f"{name} {value}" for name, value in found.settings.items()))
    for remark in found.remarks():
        say(remark)
    for row in found.rows:
        if row.problem:
            say(f"{row.name}: {row.problem}")
    for change in found.changes:
        say(f"changed: {change}")


def _table(found: Benchmark) -> Table:
    from rich.table import Table

    from segc.reports.bench import COLUMNS, WORDS, cells

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in WORDS else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*cells(row))
    return table
