"""Runs of a build directory: which one is used, and what can be done with them. Nothing is trained here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from segc.cli import run
from segc.diagnostics import SegcError
from segc.locks import try_lock
from segc.runs import (
    RunRecord,
    Segment,
    best_epochs,
    chosen_run,
    lock_file,
    ranked,
    read_record,
    read_results,
    resume_command,
    run_to_resume,
    started_with,
    told_ties,
    use_run,
    weights_of,
    write_record,
)
from segc.training.table import write_results


def make(build: Path, name: str, *, ended: str, score: float, end: str = "finished", **settings: object) -> Path:
    folder = build / "runs" / name
    segment = Segment(
        "2026-01-01T00:00:00+00:00", overrides=("hyperparameters.epochs=2", "name=a"), ended=ended, end=end
    )
    hyper = {"epochs": 2, "lr0": 0.01, **settings}
    write_record(
        folder, RunRecord(name, "shapes", 2, hyper, {"images of dataset.train": "6"}, "sha256:0", "", (segment,))
    )
    rows = [
        {
            "epoch": epoch,
            "seconds": 3.0 * epoch,
            "images_per_second": 5.0,
            "learning_rate": 0.1,
            "train_box": 1.0 / epoch,
            **dict.fromkeys(("box_map", "box_map50", "mask_map", "mask_map50"), score * epoch / 2),
        }
        for epoch in (1, 2)
    ]
    write_results(folder / "results.csv", rows)
    (folder / "weights").mkdir()
    (folder / "weights" / "best.safetensors").write_bytes(b"x" * 2**20)
    (folder / "checkpoint.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A good run, a later one that is worse, and one that was killed after both."""
    folder = tmp_path / "build"
    make(folder, "good", ended="2026-01-02T00:00:00+00:00", score=0.6)
    make(folder, "worse", ended="2026-01-03T00:00:00+00:00", score=0.2, lr0=0.5)
    make(folder, "killed", ended="", score=0.1, end="")
    (folder / "runs" / ".made.x.partial").mkdir()
    return folder


def test_the_run_that_finished_last_is_used_unless_another_one_is_chosen(build):
    assert (chosen_run(build).name, chosen_run(build).why) == ("worse", "finished last")
    assert chosen_run(build, "killed").name == "killed"
    use_run(build, "good")
    assert (chosen_run(build).name, chosen_run(build).why) == ("good", "chosen by `segc runs use`")
    use_run(build, None)
    assert chosen_run(build).name == "worse"
    for name in ("none", "..", "", ".made.x.partial"):
        with pytest.raises(SegcError, match="R001"):
            use_run(build, name)


def test_where_none_is_finished_the_last_one_is_used_and_said_to_be_unfinished(tmp_path):
    assert chosen_run(tmp_path) is None
    make(tmp_path, "a", ended="", end="", score=0.1)
    assert chosen_run(tmp_path).why == "not finished"
    (weights_of(tmp_path / "runs" / "a")).unlink()
    assert chosen_run(tmp_path) is None
    with pytest.raises(SegcError, match="no weights yet"):
        chosen_run(tmp_path, "a")


def test_commands_list_compare_choose_and_remove(build, capsys):
    where = ["--build-dir", str(build)]
    page = build / "page.html"
    assert run(["runs", "list", *where, "--html", str(page)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["killed", "good", "worse"]
    assert shown[3].endswith("used")
    assert "polyline" in page.read_text()
    assert run(["runs", "compare", "good", "worse", *where]) == 0
    shown = capsys.readouterr().out
    assert "0.450 (0.300 to 0.600, last 2)" in shown
    assert [line.split() for line in shown.splitlines() if "lr0" in line] == [["hyperparameters.lr0", "0.01", "0.5"]]
    assert run(["runs", "show", "good", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["best"]["epoch"] == 2
    assert run(["runs", "use", "good", *where]) == 0
    assert run(["runs", "prune", "--keep", "1", *where]) == 0
    assert "would remove worse" in capsys.readouterr().out
    assert run(["runs", "prune", "--keep", "1", "--yes", *where]) == 0
    assert {path.name for path in (build / "runs").iterdir() if path.is_dir()} == {"good", ".made.x.partial"}
    assert run(["runs", "rm", "none", *where]) == 1
    capsys.readouterr()
    assert run(["runs", "rm", "good", *where]) == 0
    assert "there is no run any more" in capsys.readouterr().out
    assert chosen_run(build) is None


def test_when_the_run_in_use_is_removed_the_one_that_is_used_then_is_told(build, capsys):
    where = ["--build-dir", str(build)]
    assert run(["runs", "use", "good", *where]) == 0
    capsys.readouterr()
    assert run(["runs", "rm", "good", *where]) == 0
    assert "val, emit and predict use run worse" in capsys.readouterr().out


def test_a_word_that_ends_as_a_project_file_does_is_the_project(build, capsys, monkeypatch):
    monkeypatch.chdir(build.parent)
    (build.parent / "elsewhere").mkdir()
    assert run(["runs", "list", "project.yaml"]) == 0
    assert "good" in capsys.readouterr().out
    assert run(["runs", "list", "elsewhere/project.yaml"]) == 0
    assert "no runs in" in capsys.readouterr().err
    assert run(["runs", "show", "project.yaml", "good"]) == run(["runs", "show", "good", "project.yaml"]) == 0
    assert run(["runs", "use", "project.yaml", "good"]) == 0
    assert chosen_run(build).name == "good"
    assert run(["runs", "show", "--project", "project.yaml", "a.yaml"]) == 1
    assert "there is no run `a.yaml`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(["list", "good"], ["list", "a.yaml", "b.yml"], ["show"], ["show", "a", "b"]),
        *(["compare", "a"], ["rm"], ["prune", "a"], ["use"]),
    ],
)
def test_another_number_of_runs_than_a_command_takes_is_wrong_usage(words, capsys):
    assert run(["runs", *words]) == 2
    assert f"segc runs {words[0]} [OPTIONS] [PROJECT]" in capsys.readouterr().err


def test_a_run_that_was_killed_is_not_shown_as_going_on(build, capsys):
    assert run(["runs", "show", "killed", "--build-dir", str(build)]) == 0
    assert "to ?, killed" in capsys.readouterr().out


def test_a_run_that_is_trained_is_not_removed(build, capsys):
    lock = try_lock(lock_file(build / "runs" / "good"))
    try:
        assert run(["runs", "rm", "good", "--build-dir", str(build)]) == 1
        assert "R012" in capsys.readouterr().err
        assert run(["runs", "list", "--build-dir", str(build)]) == 0
        assert "running" in capsys.readouterr().out
    finally:
        lock.release()


def test_of_equal_epochs_the_last_is_the_best_and_the_others_are_told():
    rows = [{"epoch": n, "box_map": value, "mask_map": value} for n, value in ((1, 0.2), (2, ""), (3, 0.4), (4, 0.4))]
    assert (best_epochs(rows)[0]["epoch"], best_epochs(rows)[1]) == (4, (3,))
    assert told_ties((3,)) == " (as good: 3)"
    unlabelled = [{"epoch": n, "box_map": "-", "mask_map": "-"} for n in (1, 2)]
    assert (best_epochs(unlabelled)[0]["epoch"], best_epochs(unlabelled)[1]) == (2, ())
    assert best_epochs(rows[1:2]) == ({}, ())


def test_a_run_goes_on_with_what_it_was_started_with_and_what_is_given_now(build):
    project = build.parent / "project.yaml"
    assert run_to_resume(project, build, "good").name == "good"
    assert started_with(project, build, "good", ()) == ("hyperparameters.epochs=2", "name=a")
    assert started_with(project, build, "good", ("name=b",)) == ("hyperparameters.epochs=2", "name=b")
    with pytest.raises(SegcError, match="R001"):
        started_with(project, build, "none", ())


def test_the_line_that_goes_on_is_as_short_as_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "project.yaml"
    assert resume_command(project, tmp_path / "build", "a") == "segc train --resume --name a"
    line = resume_command(tmp_path / "a b" / "p.yaml", tmp_path / "x", "a", overrides=["n=[1, 2]"], allow_changed=True)
    assert line == "segc train 'a b/p.yaml' --build-dir x --resume --name a --set 'n=[1, 2]' --allow-changed"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 9}', "\x00"])
def test_a_record_that_is_damaged_is_none(build, text):
    (build / "runs" / "good" / "run.json").write_text(text)
    assert read_record(build / "runs" / "good") is None
    assert run(["runs", "list", "--build-dir", str(build)]) == 0
    assert chosen_run(build).name == "worse"


def test_epochs_that_were_measured_otherwise_are_not_compared(build, capsys):
    folder = build / "runs" / "good"
    record = read_record(folder)
    rows = read_results(folder / "results.csv")
    later = [{**rows[-1], "epoch": str(epoch), "box_map": value} for epoch, value in ((3, "0.1"), (4, "0.05"))]
    write_results(folder / "results.csv", [*rows, *later])
    write_record(folder, replace(record, measured_anew=(2,)))
    assert run(["runs", "show", "good", "--build-dir", str(build)]) == 0
    shown = capsys.readouterr().out
    assert "best epoch" in shown
    assert "epochs up to 2 were measured otherwise, and are not compared with later ones" in shown
    assert "0.100, at the end 0.075 (0.050 to 0.100, last 2)" in shown
    write_results(folder / "results.csv", rows)
    assert run(["runs", "show", "good", "--build-dir", str(build)]) == 0
    assert "0.600, at the end 0.450 (0.300 to 0.600, last 2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("measured_anew", "best"), [((), 2), ((2,), 3), ((1,), 2), ((1, 2), 3), ((2, 2), 3), ((4,), 2), ((2, 4), 3)]
)
def test_the_best_epoch_is_one_of_those_measured_as_the_last_one_was(measured_anew, best):
    rows = [{"epoch": n, "box_map": v, "mask_map": v} for n, v in ((1, 0.3), (2, 0.6), (3, 0.2), (4, 0.1))]
    assert best_epochs(ranked(rows, measured_anew))[0]["epoch"] == best


def test_json_has_numbers_and_null_where_nothing_was_measured(build, capsys):
    rows = read_results(build / "runs" / "good" / "results.csv")
    write_results(build / "runs" / "good" / "results.csv", [*rows[:1], {**rows[1], "box_map50": "-", "seconds": "6.5"}])
    assert run(["runs", "list", "--json", "--build-dir", str(build)]) == 0
    views = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    best = views["good"]["best"]
    assert (best["epoch"], best["box_map"], best["box_map50"], best["seconds"]) == (2, 0.6, None, 6.5)
    assert type(best["epoch"]) is int
    assert not [value for one in views.values() for value in one["best"].values() if isinstance(value, str)]
