"""Fixtures that several test folders use."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings

from segc.diagnostics import SegcError
from segc.locks import exclusive

# How long an example takes is the machine's affair.
settings.register_profile("segc", settings(), deadline=None)
settings.load_profile("segc")

# Processes that tests start leave what an ordinary Python leaves: bytecode beside what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(autouse=True)
def interruptible() -> None:
    """Signals are heard: a shell starts background jobs with SIGINT ignored, nohup with SIGHUP."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


_SHARED = Path(__file__).resolve().parents[2] / "shared"
_DRAW = Path(__file__).resolve().parents[1] / "examples" / "shapes" / "generate.py"


def _material(path: Path) -> Path:
    """A folder of test material kept beside the checkout; CI must have it, elsewhere its tests are skipped."""
    if not path.exists():
        reason = f"test material {path.relative_to(_SHARED.parent)} is not beside the checkout"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def coco() -> Path:
    """200 real photographs with polygons: ``images/{train,val}``, ``labels/{train,val}``, ``data.yaml``."""
    return _material(_SHARED / "data" / "coco128-seg")


@pytest.fixture(scope="session")
def peer() -> Path:
    """A checkpoint of the reference implementation and what it made of given inputs."""
    return _material(_SHARED / "peer")


@pytest.fixture(scope="session")
def shapes_weights() -> Path:
    """A small trained network that knows the pictures of ``shapes``: ``material/README.md`` says how it came to be."""
    return Path(__file__).parent / "material" / "shapes.safetensors"


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 drawn pictures with polygons, laid out as ``coco`` is, where any photographs will do.

    The network of ``shapes_weights`` was trained on those of ``images/train``. All processes of a run of the tests
    share them.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shapes"
    data = folder / "data.yaml"
    while not data.exists():
        try:
            with exclusive(folder.with_name("shapes.lock"), "drawing the shapes"):
                if not data.exists():
                    _draw(folder)
        except SegcError:
            time.sleep(0.1)  # another process draws them
    return folder


def _draw(folder: Path) -> None:
    """Draw the pictures; ``data.yaml`` comes last, and whole."""
    command = [sys.executable, str(_DRAW), "--train", "48", "--val", "16", "--output", str(folder)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = said.splitlines()[-1].removeprefix("classes: ").split(", ")
    splits = {"path": str(folder), "train": "images/train", "val": "images/val"}
    unfinished = folder / "data.yaml.part"
    unfinished.write_text(json.dumps({**splits, "names": dict(enumerate(names))}), encoding="utf-8")
    unfinished.replace(folder / "data.yaml")
