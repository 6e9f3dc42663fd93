"""What a person sees of a training: a live display in a terminal, one line an epoch elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from segc.inference.text import printable
from segc.network.device import peak_memory
from segc.runs import flat
from segc.spec.project import Project, resolved
from segc.training.loss import TERMS


@dataclass(frozen=True, slots=True)
class Run:
    """A training that begins or goes on.

    Attributes:
        folder: of the run.
        project: the project's name.
        settings: everything that the spec says, by dotted key.
        images_per_step: images of a full step, of all processes together.
        epoch: epochs that are done already.
        steps: steps that are done already; they count on where the project changed, too.
        device: where it happens.
        changes: what of the project changed since it last went on.
    """

    folder: Path = Path()
    project: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    images_per_step: int = 0
    epoch: int = 0
    steps: int = 0
    device: str = "cpu"
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, project: Project, folder: Path, **facts: Any) -> "Run":
        """A training of a project; ``facts`` are the other attributes."""
        return cls(folder, project.name, dict(flat("", resolved(project))), **facts)


class Report:
    """Told about a training as it goes. This one says nothing; others say what they want of it."""

    def begin(self, run: Run) -> None:
        """A training begins or goes on."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def steps(self, epoch: int, epochs: int | None, total: int, done: int = 0) -> None:
        """An epoch of ``total`` steps begins, or goes on after ``done`` of them; epochs count from 1.

        A training by time does not know how many epochs it has until the first one is done.
        """

    def step(self, values: Mapping[str, float]) -> None:
        """A step is done; ``values`` are means over the epoch so far, and the learning rate."""

    def validated(self, done: int, total: int) -> None:
        """Of ``total`` validation images ``done`` have been looked at."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done; ``row`` is that of ``results.csv``."""

    def close(self) -> None:
        """There is nothing more to tell, whether the training came to its end or not."""


class PlainReport(Report):
    """One line an epoch, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """See :class:`Report`."""
        for line in text.split("\n"):
            self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`Report`."""
        self.say(epoch_line(row))


_SMOOTHING = 0.1
"""Share of the last step in the shown speed."""


class LiveReport(PlainReport):
    """A bar for the epoch at hand and one for the training, above them one line for each epoch that is done."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self._progress = progress
        self._whole: TaskID = progress.add_task("training", total=None, values="", visible=False)
        self._task: TaskID = progress.add_task("", total=None, values="")
        self._label = ""
        self._run = Run()
        self._epoch = 0
        self._speed, self._last = 0.0, 0.0

    def begin(self, run: Run) -> None:
        """See :class:`Report`."""
        self._run = run

    def steps(self, epoch: int, epochs: int | None, total: int, done: int = 0) -> None:
        """See :class:`Report`."""
        self._epoch = epoch
        self._label, self._last = f"epoch {epoch}/{epochs or '?'}", time.monotonic()
        self._progress.reset(self._task, total=total, completed=done, description=self._label, values="")
        left = None if epochs is None else epochs - self._run.epoch
        self._progress.update(self._whole, total=left, completed=epoch - 1 - self._run.epoch, visible=True)

    def step(self, values: Mapping[str, float]) -> None:
        """See :class:`Report`."""
        now = time.monotonic()
        if self._run.images_per_step and now > self._last:
            speed = self._run.images_per_step / (now - self._last)
            self._speed = speed if not self._speed else self._speed + _SMOOTHING * (speed - self._speed)
        self._last = now
        shown = [f"{name} {value:.3g}" for name, value in values.items()]
        if self._speed:
            shown.append(f"{self._speed:.1f} img/s")
        self._progress.update(self._task, advance=1, values="  ".join(shown))
        self._progress.update(self._whole, values=f"{peak_memory(torch.device(self._run.device)) / 2**30:.1f} GiB")

    def validated(self, done: int, total: int) -> None:
        """See :class:`Report`."""
        self._progress.update(self._task, completed=done, total=total, description=f"{self._label} validation")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`Report`."""
        super().epoch(row)
        self._progress.update(self._whole, completed=self._epoch - self._run.epoch)


@contextmanager
def shown_on(console: Console) -> Iterator[Report]:
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
        yield LiveReport(console, progress)


def epoch_line(row: Mapping[str, Any]) -> str:
    """A row of ``results.csv`` in a line."""
    losses = "  ".join(f"{term} {row[f'train_{term}']:.3f}" for term in TERMS)
    line = f"epoch {row['epoch']:>4}  {losses}  {row['images_per_second']:.1f} img/s"
    if row["box_map"] != "":
        line += f"  mAP50-95 box {figure(row['box_map'])} mask {figure(row['mask_map'])}"
    return line


def figure(value: Any) -> str:
    """A figure of a row, short; a text, which stands where nothing was measured, as it is."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
