"""Running the predict script of an artifact where segc, PyTorch and every converter cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]

ABSENT = ("segc", "torch", "onnx", "onnx_graphsurgeon", "pydantic", "jinja2", "click", "ruamel")
"""What no predict script may need; PyTorch but for TorchScript."""


def segc(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own: runtimes do not bear each other in one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "segc", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


class Standalone:
    """A folder with ``predict.py`` and its model.

    Attributes:
        path: folders with modules that the script finds beside the installed ones.
    """

    def __init__(self, folder: Path, absent: Sequence[str] = ABSENT) -> None:
        self.folder = folder
        self.path: Sequence[Path] = ()
        self.blocked = folder.parent / f"{folder.name}.blocked"
        self.blocked.mkdir(exist_ok=True)
        for module in absent:
            (self.blocked / f"{module}.py").write_text(f"raise ImportError('{module} is not to be had here')")

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the script; the working directory is its own."""
        command = [sys.executable, "-P", str(self.folder / "predict.py"), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [self.blocked, *self.path]))}
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )

    def finds_what_segc_predict_finds(
        self, model: Path, photographs: Sequence[Path], output: Path, *, same_runtime: bool = True
    ) -> None:
        """Assert that predictions, label files and pictures of both are the same, byte for byte.

        Where segc runs what stands in for the model, records name another runtime.
        """
        done = self(*photographs, "-o", output / "theirs", "--threads", 1, "--save-txt")
        assert done.returncode == 0, done.stderr
        arguments = ["--artifact", str(model), "-o", str(output / "ours"), "--save-json", "--save-txt"]
        assert segc("predict", *photographs, *arguments).returncode == 0
        records = json.loads((output / "theirs" / "predictions.json").read_bytes())
        assert sum(len(record["detections"]) for record in records) >= 5
        theirs, ours = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (output / "theirs", output / "ours")
        )
        assert len(theirs) == 2 + 2 * len(photographs)  # the record of what was written is one of them
        if not same_runtime:
            for found in (theirs, ours):
                records = json.loads(found[Path("predictions.json")])
                assert all(record.pop("runtime") for record in records)
                found[Path("predictions.json")] = json.dumps(records).encode()
        assert theirs == ours
