"""Weights of any kind, told by what is in the file: own safetensors, or another project's PyTorch checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segc.weights import lineage
from segc.weights.checkpoint import ForeignCheckpoint, read_checkpoint
from segc.weights.store import is_safetensors, load_weights, read_metadata

CHECKPOINT_SUFFIXES = (".pt", ".pth")
"""What the file is taken for where its content says nothing: the reader then says what is wrong with it."""


@dataclass(frozen=True)
class ReadWeights:
    """Weights as a file has them, own or foreign.

    Attributes:
        tensors: float32 and int64 arrays by name.
        names: class names by index, where the file has them.
        metadata: texts to keep with the weights, such as the licence they carry and what they descend from.
        notes: what the reader chose or left out, one sentence each.
    """

    tensors: dict[str, NDArray[np.generic]]
    names: tuple[str, ...] | None
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a PyTorch checkpoint rather than safetensors, by its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        head = b""
    if head.startswith(b"PK\x03\x04"):
        return True
    return not is_safetensors(head) and path.suffix.lower() in CHECKPOINT_SUFFIXES


def is_weights(path: Path) -> bool:
    """Whether a file is weights, of either kind, by its first bytes and its name."""
    return path.suffix.lower() == ".safetensors" or (is_checkpoint(path) and path.suffix.lower() in CHECKPOINT_SUFFIXES)


def read_source(path: Path) -> ReadWeights:
    """Read own weights or another project's checkpoint.

    Raises:
        SegcError: as ``load_weights`` and ``read_checkpoint``.
    """
    if is_checkpoint(path):
        foreign = read_checkpoint(path)
        source = ReadWeights(foreign.tensors, foreign.names, _claims(path, foreign), foreign.notes)
    else:
        own = load_weights(path)
        source = ReadWeights(own.tensors, own.names, own.metadata)
    source.metadata[lineage.KEY] = lineage.to_text(lineage.lineage_from(path, source.metadata))
    return source


def lineage_of(path: Path) -> lineage.Lineage:
    """What a weights file descends from, itself included.

    Raises:
        SegcError: as the readers.
        OSError: where it cannot be read.
    """
    return lineage.lineage_from(path, read_claims(path))


def read_claims(path: Path) -> dict[str, str]:
    """What a weights file says of itself, without its tensors.

    Raises:
        SegcError: as :func:`read_source`.
    """
    return _claims(path, read_checkpoint(path, tensors=False)) if is_checkpoint(path) else read_metadata(path)


def _claims(path: Path, foreign: ForeignCheckpoint) -> dict[str, str]:
    said = {
        "names": json.dumps(foreign.names, ensure_ascii=False) if foreign.names else None,
        "license": foreign.license,
        lineage.KEY: foreign.lineage,
        "producer": foreign.producer,
    }
    return {"source": path.name, **{key: text for key, text in said.items() if text}}
