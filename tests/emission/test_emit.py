"""``segc emit`` from a project file to a verified artifact, and everything that can stop it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from segc.cli import run
from segc.commands.emit import Board
from segc.emission import verify, worker
from segc.emission.order import Emission
from segc.emission.project import emit_project
from segc.files import digest_file
from segc.sessions.artifact import open_artifact
from segc.spec.load import load_project
from segc.targets import contract
from segc.targets.registry import targets
from tests.targets.conftest import PROJECT, contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK = ("--set", "hyperparameters.imgsz=128")


def described(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    return value


def message(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def emitted(shapes: Path, shapes_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Emission:
    """One emission at 160 pixels, that several tests look at."""
    root = tmp_path_factory.mktemp("emitted")
    text = PROJECT.format(weights=shapes_weights, shapes=shapes)
    (root / "project.yaml").write_text(text.replace("imgsz: 160", "imgsz: 160, conf: 0.3"))
    (emission,) = emit_project(load_project(root / "project.yaml"), root / "build")
    return emission


def test_a_good_emission_is_verified_and_says_so(emitted: Emission, shapes: Path) -> None:
    assert (emitted.status, emitted.diagnostics, emitted.model) == ("verified", (), "photos.onnx")
    assert emitted.folder is not None
    description = described(emitted.folder)
    assert description["status"] == "verified"
    assert sorted(contents(emitted.folder)) == ["README.md", "artifact.json", "photos.onnx", "predict.py"]
    for name, entry in description["files"].items():
        assert digest_file(emitted.folder / name) == entry["digest"]
        assert (emitted.folder / name).stat().st_size == entry["bytes"]
    parity = description["parity"]
    assert parity["outputs"]["boxes"]["max_abs_error"] <= 1e-3
    assert parity["outputs"]["scores"]["max_abs_error"] <= 1e-5
    assert parity["detections"]["matched"] == parity["detections"]["reference"] > 0
    assert parity["runtime"] == "onnxruntime on the CPU"
    assert len(description["photographs"]) == parity["images"] == 3
    for name, digest in description["photographs"].items():
        assert digest_file(shapes / name) == digest
    given = {"format": "onnx", "accept": None, "name": None, "imgsz": None, "opset": 17, "batch": 1, "half": False}
    assert given.items() <= description["options"].items()
    assert description["options"].keys() == targets()["onnx"].options.model_fields.keys()
    assert description["weights"]["trained"] is True
    assert set(description["versions"]) == {"segc", "onnx", "onnx-graphsurgeon", "onnxruntime", "torch"}


def test_the_lowering_takes_a_fraction_of_a_second(emitted: Emission) -> None:
    assert 0 < emitted.lowering_seconds < 3  # 0.1 on an idle machine; the benchmark has the figures


def test_an_artifact_is_what_its_session_says(emitted: Emission) -> None:
    assert emitted.folder is not None
    assert open_artifact(emitted.folder, 1).metadata.to_json() == described(emitted.folder)["metadata"]


def test_the_page_beside_the_model_names_its_inputs_and_outputs_as_the_file_does(emitted: Emission) -> None:
    import onnxruntime

    assert emitted.folder is not None
    session = onnxruntime.InferenceSession(emitted.folder / emitted.model, providers=["CPUExecutionProvider"])
    text = (emitted.folder / "README.md").read_text(encoding="utf-8")
    assert {entry.type for entry in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}
    for entry in (*session.get_inputs(), *session.get_outputs()):
        assert f"| `{entry.name}` | float32 | {entry.shape} |" in text
    parity = described(emitted.folder)["parity"]
    assert f"| boxes | {parity['outputs']['boxes']['max_abs_error']} px |" in text
    assert "| conf | 0.3 |" in text
    assert "weights descend from shapes.safetensors" in text


def test_no_time_and_no_path_of_the_machine_gets_into_the_artifact(emitted: Emission, shapes: Path) -> None:
    assert emitted.folder is not None
    for content in contents(emitted.folder).values():
        for place in (emitted.folder.parents[2], shapes, Path.cwd(), Path.home()):
            assert len(str(place)) < 6 or os.fsencode(place) not in content


def test_the_script_has_the_projects_own_thresholds(emitted: Emission) -> None:
    assert emitted.folder is not None
    assert "defaults = Filters(conf=0.3, iou=0.7, max_det=300)" in (emitted.folder / "predict.py").read_text(
        encoding="utf-8"
    )


def test_the_same_project_emits_the_same_bytes(project: Path, tmp_path: Path) -> None:
    folders = []
    for name in ("one", "two"):
        assert run(["emit", str(project), *QUICK, "--build-dir", str(tmp_path / name)]) == 0
        folders.append(contents(tmp_path / name / "artifacts" / "onnx"))
    assert folders[0] == folders[1]


@pytest.mark.parametrize(
    "options",
    [
        ["targets.0.dynamic=true", "targets.0.layout=fused"],
        ["targets.0.batch=2", "targets.0.imgsz=[96, 160]", "targets.0.opset=12"],
    ],
)
def test_options_are_emitted_and_verified(
    options: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part for option in options for part in ("--set", option)]
    assert run(["emit", str(project), *QUICK, *arguments]) == 0
    assert "verified" in capsys.readouterr().out
    description = described(project.parent / "build" / "artifacts" / "onnx")
    assert description["parity"]["passed"]
    metadata = description["metadata"]
    for option in options:
        key, value = option.removeprefix("targets.0.").split("=")
        if key in metadata:
            assert metadata[key] == (value if value.isalpha() and value != "true" else json.loads(value))


def test_a_target_that_the_project_does_not_list_is_emitted_by_default_options(project: Path) -> None:
    project.write_text(project.read_text().partition("targets:")[0])
    assert run(["emit", str(project), "--target", "onnx", *QUICK]) == 0
    assert described(project.parent / "build" / "artifacts" / "onnx")["options"]["opset"] == 17


def test_untrained_weights_are_emitted_only_when_asked_for(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_text(re.sub(r", weights: '[^']+'", "", project.read_text()))
    assert run(["emit", str(project), *QUICK]) == 1
    assert "W008" in message(capsys)
    assert not (project.parent / "build").exists()
    assert run(["emit", str(project), "--untrained", *QUICK]) == 0
    assert "weights come from a seed and were not trained" in capsys.readouterr().out
    page = (project.parent / "build" / "artifacts" / "onnx" / "README.md").read_text(encoding="utf-8")
    assert "The weights come from a seed and were not trained." in page
    assert "trained from scratch" not in page
    assert described(project.parent / "build" / "artifacts" / "onnx")["weights"]["trained"] is False


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--target", "onyx"], 1, "T001]: no such target: onyx"),
        (["--set", "targets.0.keras=true"], 1, "S102"),
        (["--set", "targets.0.opset=9"], 1, "S104"),
        (["--set", "targets.0.imgsz=100"], 1, "X201"),
        (["--set", "targets.0={format: onnx, dynamic: true, batch: 2}"], 1, "X210"),
        (["--weights", "w.safetensors", "--untrained"], 2, "exclude each other"),
        (["--weights", "nowhere.safetensors"], 1, "F001"),
        (["--set", "dataset.val=labels/train"], 1, "D001"),
    ],
)
def test_what_cannot_be_emitted_is_refused(
    arguments: list[str], status: int, text: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["emit", str(project), *arguments]) == status
    assert text in message(capsys)
    assert not (project.parent / "build").exists()


def test_what_is_odd_about_the_weights_is_said(project: Path) -> None:
    names = ["nobody", *(f"thing {index}" for index in range(5))]
    loaded = load_project(project, ("hyperparameters.imgsz=64",))
    dataset = loaded.project.dataset.model_copy(update={"names": tuple(names)})
    renamed = replace(loaded, project=loaded.project.model_copy(update={"dataset": dataset}))
    heard: list[str] = []
    emit_project(renamed, project.parent / "build", warn=lambda found: heard.extend(d.code for d in found))
    assert heard == ["W009"]


def test_a_project_without_targets_says_what_to_do(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_text(project.read_text().partition("targets:")[0])
    assert run(["emit", str(project)]) == 1
    assert "the project lists no targets" in message(capsys)


def test_refusals_come_before_any_heavy_import(project: Path) -> None:
    code = (
        "import sys; from segc.cli import run\n"
        f"status = run(['emit', {str(project)!r}, '--target', 'onyx'])\n"
        "heavy = {'torch', 'onnx', 'onnx_graphsurgeon', 'onnxruntime', 'cv2', 'numpy'} & set(sys.modules)\n"
        "sys.exit(99 if heavy else status)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("package", ["onnx_graphsurgeon", "onnxruntime", "torch"])
def test_a_missing_package_is_named_and_not_installed(
    package: str, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = contract.find_spec
    monkeypatch.setattr(contract, "find_spec", lambda module: None if module == package else find(module))
    assert run(["emit", str(project)]) == 1
    text = message(capsys)
    assert f"{package.replace('_', '-')} is not installed" in text
    assert f"pip install 'segc[{'train' if package == 'torch' else 'onnx'}]'" in text


@pytest.fixture
def no_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = replace(verify.TOLERANCES["fp32"], boxes=0.0)
    monkeypatch.setitem(verify.TOLERANCES, "fp32", strict)
    monkeypatch.setitem(verify.ROUNDING, "fp32", 0.0)


def test_what_rounding_alone_does_to_a_network_is_looked_at_before_it_fails(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verify.TOLERANCES, "fp32", replace(verify.TOLERANCES["fp32"], boxes=0.0))
    assert run(["emit", str(project), *QUICK]) == 0, message(capsys)
    boxes = described(project.parent / "build" / "artifacts" / "onnx")["parity"]["outputs"]["boxes"]
    assert 0 < boxes["max_abs_error"] <= boxes["allowed"] < 1e-2


def test_a_failed_verification_fails_the_command_and_keeps_the_last_good_artifact(
    project: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    artifacts = project.parent / "build" / "artifacts"
    assert run(["emit", str(project), *QUICK]) == 0
    good = contents(artifacts / "onnx")
    request.getfixturevalue("no_tolerance")
    capsys.readouterr()
    assert run(["emit", str(project), *QUICK, "--force"]) == 1
    output = capsys.readouterr()
    assert "T007]: onnx: boxes differ by up to" in output.err
    assert "failed" in output.out
    assert contents(artifacts / "onnx") == good
    failed = described(artifacts / "onnx.failed")
    assert (failed["status"], failed["parity"]["passed"]) == ("failed", False)
    assert run(["predict", str(project), "--artifact", str(artifacts / "onnx.failed")]) == 1
    assert "failed its verification" in message(capsys)


def test_a_good_emission_clears_an_earlier_failure_away(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = project.parent / "build" / "artifacts"
    with monkeypatch.context() as context:
        context.setitem(verify.TOLERANCES, "fp32", replace(verify.TOLERANCES["fp32"], boxes=0.0))
        context.setitem(verify.ROUNDING, "fp32", 0.0)
        assert run(["emit", str(project), *QUICK]) == 1
    assert not (artifacts / "onnx").exists()
    assert run(["emit", str(project), *QUICK]) == 0
    assert sorted(path.name for path in artifacts.iterdir()) == ["onnx"]


def test_a_worker_that_dies_is_one_line_and_leaves_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = worker.Worker.start

    def start_and_kill(self: worker.Worker, task: str, *rest: Any) -> None:
        start(self, task, *rest)
        if task == "emit":
            os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(worker.Worker, "start", start_and_kill)
    assert run(["emit", str(project), *QUICK]) == 1
    output = capsys.readouterr()
    assert "T004]: the onnx emitter was ended by SIGKILL" in output.err
    assert "error" in output.out
    assert not (project.parent / "build" / "artifacts").exists()


def test_a_time_limit_is_kept(project: Path) -> None:
    loaded = load_project(project)
    (emission,) = emit_project(loaded, project.parent / "build", time_limit=0.01)
    assert emission.status == "error"
    assert emission.diagnostics[0].code == "T005"
    assert not (project.parent / "build" / "artifacts").exists()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def _wait(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def emitting(project: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``segc emit`` at work, all of its workers started."""
    command = [sys.executable, "-m", "segc", "emit", str(project)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _wait(lambda: len(_children(process.pid)) >= 3)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_emission_leaves_no_worker_and_no_artifact(
    how: signal.Signals, emitting: subprocess.Popen[bytes], project: Path
) -> None:
    workers = _children(emitting.pid)
    emitting.send_signal(how)
    _, errors = emitting.communicate(timeout=60)
    assert emitting.returncode == (-how if how == signal.SIGKILL else 128 + how)
    assert b"Traceback" not in errors
    _wait(lambda: not any(map(_alive, workers)))
    artifacts = project.parent / "build" / "artifacts"
    assert not artifacts.exists() or not list(artifacts.iterdir())


def test_what_is_up_to_date_is_left_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project.parent / "build" / "artifacts" / "onnx"
    assert run(["emit", str(project), *QUICK]) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    code = (
        "import sys; from segc.cli import run\n"
        f"status = run(['emit', {str(project)!r}, '--set', 'hyperparameters.imgsz=128'])\n"
        "heavy = {'torch', 'onnx', 'onnx_graphsurgeon', 'onnxruntime', 'psutil'} & set(sys.modules)\n"
        "sys.exit(99 if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout
    assert "3/3" in done.stdout or "detections" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        ["--force"],
        ["--set", "targets.0.opset=16"],
        ["--set", "hyperparameters.conf=0.5"],
        ["--untrained"],
        ["--set", "architecture.weights=null", "--untrained"],
    ],
)
def test_whatever_changes_an_artifact_has_it_made_again(change: list[str], project: Path) -> None:
    folder = project.parent / "build" / "artifacts" / "onnx"
    assert run(["emit", str(project), *QUICK]) == 0
    before = (folder / "artifact.json").stat().st_ino
    assert run(["emit", str(project), *QUICK, *change]) == 0
    assert (folder / "artifact.json").stat().st_ino != before


@pytest.mark.parametrize("how", ["edited", "gone", "description"])
def test_a_damaged_artifact_is_made_again(how: str, project: Path) -> None:
    folder = project.parent / "build" / "artifacts" / "onnx"
    assert run(["emit", str(project), *QUICK]) == 0
    good = contents(folder)
    if how == "gone":
        (folder / "photos.onnx").unlink()
    else:
        path = folder / ("predict.py" if how == "edited" else "artifact.json")
        path.write_bytes(path.read_bytes()[:-10])
    cut = {"predict.py.changed": good["predict.py"][:-10]} if how == "edited" else {}
    assert run(["emit", str(project), *QUICK]) == 0
    assert contents(folder) == {**good, **cut}


def test_a_memory_limit_is_kept(project: Path) -> None:
    loaded = load_project(project)
    (emission,) = emit_project(loaded, project.parent / "build", memory_limit=20_000_000)
    assert emission.status == "error"
    assert emission.diagnostics[0].code == "T009"
    assert not (project.parent / "build" / "artifacts").exists()


def test_what_is_being_done_is_told(project: Path) -> None:
    told: list[tuple[str, str] | Emission] = []
    loaded = load_project(project, ("hyperparameters.imgsz=64",))
    build = project.parent / "build"
    made = emit_project(loaded, build, watch=lambda *state: told.append(state), finished=told.append)
    assert told == [("onnx", "emitting"), ("onnx", "running"), *made]
    assert made[0].status == "verified"


@pytest.mark.parametrize(
    "setting", ["tiles={size: 64}", "track={}", "conf={circle: 0.95, default: 0.1}"], ids=["tiles", "track", "conf"]
)
def test_how_a_project_looks_at_pictures_is_not_held_against_its_models(setting: str, project: Path) -> None:
    loaded = load_project(project, ("hyperparameters.imgsz=160", f"hyperparameters.{setting}"))
    (made,) = emit_project(loaded, project.parent / "build")
    assert made.status == "verified", made.diagnostics
    thresholds = described(project.parent / "build" / "artifacts" / "onnx")["thresholds"]
    assert thresholds.get("conf_by_class") == ({"circle": 0.95, "default": 0.1} if "circle" in setting else None)


def test_the_record_of_a_model_that_suppresses_has_its_own_thresholds(project: Path) -> None:
    nms = "targets=[{format: onnx, nms: true, conf: 0.6, iou: 0.45, max_det: 3}]"
    loaded = load_project(project, ("hyperparameters.imgsz=160", nms))
    (made,) = emit_project(loaded, project.parent / "build")
    assert made.status == "verified", made.diagnostics
    record = described(project.parent / "build" / "artifacts" / "onnx")
    assert record["thresholds"] == {"conf": 0.6, "iou": 0.45, "max_det": 3}


def test_the_live_table_has_state_seconds_size_and_parity() -> None:
    board = Board(["onnx", "ncnn", "paddle"])
    board.watch("onnx", "running")
    board.finished(
        Emission("ncnn", "ncnn", "verified", 1.26, Path("ncnn"), "m", 13_700_000, summary="boxes 1.2e-04 px")
    )
    console = Console(width=100, file=io.StringIO())
    console.print(board.table())
    heads, *rows = console.file.getvalue().splitlines()
    assert heads.split() == ["target", "state", "seconds", "MB", "against", "PyTorch"]
    assert rows[0].split()[:2] == ["onnx", "running"]
    assert rows[1].split() == ["ncnn", "verified", "1.3", "13.7", "boxes", "1.2e-04", "px"]
    assert rows[2].split() == ["paddle", "waiting"]


def test_fp32_fp16_and_other_forms_of_a_format_stand_side_by_side(
    project: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = project.read_text().partition("targets:")[0]
    forms = "{format: onnx}, {format: onnx, half: true}, {format: onnx, name: for-robots, layout: fused}"
    project.write_text(f"{text}targets: [{forms}]\n")
    assert run(["emit", str(project), *QUICK]) == 0
    artifacts = project.parent / "build" / "artifacts"
    assert sorted(path.name for path in artifacts.iterdir()) == ["for-robots", "onnx", "onnx-fp16"]
    assert described(artifacts / "onnx-fp16")["metadata"]["precision"] == "fp16"
    capsys.readouterr()
    assert run(["emit", str(project), *QUICK, "--target", "for-robots"]) == 0
    _, row, descent = capsys.readouterr().out.splitlines()
    assert row.split()[0] == "for-robots"
    assert descent.startswith("weights descend from shapes.safetensors")
    assert run(["emit", str(project), *QUICK, "--target", "onnx-fp16", "--target", "for-robots"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    photo = min((shapes / "images" / "train").iterdir())
    arguments = ["--project", str(project), "--artifact", "onnx-fp16", "-o", str(tmp_path / "out")]
    assert run(["predict", str(photo), *arguments]) == 0
    assert run(["val", str(project), "--artifact", "nowhere"]) == 1
    assert "no such file or folder: nowhere" in message(capsys)


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        ("{format: onnx}, {format: onnx, opset: 18}", "an artifact onnx is there already, as entry 1"),
        ("{format: onnx, name: a}, {format: ncnn, name: a}", "an artifact a is there already, as entry 1"),
        ("{format: onnx, name: ncnn}", "ncnn is the name of another target"),
        ("{format: onnx, name: ../onnx}", "S1"),
    ],
)
def test_names_of_artifacts_are_their_own(
    targets: str, text: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write_text(f"{project.read_text().partition('targets:')[0]}targets: [{targets}]\n")
    assert run(["emit", str(project)]) == 1
    assert text in message(capsys)


def test_two_emissions_into_one_folder_exclude_each_other(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = project.parent / "build" / ".emit.lock"
    holding = (
        "import sys, time; from pathlib import Path; from segc.locks import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'a test'):\n    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", holding, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert run(["emit", str(project), *QUICK]) == 1
        assert f"F006]: an emission into {project.parent}" in (text := message(capsys))
        assert f"is under way by process {holder.pid}" in text
        holder.kill()
        holder.wait()
        # A dead process holds nothing.
        assert run(["emit", str(project), *QUICK]) == 0


def test_what_a_crashing_emitter_said_is_kept_and_named(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "onnx_graphsurgeon.py").write_text("print('on the way')\nraise RuntimeError('no good')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    assert run(["emit", str(project), *QUICK]) == 1
    log = project.parent / "build" / "logs" / "onnx-emitter.txt"
    assert f"all that it said is in {log}" in message(capsys)
    assert "on the way" in log.read_text()
    assert "RuntimeError: no good" in log.read_text()


@pytest.mark.parametrize(
    "target", ["{format: tflite, int8: true, accept: false}", "{format: onnx, nms: true, dynamic: true}"]
)
def test_what_only_detections_can_tell_is_judged_on_photographs_that_show_something_or_not_at_all(
    project: Path, shapes: Path, tmp_path: Path, target: str
) -> None:
    """The first three photographs of the split show nothing: others are looked for."""
    from segc.emission.verify import choose

    spec = project.read_text().partition("targets:")[0] + f"targets: [{target}]\n"
    known = sorted((shapes / "images" / "train").iterdir())[:8]
    blank = [tmp_path / f"{number:02}.png" for number in range(24)]
    for number, path in enumerate(blank):
        cv2.imwrite(str(path), np.full((160, 176, 3), 60 + 5 * number, np.uint8))
    for name, images, status in (("some", [*blank, *known], "verified"), ("none", blank[:4], "unjudged")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "val.txt").write_text("".join(f"{path}\n" for path in images))
        (folder / "project.yaml").write_text(f"{spec}".replace("val: images/train", f"val: '{folder}/val.txt'"))
        loaded = load_project(folder / "project.yaml", ("hyperparameters.imgsz=160",))
        (emission,) = emit_project(loaded, folder / "build")
        assert emission.status == status, (choose(images), emission)
        assert any("nothing that tells was compared" in note for note in emission.notes) == (status == "unjudged")
