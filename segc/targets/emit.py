"""Emission: from trained weights to verified artifact folders, a worker process for everything heavy.

While the reference worker imports PyTorch, the emission worker writes the model and the session worker runs it; then
the two results are compared here. An artifact folder appears whole, once its verification is done. One that fails goes
to ``artifacts/<target>.failed/``, which nothing opens, and the last good one stays where it is.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import Diagnostic, SegcError, fail
from segc.targets.artifact import DESCRIPTION, FAILED, VERIFIED, check_packages
from segc.targets.base import METADATA_DEFAULTS, Requirement
from segc.targets.registry import refusals, target_named, targets
from segc.targets.worker import Worker, load_arrays, save_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph
    from segc.spec.load import LoadedProject
    from segc.targets.base import Target, TargetOptions
    from segc.targets.verify import Case, Parity

ARTIFACT_FORMAT = 1
"""Version of ``artifact.json``."""

TIME_LIMIT = 900.0
"""Seconds that a worker may take, unless told otherwise."""

THREADS = 1
"""Threads a worker: several run side by side, and sums over a fixed number of threads come out the same every time."""

REFERENCE_THREADS = 2
"""Threads of the PyTorch reference, which is the last to finish: the others are done by the time that it runs."""

_TORCH = Requirement("torch", "torch", "2.6")


@dataclass(frozen=True, slots=True)
class Emission:
    """What came of one target.

    Attributes:
        target: its name.
        status: ``verified``, ``failed`` (it does not compute what was trained) or ``error`` (there is no artifact).
        seconds: wall time.
        folder: the artifact's folder, where there is one.
        model: name of the model in it.
        size: bytes of the model.
        lowering_seconds: time of the conversion in the worker, without imports.
        parity: the verification's result.
        diagnostics: why the status is not ``verified``.
    """

    target: str
    status: str
    seconds: float
    folder: Path | None = None
    model: str = ""
    size: int = 0
    lowering_seconds: float = 0.0
    parity: Parity | None = None
    diagnostics: tuple[Diagnostic, ...] = ()


def requested(loaded: LoadedProject, names: Sequence[str]) -> tuple[TargetOptions, ...]:
    """The options to emit: those of the spec, or of the named targets, in the spec or else by default.

    Args:
        loaded: the project.
        names: names or aliases of targets; empty for all of the spec, ``all`` for all there are.

    Raises:
        SegcError: T001 for a name that no target has, or where nothing is asked for; X210 for what a target cannot do.
    """
    given = {options.format: options for options in loaded.project.targets}
    if not names and not given:
        raise fail(
            "T001",
            "the project lists no targets",
            file=loaded.path,
            help=f"add `targets:` to it, or name one: --target {next(iter(targets()))}",
        )
    chosen: dict[str, TargetOptions] = {}
    for name in (list(targets()) if "all" in names else names) or given:
        target = target_named(name)
        if target is None:
            near = get_close_matches(name, [known for t in targets().values() for known in (t.name, *t.aliases)], 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise fail("T001", f"no such target: {name}", help=f"{meant}there are {', '.join(targets())}")
        chosen[target.name] = given.get(target.name) or target.options(format=target.name)
    found = [
        Diagnostic("X210", f"{options.format}: {'.'.join(path)}: {message}", file=loaded.path)
        for options in chosen.values()
        for path, message in refusals(options, loaded.project.hyperparameters.size)
    ]
    if found:
        raise SegcError(found)
    return tuple(chosen.values())


def emit_project(
    loaded: LoadedProject,
    build_dir: Path,
    names: Sequence[str] = (),
    *,
    weights: Path | None = None,
    untrained: bool = False,
    time_limit: float = TIME_LIMIT,
    warn: Callable[[Sequence[Diagnostic]], None] = lambda _: None,
) -> list[Emission]:
    """Emit artifacts into ``<build_dir>/artifacts/<target>/`` and verify each against PyTorch on dataset images.

    Args:
        loaded: the project.
        build_dir: the build directory.
        names: as for :func:`requested`.
        weights: weights to take instead of the build directory's.
        untrained: take seeded weights from the start of training instead of trained ones.
        time_limit: seconds that each worker process may take.
        warn: is told at once what the user should hear about the weights.

    Returns:
        One result a target; what goes wrong with one does not stop the others.

    Raises:
        SegcError: for what concerns all of them: names, refusals, missing packages, weights, images.
    """
    wanted = requested(loaded, names)
    for options in wanted:
        target = targets()[options.format]
        check_packages(target, (*target.requirements, *target.runtime))
        if problem := target.environment():
            raise fail("T003", f"{target.name}: {problem}")
    if problem := _TORCH.problem():
        raise fail("F004", f"{problem}: artifacts are verified against it", help="pip install 'segc[train]'")
    with ExitStack() as stack:
        # The slowest import starts before anything is read.
        spares = [stack.enter_context(_reference_worker())]
        job = _prepare(loaded, build_dir, weights, untrained=untrained)
        if job.warnings:
            warn(job.warnings)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segc-emit-")))
        save_arrays(work / "weights.safetensors", job.weights)
        emissions = []
        for number, options in enumerate(wanted):
            worker = spares.pop() if spares else stack.enter_context(_reference_worker())
            folder = work / str(number)
            folder.mkdir()
            emissions.append(_attempt(job, options, folder, worker, time_limit))
        return emissions


@dataclass(frozen=True)
class _Job:
    """What all targets of one call share."""

    loaded: LoadedProject
    build_dir: Path
    weights: Mapping[str, NDArray[np.generic]]
    trained: bool
    weights_digest: str
    images: Sequence[Path]
    warnings: Sequence[Diagnostic]


def _reference_worker() -> Worker:
    return Worker("the PyTorch reference", ["segc.network.session"], REFERENCE_THREADS)


def _prepare(loaded: LoadedProject, build_dir: Path, weights: Path | None, *, untrained: bool) -> _Job:
    from segc.build import project_graph
    from segc.data.dataset import list_images
    from segc.targets.verify import choose

    graph = project_graph(loaded.project)
    values: Mapping[str, NDArray[np.generic]]
    warnings: Sequence[Diagnostic] = ()
    if untrained:
        from segc.network.initialise import initial_weights

        values = initial_weights(graph.parameters, loaded.project.hyperparameters.seed)
    else:
        from segc.weights.resolve import trained_weights

        found = trained_weights(loaded, build_dir, graph, weights)
        values, warnings = found.tensors, found.warnings
    images = choose(list_images(loaded, "val"))
    return _Job(loaded, build_dir, values, not untrained, _weights_digest(values), images, warnings)


def _attempt(job: _Job, options: TargetOptions, work: Path, reference: Worker, limit: float) -> Emission:
    started = time.perf_counter()
    try:
        return _emit_one(job, options, work, reference, limit, started)
    except SegcError as error:
        return Emission(options.format, "error", time.perf_counter() - started, diagnostics=error.diagnostics)


def _emit_one(
    job: _Job, options: TargetOptions, work: Path, reference: Worker, limit: float, started: float
) -> Emission:
    from segc.architectures import build_graph
    from segc.targets.script import render_scripts
    from segc.targets.verify import cases, compare

    project, target = job.loaded.project, targets()[options.format]
    size = options.size(project.hyperparameters.size)
    metadata = _metadata(job, target, options, size)
    graph = build_graph(project.architecture, project.dataset.nc, size, metadata["batch"])
    with (
        Worker(f"the {target.name} emitter", _modules(target.requirements), THREADS) as emitter,
        Worker(f"the {target.name} session", _modules(target.runtime), THREADS) as runner,
    ):
        order = _emission_order(job, target, options, graph, metadata, work)
        emitter.start("emit", order, limit)
        batches = cases(job.images, size, batch=metadata["batch"], dynamic=metadata["dynamic"])
        run = _write_cases(work, batches)
        reference.start("reference", _run_order(work, run, order, "reference", batch=1), limit)
        lowered = emitter.result()
        model = lowered["model"]
        runner.start("run", {**_run_order(work, run, order, "artifact"), "model": str(work / "files" / model)}, limit)
        for name, text in render_scripts(target, model, metadata, _defaults(job)).items():
            (work / "files" / name).write_text(text, encoding="utf-8")
        ran = runner.result()
        if ran["metadata"] != metadata:
            raise fail("T006", f"{target.name}: the model does not give back the metadata that was written into it")
        reference.result()
    parity = compare(
        batches,
        load_arrays(work / "reference.safetensors"),
        load_arrays(work / "artifact.safetensors"),
        metadata["precision"],
        len(job.images),
    )
    description = _description(job, target, options, metadata, graph, work / "files", model, parity)
    folder = _publish(job.build_dir / "artifacts", target, work / "files", description, parity)
    return Emission(
        target.name,
        description["status"],
        time.perf_counter() - started,
        folder,
        model,
        _model_bytes(description),
        lowered["seconds"],
        parity,
        () if parity.passed else (_mismatch(target, parity, folder),),
    )


def _metadata(job: _Job, target: Target, options: TargetOptions, size: tuple[int, int]) -> dict[str, Any]:
    from segc.build import model_metadata

    own = {**METADATA_DEFAULTS, **target.settings(options)}
    return {**model_metadata(job.loaded.project), "imgsz": list(size), **own}


def _modules(requirements: Iterable[Requirement]) -> list[str]:
    return [requirement.module for requirement in requirements]


def _emission_order(
    job: _Job, target: Target, options: TargetOptions, graph: Graph, metadata: Mapping[str, Any], work: Path
) -> dict[str, Any]:
    (work / "files").mkdir()
    (work / "graph.json").write_text(graph.to_json(), encoding="utf-8")
    return {
        "target": target.name,
        "graph": str(work / "graph.json"),
        "weights": str(work.parent / "weights.safetensors"),
        "options": options.model_dump(mode="json"),
        "metadata": metadata,
        "stem": job.loaded.project.name,
        "folder": str(work / "files"),
        "thresholds": _defaults(job),
        "calibration": None,
    }


def _write_cases(work: Path, batches: Sequence[Case]) -> dict[str, Any]:
    save_arrays(work / "images.safetensors", {case.name: case.images for case in batches})
    return {
        "images": str(work / "images.safetensors"),
        "batches": [case.batch for case in sorted(batches, key=lambda case: case.name)],
        "threads": THREADS,
    }


def _run_order(
    work: Path, run: Mapping[str, Any], order: Mapping[str, Any], name: str, batch: int | None = None
) -> dict[str, Any]:
    batches = run["batches"] if batch is None else [batch] * len(run["batches"])
    given = {key: order[key] for key in ("target", "graph", "weights")}
    return {**given, **run, "batches": batches, "outputs": str(work / f"{name}.safetensors")}


def _defaults(job: _Job) -> dict[str, Any]:
    """What the predict script takes where its command line says nothing: the project's own."""
    chosen = job.loaded.project.hyperparameters
    return {"conf": chosen.conf, "iou": chosen.iou, "max_det": chosen.max_det}


def _description(
    job: _Job,
    target: Target,
    options: TargetOptions,
    metadata: Mapping[str, Any],
    graph: Graph,
    folder: Path,
    model: str,
    parity: Parity,
) -> dict[str, Any]:
    """The contents of ``artifact.json``: no times and no machine paths, so that equal emissions are equal."""
    from segc import __version__
    from segc.files import digest, digest_file

    root = job.loaded.dataset_root
    packages = {r.package: r.version() for r in (*target.requirements, *target.runtime, _TORCH)}
    return {
        "format": ARTIFACT_FORMAT,
        "target": target.name,
        "status": VERIFIED if parity.passed else FAILED,
        "model": model,
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "digest": digest_file(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        "options": options.model_dump(mode="json"),
        "metadata": metadata,
        "graph_digest": digest(graph.to_json()),
        "weights": {"digest": job.weights_digest, "trained": job.trained},
        "versions": {"segc": __version__, **packages},
        "parity": {
            **parity.to_json(),
            "photographs": {_name(path, root): digest_file(path) for path in job.images},
        },
    }


def _model_bytes(description: Mapping[str, Any]) -> int:
    """Bytes of the model: a file, or all files of a folder."""
    model = description["model"]
    files = description["files"].items()
    return sum(entry["bytes"] for name, entry in files if name == model or name.startswith(f"{model}/"))


def _name(path: Path, root: Path) -> str:
    """A photograph's name relative to the dataset, or its own where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _publish(artifacts: Path, target: Target, files: Path, description: Mapping[str, Any], parity: Parity) -> Path:
    """Put a finished artifact in its place, whole; one that failed beside it, under another name."""
    from segc.files import atomic_directory, canonical_json

    good, bad = artifacts / target.name, artifacts / f"{target.name}.failed"
    place = good if parity.passed else bad
    with atomic_directory(place) as folder:
        # Not shutil.copytree, whose error hides what happened: a full disk must be called that.
        for source in sorted(path for path in files.rglob("*") if path.is_file()):
            copy = folder / source.relative_to(files)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        (folder / DESCRIPTION).write_text(canonical_json(description), encoding="utf-8")
    if parity.passed:
        shutil.rmtree(bad, ignore_errors=True)
    return place


def _mismatch(target: Target, parity: Parity, folder: Path) -> Diagnostic:
    return Diagnostic(
        "T007",
        f"{target.name}: {'; '.join(parity.faults())}",
        file=folder / DESCRIPTION,
        help="the artifact is kept there for inspection only; an earlier good one stays as it was",
    )


def _weights_digest(weights: Mapping[str, NDArray[np.generic]]) -> str:
    """A digest of names, shapes, formats and values."""
    import numpy as np

    state = hashlib.sha256()
    for name in sorted(weights):
        array = np.asarray(weights[name], order="C")
        state.update(f"{name}:{array.dtype.str}:{array.shape}\n".encode())
        state.update(array.data)
    return f"sha256:{state.hexdigest()}"
