"""The folder that a Core ML model is saved in: a manifest, the model's message, and the values that lie beside it."""

import hashlib
import json
import uuid
from pathlib import Path

MANIFEST = "Manifest.json"
"""Says which of a package's files is what."""

MODEL_FILE = "com.apple.CoreML/model.mlmodel"
WEIGHTS_FOLDER = "com.apple.CoreML/weights"
WEIGHTS_FILE = "weight.bin"
"""Where Core ML looks for things in a package's ``Data``."""


def write_package(path: Path, model: bytes, values: bytes) -> None:
    """Write an ``.mlpackage``. Its identifiers, random where Apple's tools make them, come of the contents.

    Args:
        path: the folder to make.
        model: the model's message.
        values: what it reads from a file beside it.
    """
    items = {
        MODEL_FILE: ("model.mlmodel", "CoreML Model Specification", model),
        WEIGHTS_FOLDER: ("weights", "CoreML Model Weights", values),
    }
    entries, identifiers = {}, []
    for place, (name, description, content) in items.items():
        identifier = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{place} {hashlib.sha256(content).hexdigest()}")).upper()
        identifiers.append(identifier)
        entries[identifier] = {
            "author": "com.apple.CoreML",
            "description": description,
            "name": name,
            "path": place,
        }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": identifiers[0],
    }
    data = path / "Data"
    (data / WEIGHTS_FOLDER).mkdir(parents=True)
    (data / MODEL_FILE).write_bytes(model)
    (data / WEIGHTS_FOLDER / WEIGHTS_FILE).write_bytes(values)
    (path / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
