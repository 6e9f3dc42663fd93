"""What worker processes are asked, and what they answer: JSON values and names of files, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - read by those who look at the fields
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """A task for a worker."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EmitTask(Request):
    """Emit a target into a folder.

    Attributes:
        target: its name.
        graph: file with the graph, batch norms unfolded.
        weights: file with its values.
        options: of the target, as JSON values.
        metadata: that the artifact gets, as JSON values.
        stem: file name of the model without suffix.
        folder: to write into.
        observations: file with what the feature maps hold on images to calibrate on; None where it is not needed.
        method: how the range of a map follows from that.
    """

    target: str
    graph: str
    weights: str
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]
    stem: str
    folder: str
    observations: str | None = None
    method: str = "mse"


@dataclass(frozen=True, slots=True)
class EmitReply:
    """What an emitter made, see ``segc.targets.contract.Emitted``, and the seconds it took without imports."""

    model: str
    notes: Sequence[str]
    deferred: bool
    beside: Sequence[Sequence[str]]
    seconds: float


@dataclass(frozen=True, slots=True)
class Cases(Request):
    """Images to run a model on.

    Attributes:
        images: file with each case's images [n, 3, H, W] by its name.
        outputs: file to write, with the outputs by ``<case>.<output>``.
        batches: images a run by case; 1 for those left out.
        threads: of the runtime; 0 for its choice.
    """

    images: str
    outputs: str
    batches: Mapping[str, int] = field(default_factory=dict)
    threads: int = 1


@dataclass(frozen=True, slots=True)
class RunTask(Cases):
    """Run a model as segc runs it.

    Attributes:
        model: its file or folder.
        opener: module whose ``open_model`` opens it.
    """

    model: str = ""
    opener: str = ""


@dataclass(frozen=True, slots=True)
class ScriptTask(Cases):
    """Run a predict script: its model on cases, and its command line on photographs.

    Attributes:
        script: the file.
        model: the model's file or folder.
        photographs: files.
        predictions: folder for what the command line writes.
        arguments: further arguments of the command line.
    """

    script: str = ""
    model: str = ""
    photographs: Sequence[str] = ()
    predictions: str = ""
    arguments: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RunReply:
    """What a model says of itself, what ran it, and, of a script, the exit status of its command line."""

    metadata: Mapping[str, Any]
    runtime: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class ReferenceTask(Cases):
    """Run the network in PyTorch as it was trained: the file of its graph and that of its values.

    Attributes:
        graph: file with the graph.
        weights: file with its values.
        double: compute in fp64.
    """

    graph: str = ""
    weights: str = ""
    double: bool = False


@dataclass(frozen=True, slots=True)
class ObserveTask(Request):
    """Look at what the feature maps of a network hold on photographs.

    Attributes:
        graph: file with the graph, batch norms unfolded.
        weights: file with its values.
        photographs: files.
        observations: file to write.
    """

    graph: str
    weights: str
    photographs: Sequence[str]
    observations: str


@dataclass(frozen=True, slots=True)
class SensitivityTask(Request):
    """Rank the scopes of a network by the error that they bring in eight bits.

    Attributes:
        target: name of the target, whose scheme says what is rounded.
        options: of the target, as JSON values.
        graph: file with the graph, batch norms unfolded.
        weights: file with its values.
        observations: file with what the feature maps hold.
        method: how the range of a map follows from that.
        photographs: files that the errors are taken on.
    """

    target: str
    options: Mapping[str, Any]
    graph: str
    weights: str
    observations: str
    method: str
    photographs: Sequence[str]


@dataclass(frozen=True, slots=True)
class MeasureTask(Request):
    """Measure mAP on the validation split: of a model (``model`` and ``opener``), or of a network in PyTorch.

    Attributes:
        project: as JSON, with what was given alone: defaults written out would be judged as if somebody had.
        path: of the project file.
        size: input (height, width) in pixels.
        images: of the split, at most.
        threads: of the runtime.
        model: as in :class:`RunTask`.
        opener: likewise.
        graph: as in :class:`ReferenceTask`.
        weights: likewise.
        suppression: of a network in PyTorch, what becomes of its outputs before they are measured: ``conf``, ``iou``,
            ``max_det`` and ``agnostic`` of the artifact that it is held against, where that suppresses by itself.
    """

    project: str
    path: str
    size: Sequence[int]
    images: int
    threads: int
    model: str = ""
    opener: str = ""
    graph: str = ""
    weights: str = ""
    suppression: Mapping[str, Any] | None = None
