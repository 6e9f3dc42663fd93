"""Arguments and options that commands share."""

import math
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segc.inference.filters import MOST_OVERLAP
from segc.inference.metadata import LARGEST_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from rich.console import Console

    from segc.diagnostics import Diagnostic
    from segc.evaluation.coco import Progress
    from segc.spec.load import LoadedProject

    Decorated = TypeVar("Decorated", bound=Callable[..., Any])
    _FileType = click.ParamType[Path]
    _SizeType = click.ParamType[tuple[int, int]]
else:
    _FileType = _SizeType = click.ParamType

project_argument = click.argument(
    "project", type=click.Path(path_type=Path), default=Path("project.yaml"), metavar="[PROJECT]"
)
project_option = click.option(
    "--project",
    type=click.Path(path_type=Path),
    default=Path("project.yaml"),
    metavar="FILE",
    show_default=True,
    help="The project file.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the project, as in hyperparameters.epochs=3; may be repeated.",
)
build_dir_option = click.option(
    "--build-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where results go; by default build/ beside the project file.",
)


def _tile_side(_context: click.Context, _option: click.Parameter, value: int | None) -> int | None:
    if not value:
        return value
    from segc.schema import LARGEST_STRIDE

    if value < LARGEST_STRIDE:
        raise click.BadParameter(f"tiles are {LARGEST_STRIDE} pixels wide at least, or 0: there are none")
    return value


class Number(click.FloatRange):
    """A number on a command line within bounds; unlike click's own, it does not take what is no number for one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = super().convert(value, param, ctx)
        return self.fail(f"{value} is not a number.", param, ctx) if math.isnan(number) else number


_TILE_OPTIONS = (
    click.option(
        "--tile",
        type=click.IntRange(0, LARGEST_SIDE),
        metavar="PIXELS",
        callback=_tile_side,
        help="Cut images into tiles of this side, each letterboxed to the model's size; 0: none; the project's tiles "
        "if not given.",
    ),
    click.option(
        "--overlap",
        type=Number(0, MOST_OVERLAP),
        help="Of neighbouring tiles, at least, as a share of their side; the project's if not given, else 0.2.",
    ),
    click.option(
        "--tile-plus-whole/--no-tile-plus-whole",
        default=None,
        help="Look at the image as a whole besides, for what is larger than a tile.",
    ),
)


def tile_options(command: "Decorated") -> "Decorated":
    """Add the options of tiles: ``tile``, ``overlap`` and ``tile_plus_whole``."""
    for option in reversed(_TILE_OPTIONS):
        command = option(command)
    return command


class WeightsFile(_FileType):
    """Weights on a command line: a file, a published name or an address, which is fetched; gives the file."""

    name = "weights"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        """The file."""
        if isinstance(value, Path):
            return value
        from segc.weights.starting import weights_file

        return weights_file(value)


_HEAD = 1024
"""Bytes within which a file says what it is; a page of segc, that it loads nothing."""

_LOOKS: "Mapping[str, Callable[[bytes], bool]]" = {
    "page": lambda head: head.startswith(b"<!doctype html>") and b"default-src 'none'" in head,
    "JSON": lambda head: head.lstrip()[:1] in (b"{", b"["),
    "CSV": lambda head: b"," in head.partition(b"\n")[0] and b"\0" not in head,
}
"""How files begin that a command may replace, by what it writes."""


class Output(_FileType):
    """A file that a command writes at its end: it replaces an earlier one of its kind, and nothing else.

    Args:
        kind: a key of ``_LOOKS``.
    """

    name = "file"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        """The file.

        Raises:
            SegcError: F002 where a folder is there, F005 where a file of another kind is.
            OSError: where it cannot be read.
        """
        from segc.diagnostics import fail

        path = Path(value)
        if path.is_dir():
            raise fail("F002", "a folder is there", file=path, help=f"name a file for the {self._kind}")
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(_HEAD)
            if head and not _LOOKS[self._kind](head):
                text = f"a file is there already that is no {self._kind} of segc's, and is not replaced"
                raise fail("F005", text, file=path, help=f"name another file for the {self._kind}")
        return path


weights_option = click.option(
    "--weights",
    metavar="WEIGHTS",
    help="Weights to use instead of the trained ones: a file, a name that `segc weights list` shows, or an address.",
)

run_option = click.option(
    "--run",
    metavar="RUN",
    help="Take the weights of this run; `segc runs list` shows all, `segc runs use` keeps one.",
)

device_option = click.option(
    "--device",
    "--provider",
    "device",
    metavar="NAME",
    help="Where the model runs: auto, cpu, cuda, mps or what else its runtime knows; what is not there is an error. "
    "If not given: an artifact as it was verified, weights on the project's device.",
)


class Shard(_SizeType):
    """A part on a command line: its number and how many there are, as in 2/8."""

    name = "part"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """(number from 1, how many)."""
        if isinstance(value, tuple):
            return value
        number, _, count = value.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            self.fail(f"{value} is not I/N with I from 1 to N", param, ctx)
        return int(number), int(count)


class FrameSize(_SizeType):
    """A size on a command line, as the spec has it: one side, or height and width with a comma between."""

    name = "size"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """(height, width) in pixels."""
        if isinstance(value, tuple):
            return value
        sides = value.split(",")
        if not 1 <= len(sides) <= 2 or not all(side.strip().isdecimal() for side in sides):
            self.fail(f"{value} is neither a number of pixels nor HEIGHT,WIDTH", param, ctx)
        return int(sides[0]), int(sides[-1])


def build_folder(loaded: "LoadedProject", build_dir: Path | None) -> Path:
    """The build directory that a command works in."""
    return loaded.build_dir if build_dir is None else build_dir


def told_file(weights: str | None) -> Path:
    """The weights that --weights names, where there is no project, after a line that says which.

    Raises:
        SegcError: as ``segc.weights.starting.weights_file``.
    """
    from segc.weights.starting import weights_file

    path = weights_file(weights or "")
    say(f"weights: {path} (given by --weights; there is no project, their own classes count)", err=True)
    return path


def told_weights(loaded: "LoadedProject", build_dir: Path, weights: str | None, run: str | None) -> Path:
    """The weights that a command takes, after a line that says which and why.

    Args:
        loaded: the project.
        build_dir: the build directory.
        weights: as --weights gives them.
        run: as --run gives it.

    Raises:
        UsageError: where both are given.
        SegcError: as ``segc.weights.starting.weights_file`` and ``segc.weights.resolve.choose_weights``.
    """
    if weights is not None and run is not None:
        raise click.UsageError("--weights and --run exclude each other")
    from segc.weights.resolve import choose_weights
    from segc.weights.starting import weights_file

    chosen = choose_weights(loaded, build_dir, None if weights is None else weights_file(weights), run)
    say(f"weights: {chosen.path} ({chosen.why})", err=True)
    return chosen.path


def console(*, stderr: bool = True, width: int | None = None) -> "Console":
    """A console that shows each text on the line where it stands: brackets are no markup, the rest as by `printable`.

    Args:
        stderr: on standard error, for progress and reports; results go to standard output.
        width: columns where nobody looks at a terminal.
    """
    from rich.console import Console
    from rich.text import Text

    from segc.inference.text import printable

    class Plain(Console):
        def render_str(self, text: str, **options: "Any") -> Text:
            return super().render_str(printable(text), **options)

        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - called where the error is handled; rich would end the process here

    watched = (sys.stderr if stderr else sys.stdout).isatty()
    return Plain(stderr=stderr, width=None if watched else width, markup=False, emoji=False, highlight=False)


def say(line: str, *, err: bool = False) -> None:
    """One line on standard output, or error, as `printable` gives it: it may hold names of files and of tensors."""
    from segc.inference.text import printable

    click.echo(printable(line), err=err)


def warn(diagnostics: "Sequence[Diagnostic]") -> None:
    """Show diagnostics that do not stop a command."""
    from segc.diagnostics import render_text, wants_colour

    click.echo(render_text(diagnostics, colour=wants_colour(sys.stderr)), err=True, nl=False)


@contextmanager
def image_bar(what: str) -> "Iterator[Progress]":
    """A bar that counts images in a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():  # nothing to draw is nothing to import
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    screen = console()
    columns = (TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
