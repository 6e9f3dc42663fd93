"""``segc train`` as people use it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from segc.cli import run

SHORT = ["--set", "hyperparameters.epochs=2"]


def test_it_says_how_well_it_went_and_where_the_weights_are(project, capsys):
    assert run(["train", str(project), *SHORT, "--name", "mine"]) == 0
    shown = capsys.readouterr()
    folder = project.parent / "build"
    for text in ("box   mAP50-95", "mask  mAP50-95", str(folder / "runs" / "mine" / "weights" / "best.safetensors")):
        assert text in shown.out
    assert shown.err.count("epoch ") == 2
    assert shown.err.index("train: ") < shown.err.index("val: ") < shown.err.index("epoch ")
    assert (folder / "project.lock.json").exists()


def test_it_works_in_another_build_directory(project, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    assert run(["train", str(project), *SHORT, "--build-dir", str(elsewhere)]) == 0
    assert (elsewhere / "runs" / "train" / "weights" / "best.safetensors").exists()
    assert not (project.parent / "build").exists()
    assert run(["train", str(project), *SHORT, "--build-dir", str(elsewhere), "--resume"]) == 1
    assert "R004" in capsys.readouterr().err


def test_nothing_to_resume_is_an_error_without_a_traceback(project, capsys):
    assert run(["train", str(project), "--resume"]) == 1
    shown = capsys.readouterr().err
    assert "R001" in shown
    assert "Traceback" not in shown


def test_where_there_is_nothing_to_resume_the_line_that_starts_a_run_is_whole(project, capsys, monkeypatch):
    monkeypatch.chdir(project.parent)
    other = project.rename(project.with_name("q.yaml"))
    where = [other.name, "--build-dir", "x"]
    assert run(["train", *where, "--resume", "--name", "a"]) == 1
    assert "start one: segc train q.yaml --build-dir x --name a\n" in capsys.readouterr().err
    assert run(["train", *where, *SHORT, "--name", "a"]) == 0
    capsys.readouterr()
    assert run(["train", *where, "--resume", "--name", "b"]) == 1
    assert "there are: a; start one: segc train q.yaml --build-dir x --name b\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", "..", "", "-x", "a\nb", "a\x1b[2Jb", "a.yaml"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_run_is_named_like_a_folder(project, name, resume, capsys):
    assert run(["train", str(project), f"--name={name}", *resume]) == 2
    assert "a run's name is the name of a folder" in capsys.readouterr().err
    assert not (project.parent / "build").exists()


def test_without_an_object_to_learn_from_nothing_is_trained(project, capsys):
    names = "dataset.names=[" + ", ".join(f"n{index}" for index in range(90)) + "]"
    assert run(["train", str(project), "--set", names, "--set", "dataset.classes=[n89]"]) == 1
    shown = capsys.readouterr().err
    assert "error[D017]" in shown
    assert "dataset.classes leaves out all there are" in shown
    assert not (project.parent / "build" / "runs").exists()


def test_missing_images_are_an_error_without_a_traceback(project, capsys):
    (project.parent / "data").unlink()
    assert run(["train", str(project)]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown


def test_interrupted_from_the_keyboard_it_ends_and_says_how_to_go_on(project):
    settings = ["--set", "hyperparameters.epochs=500", "--set", "hyperparameters.workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "segc", "train", str(project), *settings],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    results = project.parent / "build" / "runs" / "train" / "results.csv"
    deadline = time.monotonic() + 120
    while not results.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    # The terminal sends it to the whole group, workers included.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
