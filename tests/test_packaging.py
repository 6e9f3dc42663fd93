"""The packages that are declared, and a wheel: the core alone validates, builds and prints the schema."""

import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from segc.emission.script import PACKAGES, script_packages
from segc.targets.registry import targets

ROOT = Path(__file__).resolve().parents[1]

SPEC = f"""\
version: 1
name: wheel
architecture: {{family: yolov8-seg, scale: s}}
dataset: {{path: data, train: images/train, val: images/val, names: {[f"class {index}" for index in range(80)]}}}
targets: [{{format: onnx}}]
"""


def lowest(requirement: Requirement) -> Version:
    (bound,) = [one for one in requirement.specifier if one.operator == ">="]
    return Version(bound.version)


def declared() -> dict[str, Version]:
    """The lowest version of every package that is needed for something but development, by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: packages for name, packages in project["optional-dependencies"].items() if name != "dev"}
    requirements = map(Requirement, [*project["dependencies"], *(one for extra in extras.values() for one in extra)])
    return {canonicalize_name(one.name): lowest(one) for one in requirements if one.name != "segc"}


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    tested = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    allowed = declared()
    allowed.pop("tensorflow")  # the same as tensorflow-cpu where that is not
    assert tested.keys() == allowed.keys()
    for name, version in allowed.items():
        assert tested[name].release[: len(version.release)] == version.release, name


LOWER = {"ncnn"}
"""What runs models with older versions than the extra brings, whose comment in pyproject.toml says why."""


@pytest.mark.parametrize("target", targets())
def test_targets_and_scripts_need_what_is_declared(target: str) -> None:
    entry, allowed = targets()[target], declared()
    needed = {*map(str, entry.requirements(entry.default_options())), *map(str, entry.needed), *script_packages(entry)}
    assert set(PACKAGES) <= needed
    for requirement in map(Requirement, sorted(needed)):
        name = canonicalize_name(requirement.name)
        if name in allowed:
            assert lowest(requirement) == allowed[name] or name in LOWER, name


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
