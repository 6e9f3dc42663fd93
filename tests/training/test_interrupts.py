"""Signals end a training after the step at hand; nothing is lost, and the line that goes on is told."""

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segc.cli import run
from segc.interrupts import Interrupted
from segc.locks import is_locked, try_lock
from segc.runs import lock_file, read_record
from segc.training.checkpoint import load_checkpoint
from segc.training.keeping import Keeper
from segc.training.loggers import Recorded
from segc.training.loop import train
from segc.training.report import PlainReport, Report

pytestmark = pytest.mark.alone

SETTINGS = {"epochs": 2, "batch": 1, "nominal_batch": 4, "warmup_epochs": 0, "val_interval": 1}
"""Six steps an epoch and an update after four of them: most moments have gradients that wait."""


class Asks(Report):
    """Sends this process a signal after some steps, or in a validation."""

    def __init__(self, number: int, steps: int = 0, validations: int = 0) -> None:
        self.number, self.steps_left, self.validations_left = number, steps, validations

    def step(self, values):  # noqa: ARG002
        self.steps_left -= 1
        if self.steps_left == 0:
            os.kill(os.getpid(), self.number)

    def validated(self, done, total):
        self.validations_left -= done == total
        if self.validations_left == 0 and done == total:
            os.kill(os.getpid(), self.number)


class Hears(Report):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text):
        self.said.append(text)


class Speechless(Hears):
    """A display whose reader goes away in the first epoch."""

    def epoch(self, row):  # noqa: ARG002
        raise BrokenPipeError


def state(folder: Path) -> dict[str, torch.Tensor]:
    found = load_checkpoint(folder / "checkpoint.safetensors")
    return {**found.network, **found.optimizer, **{f"average/{k}": v for k, v in found.average.items()}}


def test_signals_cost_nothing(compiled):
    """One after the other ends a training, which goes on each time."""
    whole = train(*compiled("whole", **SETTINGS)).folder
    loaded, build = compiled("asked", **SETTINGS)
    folder = build.folder / "runs" / "train"
    moments = (
        (signal.SIGINT, {"steps": 2}, 2),
        (signal.SIGTERM, {"steps": 1}, 3),
        (signal.SIGHUP, {"validations": 1}, 6),
        (signal.SIGUSR1, {"steps": 5}, 11),
    )
    for number, moment, steps in moments:
        handler = signal.getsignal(number)
        with pytest.raises(Interrupted) as stop:
            train(loaded, build, resume=folder.exists(), report=Asks(number, **moment))
        assert stop.value.number == number
        assert signal.getsignal(number) is handler
        assert load_checkpoint(folder / "checkpoint.safetensors").progress.steps == steps
        assert read_record(folder).end == f"interrupted by {signal.Signals(number).name}"
    assert train(loaded, build, resume=True).folder == folder
    one, two = state(whole), state(folder)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    for which in ("best", "last"):
        first, second = (path / "weights" / f"{which}.safetensors" for path in (whole, folder))
        assert first.read_bytes() == second.read_bytes()


def test_a_run_that_was_ended_before_its_report_gets_one_in_place_of_an_older_one(compiled, project, capsys):
    loaded, build = compiled(**SETTINGS)
    with pytest.raises(Interrupted):
        train(loaded, build, report=Asks(signal.SIGTERM, steps=2))
    page = build.folder / "runs" / "train" / "report.html"
    page.write_text("of two steps")
    train(loaded, build, resume=True)
    assert not page.exists()
    assert run(["train", str(project), "--build-dir", str(build.folder), "--resume"]) == 0
    assert "complete but for its report" in capsys.readouterr().err
    assert "of two steps" not in page.read_text()


def test_a_signal_that_comes_after_the_report_comes_too_late(project, monkeypatch):
    """All is done: for whoever started it that is a success, and not a training that `--resume` would refuse."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("segc.commands.train._used", lambda *_: signal.raise_signal(signal.SIGINT))
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"hyperparameters.{key}={value}")]
    assert run(["train", str(project), *settings]) == 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_process_that_is_about_to_end_hears_a_second_signal_alone():
    script = (
        "import os, signal\n"
        "from segc import interrupts\n"
        "interrupts.end_by_itself()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('goes on', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('does not come to this')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "goes on\n", "")


def test_a_signal_that_a_library_makes_an_error_of_is_told_as_what_it_is():
    """As where it comes while a tensor is read: the library catches the exception and raises another one."""
    script = (
        "import os, signal, sys\n"
        "from segc import cli, interrupts\n"
        "from segc.diagnostics import fail\n"
        "def library(*arguments, **options):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        raise fail('R005', 'damaged') from None\n"
        "interrupts.end_cleanly()\n"
        "cli.root.main = library\n"
        "sys.exit(cli.run([]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "interrupted\n")


def test_the_lines_that_are_told_go_on(project, capsys, monkeypatch):
    """As a user types it: five values are set, the training is interrupted, refused with another value, and goes on."""
    monkeypatch.chdir(project.parent)
    values = ("epochs=3", "batch=2", "nominal_batch=2", "seed=7", "val_interval=1")
    settings = [word for value in values for word in ("--set", f"hyperparameters.{value}")]
    say = PlainReport.epoch

    def interrupt(self, row):
        say(self, row)
        if row["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PlainReport, "epoch", interrupt)
    assert run(["train", *settings]) == 128 + signal.SIGTERM
    monkeypatch.setattr(PlainReport, "epoch", say)
    shown = capsys.readouterr().err
    line = shown.split("go on with: ")[1].splitlines()[0]
    assert line == "segc train --resume --name train"
    assert (project.parent / "build" / "runs" / "train" / "report.html").exists()

    assert run(["train", "--resume", "--set", "hyperparameters.lr0=0.001"]) == 1
    told = capsys.readouterr().err
    assert "hyperparameters.lr0: 0.005 → 0.001" in told
    assert line in told
    accept = "segc train --resume --name train --set hyperparameters.lr0=0.001 --allow-changed"
    assert accept in told

    assert run(shlex.split(accept)[1:]) == 0
    record = read_record(project.parent / "build" / "runs" / "train")
    assert [one.epoch for one in record.segments] == [0, 1]
    assert record.segments[1].changes == ("hyperparameters.lr0: 0.005 → 0.001",)
    assert len(record.overrides) == 6
    assert record.end == "finished"
    lock = (project.parent / "build" / "runs" / "train" / "project.lock.json").read_text()
    assert '"until_epoch": 1' in lock
    page = (project.parent / "build" / "runs" / "train" / "report.html").read_text()
    assert "hyperparameters.lr0: 0.005 → 0.001" in page
    assert record.dataset_digest in page


def test_a_run_is_trained_by_one_process_at_a_time(compiled):
    loaded, build = compiled(epochs=1)
    lock = try_lock(lock_file(build.folder / "runs" / "train"))
    assert lock is not None
    assert is_locked(lock.path)
    # Another name is found for a new run; a name that is asked for is refused.
    assert train(loaded, build).folder.name == "train-2"
    with pytest.raises(Exception, match="R012"):
        train(loaded, build, name="train")
    lock.release()
    assert not is_locked(lock.path)
    assert train(loaded, build, name="train").folder.name == "train"


def test_what_a_kill_left_is_swept_by_the_next_call(compiled):
    loaded, build = compiled(epochs=1)
    runs = build.folder / "runs"
    (runs / ".train.abc.partial").mkdir(parents=True)
    (runs / ".other.abc.partial").mkdir(parents=True)
    folder = train(loaded, build).folder
    assert not (runs / ".train.abc.partial").exists()
    assert (runs / ".other.abc.partial").exists()  # of a run that another process may be making
    assert not [path for path in folder.rglob("*") if "partial" in path.name]


def test_where_nothing_is_labelled_that_is_told_and_no_figure_is_made_up(compiled, project, tiny_data):
    data = project.parent / "data"
    data.unlink()
    shutil.copytree(tiny_data, data)
    for label in (data / "labels" / "val").iterdir():
        label.write_text("")
    report = Hears()
    loaded, build = compiled(epochs=2, val_interval=1)
    outcome = train(loaded, build, report=report)
    assert any("no image of dataset.val has a labelled object" in text for text in report.said)
    assert outcome.row["epoch"] == 2
    assert (outcome.row["box_map"], outcome.ties) == ("-", ())
    record = read_record(outcome.folder)
    assert (record.best["epoch"], record.best["box_map"], record.best["mask_map50"]) == (2, None, None)
    assert "nan" not in (outcome.folder / "results.csv").read_text()


def test_an_epoch_whose_weights_cannot_be_written_is_done_again(compiled, monkeypatch):
    whole = train(*compiled("whole-disk", **SETTINGS)).folder
    loaded, build = compiled("full-disk", **SETTINGS)
    save = Keeper.save_weights

    def full(keeper, which, tensors, epoch):
        if which == "best" and epoch == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(keeper, which, tensors, epoch)

    monkeypatch.setattr(Keeper, "save_weights", full)
    with pytest.raises(OSError, match="No space"):
        train(loaded, build)
    monkeypatch.setattr(Keeper, "save_weights", save)
    folder = train(loaded, build, resume=True).folder
    for which in ("best", "last"):
        first, second = (path / "weights" / f"{which}.safetensors" for path in (whole, folder))
        assert first.read_bytes() == second.read_bytes()


def test_a_training_goes_on_where_nobody_reads_what_it_says(compiled):
    watched = Hears()
    outcome = train(*compiled("unread", **SETTINGS), report=Recorded(Speechless(), [], watched))
    assert outcome.row["epoch"] == 2
