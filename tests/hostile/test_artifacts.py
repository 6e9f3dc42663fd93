"""A short run of the classes of ``benchmarks/fuzz_artifacts.py``: an artifact of each target, changed by strangers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.fuzz import Tally, try_all
from benchmarks.fuzz_artifacts import artifact_kinds
from segc.targets.registry import targets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.targets.conftest import Trained

SIZE = (64, 64)
INPUTS = 3


@pytest.mark.slow
@pytest.mark.parametrize("target", targets())
def test_an_artifact_that_strangers_changed_is_run_or_refused(
    target: str, trained: Trained, shapes: Path, tmp_path: Path
) -> None:
    folder, work = tmp_path / "artifacts" / target, tmp_path / "work"
    work.mkdir()
    folder.parent.mkdir()
    photos = sorted((shapes / "images" / "train").iterdir())[:4] if target == "edgetpu" else ()
    model = trained.emit(target, folder, SIZE, calibration=photos).model
    description = {"format": 3, "target": target, "model": model, "status": "verified"}
    (folder / "artifact.json").write_text(json.dumps(description))
    kinds = artifact_kinds(folder.parent)
    assert len(kinds) == 2 + (folder / "predict.py").exists()
    for one in kinds:
        assert one.alone is not None
        kind = replace(one, run=one.alone)  # frameworks do not bear each other in one process
        if target != "tensorrt" and (target != "coreml" or not kind.name.startswith("script")):  # they run elsewhere
            assert kind.run(folder, work) == "accepted"
        tally = Tally()
        for number, outcome, seconds in try_all(kind, 0, range(INPUTS), work):
            if outcome:
                tally.take(number, outcome, seconds)
        assert tally.failures == [], kind.name
        assert tally.tried == INPUTS
