"""Where a training is recorded besides ``results.csv``: TensorBoard always, MLflow and Weights & Biases when asked for.

A logger that fails is left out from then on and reported once: no training ends because a service is away.
"""

import importlib.util
import netrc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from segc.diagnostics import Diagnostic, SegcError
from segc.training.report import Report, Run, shown_on


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row of ``results.csv`` as ``group/name``; columns that are empty are left out."""
    found = {}
    for column, value in row.items():
        group, _, name = column.partition("_")
        if column != "epoch" and isinstance(value, int | float):
            found[_TAGS[group].format(name) if group in _TAGS else f"run/{column}"] = float(value)
    return found


_TAGS = {"train": "train/{}", "box": "val/box_{}", "mask": "val/mask_{}"}
"""Groups by the first word of a column."""


class TensorBoardLogger(Report):
    """An event file in the run's folder, for ``tensorboard --logdir build/runs``."""

    name = "TensorBoard"

    def __init__(self) -> None:
        self._writer: Any = None
        self._step = 0

    def begin(self, run: Run) -> None:
        """See :class:`segc.training.report.Report`."""
        from tensorboardX import SummaryWriter

        # A file of its own each time that a run goes on. Steps after the checkpoint are done again: their first figures
        # are purged. Those of epochs have smaller numbers and stay.
        purged = {"purge_step": run.steps + 1} if run.steps else {}
        self._writer = SummaryWriter(str(run.folder), flush_secs=10, filename_suffix=f".from{run.steps}", **purged)
        self._step = run.steps
        settings = "\n".join(f"    {key}: {value}" for key, value in run.settings.items())
        self._writer.add_text("project", settings, run.steps)
        if run.changes:
            self._writer.add_text("changes", "\n".join(f"    {change}" for change in run.changes), run.steps)

    def step(self, values: Mapping[str, float]) -> None:
        """See :class:`segc.training.report.Report`."""
        self._step += 1
        for name, value in values.items():
            self._writer.add_scalar(f"step/{name}", value, self._step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`segc.training.report.Report`."""
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, int(row["epoch"]))

    def close(self) -> None:
        """See :class:`segc.training.report.Report`."""
        if self._writer is not None:
            self._writer.close()


class MlflowLogger(Report):
    """A run of MLflow, at ``MLFLOW_TRACKING_URI`` or where MLflow keeps runs without it."""

    name = "MLflow"

    def __init__(self) -> None:
        self._mlflow: Any = None

    def begin(self, run: Run) -> None:
        """See :class:`segc.training.report.Report`."""
        # By default it would go on asking a server that is away for many minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        # What is recorded is for whoever asked for it, not for MLflow's makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project))
        mlflow.start_run(run_name=run.folder.name)
        self._mlflow = mlflow
        mlflow.log_params({key: str(value)[:500] for key, value in run.settings.items()})

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`segc.training.report.Report`."""
        self._mlflow.log_metrics(numbers(row), step=int(row["epoch"]))

    def close(self) -> None:
        """See :class:`segc.training.report.Report`."""
        if self._mlflow is not None:
            self._mlflow.end_run()


class WandbLogger(Report):
    """A run of Weights & Biases: online where somebody has logged in, else kept on disk for ``wandb sync``."""

    name = "Weights & Biases"

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, run: Run) -> None:
        """See :class:`segc.training.report.Report`."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.project),
            name=run.folder.name,
            dir=str(run.folder),
            config=dict(run.settings),
            mode=os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline"),
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`segc.training.report.Report`."""
        self._run.log(numbers(row), step=int(row["epoch"]))

    def close(self) -> None:
        """See :class:`segc.training.report.Report`."""
        if self._run is not None:
            self._run.finish()


def _logged_in() -> bool:
    """Whether there is a key: asked without one, wandb would stop and wait for somebody to type it in."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


Logger = TensorBoardLogger | MlflowLogger | WandbLogger

_ASKED_FOR: dict[str, Callable[[], Logger]] = {"mlflow": MlflowLogger, "wandb": WandbLogger}
"""Loggers by their name in the spec, which is that of their package too."""


def open_loggers(names: Iterable[str]) -> list[Logger]:
    """TensorBoard and the loggers of the names.

    Raises:
        SegcError: F004 for every one whose package is not installed.
    """
    names = tuple(names)
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise SegcError(
            Diagnostic(
                "F004",
                f"hyperparameters.loggers asks for {name}, which is not installed",
                help=f"pip install {name}, or leave it out of hyperparameters.loggers",
            )
            for name in missing
        )
    return [TensorBoardLogger(), *(_ASKED_FOR[name]() for name in names)]


class Recorded(Report):
    """A report that is shown, and kept by loggers too.

    Args:
        shown: what a person sees.
        loggers: each is closed and left out as soon as it fails.
        watched: told about epochs last; what it raises is not caught.
    """

    def __init__(self, shown: Report, loggers: Sequence[Logger], watched: Report | None = None) -> None:
        self._shown, self._watched = shown, watched
        self._loggers = list(loggers)

    def _tell(self, what: str, *arguments: Any) -> None:
        for logger in tuple(self._loggers):
            try:
                getattr(logger, what)(*arguments)
            except Exception as error:  # noqa: BLE001 - a service may fail in any way, the training goes on
                self._loggers.remove(logger)
                text = str(error).strip().partition("\n")[0][:200]
                self.say(f"{logger.name} is left out from here on: {text or type(error).__name__}")

    def _show(self, what: str, *arguments: Any) -> None:
        """Show it, as long as there is somebody to look: a closed pipe or a full disk below a log ends no training."""
        try:
            getattr(self._shown, what)(*arguments)
        except OSError:
            self._shown = Report()

    def begin(self, run: Run) -> None:
        """See :class:`segc.training.report.Report`."""
        self._show("begin", run)
        self._tell("begin", run)

    def say(self, text: str) -> None:
        """See :class:`segc.training.report.Report`."""
        self._show("say", text)

    def steps(self, epoch: int, epochs: int | None, total: int, done: int = 0) -> None:
        """See :class:`segc.training.report.Report`."""
        self._show("steps", epoch, epochs, total, done)
        self._tell("steps", epoch, epochs, total, done)

    def step(self, values: Mapping[str, float]) -> None:
        """See :class:`segc.training.report.Report`."""
        self._show("step", values)
        self._tell("step", values)

    def validated(self, done: int, total: int) -> None:
        """See :class:`segc.training.report.Report`."""
        self._show("validated", done, total)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`segc.training.report.Report`."""
        self._show("epoch", row)
        self._tell("epoch", row)
        if self._watched is not None:
            self._watched.epoch(row)

    def close(self) -> None:
        """See :class:`segc.training.report.Report`."""
        self._tell("close")
        self._show("close")


@contextmanager
def report_on(console: Console, loggers: Iterable[str] = (), watched: Report | None = None) -> Iterator[Report]:
    """The report that suits a console, kept by loggers too.

    Args:
        console: where people look.
        loggers: as in ``hyperparameters.loggers``; TensorBoard comes in any case.
        watched: told about epochs, too; what it raises is not caught.

    Raises:
        SegcError: F004 where the package of one is not installed.
    """
    opened = open_loggers(loggers)
    with shown_on(console) as shown:
        report = Recorded(shown, opened, watched)
        try:
            yield report
        finally:
            report.close()
