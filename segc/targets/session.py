"""What the sessions of all artifacts share: metadata as text, and outputs brought into one form."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

METADATA_KEY = "segc"
"""Key under which a model keeps segc's metadata, as JSON, where its format has named entries."""

SIDECAR = "metadata.json"
"""File beside or in a model whose format has no place for metadata."""

LONGEST_METADATA = 1 << 24
"""Most bytes of metadata that are read from a model."""


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as a model keeps them: the same text for equal values."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False)


def parse_metadata(text: str | bytes | None, path: Path) -> dict[str, Any]:
    """What segc wrote into a model.

    Args:
        text: what :func:`metadata_text` gave; None where the model has nothing there.
        path: the model, for the message.

    Raises:
        SegcError: T006 where there is nothing by segc.
    """
    try:
        metadata = json.loads(text) if text and len(text) <= LONGEST_METADATA else None
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict) or not {"names", "imgsz", "layout"} <= metadata.keys():
        raise fail("T006", "not a model of segc: its metadata does not say what it detects", file=path)
    return metadata


def read_sidecar(sidecar: Path, model: Path) -> dict[str, Any]:
    """The metadata in a file of their own.

    Raises:
        SegcError: T006 where it is not there or not by segc.
    """
    small = sidecar.is_file() and sidecar.stat().st_size <= LONGEST_METADATA
    return parse_metadata(sidecar.read_bytes() if small else None, model)


class ArtifactSession(ABC):
    """A model on its runtime. A subclass sets the attributes and runs the model as it is.

    Attributes:
        metadata: what the model says about itself.
        runtime: what runs it, for people.
    """

    metadata: dict[str, Any]
    runtime: str

    @abstractmethod
    def raw(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The model's outputs by name, in the form that they have in the file.

        Args:
            images: float32 in 0..1, [N, 3, H, W], or [N, H, W, 3] where the metadata's ``channels`` is ``last``.
        """

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Images [N, 3, H, W] (RGB in 0..1) to boxes, scores, coefficients and prototypes in float32."""
        from segc.inference.postprocess import model_input, named_outputs

        return named_outputs(self.raw(model_input(images, self.metadata)), self.metadata)
