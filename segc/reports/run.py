"""The report of a run: ``runs/<name>/report.html``."""

from pathlib import Path
from typing import TYPE_CHECKING

from segc.data.check import read_for_training
from segc.evaluation.project import evaluate_project
from segc.files import write_atomic
from segc.reports.page import training_page
from segc.training.run import RESULTS, read_results
from segc.weights.lineage import line, lineage_of

if TYPE_CHECKING:
    from segc.evaluation.coco import Progress
    from segc.sessions.choose import Warn
    from segc.spec.load import LoadedProject

REPORT = "report.html"


def report_run(
    loaded: "LoadedProject", folder: Path, *, progress: "Progress | None" = None, warn: "Warn" = lambda _: None
) -> Path:
    """Measure the best weights of a run once more, and write its page.

    Args:
        loaded: the project.
        folder: the run's.
        progress: called after every image of the validation.
        warn: told what there is to say about the weights.

    Returns:
        The page's file.

    Raises:
        SegcError: D002 where an image cannot be read.
        OSError: where the page cannot be written.
    """
    epochs = loaded.project.hyperparameters.epochs
    best = folder / "best.safetensors"
    evaluated = evaluate_project(
        loaded,
        folder,
        weights=best,
        allow_unlabelled=True,
        progress=progress,
        warn=warn,
    )
    rows = read_results(folder / RESULTS, epochs)
    page = folder / REPORT
    descent = line(lineage_of(best))
    data: list[str] = []
    train_samples, _ = read_for_training(loaded, data.append)
    write_atomic(page, training_page(loaded, evaluated, train_samples, rows, folder.name, data=data, descent=descent))
    return page
