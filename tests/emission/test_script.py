"""The predict script: one file that needs no segc, reads well, and finds what ``segc predict`` finds."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from segc.emission.script import PYTHON, render_files
from segc.inference import SCRIPT_MODULES
from segc.inference.filters import Filters
from segc.inference.metadata import Metadata
from segc.targets.registry import targets
from tests.targets.standalone import Standalone

if TYPE_CHECKING:
    from tests.targets.conftest import Trained

GOLDEN = Path(__file__).parents[1] / "golden" / "predict_onnx.txt"
"""Renew it with ``SEGC_UPDATE_GOLDEN=1 pytest tests/emission/test_script.py`` and read the difference."""

METADATA = Metadata(("circle", "square"), (480, 640), segc_version="0.0.0")
DEFAULTS = Filters()


def rendered(target: str, **metadata: Any) -> dict[str, str]:
    entry = targets()[target]
    return render_files(entry, entry.default_options(), "shapes.onnx", replace(METADATA, **metadata), DEFAULTS)


def script(target: str = "onnx", **metadata: Any) -> str:
    return rendered(target, **metadata)["predict.py"]


def generated(text: str) -> str:
    """What of a script is not carried: its head and its end."""
    head, rest = text.split(f"# ---- segc.inference.{SCRIPT_MODULES[0]}\n")
    return f"{head}…\n{rest[rest.index('# ---- this script') :]}"


def test_what_is_generated_of_the_script_is_the_golden_text() -> None:
    if os.environ.get("SEGC_UPDATE_GOLDEN"):
        GOLDEN.write_text(generated(script()), encoding="utf-8")
    assert generated(script()) == GOLDEN.read_text(encoding="utf-8")


THREADS = """
import gc, time
from concurrent.futures import ThreadPoolExecutor
from segc.emission.script import render_files
from segc.inference.filters import Filters
from segc.inference.metadata import Metadata
from segc.targets.registry import targets
gc.set_threshold(50)
gc.callbacks.append(lambda *_: time.sleep(0.0005))  # the other threads go on in the middle of whatever this one does
metadata, entry = Metadata(("a",), (64, 64)), targets()["onnx"]
with ThreadPoolExecutor(4) as pool:
    jobs = [pool.submit(render_files, entry, entry.default_options(), "m.onnx", metadata, Filters()) for _ in range(8)]
print(len({job.result()["predict.py"] for job in jobs}))
"""


def test_scripts_of_several_targets_are_made_at_the_same_time() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr


def test_the_script_is_python_without_trailing_blanks_or_tabs() -> None:
    text = script(dynamic=True)
    compile(text, "predict.py", "exec")
    assert text.endswith("\n")
    assert not [line for line in text.splitlines() if line != line.rstrip() or "\t" in line]
    assert "\n\n\n\n" not in text


SCRIPTED = [name for name, target in targets().items() if target.script]


@pytest.mark.parametrize("target", targets())
def test_scripts_run_with_the_python_that_they_name(target: str) -> None:
    import vermin

    oldest = tuple(map(int, PYTHON.split(".")))
    texts = {name: text for name, text in rendered(target).items() if name.endswith(".py")}
    assert texts or not targets()[target].script
    assert {name: vermin.detect(text)[1] for name, text in texts.items()} == dict.fromkeys(texts, oldest)


@pytest.mark.parametrize("target", SCRIPTED)
def test_every_name_is_defined_once(target: str) -> None:
    names: list[str] = []
    for node in ast.parse(script(target)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("target", SCRIPTED)
def test_nothing_but_numpy_opencv_and_the_runtime_is_imported(target: str) -> None:
    roots = set()
    for node in ast.walk(ast.parse(script(target))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    own = {requirement.module for requirement in targets()[target].needed}
    assert {"numpy", "cv2"} <= roots - sys.stdlib_module_names <= {"numpy", "cv2", *own, *ELSEWHERE.get(target, ())}


ELSEWHERE = {"coreml": ["coremltools", "PIL"], "tensorrt": ["tensorrt"]}
"""By target: what its script imports where the runtime that people deploy on is, which is not what is needed here."""


def test_the_header_names_the_packages_as_pep_723_has_it() -> None:
    import tomllib

    lines = script().splitlines()
    start, stop = lines.index("# /// script"), lines.index("# ///")
    header = tomllib.loads("\n".join(line[2:] for line in lines[start + 1 : stop]))
    assert header["requires-python"] == f">={PYTHON}"
    assert [package.partition(">")[0] for package in header["dependencies"]] == [
        "numpy",
        "opencv-python-headless",
        "onnxruntime",
    ]


def test_the_text_of_the_inference_modules_is_carried_unchanged() -> None:
    from segc import inference

    text = script()
    for name in inference.SCRIPT_MODULES:
        module = (Path(inference.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        first = ast.parse(module).body[-1]
        assert "\n".join(module.splitlines()[first.lineno - 1 :]) in text


def emit_onnx(trained: Trained, folder: Path) -> Standalone:
    """A model with its script, run where segc and PyTorch cannot be imported."""
    trained.onnx(folder / "photos.onnx", (160, 160))
    metadata = trained.metadata((160, 160), segc_version="0")
    entry = targets()["onnx"]
    text = render_files(entry, entry.default_options(), "photos.onnx", metadata, DEFAULTS)["predict.py"]
    (folder / "predict.py").write_text(text)
    return Standalone(folder)


@pytest.fixture(scope="module")
def standalone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    return emit_onnx(trained, tmp_path_factory.mktemp("standalone"))


def photographs(shapes: Path) -> list[Path]:
    return sorted((shapes / "images" / "train").iterdir())[:3]


def test_imports_are_really_blocked_where_the_script_runs(standalone: Standalone) -> None:
    for module in ("segc", "torch"):
        environment = {**os.environ, "PYTHONPATH": str(standalone.blocked)}
        done = subprocess.run([sys.executable, "-P", "-c", f"import {module}"], env=environment, check=False)
        assert done.returncode


def test_the_script_finds_what_segc_predict_finds(
    standalone: Standalone, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segc.cli import run

    photos = photographs(shapes)
    done = standalone(*photos, "-o", tmp_path / "theirs", "--threads", 1, "--save-txt")
    assert done.returncode == 0, done.stderr
    theirs = (tmp_path / "theirs" / "predictions.json").read_bytes()
    found = json.loads(theirs)
    assert [record["image"] for record in found] == [str(photo) for photo in photos]
    assert sum(len(record["detections"]) for record in found) >= 5
    arguments = [
        "--artifact",
        str(standalone.folder / "photos.onnx"),
        "-o",
        str(tmp_path / "ours"),
        "--save-json",
        "--save-txt",
    ]
    assert run(["predict", *map(str, photos), *arguments]) == 0
    capsys.readouterr()
    assert (tmp_path / "ours" / "predictions.json").read_bytes() == theirs
    for name in [f"{photo.stem}.jpg" for photo in photos] + [f"labels/{photo.stem}.txt" for photo in photos]:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_the_script_takes_videos_and_finds_on_them_what_it_finds_on_their_frames(
    standalone: Standalone, shapes: Path, tmp_path: Path
) -> None:
    import cv2

    clip, saved = tmp_path / "clip.avi", tmp_path / "saved"
    images = [cv2.resize(cv2.imread(str(photo)), (160, 120)) for photo in photographs(shapes)]
    writer = cv2.VideoWriter(str(clip), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 5, (160, 120))
    for image in images:
        writer.write(image)
    writer.release()
    saved.mkdir()
    capture = cv2.VideoCapture(str(clip))
    for number in range(len(images)):
        (saved / f"{number}.png").write_bytes(cv2.imencode(".png", capture.read()[1])[1].tobytes())
    found = {}
    for name in (clip, saved):
        done = standalone(name, "-o", tmp_path / "out", "--threads", 1, "--save", "jsonl")
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
        found[name] = [json.loads(line)["detections"] for line in lines]
    assert found[clip] == found[saved]
    assert len(found[clip]) == len(images)
    assert any(found[clip])
    assert (tmp_path / "out" / "clip.mp4").is_file()


def test_the_script_finds_what_the_trained_network_finds(
    standalone: Standalone, trained: Trained, shapes: Path, tmp_path: Path
) -> None:
    from segc.inference.filters import Filters
    from segc.inference.predict import predict_image
    from segc.inference.sources import find_sources
    from segc.network.session import TorchSession

    photos = photographs(shapes)
    assert standalone(*photos, "-o", tmp_path, "--no-overlay", "--retina").returncode == 0
    theirs = json.loads((tmp_path / "predictions.json").read_bytes())
    session = TorchSession(trained.graph((160, 160)), trained.weights, trained.metadata((160, 160)))
    for source, record in zip(find_sources([str(photo) for photo in photos]), theirs, strict=True):
        ours = predict_image(source.read(), session.run, session.metadata, Filters()).to_json()["detections"]
        assert [d["class"] for d in ours] == [d["class"] for d in record["detections"]]
        for mine, other in zip(ours, record["detections"], strict=True):
            assert mine["score"] == pytest.approx(other["score"], abs=2e-5)
            assert mine["box"] == pytest.approx(other["box"], abs=0.02)
            assert abs(mine["area"] - other["area"]) <= 0.01 * mine["area"] + 2


def test_help_needs_no_model(standalone: Standalone) -> None:
    done = standalone("--help")
    assert done.returncode == 0
    assert "--conf" in done.stdout
    assert "photos.onnx" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "required: SOURCE"),
        (["nowhere.jpg"], 1, "nowhere.jpg: no such file or folder"),
        (["predict.py"], 1, "predict.py: not an image"),
        (["predict.py", "--conf", "2"], 2, "2 is not between 0 and 1"),
        (["predict.py", "--max-det", "0"], 2, "0 is less than 1"),
        (["predict.py", "--model", "nowhere.onnx"], 1, "nowhere.onnx: no such model"),
        (["predict.py", "--model", "predict.py"], 1, "predict.py: onnxruntime cannot load it"),
        (["ftp://example.org/a.jpg"], 1, "only http, https, rtsp"),
    ],
)
def test_bad_input_gives_one_line_and_no_traceback(
    arguments: list[str], status: int, message: str, standalone: Standalone
) -> None:
    done = standalone(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreadable_image_does_not_stop_the_others(standalone: Standalone, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(photographs(shapes)[0].read_bytes()[:2000])
    done = standalone(tmp_path / "cut.jpg", photographs(shapes)[1], "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "cut.jpg: cut off" in done.stderr
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_bytes())) == 1


def test_a_source_is_never_overwritten(standalone: Standalone, shapes: Path, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(photographs(shapes)[0].read_bytes())
    done = standalone(photo, "-o", tmp_path)
    assert done.returncode == 1
    assert "choose another folder" in done.stderr
    assert photo.read_bytes() == photographs(shapes)[0].read_bytes()


def test_a_file_that_no_run_wrote_is_never_overwritten(standalone: Standalone, shapes: Path, tmp_path: Path) -> None:
    photo, mine = tmp_path / "a.webp", tmp_path / "a.jpg"
    photo.write_bytes(photographs(shapes)[0].read_bytes())
    mine.write_text("mine")
    done = standalone(photo, "-o", tmp_path)
    assert done.returncode == 1
    assert "a.jpg is there already, and no earlier run wrote it: choose another folder" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.webp"]
    mine.unlink()
    for _ in range(2):
        assert standalone(photo, "-o", tmp_path).returncode == 0


def test_a_missing_package_is_named_with_the_command_that_brings_it(standalone: Standalone, shapes: Path) -> None:
    (standalone.blocked / "onnxruntime.py").write_text(
        "raise ModuleNotFoundError('no onnxruntime', name='onnxruntime')"
    )
    try:
        done = standalone(photographs(shapes)[0])
    finally:
        (standalone.blocked / "onnxruntime.py").unlink()
    assert done.returncode == 1
    assert done.stderr == "onnxruntime is missing: pip install numpy opencv-python-headless onnxruntime\n"
