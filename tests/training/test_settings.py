"""What is written is used: every hyperparameter changes the plan, the batches, the loss, or what its own test says."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segc.architectures import build_graph
from segc.cli import run
from segc.data.dataset import read_split
from segc.data.loader import TrainingSet, epoch_order, step_size
from segc.data.samples import Sample
from segc.plan import make_plan, settings
from segc.spec.freeze import frozen_names
from segc.spec.hyperparameters import Augment, Hyperparameters, idle_keys
from segc.spec.load import LoadedProject, load_project
from segc.training.loss import Gains
from segc.training.schedule import rates

BASE = {
    "imgsz": 64,
    "epochs": 12,
    "batch": 3,
    "nominal_batch": 3,
    "optimizer": "SGD",
    "seed": 1,
    "cache": False,
    "augment.close_mosaic": 2,
    "augment.mosaic": 0.5,
}

CHANGES: dict[str, Any] = {
    "imgsz": 96,
    "epochs": 13,
    "batch": 2,
    "nominal_batch": 9,
    "optimizer": "AdamW",
    "lr0": 0.5,
    "lrf": 0.5,
    "cos_lr": True,
    "momentum": 0.5,
    "weight_decay": 0.1,
    "warmup_epochs": 9.0,
    "warmup_momentum": 0.1,
    "warmup_bias_lr": 0.7,
    "box": 1.0,
    "cls": 1.0,
    "dfl": 1.0,
    "mask": 1.0,
    "ema_decay": 0.5,
    "ema_tau": 5.0,
    "freeze": 2,
    "mask_ratio": 2,
    "overlap_mask": False,
    "multi_scale": 0.5,
    "seed": 2,
    "augment.mosaic": 0.0,
    "augment.close_mosaic": 9,
    "augment.degrees": 45.0,
    "augment.translate": 0.5,
    "augment.scale": 0.1,
    "augment.shear": 20.0,
    "augment.perspective": 0.001,
    "augment.hsv_h": 0.5,
    "augment.hsv_s": 0.0,
    "augment.hsv_v": 0.0,
    "augment.fliplr": 1.0,
    "augment.flipud": 1.0,
    "augment.mixup": 1.0,
    "augment.copy_paste": 1.0,
    "augment.copy_paste_mode": "mixup",
}

BESIDE = {"augment.copy_paste_mode": {"augment.copy_paste": 1.0}}
"""What has to hold for a key to have an effect at all."""

ELSEWHERE = {
    "tiles": "tests of crops, of predicting and of segc val",
    "track": "of predicting",
    "class_weights": "tests of the balance of classes",
    "time": "test_a_training_fits_into_its_time",
    "save_period": "test_weights_of_epochs_are_kept_as_asked",
    "keep_best": "test_weights_of_epochs_are_kept_as_asked",
    "average_last": "test_weights_of_epochs_are_kept_as_asked",
    "clip_grad_norm": "bounds what Engine.clip gets",
    "patience": "test_a_training_that_gets_no_better_stops_and_is_complete",
    "max_skipped": "test_a_loss_that_stays_not_finite_stops_the_training",
    "val_interval": "test_training_lowers_the_loss_and_leaves_whole_weights",
    "cache": "changes no batch: tests of the cache",
    "cache_gib": "changes no batch: tests of the cache",
    "workers": "test_workers_change_nothing",
    "device": "tests of the device",
    "precision": "test_the_loss_is_in_single_precision_whatever_the_network_runs_in",
    "gradient_checkpointing": "test_gradient_checkpointing_changes_memory_and_nothing_else",
    "compile": "test_a_compiled_network_trains_like_the_one_it_was_compiled_from",
    "loggers": "test_train_records_what_the_project_asks_for",
    "rect": "tests of validation",
    "conf": "tests of prediction",
    "iou": "tests of validation and prediction",
    "max_det": "tests of validation and prediction",
}


def make(values: dict[str, Any]) -> Hyperparameters:
    augment = {key.removeprefix("augment."): value for key, value in values.items() if key.startswith("augment.")}
    plain = {key: value for key, value in values.items() if not key.startswith("augment.")}
    return Hyperparameters(**plain, augment=Augment(**augment))


def observe(hyper: Hyperparameters, samples: list[Sample], loaded: LoadedProject) -> dict[str, Any]:
    """All that a training takes from its hyperparameters, before the first step."""
    plan = make_plan(hyper, 2, len(samples))
    images = TrainingSet(samples, hyper)
    items = [images[epoch, index, step_size(hyper, epoch, 0)] for epoch in (0, 6, 11) for index in range(3)]
    graph = build_graph(loaded.project.architecture, 2, hyper.size)
    return {
        "plan": asdict(plan),
        "rates": [asdict(rates(plan, step)) for step in range(plan.steps)],
        "averaged": plan.averaged,
        "gains": asdict(Gains.of(hyper)),
        "frozen": sorted(frozen_names(hyper.freeze, graph.parameters)),
        "order": epoch_order(len(samples), hyper.seed, 0).tolist(),
        "items": [
            [np.asarray(value).tobytes() for value in (one.image, one.classes, one.boxes, one.masks)] for one in items
        ],
    }


def test_every_hyperparameter_is_looked_at() -> None:
    keys = {key for key in Hyperparameters.model_fields if key != "augment"}
    keys |= {f"augment.{key}" for key in Augment.model_fields}
    assert keys == set(CHANGES) | set(ELSEWHERE)
    assert not set(CHANGES) & set(ELSEWHERE)


def test_each_hyperparameter_alone_changes_something(project: Path) -> None:
    loaded = load_project(project)
    samples = list(read_split(loaded, "train"))
    before = {
        frozenset(beside.items()): observe(make({**BASE, **beside}), samples, loaded)
        for beside in ({}, *BESIDE.values())
    }
    idle = []
    for key, value in CHANGES.items():
        beside = BESIDE.get(key, {})
        seen = observe(make({**BASE, **beside, key: value}), samples, loaded)
        if seen == before[frozenset(beside.items())]:
            idle.append(key)
    assert not idle


@pytest.mark.parametrize("epochs", [3, 100_000])
@pytest.mark.parametrize(("key", "value"), [("lr0", 0.123), ("momentum", 0.5), ("warmup_bias_lr", 0.077)])
def test_auto_chooses_only_what_is_not_given(epochs: int, key: str, value: float) -> None:
    hyper = Hyperparameters(optimizer="auto", epochs=epochs, **{key: value})
    alone = make_plan(Hyperparameters(optimizer="auto", epochs=epochs), 2, 32)
    plan = make_plan(hyper, 2, 32)
    name = {"lr0": "learning_rate"}.get(key, key)
    assert getattr(plan, name) == value
    assert {**asdict(plan), name: 0} == {**asdict(alone), name: 0}
    origins = {one.key: one for one in settings(hyper, 2, plan)}
    assert (origins[key].value, origins[key].origin) == (value, "given")
    assert origins["optimizer"].origin.startswith("auto: ")
    assert origins["optimizer"].value == plan.optimizer


def test_a_project_read_again_with_its_defaults_written_out_is_the_same() -> None:
    for hyper in (Hyperparameters(epochs=1), Hyperparameters(epochs=2, optimizer="SGD")):
        again = Hyperparameters.model_validate_json(hyper.model_dump_json())
        assert make_plan(again, 2, 32) == make_plan(hyper, 2, 32)


def test_keys_without_effect_are_told_with_their_place(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = project.read_text().replace(
        "  epochs: 4\n", "  epochs: 4\n  patience: 9\n  augment:\n    copy_paste_mode: mixup\n    mosaic: 0.5\n"
    )
    project.write_text(text)
    assert run(["build", str(project)]) == 0
    told = capsys.readouterr()
    for line, key in enumerate(text.splitlines(), 1):
        name = key.strip().partition(":")[0]
        if name in {"patience", "copy_paste_mode", "mosaic"}:
            assert f":{line}:{len(key) - len(key.lstrip()) + 1}: warning[X224]: `{name}` has no effect" in told.err
    assert told.err.count("X224") == 3
    assert "lr0" in told.out
    assert "given" in told.out


@pytest.mark.parametrize(
    ("values", "idle"),
    [
        ({}, set()),
        ({"augment.close_mosaic": 5, "augment.mosaic": 0.0}, {"close_mosaic"}),
        ({"warmup_epochs": 0.0, "warmup_momentum": 0.5, "warmup_bias_lr": 0.1}, {"warmup_momentum", "warmup_bias_lr"}),
        ({"ema_decay": 0.0, "ema_tau": 5.0}, {"ema_tau"}),
        ({"cache": False, "cache_gib": 2.0}, {"cache_gib"}),
        ({"epochs": 1, "lrf": 0.5, "cos_lr": True}, {"lrf", "cos_lr"}),
        ({"epochs": 9, "patience": 8}, set()),
        ({"compile": True, "gradient_checkpointing": True}, {"gradient_checkpointing"}),
        ({"compile": True, "gradient_checkpointing": False}, set()),
    ],
)
def test_what_has_no_effect(values: dict[str, Any], idle: set[str]) -> None:
    assert {problem.path[-1] for problem in idle_keys(make(values))} == idle
