"""Whole trainings, small ones: they learn, they are exact, and they survive being stopped."""

import csv
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from segc.architectures import build_graph
from segc.build import build
from segc.cli import run
from segc.diagnostics import SegcError
from segc.network.initialise import initial_weights
from segc.runs import chosen_run, read_record
from segc.spec.load import load_project
from segc.training import keeping, loop
from segc.training.checkpoint import load_checkpoint
from segc.training.engine import Engine, NotFiniteError
from segc.training.identity import measured_otherwise
from segc.training.loop import Training, train
from segc.training.optimizer import optimizer_tensors
from segc.training.report import Report
from segc.weights.store import load_weights


class Stop(BaseException):  # stands for a kill, after which nothing is written
    """The moment at which a training is killed."""


class StopAt(Report):
    """Stops a training in an epoch, counted from 1, after some steps, as a kill would: nothing more is written."""

    def __init__(self, epoch: int, steps: int = 1) -> None:
        self.wanted, self.after, self.now, self.said = epoch, steps, 0, []

    def say(self, text):
        self.said.append(text)

    def steps(self, epoch, epochs, total, done=0):  # noqa: ARG002
        self.now = epoch

    def step(self, values):  # noqa: ARG002
        self.after -= self.now == self.wanted
        if self.now == self.wanted and not self.after:
            raise Stop


def code(error: pytest.ExceptionInfo[SegcError]) -> str:
    return error.value.diagnostics[0].code


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def same_results(a: Path, b: Path) -> bool:
    measured = {"seconds", "images_per_second", "memory_gib"}
    one, two = ([{k: v for k, v in row.items() if k not in measured} for row in rows(folder)] for folder in (a, b))
    return one == two


def same_state(a: Path, b: Path) -> bool:
    one, two = (load_checkpoint(folder / "checkpoint.safetensors") for folder in (a, b))
    return all(
        dict(x).keys() == dict(y).keys() and all(torch.equal(x[k], y[k]) for k in x)
        for x, y in ((one.network, two.network), (one.average, two.average), (one.optimizer, two.optimizer))
    )


def test_training_lowers_the_loss_and_leaves_whole_weights(compiled):
    loaded, build = compiled(epochs=12, val_interval=5, lr0=0.003)
    outcome = train(loaded, build)
    table = rows(outcome.folder)
    assert [int(row["epoch"]) for row in table] == list(range(1, 13))
    losses = {term: [float(row[f"train_{term}"]) for row in table] for term in ("box", "cls", "dfl", "mask")}
    # The boxes' losses are weighted by the scores of what is found: they rise from nothing as objects are.
    assert all(np.mean(losses[term][-3:]) > 100 * losses[term][0] for term in ("box", "dfl"))
    assert sum(losses["mask"][-3:]) / 3 < 0.8 * losses["mask"][0]
    assert [row["box_map"] != "" for row in table] == [e in {5, 10, 12} for e in range(1, 13)]
    graph = build_graph(loaded.project.architecture, 2, (64, 64))
    for file in (outcome.best, outcome.last):
        weights = load_weights(file)
        assert weights.tensors.keys() == graph.parameters.keys()
        assert json.loads(weights.metadata["names"]) == ["disc", "bar"]
        assert all(np.isfinite(value).all() for value in weights.tensors.values())
    assert outcome.best == outcome.folder / "weights" / "best.safetensors"
    assert not [p for p in build.folder.rglob("*") if ".partial" in p.name]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(compiled):
    first, second, other = (
        train(*compiled(folder, epochs=2, seed=seed)).last for folder, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    weights = [load_weights(path).tensors for path in (first, second, other)]
    assert all(np.array_equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(np.array_equal(weights[0][k], weights[2][k]) for k in weights[0])


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(compiled, optimizer, stop):
    settings = {"optimizer": optimizer, "nominal_batch": 16}
    whole = train(*compiled("whole", **settings)).folder
    with pytest.raises(Stop):
        train(*compiled("killed", **settings), report=StopAt(stop))
    resumed = train(*compiled("killed", **settings), resume=True).folder
    assert same_state(whole, resumed)
    assert same_results(whole, resumed)
    for name in ("weights/best.safetensors", "weights/last.safetensors"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


@pytest.mark.parametrize(
    "settings", [{"nominal_batch": 2}, {"nominal_batch": 6}, {"nominal_batch": 2, "precision": "fp16"}]
)
def test_a_training_stopped_at_any_step_goes_on_from_there(compiled, monkeypatch, settings):
    settings = {"batch": 2, "epochs": 2, **settings}
    monkeypatch.setattr(keeping, "SAVING_SHARE", math.inf)  # a checkpoint after every update
    whole = train(*compiled("whole", **settings)).folder
    for step in range(1, 4):
        with pytest.raises(Stop):
            train(*compiled(f"killed{step}", **settings), report=StopAt(2, step))
        report = StopAt(9)
        resumed = train(*compiled(f"killed{step}", **settings), resume=True, report=report).folder
        assert same_state(whole, resumed)
        assert same_results(whole, resumed)
        if step > 1 and settings["nominal_batch"] == 2:
            assert "after epoch 1 of 2, step" in " ".join(report.said)


def test_workers_change_nothing(compiled):
    alone, helped = (train(*compiled(f"w{n}", workers=n, epochs=2)).folder for n in (0, 2))
    assert same_state(alone, helped)


def test_a_second_training_has_a_folder_of_its_own_and_the_first_keeps_its_weights(compiled):
    loaded, build = compiled(epochs=1)
    first = train(loaded, build)
    kept = first.best.read_bytes()
    second = train(*compiled(epochs=1, seed=1))
    assert [first.folder.name, second.folder.name] == ["train", "train-2"]
    assert first.best.read_bytes() == kept != second.best.read_bytes()
    assert load_weights(second.best).metadata["run"] == "train-2"


def test_a_name_that_is_taken_is_refused(compiled):
    loaded, build = compiled(epochs=1)
    train(loaded, build, name="mine")
    with pytest.raises(SegcError) as error:
        train(loaded, build, name="mine")
    assert code(error) == "R003"


def test_of_several_runs_the_one_that_trained_last_is_resumed_or_the_one_named(compiled):
    loaded, build = compiled()
    for name in ("one", "two"):
        with pytest.raises(Stop):
            train(loaded, build, name=name, report=StopAt(2))
    assert train(loaded, build, resume=True).folder.name == "two"
    assert train(loaded, build, resume=True, name="one").folder.name == "one"


def test_there_must_be_a_run_to_resume(compiled):
    for name in (None, "mine"):
        with pytest.raises(SegcError) as error:
            train(*compiled(), resume=True, name=name)
        assert code(error) == "R001"


@pytest.mark.parametrize("name", ["", "../x", "-x", "a\nb"])
def test_a_name_that_no_run_can_have_is_refused_in_python_too(compiled, name):
    loaded, build = compiled()
    with pytest.raises(ValueError, match="a run's name is the name of a folder"):
        train(loaded, build, name=name)
    with pytest.raises(SegcError) as error:
        train(loaded, build, name=name, resume=True)
    assert code(error) == "R001"
    assert not (build.folder / "runs").exists()


def test_a_complete_run_is_not_resumed(compiled):
    train(*compiled(epochs=1))
    with pytest.raises(SegcError) as error:
        train(*compiled(epochs=1), resume=True)
    assert code(error) == "R004"


def test_a_changed_project_is_refused_with_what_changed(compiled):
    with pytest.raises(Stop):
        train(*compiled(), report=StopAt(2))
    with pytest.raises(SegcError) as error:
        train(*compiled(lr0=0.002, mask=3.0), resume=True)
    assert code(error) == "R002"
    assert "hyperparameters.lr0: 0.005 → 0.002" in error.value.diagnostics[0].message
    assert "hyperparameters.mask: None → 3.0" in error.value.diagnostics[0].message
    assert train(*compiled(workers=1, conf=0.5), resume=True).row["epoch"] in {2, 4}


@pytest.mark.parametrize("changes", [{"lr0": 0.002, "epochs": 3}, {"optimizer": "SGD", "batch": 3}, {"freeze": 2}])
def test_a_changed_project_goes_on_where_that_is_accepted(compiled, changes):
    with pytest.raises(Stop):
        train(*compiled(), report=StopAt(3))
    report = StopAt(99)
    outcome = train(*compiled(**changes), resume=True, allow_changed=True, report=report)
    key, value = next(iter(changes.items()))
    assert f"hyperparameters.{key}: " in " ".join(report.said)
    assert f"→ {value}" in " ".join(report.said)
    assert [int(row["epoch"]) for row in rows(outcome.folder)] == list(range(1, changes.get("epochs", 4) + 1))
    # From now on the run is one of the changed project.
    with pytest.raises(SegcError) as error:
        train(*compiled(), resume=True)
    assert code(error) in {"R002", "R004"}


def test_a_broken_loss_or_gradient_costs_one_update_and_leaves_no_trace(compiled, monkeypatch):
    settings = {"batch": 2, "epochs": 2, "nominal_batch": 2}
    descend, update = Engine.descend, Engine.update

    def states(engine):
        return {**engine.network.state_dict(), **optimizer_tensors(engine.optimizer)}

    def broken_descend(self, batch, *, update):
        if self.calls == 1:
            before = {key: value.clone() for key, value in states(self).items()}
            loss, self.loss = self.loss, lambda outputs, batch: tuple(v * math.nan for v in loss(outputs, batch))
            with pytest.raises(NotFiniteError, match="box and cls and dfl and mask loss is not a finite number"):
                descend(self, batch, update=update)
            self.loss = loss
            assert all(torch.equal(value, before[key]) for key, value in states(self).items())
        self.calls += 1
        return descend(self, batch, update=update)

    def broken_update(self):
        if self.calls == 3:
            self.parameters[0].grad[0] = math.inf
        update(self)

    monkeypatch.setattr(Engine, "calls", 0, raising=False)
    monkeypatch.setattr(Engine, "descend", broken_descend)
    monkeypatch.setattr(Engine, "update", broken_update)
    report = StopAt(9)
    outcome = train(*compiled(**settings), report=report)
    assert [row["skipped"] for row in rows(outcome.folder)] == ["1", "0"]
    assert any("gradients are not finite numbers in epoch 1, step 3" in text for text in report.said)
    assert all(np.isfinite(value).all() for value in load_weights(outcome.last).tensors.values())


def test_what_is_frozen_stays_as_it_is(compiled):
    loaded, build = compiled(epochs=2, freeze="[model.0, model.22.cv2.1]")
    start = initial_weights(build.graph.parameters, 0)
    found = load_checkpoint(train(loaded, build).folder / "checkpoint.safetensors")
    frozen = {name for name in start if name.startswith(("model.0.", "model.22.cv2.1."))}
    same = {name for name, value in start.items() if np.array_equal(found.network[name].numpy(), value)}
    assert frozen <= same
    trained = {name for name, parameter in build.graph.parameters.items() if parameter.role == "weight"}
    assert not same & (trained - frozen)
    assert not {key.partition("/")[2] for key in found.optimizer} & frozen


def test_a_training_that_gets_no_better_stops_and_is_complete(compiled, monkeypatch):
    values = iter([0.2, 0.3, 0.1, 0.1])
    columns = ("box_map50", "box_map", "mask_map50", "mask_map")
    monkeypatch.setattr(loop, "scores", lambda _: dict.fromkeys(columns, next(values)))
    report = StopAt(99)
    outcome = train(*compiled(epochs=20, val_interval=1, patience=2), report=report)
    assert [int(row["epoch"]) for row in rows(outcome.folder)] == [1, 2, 3, 4]
    assert (outcome.row["epoch"], outcome.folder.name) == (2, "train")
    assert "no better validation for 2 epochs" in report.said[-1]
    assert outcome.last.exists()
    with pytest.raises(SegcError) as error:
        train(*compiled(epochs=20, val_interval=1, patience=2), resume=True)
    assert code(error) == "R004"


def test_other_images_are_a_changed_project(compiled, project, tiny_data):
    with pytest.raises(Stop):
        train(*compiled(), report=StopAt(2))
    data = project.parent / "data"
    data.unlink()
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        for split in ("train", "val"):
            (data / kind / split).mkdir(parents=True)
            for path in sorted((tiny_data / kind / split).glob(f"*.{suffix}"))[: 5 if split == "train" else None]:
                (data / kind / split / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SegcError) as error:
        train(*compiled(), resume=True)
    assert code(error) == "R002"
    assert "images of dataset.train: 6" in error.value.diagnostics[0].message


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"x" * 5000])
def test_a_damaged_checkpoint_is_refused(compiled, damage):
    loaded, build = compiled()
    with pytest.raises(Stop):
        train(loaded, build, report=StopAt(2))
    path = build.folder / "runs" / "train" / "checkpoint.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SegcError) as error:
        train(loaded, build, resume=True)
    assert code(error) == "R005"


def test_weights_in_the_place_of_a_checkpoint_are_refused(compiled):
    loaded, build = compiled(epochs=1)
    folder = train(loaded, build).folder
    (folder / "checkpoint.safetensors").write_bytes((folder / "weights" / "last.safetensors").read_bytes())
    with pytest.raises(SegcError) as error:
        train(loaded, build, resume=True)
    assert code(error) == "R005"


def test_a_loss_that_stays_not_finite_stops_the_training(compiled, monkeypatch):
    loaded, build = compiled(max_skipped=2)
    begin = Training.begin

    def poisoned(self, name):
        begin(self, name)
        with torch.no_grad():
            self.engine.parameters[0][0] = float("nan")

    monkeypatch.setattr(Training, "begin", poisoned)
    report = StopAt(9)
    with pytest.raises(SegcError) as error:
        train(loaded, build, report=report)
    assert code(error) == "R006"
    assert "epoch 2, step 1 of 2, after 2 updates skipped" in error.value.diagnostics[0].message
    assert sum("this update is skipped" in text for text in report.said) == 3


def test_an_image_that_breaks_during_the_training_is_named(compiled, project, tiny_data):
    data = project.parent / "data"
    data.unlink()
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    (data / "images" / "train" / "3.png").write_bytes(b"")
    with pytest.raises(SegcError) as error:
        train(*compiled())
    assert code(error) == "D002"
    assert error.value.diagnostics[0].file == data / "images" / "train" / "3.png"


def test_a_dataset_that_vanishes_is_one_diagnostic_with_the_line_that_goes_on(project, tiny_data, capsys, monkeypatch):
    data = project.parent / "data"
    data.unlink()
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    away = data.with_name("away")
    monkeypatch.chdir(project.parent)
    epoch, done = Training._epoch, []

    def vanishing(training):
        epoch(training)
        done.append(data.rename(away))

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_epoch", vanishing)
        assert run(["train", "--name", "a", "--set", "hyperparameters.cache=false"]) == 1
    told = capsys.readouterr().err
    assert told.count("error[D002]") == 1
    assert "the image was there before and is gone" in told
    assert "then go on with: segc train --resume --name a\n" in told
    assert len(done) == 1
    away.rename(data)
    assert run(["train", "--resume", "--name", "a"]) == 0


def test_an_unreadable_image_is_named_and_counted_if_so_wished(project, tiny_data):
    data = project.parent / "data"
    data.unlink()
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    (data / "images" / "train" / "3.png").write_bytes(b"")
    report = StopAt(0)
    loaded = load_project(project, ["dataset.corrupt=skip", "hyperparameters.epochs=2"])
    outcome = train(loaded, build(loaded, project.parent / "build"), report=report)
    assert [row["unreadable"] for row in rows(outcome.folder)] == ["1", "1"]
    assert sum("3.png" in text for text in report.said) == 1


def test_changed_labels_are_a_changed_project(compiled, project, tiny_data):
    with pytest.raises(Stop):
        train(*compiled(), report=StopAt(2))
    data = project.parent / "data"
    data.unlink()
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    label = data / "labels" / "train" / "3.txt"
    label.write_text(label.read_text() + "0 .5 .5 .2 .2\n")
    with pytest.raises(SegcError) as error:
        train(*compiled(), resume=True)
    assert code(error) == "R002"
    assert "labels of dataset.train" in error.value.diagnostics[0].message


def test_a_training_starts_from_the_weights_that_the_project_names(compiled, project):
    first = train(*compiled(epochs=1)).last
    (project.parent / "start.safetensors").write_bytes(first.read_bytes())
    text = project.read_text().replace("dataset:", "  weights: start.safetensors\ndataset:")
    project.write_text(text)
    report = StopAt(1)
    with pytest.raises(Stop):
        train(*compiled("second"), report=report)
    assert "start.safetensors" in " ".join(report.said)
    begun = load_checkpoint(project.parent / "second" / "runs" / "train" / "checkpoint.safetensors")
    tensors = load_weights(first).tensors
    assert all(np.array_equal(begun.network[name].numpy(), value) for name, value in tensors.items())


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(compiled):
    loaded, build = compiled()
    with pytest.raises(Stop):
        train(loaded, build, report=StopAt(3))
    checkpoint = build.folder / "runs" / "train" / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            train(loaded, build, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.read_bytes() == before
    assert train(loaded, build, resume=True).row


def test_one_value_a_channel_is_refused(compiled):
    with pytest.raises(SegcError) as error:
        train(*compiled(imgsz=32, batch=5))
    assert code(error) == "R008"


def test_a_killed_process_leaves_a_run_that_goes_on(compiled, project):
    settings = ["--set", "hyperparameters.epochs=12", "--set", "hyperparameters.workers=1"]
    command = [sys.executable, "-m", "segc", "train", str(project), *settings]
    folder = project.parent / "build" / "runs" / "train"
    generator = np.random.default_rng(os.getpid())
    kills = 0
    for attempt in range(2):
        resume = ["--resume"] if attempt else []
        process = subprocess.Popen([*command, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        seen = len(rows(folder)) if attempt else 0
        while process.poll() is None and time.monotonic() < deadline:
            if (folder / "results.csv").exists() and len(rows(folder)) > seen:
                break
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    if "R004" not in done.stderr:
        assert done.returncode == 0, done.stderr
    assert [int(row["epoch"]) for row in rows(folder)] == list(range(1, 13))
    whole = train(*compiled("whole", epochs=12, workers=1)).folder
    assert same_state(whole, folder)
    best = Path("weights", "best.safetensors")
    assert (whole / best).read_bytes() == (folder / best).read_bytes()
    assert same_results(whole, folder)


def test_a_project_with_tiles_trains_on_their_crops_and_can_be_resumed(compiled):
    settings = {"tiles": "{size: 48, overlap: 0.0}", "epochs": 2, "val_interval": 1}
    loaded, planned = compiled("whole", **settings)
    assert planned.plan.cut_from == 6
    assert f"{planned.plan.images} crops of 6 images" in planned.files["summary.txt"]
    whole = train(loaded, planned).folder
    stopped, report = compiled("parts", **settings), StopAt(2)
    with pytest.raises(Stop):
        train(*stopped, report=report)
    assert f"{planned.plan.images} crops of 6 images, 6 of which are larger" in "".join(report.said)
    with pytest.raises(SegcError) as error:
        train(*compiled("parts", **settings | {"tiles": "{size: 64, overlap: 0.0}"}), resume=True)
    assert code(error) == "R002"
    assert same_state(train(*stopped, resume=True).folder, whole)
    assert load_checkpoint(whole / "checkpoint.safetensors").progress.steps == 2 * planned.plan.steps_per_epoch


def scored(values):
    columns = ("box_map50", "box_map", "mask_map50", "mask_map")
    left = iter(values)
    return lambda _: dict.fromkeys(columns, next(left))


@pytest.mark.parametrize("change", [{"imgsz": 96}, {"rect": True}, {"iou": 0.6}, {"max_det": 10}])
def test_after_a_change_of_what_is_measured_the_best_epoch_and_patience_count_anew(compiled, monkeypatch, change):
    settings = {"val_interval": 1, "patience": 3}
    monkeypatch.setattr(loop, "scores", scored([0.8, 0.9]))
    first = train(*compiled(epochs=2, **settings)).best.read_bytes()
    monkeypatch.setattr(loop, "scores", scored([0.3, 0.4, 0.2, 0.2]))
    report = StopAt(99)
    outcome = train(*compiled(epochs=6, **settings, **change), resume=True, allow_changed=True, report=report)
    assert [int(row["epoch"]) for row in rows(outcome.folder)] == [1, 2, 3, 4, 5, 6]
    assert (outcome.row["epoch"], outcome.row["box_map"]) == (4, 0.4)
    (told,) = (text for text in report.said if "measures otherwise" in text)
    assert f"hyperparameters.{next(iter(change))}" in told
    kept = outcome.folder / "weights" / "best-until-0002.safetensors"
    assert str(kept) in told
    assert kept.read_bytes() == first
    record = read_record(outcome.folder)
    assert (record.best["epoch"], record.measured_anew) == (4, (2,))


@pytest.mark.parametrize(
    "key", ["dataset.val", "images of dataset.val", "labels of dataset.val", "hyperparameters.tiles.size"]
)
def test_other_validation_images_labels_or_tiles_are_another_measure(key):
    then, now = ({key: value, "hyperparameters.lr0": value} for value in (1, 2))
    assert measured_otherwise(then, now) == [key]


def test_after_other_changes_the_best_epoch_stays(compiled, monkeypatch):
    monkeypatch.setattr(loop, "scores", scored([0.8, 0.9, 0.3]))
    train(*compiled(epochs=2, val_interval=1))
    report = StopAt(99)
    changed = compiled(epochs=3, val_interval=1, lr0=0.001)
    outcome = train(*changed, resume=True, allow_changed=True, report=report)
    assert outcome.row["epoch"] == 2
    assert not any("measures otherwise" in text for text in report.said)


def test_of_epochs_that_are_measured_otherwise_the_best_are_kept_apart(compiled, monkeypatch):
    settings = {"val_interval": 1, "keep_best": 2}
    monkeypatch.setattr(loop, "scores", scored([0.7, 0.8, 0.9, 0.1, 0.3, 0.2]))
    train(*compiled(epochs=3, **settings))
    outcome = train(*compiled(epochs=6, imgsz=96, **settings), resume=True, allow_changed=True)
    kept = sorted(path.stem for path in (outcome.folder / "weights").glob("epoch-*"))
    assert kept == ["epoch-0002", "epoch-0003", "epoch-0005", "epoch-0006"]


def test_a_run_that_patience_ended_says_so_and_goes_on_where_patience_allows_it(compiled, monkeypatch):
    monkeypatch.setattr(loop, "scores", scored([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]))
    settings = {"epochs": 8, "val_interval": 1}
    folder = train(*compiled(patience=2, **settings)).folder
    assert len(rows(folder)) == 3
    for still in ({"patience": 2}, {"patience": 1}, {"patience": 2, "lr0": 0.001}):
        with pytest.raises(SegcError) as error:
            train(*compiled(**{**settings, **still}), resume=True, allow_changed=True)
        assert code(error) == "R004"
        (told,) = error.value.diagnostics
        assert "3 of 8 epochs are done; patience ended it, after 2 epochs without a better validation" in told.message
        assert "--resume --name train --set hyperparameters.patience=0 --allow-changed" in told.help
    with pytest.raises(SegcError) as error:
        train(*compiled(patience=0, **settings), resume=True)
    assert code(error) == "R002"
    assert len(rows(train(*compiled(patience=4, **settings), resume=True, allow_changed=True).folder)) == 5
    assert len(rows(train(*compiled(patience=0, **settings), resume=True, allow_changed=True).folder)) == 8


def test_a_run_that_has_done_all_its_epochs_says_how_it_is_trained_further(compiled):
    train(*compiled(epochs=2))
    with pytest.raises(SegcError) as error:
        train(*compiled(epochs=2), resume=True)
    (told,) = error.value.diagnostics
    assert "complete: 2 of 2 epochs are done" in told.message
    assert "--resume --name train --set hyperparameters.epochs=4 --allow-changed" in told.help
    assert len(rows(train(*compiled(epochs=4), resume=True, allow_changed=True).folder)) == 4


def test_after_another_measure_patience_that_ended_a_run_counts_anew(compiled, monkeypatch):
    monkeypatch.setattr(loop, "scores", scored([0.5, 0.4, 0.3, 0.2, 0.1]))
    settings = {"epochs": 8, "val_interval": 1, "patience": 1}
    train(*compiled(**settings))
    outcome = train(*compiled(imgsz=96, **settings), resume=True, allow_changed=True)
    assert [row["epoch"] for row in rows(outcome.folder)] == ["1", "2", "3", "4"]
    assert outcome.row["epoch"] == 3


@pytest.mark.parametrize("corrupt", ["error", "skip"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_validation_image_that_cannot_be_read_is_told_before_the_first_step(project, tiny_data, corrupt, resume):
    data = project.parent / "data"
    data.unlink()
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    loaded = load_project(project, [f"dataset.corrupt={corrupt}", "hyperparameters.val_interval=4"])
    compiled = build(loaded, project.parent / "build")
    if resume:
        with pytest.raises(Stop):
            train(loaded, compiled, report=StopAt(2))
    broken = data / "images" / "val" / "1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    report = StopAt(1)
    with pytest.raises(SegcError) as error:
        train(loaded, compiled, resume=resume, report=report)
    (told,) = error.value.diagnostics
    assert (told.code, told.file) == ("D002", broken)
    assert not report.now
    assert (project.parent / "build" / "runs").exists() == resume


def test_after_an_image_was_taken_out_the_line_that_is_printed_goes_on(project, tiny_data, capsys, monkeypatch):
    data = project.parent / "data"
    data.unlink()
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    (data / "images" / "train" / "3.png").write_bytes(b"")
    monkeypatch.chdir(project.parent)
    assert run(["train"]) == 1
    line = capsys.readouterr().err.rpartition("then go on with: ")[2].strip()
    assert line == "segc train --resume --name train --allow-changed"
    (data / "images" / "train" / "3.png").unlink()
    (data / "labels" / "train" / "3.txt").unlink()
    assert run(line.split()[1:]) == 0


def test_the_record_of_a_killed_run_knows_its_best_epoch(compiled):
    with pytest.raises(Stop):
        train(*(found := compiled()), report=StopAt(3))
    record = read_record(found[1].folder / "runs" / "train")
    assert (record.best["epoch"], record.end) == (2, "")
    assert record.seconds > 0


def test_where_nothing_was_measured_no_epoch_is_called_as_good(project, tiny_data, capsys):
    data = project.parent / "data"
    data.unlink()
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    for label in (data / "labels" / "val").iterdir():
        label.write_text("")
    assert (
        run(
            [
                "train",
                str(project),
                *(word for key in ("epochs=2", "val_interval=1") for word in ("--set", f"hyperparameters.{key}")),
            ]
        )
        == 0
    )
    assert "best epoch 2, the last one, as nothing was measured: " in capsys.readouterr().out


def test_the_run_that_finished_last_is_used_though_the_clock_was_set_back(compiled, monkeypatch, capsys):
    loaded, build = compiled(epochs=1)
    for name, year in (("first", 2030), ("second", 2020)):
        monkeypatch.setattr(keeping, "now", lambda year=year: f"{year}-01-01T00:00:00+00:00")
        train(loaded, build, name=name)
    assert (chosen_run(build.folder).name, chosen_run(build.folder).why) == ("second", "finished last")
    assert run(["runs", "list", "--build-dir", str(build.folder)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["first", "second"]
