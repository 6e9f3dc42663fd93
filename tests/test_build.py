"""`segc build` compiles a project to the same bytes every time, without the heavy packages."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from segc.build import build, model_metadata
from segc.cli import run
from segc.files import canonical_json
from segc.graph.serial import read_graph
from segc.plan import make_plan
from segc.spec.hyperparameters import Hyperparameters
from segc.spec.load import load_project
from segc.training.schedule import rates

SPEC = """\
version: 1
name: plan
architecture: {family: yolov8-seg, scale: n}
dataset: {path: data, train: images/train, val: images/val, names: [cat, dog]}
hyperparameters: {imgsz: [64, 96], epochs: 4, batch: 2, nominal_batch: 8}
targets: [{format: onnx}]
"""
FILES = {"project.lock.json", "graph.json", "plan.json", "summary.txt"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project.yaml"
    path.write_text(SPEC)
    return path


def add_images(project: Path, count: int) -> None:
    folder = project.parent / "data" / "images" / "train"
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index}.jpg").write_bytes(b"not opened by build")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_build_directory_holds_lock_graph_plan_and_summary(project: Path) -> None:
    add_images(project, 5)
    loaded = load_project(project)
    loaded.build_dir.mkdir()
    (loaded.build_dir / ".summary.txt.k1lled.partial").touch()
    compiled = build(loaded, loaded.build_dir)
    assert set(contents(loaded.build_dir)) == FILES | {".writing.lock"}
    graph = read_graph((loaded.build_dir / "graph.json").read_text())
    assert graph == compiled.graph
    assert graph.tensors["images"].shape == (1, 3, 64, 96)
    lock = json.loads((loaded.build_dir / "project.lock.json").read_text())
    assert lock["spec"]["hyperparameters"]["epochs"] == 4
    assert lock["spec_digest"] == model_metadata(loaded.project).spec_digest
    plan = json.loads((loaded.build_dir / "plan.json").read_text())["training"]
    assert (plan["images"], plan["steps_per_epoch"], plan["steps"], plan["accumulate"]) == (5, 3, 12, 4)


def test_the_same_input_gives_the_same_bytes_in_another_process(project: Path, tmp_path: Path) -> None:
    add_images(project, 3)
    assert run(["build", str(project)]) == 0
    other = tmp_path / "elsewhere"
    subprocess.run(
        [sys.executable, "-m", "segc", "build", str(project), "--build-dir", str(other)],
        check=True,
        capture_output=True,
    )
    assert contents(project.parent / "build") == contents(other)


def test_a_changed_key_changes_the_digest(project: Path) -> None:
    one = model_metadata(load_project(project).project).spec_digest
    other = model_metadata(load_project(project, ["hyperparameters.epochs=5"]).project).spec_digest
    assert one != other


def test_without_the_dataset_everything_but_the_training_is_planned(project: Path) -> None:
    assert run(["build", str(project)]) == 0
    assert json.loads((project.parent / "build" / "plan.json").read_text())["training"] is None
    assert "not planned" in (project.parent / "build" / "summary.txt").read_text()


def test_a_dataset_without_images_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project.parent / "data" / "images" / "train").mkdir(parents=True)
    assert run(["build", str(project)]) == 1
    assert "D001" in capsys.readouterr().err
    assert not (project.parent / "build").exists()


@pytest.mark.parametrize(
    ("settings", "images", "expected"),
    [
        ({}, 100, ("AdamW", 0.000119, 0.9, 0.0)),
        ({}, 100_000, ("SGD", 0.01, 0.9, 0.1)),
        ({"optimizer": "SGD", "lr0": 0.02}, 100, ("SGD", 0.02, 0.937, 0.1)),
        ({"optimizer": "AdamW", "lr0": 0.002}, 100_000, ("AdamW", 0.002, 0.937, 0.0)),
        ({"optimizer": "AdamW", "lr0": 0.002, "warmup_bias_lr": 0.05}, 10, ("AdamW", 0.002, 0.937, 0.05)),
    ],
)
def test_the_optimizer_follows_the_length_of_the_training(
    settings: dict[str, object], images: int, expected: tuple[str, float, float, float]
) -> None:
    plan = make_plan(Hyperparameters.model_validate(settings), 80, images)
    assert (plan.optimizer, plan.learning_rate, plan.momentum, plan.warmup_bias_lr) == expected


@pytest.mark.parametrize("cosine", [False, True])
def test_the_learning_rate_falls_from_one_towards_its_final_factor(cosine: bool) -> None:
    plan = make_plan(Hyperparameters.model_validate({"epochs": 50, "lrf": 0.1, "cos_lr": cosine}), 80, 10)
    factors = [plan.learning_rate_factor(epoch) for epoch in range(51)]
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)
    assert (factors[10] > 0.9) == cosine


@pytest.mark.parametrize(
    ("epochs", "warmup", "images", "steps"),
    [
        *((100, None, 1600, 300), (100, None, 160, 100), (10, None, 160, 33), (2, None, 160, 20)),
        *((100, 3.0, 1600, 300), (100, 1.0, 160, 10), (10, 3.0, 160, 30), (10, 10.0, 160, 100), (8, 0.5, 160, 5)),
        (100, 0.0, 1600, 0),
    ],
)
def test_warm_up_is_as_long_as_given_and_else_not_too_short_to_be_of_use(
    epochs: int, warmup: float | None, images: int, steps: int
) -> None:
    plan = make_plan(Hyperparameters.model_validate({"epochs": epochs, "warmup_epochs": warmup}), 80, images)
    assert plan.warmup_steps == steps


def test_weight_decay_is_meant_for_the_nominal_batch() -> None:
    for batch, expected in ((16, 5e-4), (64, 5e-4), (128, 1e-3), (48, 5e-4 * 48 / 64)):
        plan = make_plan(Hyperparameters.model_validate({"batch": batch}), 80, 1000)
        assert plan.weight_decay == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "updates", "averaged", "lags"),
    [
        ({}, 192, 1.1, False),
        ({"nominal_batch": 8}, 1440, 2.1, False),
        ({"nominal_batch": 8, "ema_tau": 200}, 1440, 1180, True),
        ({"nominal_batch": 8, "ema_tau": 200, "ema_decay": 0.99}, 1440, 93, False),
        ({"nominal_batch": 8, "epochs": 400}, 24_000, 9421, False),
    ],
)
def test_a_moving_average_that_cannot_follow_the_training_is_told(
    settings: dict[str, float], updates: int, averaged: float, lags: bool
) -> None:
    plan = make_plan(Hyperparameters.model_validate({"epochs": 24, "batch": 8, **settings}), 80, 480)
    assert plan.updates == updates
    assert plan.averaged == pytest.approx(averaged, rel=0.05)
    assert (plan.lagging() is not None) == lags


@pytest.mark.parametrize("settings", [{}, {"warmup_epochs": 5.0}, {"optimizer": "SGD", "warmup_epochs": 0.0}])
@pytest.mark.parametrize("fitted", [None, 1, 2, 20])
def test_epochs_have_no_effect_on_a_training_by_time(settings: dict[str, object], fitted: int | None) -> None:
    few, many, none = (
        make_plan(Hyperparameters.model_validate({**settings, **epochs, "time": "1h"}), 80, 100, fitted=fitted)
        for epochs in ({"epochs": 2}, {"epochs": 4000}, {})
    )
    assert few == many == none
    assert few.epochs == fitted
    assert json.loads(canonical_json(few.to_json()))["steps"] == (None if fitted is None else 7 * fitted)


@pytest.mark.parametrize("warmup", [None, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("fitted", [2, 3, 20, 1000])
def test_rates_do_not_jump_where_the_epochs_of_a_training_by_time_are_fitted(warmup: float | None, fitted: int) -> None:
    hyper = Hyperparameters.model_validate({"time": "1h", "batch": 4, "warmup_epochs": warmup})
    before, after = make_plan(hyper, 3, 24), make_plan(hyper, 3, 24, fitted=fitted)
    assert before.steps_per_epoch == 6
    plans = [before] * 6 + [after] * (fitted - 1) * 6
    share = [rates(p, step).learning_rate / p.learning_rate_factor(step // 6) for step, p in enumerate(plans)]
    assert share[:6] == pytest.approx([rates(after, step).learning_rate for step in range(6)])
    assert all(later >= one * (1 - 1e-9) for one, later in itertools.pairwise(share))
    assert share[-1] == pytest.approx(after.learning_rate)
    slopes = [later - one for one, later in zip([0, *share], share, strict=False)]
    assert max(slopes[6:]) <= max(after.learning_rate / 6, *slopes[:6])
    longest = None if warmup is None else min(warmup, fitted)
    by_epochs = Hyperparameters.model_validate({"epochs": fitted, "batch": 4, "warmup_epochs": longest})
    assert after.warmup_steps == make_plan(by_epochs, 3, 24).warmup_steps


def test_the_plan_of_a_training_by_time_names_no_epochs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_images(project, 5)
    words = [
        word for text in ("time=1h", "epochs=2", "warmup_epochs=3") for word in ("--set", f"hyperparameters.{text}")
    ]
    assert run(["build", str(project), *words]) == 0
    assert "`epochs` has no effect" in capsys.readouterr().err
    summary = (project.parent / "build" / "summary.txt").read_text()
    assert "1h of epochs of " in summary
    assert "as many as fit into the time" in summary
    plan = json.loads((project.parent / "build" / "plan.json").read_text())
    assert (plan["training"]["epochs"], plan["training"]["learning_rates"]) == (None, [])
    assert plan["settings"]["epochs"] == {"value": "auto", "origin": "as many as fit into the time"}
