"""A short kill storm; `python benchmarks/storm.py` is the long one."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "storm.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")
def test_trainings_that_are_ended_at_random_moments_end_with_the_same_weights(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("kill_storm", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    storm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(storm)
    found = storm.storm(tmp_path, ["SIGKILL", "SIGTERM"], moments=5, seed=0, workers=1)
    assert found["faults"] == []
    assert found["moments"] == {"SIGKILL": 5, "SIGTERM": 5}
