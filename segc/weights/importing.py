"""Converting foreign weights to segc's own file, with an account of what became of every key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segc.architectures import build_graph, parts_of
from segc.diagnostics import SegcError, fail
from segc.files import digest_file
from segc.version import __version__
from segc.weights.names import aligned
from segc.weights.reading import ReadWeights, is_checkpoint, read_source
from segc.weights.recognise import recognise, refuse_other_scale
from segc.weights.resolve import network_metadata
from segc.weights.store import StoredTensor, describe_weights, save_weights
from segc.weights.transfer import Transfer, class_count, transfer

_STORED_AS = {"float32": "F32", "int64": "I64"}


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        file: the foreign file.
        output: the file written.
        project: the project whose network it was fitted to, or None where the network was told from the shapes.
        result: what became of every key.
        metadata: as written; ``license`` and ``producer`` are the foreign file's own words.
        written: names of the tensors in ``output``.
        notes: what the reader chose or left out.
    """

    file: Path
    output: Path
    project: Path | None
    result: Transfer
    metadata: dict[str, str]
    written: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            "file": str(self.file),
            "output": str(self.output),
            "project": None if self.project is None else str(self.project),
            "metadata": self.metadata,
            "written": len(self.written),
            **self.result.to_json(),
            "notes": [*self.notes, *self.result.notes],
        }


def import_weights(file: Path, output: Path, project: Path | None = None) -> Imported:
    """Read foreign weights and write those of a network as safetensors.

    The file written holds every parameter of the network that the source has, under its standard name, plus counters
    and fixed values. Class branches of another number or order of classes are written as they are, with the source's
    class names in the metadata: it is the training that takes rows by name, when it has both sides' names.

    Args:
        file: a ``.pt``, ``.pth`` or ``.safetensors`` file.
        output: the file to write.
        project: a ``project.yaml``; without it, family, scale and number of classes are told from the shapes.

    Raises:
        SegcError: W007 where nothing fits, W011 where the network cannot be told, those of the spec, and those of
            the readers.
        OSError: where a file cannot be read or written.
    """
    if output.exists() and file.exists() and output.samefile(file):
        raise fail("W007", "the file to write is the file to read", file=file, help="give another name with --output")
    source = read_source(file)
    if project is None:
        names = source.names
        architecture, graph = recognise(source.tensors, None if names is None else len(names), file)
    else:
        from segc.spec.load import load_project

        spec = load_project(project).project
        architecture, names = spec.architecture, spec.dataset.class_names
        graph = build_graph(architecture, len(names), spec.hyperparameters.size)

    if project is not None:
        refuse_other_scale(source.tensors, graph, file)
    tensors, renamed = aligned(source.tensors, graph.parameters)
    result = transfer(
        graph.parameters, tensors, names=names, source_names=source.names, origin=file.name, parts=parts_of(graph)
    )
    if not result.matched:
        raise _misfit(source, architecture.family, next(iter(graph.parameters)), file)
    as_in_source = {entry.name for entry in result.reshaped if entry.by_rows}
    written = {name: array for name, array in result.tensors.items() if name not in as_in_source}
    written |= {name: tensors[name] for name in as_in_source}
    metadata = {
        **network_metadata(graph, architecture.model_dump(mode="json")["scale"], source.names or None),
        **source.metadata,
        "segc_version": __version__,
        "source_digest": digest_file(file),
    }
    metadata["nc"] = str(class_count(tensors) or metadata["nc"])
    save_weights(output, written, metadata)
    return Imported(file, output, project, result, metadata, tuple(written), (*source.notes, *renamed))


def _misfit(source: ReadWeights, family: str, wanted: str, file: Path) -> SegcError:
    first = next(iter(source.tensors), None)
    return fail(
        "W007",
        f"nothing in it fits {family}: "
        + (f"its tensors have names like {first}, the network's like {wanted}" if first else "it has no tensors"),
        file=file,
        help=f"`segc weights show {file}` lists its tensors",
    )


def describe(file: Path) -> tuple[tuple[StoredTensor, ...], dict[str, str]]:
    """Tensors and metadata of a weights file, own or foreign.

    A checkpoint's tensors are listed in the number format they are read as.

    Raises:
        SegcError: as the readers.
    """
    if not is_checkpoint(file):
        return describe_weights(file)
    source = read_source(file)
    stored = (StoredTensor(name, _STORED_AS[array.dtype.name], array.shape) for name, array in source.tensors.items())
    return tuple(stored), source.metadata
