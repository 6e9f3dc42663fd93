"""Fixtures that several test folders use."""

import os
import signal
from pathlib import Path

import pytest

# A shell starts background jobs with SIGINT ignored, and children inherit that: what tests interrupt must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SHARED = Path(__file__).resolve().parents[2] / "shared"


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
