"""A wheel, installed with the core dependencies only, validates, builds and prints the schema."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SPEC = f"""\
version: 1
name: wheel
architecture: {{family: yolov8-seg, scale: s}}
dataset: {{path: data, train: images/train, val: images/val, names: {[f"class {index}" for index in range(80)]}}}
targets: [{{format: onnx}}]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_carries_schemas_and_templates_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "segc/_resources/schemas/project.schema.json" in names
    assert "segc/_resources/templates/predict/predict.py.j2" in names
    assert "segc/_resources/templates/report/report.html.j2" in names
    assert "segc/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "segc/_resources/tests"))]


@pytest.mark.slow
def test_the_wheel_works_with_the_core_dependencies_only(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
    listed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "onnx", "onnxruntime"} & {line.split()[0] for line in listed.splitlines()}
    project = tmp_path / "project.yaml"
    project.write_text(SPEC)
    for split in ("train", "val"):
        for folder, name, content in (("images", "a.jpg", b"unopened"), ("labels", "a.txt", b"0 0 0 1 0 1 1\n")):
            file = tmp_path / "data" / folder / split / name
            file.parent.mkdir(parents=True)
            file.write_bytes(content)

    def segc(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "segc", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)

    template = "from segc.files import resource; assert resource('templates', 'predict', 'predict.py.j2').is_file()"
    subprocess.run([python, "-c", template], check=True, cwd=tmp_path)
    for command in ("validate", "build"):
        done = segc(command)
        assert done.returncode == 0, done.stderr
    assert "11,821,056" in (tmp_path / "build" / "summary.txt").read_text()
    printed = segc("schema")
    assert printed.stdout == (ROOT / "schemas" / "project.schema.json").read_text()
    refused = segc("emit", "--untrained")
    assert refused.returncode == 1
    assert "pip install 'segc[" in refused.stderr
    assert "Traceback" not in refused.stderr
