"""Weights out again: a PyTorch file that needs no segc, so that nobody is locked in."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segc.diagnostics import fail
from segc.files import atomic_path
from segc.version import __version__
from segc.weights import lineage
from segc.weights.names import aligned
from segc.weights.reading import ReadWeights, read_source
from segc.weights.recognise import recognise

Tensors = dict[str, NDArray[np.generic]]

Layout = Literal["state-dict", "checkpoint"]
"""The state dict alone, or a dictionary that has it under ``model``, and facts about it beside it."""

SUFFIXES = (".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        output: the file.
        tensors: how many tensors are in it.
        family: the network's family.
        scale: its scale.
        descent: what the weights descend from.
        layout: what the file is.
    """

    output: Path
    tensors: int
    family: str
    scale: str
    descent: lineage.Lineage
    layout: Layout

    def lines(self) -> list[str]:
        """The account, for people."""
        kept = "it stands in the file" if self.layout == "checkpoint" else "a state dict has no place for it"
        return [
            lineage.line(self.descent),
            f"licences: {', '.join(lineage.licences(self.descent)) or 'none is inherited'}; {kept}",
            f"written to {self.output}: {self.tensors} tensors of {self.family}, scale {self.scale}",
        ]


def export_weights(source: Path, output: Path, *, layout: Layout = "state-dict", half: bool = False) -> Exported:
    """Write weights as ``torch.save`` writes them, with the names and shapes of the family's state dict.

    ``torch.load(output, weights_only=True)`` reads either layout. A module of the family takes the state dict, or the
    entry ``model`` of the checkpoint, with ``load_state_dict`` and nothing left over.

    Args:
        source: own weights, or another project's checkpoint.
        output: the file to write; its name ends in ``.pt`` or ``.pth``.
        layout: what to write.
        half: floating-point tensors in fp16.

    Raises:
        SegcError: W007 where ``output`` is ``source`` or ends otherwise, W010 where fp16 cannot hold a value, else as
            the readers.
        OSError: where it cannot be written; what stood there is then as it was.
    """
    import torch

    if output.suffix.lower() not in SUFFIXES:
        raise fail("W007", f"{output.name} does not end in {' or '.join(SUFFIXES)}", file=output, help="name it so")
    if output.exists() and source.exists() and output.samefile(source):
        raise fail("W007", "the file to write is the file to read", file=source, help="give another name with --output")
    read = read_source(source)
    family, scale, tensors = _network(read, source)
    if half:
        tensors = {name: _halved(name, array, source) for name, array in tensors.items()}
    state = OrderedDict((name, torch.from_numpy(np.array(array))) for name, array in tensors.items())
    descent = lineage.stated(read.metadata)
    facts: dict[str, Any] = {
        "task": "segment",
        "family": family,
        "scale": scale,
        "names": dict(enumerate(read.names or ())),
        "license": ", ".join(lineage.licences(descent)),
        lineage.KEY: lineage.to_text(descent),
        "segc_version": __version__,
    }
    with atomic_path(output) as temporary:
        torch.save(state if layout == "state-dict" else {"model": state, **facts}, temporary)
    return Exported(output, len(state), family, scale, descent, layout)


def _network(read: ReadWeights, source: Path) -> tuple[str, str, Tensors]:
    """Family, scale, and the tensors under the family's names.

    Own files say all this themselves, and their scale may be one of the user's own.
    """
    if "family" in read.metadata and "scale" in read.metadata:
        return read.metadata["family"], read.metadata["scale"].strip('"'), read.tensors
    architecture, graph = recognise(read.tensors, len(read.names) if read.names else None, source)
    return architecture.family, str(architecture.scale), aligned(read.tensors, graph.parameters)[0]


def _halved(name: str, array: NDArray[np.generic], source: Path) -> NDArray[np.generic]:
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if np.isinf(half).any() and not np.isinf(array).any():
        raise fail("W010", f"fp16 cannot hold a value of {name}", file=source, help="leave out --half")
    return half
