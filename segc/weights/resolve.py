"""Which weights a command works with: those trained here, those the project starts from, those given by hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from segc.architectures import parts_of
from segc.diagnostics import Diagnostic, fail
from segc.graph.ir import Graph
from segc.runs import TRAINED, chosen_run, weights_of
from segc.weights import lineage
from segc.weights.reading import ReadWeights, read_source
from segc.weights.recognise import refuse_other_scale
from segc.weights.starting import starting_file
from segc.weights.store import Weights
from segc.weights.transfer import Transfer, not_finite, transfer

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject


@dataclass(frozen=True, slots=True)
class Chosen:
    """The file that a command takes its weights from.

    Attributes:
        path: the file.
        why: which one it is, and why that one.
    """

    path: Path
    why: str


def choose_weights(
    loaded: "LoadedProject", build_dir: Path, explicit: Path | None = None, run: str | None = None
) -> Chosen:
    """Which weights to predict, validate and emit with.

    The file given, else the best weights of the run (the one given, else the one that ``segc runs use`` chose, else the
    one that finished last, else the one that trained last), else a file put into ``weights/`` of the build directory,
    else what the project names as ``architecture.weights``.

    Raises:
        SegcError: W008 where there are none, R001 where the run is not there or has no weights, else as
            :func:`starting_file`.
    """
    if explicit is not None:
        return Chosen(explicit, "given by --weights")
    choice = chosen_run(build_dir, run)
    if choice is not None and (path := weights_of(choice.folder)):
        return Chosen(path, f"{path.stem} of run {choice.name}, {choice.why}")
    if path := next((path for name in TRAINED if (path := build_dir / "weights" / name).exists()), None):
        return Chosen(path, "found in the build directory")
    if path := starting_file(loaded, build_dir):
        return Chosen(path, "architecture.weights, for nothing is trained yet")
    raise fail(
        "W008",
        f"no trained weights in {build_dir / 'runs'}, and the project names none",
        file=loaded.path,
        help="train first (segc train), give a file (--weights FILE), or set architecture.weights; "
        "to try a target out, segc emit --untrained",
    )


def trained_weights(
    loaded: "LoadedProject", build_dir: Path, graph: Graph, explicit: Path | None = None, run: str | None = None
) -> Weights:
    """Weights to predict, validate and emit with: all of the network's parameters.

    Which ones, see :func:`choose_weights`.

    Returns:
        The network's parameters and no others; ``warnings`` say what the user should hear (W009: classes of other
        names, W010: values that are not numbers).

    Raises:
        SegcError: as :func:`choose_weights`; W007 where they do not fit the network, else as :func:`read_source`.
    """
    path = choose_weights(loaded, build_dir, explicit, run).path
    source = _read(loaded, path)
    result = transfer(graph.parameters, source.tensors, origin=path.name)
    if not result.complete:
        refuse_other_scale(source.tensors, graph, path)
    refuse_misfits(result, path)
    return Weights(
        result.tensors, source.metadata, _warnings(path, source.names, loaded.project.dataset.class_names, result)
    )


def _read(loaded: "LoadedProject", path: Path) -> ReadWeights:
    """Weights whose licences the project allows."""
    source = read_source(path)
    lineage.check_licences(loaded, lineage.stated(source.metadata), path)
    return source


def starting_weights(loaded: "LoadedProject", graph: Graph, build_dir: Path | None = None) -> Transfer | None:
    """What a training starts from: as much of ``architecture.weights`` as fits, or None where the project names none.

    ``Transfer.apply(initial)`` gives a value for every parameter; ``summary()`` says what was taken.

    Raises:
        SegcError: W007 where nothing fits, else as :func:`read_source`.
    """
    path = starting_file(loaded, build_dir or loaded.build_dir)
    if path is None:
        return None
    source = _read(loaded, path)
    refuse_other_scale(source.tensors, graph, path)
    result = transfer(
        graph.parameters,
        source.tensors,
        names=loaded.project.dataset.class_names,
        source_names=source.names,
        origin=loaded.project.architecture.start.shown if loaded.project.architecture.start else path.name,
        parts=parts_of(graph),
    )
    if not result.matched:
        raise fail("W007", "nothing in these weights fits the network", file=path, help=_MISFIT_HELP)
    descent = lineage.line(lineage.stated(source.metadata))
    return replace(result, notes=(*source.notes, *result.notes, descent))


_MISFIT_HELP = "architecture.scale and the number of classes must be those the weights were trained with"


def _first_misfits(result: Transfer) -> str:
    """The first few of each kind, and how many there are."""
    shapes = [
        f"{entry.name} is {list(entry.shape)}, not {list(entry.wanted)}" for entry in result.reshaped if not entry.taken
    ]
    return "; ".join(
        f"{len(found)} {what} ({', '.join(found[:2])}{', …' if len(found) > 2 else ''})"
        for found, what in ((shapes, "of another shape"), (list(result.missing), "missing"))
        if found
    )


def refuse_misfits(result: Transfer, path: Path) -> None:
    """Refuse weights that are not all of a network.

    Raises:
        SegcError: W007, with the first that do not fit.
    """
    if not result.complete:
        text = f"the weights do not fit the network: {_first_misfits(result)}"
        raise fail("W007", text, file=path, help=_MISFIT_HELP)


def _warnings(path: Path, there: Sequence[str] | None, here: Sequence[str], result: Transfer) -> tuple[Diagnostic, ...]:
    found = []
    if there is not None and tuple(there) != tuple(here):
        found.append(
            Diagnostic(
                "W009",
                f"the weights' class names differ from the project's: {name_differences(there, here)}",
                severity="warning",
                file=path,
                help="the project's names are used, by index",
            )
        )
    return (*found, *usable_warnings(path, result))


def usable_warnings(path: Path, result: Transfer) -> tuple[Diagnostic, ...]:
    """What the user should hear of weights that fit: W010, where they hold values that are not numbers."""
    broken = not_finite(result.tensors)
    if not broken:
        return ()
    return (
        Diagnostic(
            "W010",
            f"{len(broken)} tensors hold NaN or infinity, the first is {broken[0]}",
            severity="warning",
            file=path,
            help="the training that made them has diverged; train again with a lower lr0",
        ),
    )


def name_differences(there: Sequence[str], here: Sequence[str]) -> str:
    """The first differing class names, such as ``class 0 is person there, car here``."""
    if len(there) != len(here):
        return f"{len(there)} there, {len(here)} here"
    different = [(index, *pair) for index, pair in enumerate(zip(there, here, strict=True)) if pair[0] != pair[1]]
    shown = ", ".join(f"class {index} is {theirs} there, {ours} here" for index, theirs, ours in different[:3])
    return shown + (f", and {len(different) - 3} more" if len(different) > 3 else "")


def own_metadata(loaded: "LoadedProject", graph: Graph, run: Path | None = None) -> Mapping[str, str]:
    """What segc writes into the weights of a project: everything that is needed to use them alone.

    Args:
        loaded: the project.
        graph: its network.
        run: the folder of the run that trains them, whose lock says what they descend from.
    """
    from segc.spec.project import spec_digest
    from segc.version import __version__

    project = loaded.project
    return {
        **network_metadata(graph, project.architecture.model_dump(mode="json")["scale"], project.dataset.class_names),
        "imgsz": json.dumps(project.hyperparameters.size),
        "spec_digest": spec_digest(project),
        "segc_version": __version__,
        **({} if run is None else {lineage.KEY: lineage.to_text(lineage.trained(loaded, run))}),
    }


def network_metadata(graph: Graph, scale: object, names: Sequence[str] | None) -> dict[str, str]:
    """The part of it that tells the network: task, family, scale, number and names of classes."""
    told = {
        "task": "segment",
        "family": str(graph.metadata["family"]),
        "scale": json.dumps(scale, sort_keys=True),
        "nc": str(graph.metadata["nc"]),
    }
    return told if names is None else {**told, "names": json.dumps(list(names), ensure_ascii=False)}
