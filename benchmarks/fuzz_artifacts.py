"""Classes of artifacts, three for each in a folder: through segc, with hostile metadata, and through its script.

Changes go into what the readers take apart: entries of zip archives, values of JSON, fields of protocol buffers. Where
an artifact says the digests of its files, those are right again after half of the changes, as a stranger's would be.
"""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.fuzz_kinds import CANARY, Kind
from benchmarks.fuzz_mutations import VALUES, changed_archive, changed_bytes, changed_json, changed_message, json_bytes
from segc.archives import BROKEN
from segc.inference.metadata import SIDECAR
from segc.targets.sidecar import FILES

UNTOUCHED = ("predict.py", "predict.cpp", "CMakeLists.txt", "build_engine.py", "index.html", "README.md")
"""What no reader of the model opens; nor are the runtime's own files of a web page changed."""

MESSAGES = (".pb", ".onnx", ".mlmodel")
"""Endings of protocol buffers."""


def _copy(folder: Path, original: Path) -> Path:
    copy = folder / original.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    return copy


def _artifact(original: Path, numbers: random.Random, folder: Path) -> Path:
    copy = _copy(folder, original)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name not in UNTOUCHED)
    # Scripts of a page are the page's, not the model's.
    files = [path for path in files if path.suffix not in {".js", ".mjs", ".wasm", ".ts", ".swift"}]
    # Most of what there is to read wrongly is in the descriptions, most of the bytes are weights.
    telling = [path for path in files if path.suffix in {*MESSAGES, ".json", ".xml", ".param", ".torchscript"}]
    path = numbers.choice(telling if telling and numbers.random() < 0.5 else files)
    data = path.read_bytes()
    structured = numbers.random() < 0.7
    if structured and path.suffix == ".torchscript":
        data = changed_archive(numbers, data)
    elif structured and path.suffix == ".json":
        data = json_bytes(changed_json(numbers, json.loads(data)))
    elif structured and path.suffix in MESSAGES:
        data = changed_message(numbers, data)
    else:
        data = changed_bytes(numbers, data)
    path.write_bytes(data)
    if numbers.random() < 0.5:
        _mend_digests(path)
    return copy


def _mend_digests(changed: Path) -> None:
    """Let an artifact tell the digest that a changed file has, where it tells any."""
    sidecar = changed.parent / SIDECAR
    try:
        value = json.loads(sidecar.read_bytes())
        told = value[FILES]
        told[changed.name] = told[changed.name].partition(":")[0] + ":" + sha256(changed.read_bytes()).hexdigest()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        if changed.suffix == ".tflite" and zipfile.is_zipfile(changed):
            _mend_flatbuffer(changed)
        return
    sidecar.write_text(json.dumps(value))


def _mend_flatbuffer(changed: Path) -> None:
    """Likewise of a flatbuffer with its metadata packed behind it."""
    from segc.targets.litert.runtime import DIGEST

    data = changed.read_bytes()
    try:
        with zipfile.ZipFile(changed) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
            start = min(entry.header_offset for entry in archive.infolist())
    except (OSError, *BROKEN):
        return
    entries[DIGEST] = sha256(data[:start]).hexdigest().encode()
    changed.write_bytes(data[:start])
    with zipfile.ZipFile(changed, "a") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _metadata(original: Path, numbers: random.Random, folder: Path) -> Path:
    copy = _copy(folder, original)
    path = numbers.choice(sorted(path for path in copy.rglob("*.json") if path.name not in UNTOUCHED))
    value = json.loads(path.read_bytes())
    holder = numbers.choice([part for part in (value, *value.values()) if isinstance(part, dict) and part])
    holder[numbers.choice(sorted(holder))] = numbers.choice(VALUES)
    path.write_bytes(json_bytes(value))
    return copy


def open_and_run(path: Path, _: Path) -> str:
    """Open an artifact as segc opens a stranger's, and run it once."""
    from segc.sessions.artifact import open_artifact

    return _run(open_artifact(path, 1))


def _open_and_run_here(path: Path, _: Path) -> str:
    """Likewise in this process, where a runtime is imported once for all inputs: what its process does with one."""
    from segc.sessions.artifact import locate, open_target

    return _run(open_target(*locate(path), 1))


def _run(model: Any) -> str:
    import numpy as np

    model.run(np.zeros((model.metadata.batch, 3, *model.metadata.imgsz), np.float32))
    return "accepted"


def _arguments(folder: Path) -> list[str]:
    """What a script is called with."""
    import cv2
    import numpy as np

    image = folder / "photo.png"
    if not image.exists():
        cv2.imwrite(str(image), np.full((48, 64, 3), 99, np.uint8))
    return [str(image), "-o", str(folder / "out")]


def _script(path: Path, folder: Path) -> str:
    """Run an artifact's script."""
    command = [sys.executable, str(path / "predict.py"), *_arguments(folder)]
    done = subprocess.run(command, capture_output=True, cwd=folder, timeout=120, check=False)
    if b"Traceback" in done.stderr:
        raise AssertionError(done.stderr.decode(errors="replace").strip()[-300:])
    return _ended(done.returncode, folder)


def _script_here(path: Path, folder: Path) -> str:
    """Likewise in this process, where what it imports is there already."""
    name = "predict_of_an_artifact"
    spec = importlib.util.spec_from_file_location(name, path / "predict.py")
    assert spec is not None
    assert spec.loader is not None
    # Where dataclasses look for it.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        status = module.main(_arguments(folder))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    return _ended(status, folder)


def _ended(status: int, folder: Path) -> str:
    if status not in (0, 1) or (folder / CANARY).exists():
        raise AssertionError(f"exit status {status}" if status else "something of the file was run")
    return "refused" if status else "accepted"


def artifact_kinds(artifacts: Path) -> list[Kind]:
    """Rows for each artifact that there is: through segc, with hostile metadata, and through its script in Python."""
    made = []
    for original in sorted(path.parent for path in artifacts.glob("*/artifact.json")):
        name = original.name

        def make(numbers: random.Random, folder: Path, original: Path = original) -> Path:
            return _artifact(original, numbers, folder)

        def metadata(numbers: random.Random, folder: Path, original: Path = original) -> Path:
            return _metadata(original, numbers, folder)

        limits: dict[str, Any] = {"seconds": 60, "megabytes": 2000, "needs": name}
        made += [
            Kind(f"artifact {name}", 93, make, _open_and_run_here, alone=open_and_run, **limits),
            Kind(f"metadata {name}", 20, metadata, _open_and_run_here, alone=open_and_run, **limits),
        ]
        if (original / "predict.py").exists():
            made.append(Kind(f"script {name}", 42, make, _script_here, alone=_script, **limits))
    return made
