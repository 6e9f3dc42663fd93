"""Start-up counts: what needs no framework imports none, whichever are installed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from segc.targets.registry import MODULES, targets

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = """\
version: 1
name: light
architecture: {family: yolov8-seg, scale: n}
dataset: {path: data, train: images, val: others, names: [thing]}
targets: [%s]
"""

NO_FRAMEWORKS = {"setuptools", "numpy"}
"""Modules that some targets need and that cost little."""

FRAMEWORKS = {"torch", "cv2", "faster_coco_eval", "tensorboardX", "nncf", "tensorrt", "scipy"} | {
    requirement.module.partition(".")[0]
    for target in targets().values()
    for requirement in (*target.requirements(target.default_options()), *target.needed)
} - NO_FRAMEWORKS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with every target."""
    path = tmp_path / "project.yaml"
    path.write_text(PROJECT % ", ".join(f"{{format: {name}}}" for name in targets()))
    for name in ("images", "others"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.jpg").write_bytes(b"")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["emit", "--help"],
        ["bench", "--help"],
        ["validate"],
        ["build"],
        ["schema"],
        ["doctor"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_light_command_imports_no_framework(arguments: list[str], project: Path) -> None:
    code = (
        "import sys; from segc.cli import run\n"
        f"status = run({arguments!r})\n"
        f"heavy = {FRAMEWORKS!r} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_project_that_starts_from_a_file_is_valid_without_numpy(project: Path) -> None:
    text = project.read_text().replace("scale: n}", "scale: n, weights: here.safetensors}")
    project.write_text(text)
    (project.parent / "here.safetensors").write_bytes(b"")
    code = (
        "import sys; from segc.cli import run\n"
        "status = run(['validate'])\n"
        "sys.exit('imported: numpy' if 'numpy' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "here.safetensors" in done.stdout


NOT_FOR_HELP = FRAMEWORKS | {"numpy", "pydantic", "ruamel", "rich", "jinja2", "email"}
"""What no help needs; importing pydantic takes longer than all the rest of one."""


def test_help_imports_no_more_than_the_command_line() -> None:
    code = (
        "import sys; from segc.cli import COMMANDS, run\n"
        "for words in ([], *([name] for name in COMMANDS)):\n"
        "    status = run([*words, '--help'])\n"
        f"    heavy = {NOT_FOR_HELP!r} & set(sys.modules)\n"
        "    if heavy or status: sys.exit(f'{words}: {heavy or status}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_segc_and_every_target_imports_no_framework() -> None:
    modules = ", ".join(MODULES)
    code = f"import sys, segc, {modules}; sys.exit(str({FRAMEWORKS!r} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in {"", "set()"}
