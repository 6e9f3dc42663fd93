"""What loggers are told, and that none of them can end a training."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from segc.cli import run
from segc.diagnostics import SegcError
from segc.training.loggers import Recorded, TensorBoardLogger, WandbLogger, numbers, open_loggers, report_on
from segc.training.report import Report, Run

ROW = {"epoch": 2, "seconds": 9.5, "images_per_second": 8.0, "learning_rate": 0.01, "train_box": 1.5, "box_map": ""}


class _Heard(Report):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class _Calls(ModuleType):
    """A package whose every function writes down its calls and gives the package itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.failing: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append((name, arguments, keywords))
            if name in self.failing:
                raise ConnectionError(f"the server is away\n{name}")
            return self

        return call

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, _Calls]:
    made = {name: _Calls(name) for name in ("mlflow", "wandb")}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
        module.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec(name, None)
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return made


def _train(folder: Path, *names: str) -> _Heard:
    heard = _Heard()
    report = Recorded(heard, open_loggers(names))
    report.begin(Run(folder, "shapes", {"hyperparameters.lr0": 0.01}, 4))
    report.steps(1, 2, 3)
    report.step({"box": 2.0, "lr": 0.1})
    report.epoch(ROW)
    report.epoch({**ROW, "epoch": 3})
    report.close()
    return heard


def test_figures_are_grouped_and_empty_ones_left_out() -> None:
    assert numbers({**ROW, "mask_map50": 0.5}) == {
        "run/seconds": 9.5,
        "run/images_per_second": 8.0,
        "run/learning_rate": 0.01,
        "train/box": 1.5,
        "val/mask_map50": 0.5,
    }


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of the event files of a folder, read by the format's own records."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        place = 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, round(value.simple_value, 5)))
    return found


def test_tensorboard_gets_steps_and_epochs(tmp_path: Path) -> None:
    assert _train(tmp_path).said == []
    events = _events(tmp_path)
    assert events["train/box"] == [(2, 1.5), (3, 1.5)]
    assert events["step/lr"] == [(1, 0.1)]
    assert "val/box_map" not in events


def test_mlflow_gets_settings_and_epochs(tmp_path: Path, packages: dict[str, _Calls]) -> None:
    assert _train(tmp_path / "run-7", "mlflow").said == []
    calls = {name: (arguments, keywords) for name, arguments, keywords in packages["mlflow"].calls}
    assert calls["set_experiment"][0] == ("shapes",)
    assert calls["start_run"][1] == {"run_name": "run-7"}
    assert calls["log_params"][0] == ({"hyperparameters.lr0": "0.01"},)
    assert calls["log_metrics"][1] == {"step": 3}
    assert packages["mlflow"].names()[-1] == "end_run"
    assert packages["wandb"].calls == []


@pytest.mark.parametrize(
    ("environment", "mode"),
    [({}, "offline"), ({"WANDB_API_KEY": "k"}, "online"), ({"WANDB_MODE": "disabled"}, "disabled")],
)
def test_wandb_stays_on_disk_unless_somebody_logged_in(
    tmp_path: Path,
    packages: dict[str, _Calls],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    mode: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _train(tmp_path / "run-7", "wandb").said == []
    (name, _, keywords), *logged, (last, _, _) = packages["wandb"].calls
    assert (name, keywords["mode"], keywords["dir"]) == ("init", mode, str(tmp_path / "run-7"))
    assert [call[2] for call in logged] == [{"step": 2}, {"step": 3}]
    assert last == "finish"


def test_a_key_in_netrc_is_a_login(
    tmp_path: Path, packages: dict[str, _Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    WandbLogger().begin(Run(tmp_path, "shapes"))
    assert packages["wandb"].calls[0][2]["mode"] == "online"


@pytest.mark.parametrize("where", ["start_run", "log_metrics"])
def test_a_logger_that_fails_is_reported_once_and_left_out(
    tmp_path: Path, packages: dict[str, _Calls], where: str
) -> None:
    packages["mlflow"].failing = frozenset({where})
    assert _train(tmp_path, "mlflow", "wandb").said == ["MLflow is left out from here on: the server is away"]
    assert packages["mlflow"].names().count(where) == 1
    assert packages["wandb"].names() == ["init", "log", "log", "finish"]
    assert _events(tmp_path)["train/box"] == [(2, 1.5), (3, 1.5)]


def test_even_the_end_may_fail(tmp_path: Path, packages: dict[str, _Calls]) -> None:
    packages["wandb"].failing = frozenset({"finish"})
    assert _train(tmp_path, "wandb").said == ["Weights & Biases is left out from here on: the server is away"]


def test_without_tensorboardx_a_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    heard = _train(tmp_path)
    assert len(heard.said) == 1
    assert heard.said[0].startswith("TensorBoard is left out")


def test_a_logger_that_is_asked_for_and_missing_is_an_error_before_anything_begins() -> None:
    with pytest.raises(SegcError) as caught, report_on(Console(), ["mlflow", "wandb"]):
        pytest.fail("a training began")
    assert [(d.code, d.help) for d in caught.value.diagnostics] == [
        ("F004", "pip install mlflow, or leave it out of hyperparameters.loggers"),
        ("F004", "pip install wandb, or leave it out of hyperparameters.loggers"),
    ]


def test_a_run_that_goes_on_keeps_what_was_recorded(tmp_path: Path) -> None:
    for done in (0, 1):
        logger = TensorBoardLogger()
        logger.begin(Run(tmp_path, "shapes", epoch=done, steps=5 * done))
        logger.steps(done + 1, 2, 10, done=4)
        logger.step({"lr": 0.5})
        logger.epoch({**ROW, "epoch": done + 1})
        logger.close()
    assert sorted(_events(tmp_path)["train/box"]) == [(1, 1.5), (2, 1.5)]
    assert sorted(_events(tmp_path)["step/lr"]) == [(1, 0.5), (6, 0.5)]


def test_train_records_what_the_project_asks_for(project: Path, packages: dict[str, _Calls]) -> None:
    settings = ["--set", "hyperparameters.epochs=2", "--set", "hyperparameters.loggers=[mlflow]"]
    assert run(["train", str(project), *settings]) == 0
    assert packages["mlflow"].names().count("log_metrics") == 2
    folder = project.parent / "build" / "runs" / "train"
    assert [step for step, _ in _events(folder)["train/box"]] == [1, 2]
    assert json.loads((folder / "project.lock.json").read_text())["spec"]["hyperparameters"]["loggers"] == ["mlflow"]


def test_other_loggers_are_refused_by_name(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(project), "--set", "hyperparameters.loggers=[clearml]"]) == 1
    assert "mlflow" in capsys.readouterr().err
