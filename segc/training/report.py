"""What a person sees of a training: bars in a terminal, one line an epoch elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from segc.training.loss import TERMS


class Report(Protocol):
    """Told about a training as it goes."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def steps(self, epoch: int, epochs: int, total: int) -> None:
        """An epoch of ``total`` steps begins; epochs count from 1."""

    def step(self, values: Mapping[str, float]) -> None:
        """A step is done; ``values`` are means over the epoch so far."""

    def validated(self, done: int, total: int) -> None:
        """Of ``total`` validation images ``done`` have been looked at."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done; ``row`` is that of ``results.csv``."""


class SilentReport:
    """Says nothing."""

    def say(self, text: str) -> None:
        """See :class:`Report`."""

    def steps(self, epoch: int, epochs: int, total: int) -> None:
        """See :class:`Report`."""

    def step(self, values: Mapping[str, float]) -> None:
        """See :class:`Report`."""

    def validated(self, done: int, total: int) -> None:
        """See :class:`Report`."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`Report`."""


class PlainReport(SilentReport):
    """One line an epoch, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """See :class:`Report`."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`Report`."""
        self.say(epoch_line(row))


class BarReport(PlainReport):
    """A bar for the epoch at hand, above it one line for each that is done."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=None, values="")
        self._label = ""

    def steps(self, epoch: int, epochs: int, total: int) -> None:
        """See :class:`Report`."""
        self._label = f"epoch {epoch}/{epochs}"
        self._progress.reset(self._task, total=total, description=self._label, values="")

    def step(self, values: Mapping[str, float]) -> None:
        """See :class:`Report`."""
        shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        self._progress.update(self._task, advance=1, values=shown)

    def validated(self, done: int, total: int) -> None:
        """See :class:`Report`."""
        self._progress.update(self._task, completed=done, total=total, description=f"{self._label} validation")


@contextmanager
def report_on(console: Console) -> Iterator[Report]:
    """The report that suits a console."""
    if not console.is_terminal:
        yield PlainReport(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarReport(console, progress)


def epoch_line(row: Mapping[str, Any]) -> str:
    """A row of ``results.csv`` in a line."""
    losses = "  ".join(f"{term} {row[f'train_{term}']:.3f}" for term in TERMS)
    line = f"epoch {row['epoch']:>4}  {losses}  {row['images_per_second']:.1f} img/s"
    if row["box_map"] != "":
        line += f"  mAP50-95 box {row['box_map']:.3f} mask {row['mask_map']:.3f}"
    return line
