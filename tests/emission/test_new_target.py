"""A new target is one folder and a line in the registry; and one that goes wrong costs itself alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from segc.files import digest_file
from segc.targets.registry import targets

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy"

FAULTY = '''
"""A target that goes wrong."""

from segc.targets.contract import Requirement, Target, TargetOptions
from typing import Literal


class {kind}Options(TargetOptions):
    """None."""

    format: Literal["{name}"]


def emit(request):
    """Go wrong."""
    {emit}


TARGET = Target(
    name="{name}", title="{name}", suffix=".{name}", options={kind}Options, emit=emit,
    runtime="segc.targets.onnx.runtime", requirements=lambda _: ({requirement},), needed=(), extra="onnx",
)
'''
"""Module of a target; ``emit`` and ``requirement`` differ."""

NOTHING, HARMLESS = "pass", 'Requirement("numpy", "numpy", "2.0")'
FAULTS: dict[str, tuple[str, str, str]] = {
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", HARMLESS, "ended by SIGKILL"),
    "hanging": ("import time; time.sleep(600)", HARMLESS, "did not finish within 20 seconds"),
    "greedy": (
        "import numpy, time; hoard = numpy.ones(1 << 28); time.sleep(600)",
        HARMLESS,
        "of memory, 1.5 are allowed",
    ),
    "absent": (NOTHING, 'Requirement("abacus", "abacus", "1.0")', "abacus is not installed"),
    "outdated": (NOTHING, 'Requirement("numpy", "numpy", "99.0")', "is older than 99.0"),
    "broken": ('raise RuntimeError("the converter gave up")', HARMLESS, "failed (exit status 1)"),
}
"""Name of a faulty target to what it does, what it needs, and what is said of it."""


class Checkout:
    """A copy of segc with more targets, and a project to emit."""

    def __init__(self, root: Path, project: Path, modules: Mapping[str, str | Path]) -> None:
        self.root, self.project = root, project
        for name in ("segc", "templates", "schemas"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        registry = root / "segc" / "targets" / "registry.py"
        lines = "".join(f'    "segc.targets.{name}",\n' for name in modules)
        start = "MODULES = ("
        text = registry.read_text(encoding="utf-8")
        assert start in text
        registry.write_text(text.replace(start, f"{start}\n{lines}"), encoding="utf-8")
        for name, module in modules.items():
            place = root / "segc" / "targets" / name
            if isinstance(module, Path):
                shutil.copytree(module, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.with_suffix(".py").write_text(module, encoding="utf-8")

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "segc", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(self.root)},
            cwd=self.project.parent,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def test_a_new_target_is_one_folder_and_a_line(project: Path, shapes: Path, tmp_path: Path) -> None:
    segc = Checkout(tmp_path / "checkout", project, {"toy": TOY})
    text = project.read_text().partition("targets:")[0]
    project.write_text(text + "targets: [{format: toy, level: 10}]\n")
    refused = segc("validate", project)
    assert refused.returncode == 1
    assert "level" in refused.stdout + refused.stderr
    project.write_text(text + "targets: [{format: toy, level: 2}]\n")
    done = segc("emit", project)
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert "toy: a toy" in done.stdout
    folder = project.parent / "build" / "artifacts" / "toy"
    description = json.loads((folder / "artifact.json").read_text())
    assert description["options"] == {"format": "toy", "name": None, "imgsz": None, "accept": None, "level": 2}
    assert description["script"] == {
        "file": "predict.py",
        "digest": digest_file(folder / "predict.py"),
        "ran": True,
        "passed": True,
    }
    assert (TOY / "runtime.py").read_text().partition("\n\n\n")[2].strip() in (folder / "predict.py").read_text()
    photo = min((shapes / "images" / "train").iterdir())
    ours = segc("predict", photo, "--artifact", folder, "-o", tmp_path / "ours", "--save-json")
    assert ours.returncode == 0, ours.stderr
    script = [sys.executable, str(folder / "predict.py"), str(photo), "-o", str(tmp_path / "theirs")]
    subprocess.run(script, check=True, capture_output=True)
    records = [(tmp_path / who / "predictions.json").read_bytes() for who in ("ours", "theirs")]
    assert records[0] == records[1]
    assert "toy" in segc("doctor").stdout


def test_a_target_that_goes_wrong_is_a_line_and_the_others_are_emitted(project: Path, tmp_path: Path) -> None:
    modules = {
        name: FAULTY.format(name=name, kind=name.title(), emit=emit, requirement=requirement)
        for name, (emit, requirement, _) in FAULTS.items()
    }
    segc = Checkout(tmp_path / "checkout", project, modules)
    wanted = [part for name in ("onnx", *FAULTS) for part in ("--target", name)]
    limits = ["--time-limit", 20, "--memory-limit", 1.5]
    done = segc("emit", project, "--set", "hyperparameters.imgsz=128", *wanted, *limits)
    assert done.returncode == 1
    states = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line}
    assert states["onnx"] == "verified"
    for name, (_, _, message) in FAULTS.items():
        assert states[name] == "error"
        (line,) = [line for line in done.stderr.splitlines() if "error[" in line and name in line]
        assert message in line
    artifacts = project.parent / "build" / "artifacts"
    assert [path.name for path in artifacts.iterdir()] == ["onnx"]


DEFECTS = {
    "onnx": ("session.run(names, {source: images})", "session.run(names, {source: images * 0.99})"),
    "torchscript": ("value.cpu().numpy() for name", "value.cpu().numpy() * (1.01 if name == 'boxes' else 1) for name"),
    "openvino": ("compiled([images])", "compiled([images[:, ::-1]])"),
}
"""By target: a line of its runtime's text, and what a careless hand makes of it."""


@pytest.mark.parametrize("target", DEFECTS)
def test_a_defect_in_the_text_of_a_runtime_fails_the_emission_of_that_target(
    target: str, project: Path, shapes: Path, tmp_path: Path
) -> None:
    segc = Checkout(tmp_path / "checkout", project, {})
    place = segc.root.joinpath(*targets()[target].runtime.split(".")).with_suffix(".py")
    good, bad = DEFECTS[target]
    text = place.read_text(encoding="utf-8")
    assert text.count(good) == 1
    place.write_text(text.replace(good, bad), encoding="utf-8")
    done = segc("emit", project, "--target", target, "--set", "hyperparameters.imgsz=128")
    assert done.returncode == 1
    assert f"T007]: {target}: " in done.stderr
    failed = project.parent / "build" / "artifacts" / f"{target}.failed"
    assert json.loads((failed / "artifact.json").read_text())["script"]["passed"] is False
    # What is wrong is wrong in both: the script that ships and segc itself run the same text.
    model = failed / json.loads((failed / "artifact.json").read_text())["model"]
    photo = min((shapes / "images" / "train").iterdir())
    ours = segc("predict", photo, "--artifact", model, "-o", tmp_path / "ours", "--save-json", "--conf", 0.001)
    assert ours.returncode == 0, ours.stderr
    script = [sys.executable, str(failed / "predict.py"), str(photo), "-o", str(tmp_path / "theirs"), "--conf", "0.001"]
    subprocess.run(script, check=True, capture_output=True)
    records = [(tmp_path / who / "predictions.json").read_bytes() for who in ("ours", "theirs")]
    assert records[0] == records[1]


def test_the_toy_is_what_contributing_shows_the_way_to() -> None:
    assert (TOY / "__init__.py").is_file()
    assert (TOY / "runtime.py").is_file()
    assert "tests/emission/toy/" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
