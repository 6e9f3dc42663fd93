"""Searching hyperparameters: ranges as they are written, trials as runs on record, studies that go on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from segc.cli import run
from segc.diagnostics import SegcError
from segc.runs import read_record, run_names
from segc.spec.load import load_project
from segc.spec.tune import as_range
from segc.tuning import _opened, _suggested

optuna = pytest.importorskip("optuna")

TUNE = "tune: {lr0: [1e-4, 1e-2, log], box: [1.0, 10.0], optimizer: [SGD, AdamW]}\n"


@pytest.fixture
def searched(project: Path) -> Path:
    project.write_text(project.read_text().replace("epochs: 4", "epochs: 2").replace("lr0: 0.005", "") + TUNE)
    return project


def test_ranges_mean_what_they_say(searched):
    ranges = [as_range(key, values) for key, values in load_project(searched).project.tune.items()]
    assert [(one.key, one.low, one.high, one.log, one.choices) for one in ranges] == [
        ("lr0", 1e-4, 1e-2, True, ()),
        ("box", 1.0, 10.0, False, ()),
        ("optimizer", None, None, False, ("SGD", "AdamW")),
    ]
    assert as_range("batch", [4, 16]).whole


def test_sides_are_searched_where_the_network_takes_them():
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {_suggested(study.ask(), as_range("imgsz", [64, 160])) for _ in range(40)}
    assert drawn == {64, 96, 128, 160}


def test_a_driver_that_is_not_installed_is_named_with_what_to_do():
    with pytest.raises(SegcError) as error:
        _opened("study", "postgresql+nosuchdriver://user@localhost/studies")
    (problem,) = error.value.diagnostics
    assert problem.code in {"F002", "F004"}
    with (
        patch("optuna.create_study", side_effect=ImportError("Failed to import DB access module")),
        pytest.raises(SegcError, match="F004"),
    ):
        _opened("study", "postgresql://user@localhost/studies")


@pytest.mark.parametrize(
    "wrong",
    [
        "{nothing: [1, 2]}",
        "{augment.nothing: [1, 2]}",
        "{augment: [1, 2]}",
        "{lr0: 0.1}",
        "{lr0: [0.1]}",
        "{lr0: [0.2, 0.1]}",
        "{lr0: [0.0, 0.1, log]}",
        "{lr0: [0.1, 99.0]}",
        "{optimizer: [SGD, Adam]}",
        "{imgsz: [64, 100]}",
        "{imgsz: [64, 128, log]}",
    ],
)
def test_ranges_that_cannot_be_searched_are_told_with_their_place(searched, wrong):
    searched.write_text(searched.read_text().replace(TUNE, f"tune: {wrong}\n"))
    with pytest.raises(SegcError) as error:
        load_project(searched)
    assert [diagnostic.code for diagnostic in error.value.diagnostics] == ["X225"]
    assert error.value.diagnostics[0].line is not None


def test_trials_are_runs_and_the_winner_is_a_line_to_type(searched, capsys):
    assert run(["tune", str(searched), "--trials", "2"]) == 0
    shown = capsys.readouterr().out
    build = searched.parent / "build"
    assert run_names(build) == ["tune-0", "tune-1"]
    line = next(text for text in shown.splitlines() if text.startswith("train it again: "))
    words = shlex.split(line.removeprefix("train it again: "))[1:]
    loaded = load_project(searched, [word for word in words if "=" in word])
    best = shown.split("best: run ")[1].partition(",")[0]
    hyper = read_record(build / "runs" / best).hyperparameters
    assert {key: getattr(loaded.project.hyperparameters, key) for key in ("lr0", "box", "optimizer")} == {
        key: hyper[key] for key in ("lr0", "box", "optimizer")
    }
    assert run(["tune", str(searched), "--trials", "2"]) == 0  # the study has them already
    assert run_names(build) == ["tune-0", "tune-1"]


def test_a_winner_whose_run_was_removed_is_not_to_be_used(searched, capsys):
    assert run(["tune", str(searched), "--trials", "1"]) == 0
    assert "use its weights: segc runs use" in capsys.readouterr().out
    assert run(["runs", "rm", str(searched), "tune-0"]) == 0
    capsys.readouterr()
    assert run(["tune", str(searched), "--trials", "1"]) == 0
    shown = capsys.readouterr().out
    assert "use its weights" not in shown
    assert "run tune-0 has no weights in " in shown
    assert "train it again: " in shown


@pytest.mark.slow
def test_two_processes_search_together_and_one_that_is_killed_loses_nothing(searched):
    command = [sys.executable, "-m", "segc", "tune", str(searched), "--trials", "12"]
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(2)]
    build = searched.parent / "build"
    deadline = time.monotonic() + 600
    while len(run_names(build)) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(processes[0].pid, signal.SIGKILL)
    for process in processes:
        process.wait(600)
    assert subprocess.run(command, check=False).returncode == 0
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{build / 'tune' / 'tune.db'}")
    states = [trial.state.name for trial in study.trials]
    assert sum(state in {"COMPLETE", "PRUNED"} for state in states) >= 12
    assert "RUNNING" not in states
    ends = [read_record(build / "runs" / name).end for name in run_names(build)]
    assert all(end == "finished" or end.startswith("given up") for end in ends)
