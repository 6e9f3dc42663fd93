"""Artifacts of the TensorFlow family in every form, each emitted once; and what looks at them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from segc.targets.registry import targets
from tests.targets.standalone import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from segc.inference.metadata import Metadata
    from tests.targets.conftest import Trained

SIZE = (160, 160)

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "saved_model": ("saved_model", {"keras": True}),
    "graphdef": ("graphdef", {}),
    "tflite": ("tflite", {}),
    "tflite half": ("tflite", {"half": True}),
    "tflite int8 weights": ("tflite", {"int8_weights": True}),
    "tflite int8": ("tflite", {"int8": True}),
    "edgetpu": ("edgetpu", {}),
}
"""Target and options by what they are called here."""


class Made(NamedTuple):
    model: Path
    notes: tuple[str, ...]
    deferred: bool


class Forms:
    """Artifacts of the trained network, each emitted when it is first asked for."""

    def __init__(self, trained: Trained, shapes: Path, folder: Path) -> None:
        self._trained, self._folder = trained, folder
        self.photos = sorted((shapes / "images" / "train").iterdir())[:8]
        self._made: dict[str, Made] = {}

    def emit(self, form: str, folder: Path) -> Made:
        target, options = FORMS[form]
        photos = self.photos if self.precision(form) == "int8" else ()
        made = self._trained.emit(target, folder, SIZE, calibration=photos, **options)
        return Made(folder / made.model, made.notes, made.deferred)

    def __getitem__(self, form: str) -> Made:
        if form not in self._made:
            self._made[form] = self.emit(form, self._folder / form.replace(" ", "_"))
        return self._made[form]

    def precision(self, form: str) -> str:
        return self.metadata(form).precision

    def metadata(self, form: str) -> Metadata:
        """What the artifact says about itself."""
        name, options = FORMS[form]
        target = targets()[name]
        settings = target.settings(target.options.model_validate({"format": name, **options}))
        return self._trained.metadata(SIZE, segc_version="0", **settings)


def in_a_process(code: str, *arguments: object) -> Any:
    """What a program prints as JSON in its last line: TensorFlow does not bear other frameworks beside it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


REFUSED = """\
import json, sys
from pathlib import Path
from segc.diagnostics import SegcError
from segc.inference.metadata import ModelError
from segc.sessions.artifact import open_target
from segc.targets.registry import targets
found = []
for target, path in json.loads(sys.argv[1]):
    try:
        open_target(targets()[target], Path(path), 1)
        found.append("opened")
    except SegcError as error:
        found.append(str(error))
print(json.dumps(found))
"""
"""Opens models, given as JSON, and prints how each was refused."""


def refused(*models: tuple[str, Path]) -> list[str]:
    """How models of targets are refused, one line each."""
    said: list[str] = in_a_process(REFUSED, json.dumps([(target, str(path)) for target, path in models]))
    return said


def spoiled(path: Path, change: str) -> None:
    """Change a file: cut off, changed, foreign, empty."""
    content = bytearray(path.read_bytes())
    if change == "cut off":
        content = content[: len(content) // 2]
    elif change == "changed":
        content[len(content) // 3] ^= 0xFF
    else:
        content = bytearray({"foreign": b"not a model at all", "empty": b""}[change])
    path.write_bytes(bytes(content))
