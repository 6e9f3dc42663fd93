"""What a person sees of a training in a terminal and elsewhere."""

import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from segc.training.loggers import report_on
from segc.training.report import Report, Run

ROW: dict[str, Any] = {
    "epoch": 1,
    "images_per_second": 12.3,
    **dict.fromkeys(("train_box", "train_cls", "train_dfl", "train_mask"), 1.25),
    "box_map": 0.5,
    "mask_map": 0.25,
}


def _tell(report: Report, folder: Path) -> None:
    report.begin(Run(folder, "shapes", {}, images_per_step=8))
    report.steps(1, 30, 2)
    report.step({"box": 1.25, "lr": 0.01})
    report.step({"box": 1.25, "lr": 0.01})
    report.validated(1, 4)
    report.epoch(ROW)


def test_a_terminal_shows_losses_rate_speed_time_and_memory(tmp_path: Path) -> None:
    screen = io.StringIO()
    with report_on(Console(file=screen, force_terminal=True, width=160)) as report:
        _tell(report, tmp_path)
    shown = screen.getvalue()
    shown = re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", shown)
    for text in ("epoch 1/30", "box 1.25", "lr 0.01", "img/s", "training", "/30", " GiB", "mAP50-95 box 0.500"):
        assert text in shown


def test_a_pipe_gets_one_plain_line_an_epoch(tmp_path: Path) -> None:
    screen = io.StringIO()
    with report_on(Console(file=screen, width=60)) as report:
        _tell(report, tmp_path)
    assert screen.getvalue() == (
        "epoch    1  box 1.250  cls 1.250  dfl 1.250  mask 1.250  12.3 img/s  mAP50-95 box 0.500 mask 0.250\n"
    )


def test_a_run_has_its_settings_by_dotted_key(compiled: Any) -> None:
    loaded, _ = compiled()
    run = Run.of(loaded.project, Path("runs/x"), images_per_step=4, epoch=0, device="cpu")
    assert run.settings["hyperparameters.lr0"] == 0.005
    assert run.settings["architecture.family"] == "yolov8-seg"
    assert not [value for value in run.settings.values() if isinstance(value, dict)]
