"""The report of a run: ``runs/<name>/report.html``."""

from pathlib import Path
from typing import TYPE_CHECKING

from segc.data.check import read_for_training
from segc.evaluation.project import evaluate_project
from segc.files import write_atomic
from segc.reports.page import training_page
from segc.runs import REPORT, RESULTS, read_record, read_results, weights_of
from segc.weights.lineage import line
from segc.weights.reading import lineage_of

if TYPE_CHECKING:
    from segc.evaluation.coco import Progress
    from segc.sessions.choose import Warn
    from segc.spec.load import LoadedProject

LONGEST_MEASUREMENT = 20.0
"""Seconds that a validation may take where somebody waits for a training to end."""


def report_run(
    loaded: "LoadedProject",
    folder: Path,
    *,
    measure: bool = True,
    progress: "Progress | None" = None,
    warn: "Warn" = lambda _: None,
) -> Path:
    """Measure the best weights of a run once more, and write its page.

    Args:
        loaded: the project.
        folder: the run's.
        measure: false leaves out what has to be measured: metrics, curves and predictions.
        progress: called after every image of the validation.
        warn: told what there is to say about the weights.

    Returns:
        The page's file.

    Raises:
        SegcError: D002 where an image cannot be read.
        OSError: where the page cannot be written.
    """
    weights = weights_of(folder)
    evaluated = None
    if measure and weights is not None:
        evaluated = evaluate_project(
            loaded, folder, weights=weights, allow_unlabelled=True, progress=progress, warn=warn
        )
    rows, record = read_results(folder / RESULTS), read_record(folder)
    page = folder / REPORT
    descent = line(lineage_of(weights)) if weights is not None else ""
    data: list[str] = []
    train_samples, _ = read_for_training(loaded, data.append)
    write_atomic(
        page,
        training_page(loaded, evaluated, train_samples, rows, folder.name, record, data=data, descent=descent),
    )
    return page


def is_quick(folder: Path) -> bool:
    """Whether a report can be measured while somebody waits for a training to end."""
    record = read_record(folder)
    return record is not None and bool(record.best) and record.validation_seconds <= LONGEST_MEASUREMENT
