"""What long trainings need: a time in place of epochs, weights of more epochs than the best and the last."""

import math

import numpy as np
import pytest

from segc.cli import run
from segc.diagnostics import SegcError
from segc.runs import read_record, read_results
from segc.spec.hyperparameters import Hyperparameters, idle_keys, seconds_of
from segc.training import keeping
from segc.training.loop import Training, train
from segc.training.report import Report
from segc.weights.store import load_weights


class Hears(Report):
    def __init__(self):
        self.said, self.rows = [], []

    def say(self, text):
        self.said.append(text)

    def epoch(self, row):
        self.rows.append(row)


class Stop(BaseException):
    """Stands for a kill, after which nothing is written."""


class Stops(Report):
    def __init__(self, epoch):
        self.wanted, self.now = epoch, 0

    def steps(self, epoch, epochs, total, done=0):  # noqa: ARG002
        self.now = epoch

    def step(self, values):  # noqa: ARG002
        if self.now == self.wanted:
            raise Stop


def test_a_training_fits_into_its_time(compiled, monkeypatch):
    """Epochs of ten seconds, by a clock that only steps move; the budget is for four and a half."""
    seconds = iter(range(0, 10_000, 5))

    def count(self, *, training=False):
        if training:  # two steps an epoch
            next(seconds)
            self.progress.seconds += 5
            self.progress.at.seconds += 5

    monkeypatch.setattr(Training, "_count_time", count)
    report = Hears()
    outcome = train(*compiled(time="45s", epochs=50, val_interval=3, warmup_epochs=1), report=report)
    assert [row["epoch"] for row in report.rows] == [1, 2, 3, 4]
    rates = [row["learning_rate"] for row in report.rows]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < 0.35 * max(rates)  # the schedule comes to its end, which is not that of fifty epochs
    assert report.rows[-1]["box_map"] != ""
    assert outcome.row
    assert any("4 epochs fit into 45s" in text for text in report.said)
    assert read_record(outcome.folder).epochs == 4


def test_a_training_by_time_is_the_same_whatever_its_epochs_and_however_often_it_is_stopped(compiled, monkeypatch):
    def count(self, *, training=False):
        if training:
            self.progress.seconds += 5
            self.progress.at.seconds += 5

    monkeypatch.setattr(Training, "_count_time", count)
    monkeypatch.setattr(keeping, "SAVING_SHARE", math.inf)  # a checkpoint after every update
    settings = {"time": "45s", "val_interval": 3}
    whole = train(*compiled("whole", **settings, epochs=2))
    for epoch in (1, 2, 3):
        with pytest.raises(Stop):
            train(*compiled(f"stopped{epoch}", **settings), report=Stops(epoch))
        # Other epochs are no other project.
        resumed = train(*compiled(f"stopped{epoch}", **settings, epochs=77), resume=True)
        tensors, wanted = load_weights(resumed.last).tensors, load_weights(whole.last).tensors
        assert all(np.array_equal(tensors[name], value) for name, value in wanted.items())


def test_a_training_whose_time_is_over_goes_on_by_another_one(compiled, monkeypatch):
    def count(self, *, training=False):
        if training:
            self.progress.seconds += 5
            self.progress.at.seconds += 5

    monkeypatch.setattr(Training, "_count_time", count)
    train(*compiled(time="25s"))
    with pytest.raises(SegcError) as error:
        train(*compiled(time="25s"), resume=True)
    (told,) = error.value.diagnostics
    assert "2 of 2 epochs are done; more do not fit into 25s" in told.message
    assert "--set hyperparameters.time=40s --allow-changed" in told.help
    outcome = train(*compiled(time="40s"), resume=True, allow_changed=True)
    assert read_record(outcome.folder).epochs == 4
    assert len(read_results(outcome.folder / "results.csv")) == 4
    outcome = train(*compiled(epochs=5), resume=True, allow_changed=True)
    assert len(read_results(outcome.folder / "results.csv")) == 5
    outcome = train(*compiled(time="75s"), resume=True, allow_changed=True)
    assert len(read_results(outcome.folder / "results.csv")) == 7


def test_a_time_is_a_number_with_a_unit():
    assert [seconds_of(text) for text in ("90s", "1.5m", "2h", "1d")] == [90, 90, 7200, 86400]
    for wrong in ("2", "h", "-1h", "0h", "2 h", 7, "1e9h"):
        with pytest.raises(ValueError, match="time"):
            Hyperparameters(time=wrong)
    assert [problem.path[-1] for problem in idle_keys(Hyperparameters(time="2h", epochs=9))] == ["epochs"]


def test_weights_of_epochs_are_kept_as_asked(compiled):
    loaded, build = compiled(epochs=6, val_interval=1, save_period=4, keep_best=2, average_last=2)
    report = Hears()
    outcome = train(loaded, build, report=report)
    worth = {row["epoch"]: row["box_map"] + row["mask_map"] for row in report.rows}
    best = sorted(worth, key=lambda epoch: (worth[epoch], epoch))[-2:]
    weights = outcome.folder / "weights"
    expected = {4, *best, 5, 6}
    assert {path.name for path in weights.glob("epoch-*")} == {f"epoch-{n:04d}.safetensors" for n in expected}
    last, before = (load_weights(weights / f"epoch-000{n}.safetensors").tensors for n in (6, 5))
    mean = load_weights(weights / "averaged.safetensors").tensors
    assert last.keys() == mean.keys()
    for name, value in mean.items():
        if value.dtype == np.float32:
            assert np.allclose(value, (last[name] + before[name]) / 2, atol=1e-6)
    assert any("averaged.safetensors" in text for text in report.said)


def test_how_many_epochs_an_average_is_of_is_counted(compiled):
    loaded, build = compiled(epochs=2, average_last=10)
    report = Hears()
    train(loaded, build, report=report)
    assert any("the mean of the last 2 epochs" in text for text in report.said)


def test_a_training_starts_from_a_run_by_its_name(project, capsys):
    settings = ["--set", "hyperparameters.epochs=1"]
    assert run(["train", str(project), *settings, "--name", "first"]) == 0
    assert run(["train", str(project), *settings, "--name", "second", "--from", "first"]) == 0
    assert "best.safetensors" in capsys.readouterr().err
    record = read_record(project.parent / "build" / "runs" / "second")
    assert record.weights == "build/runs/first/weights/best.safetensors"
    assert run(["train", str(project), *settings, "--from", "none"]) == 1
    assert "R001" in capsys.readouterr().err


def test_a_dry_run_tries_everything_once_and_leaves_nothing(project, capsys):
    pytest.importorskip("onnxruntime")
    # A batch of two, which is less than int8 is calibrated on: that needs eight images, and the project has six.
    text = project.read_text().replace("  batch: 4\n", "  batch: 2\n")
    project.write_text(f"{text}targets: [{{format: onnx}}, {{format: tensorrt, int8: true}}]\n")
    before = sorted(project.parent.iterdir())
    assert run(["train", str(project), "--dry-run"]) == 1
    shown = capsys.readouterr()
    for text in ("train: 6 images", "train: a step, a validation", "emit: 2 targets", "  onnx: verified"):
        assert text in shown.out + shown.err
    assert "dataset.train has 6 images to calibrate on, 8 are the fewest" in shown.err
    assert sorted(project.parent.iterdir()) == before
