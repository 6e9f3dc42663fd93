"""Emission: from trained weights to verified artifact folders, a worker process for everything heavy.

Targets are emitted side by side. For each, one worker writes the model and another, fresh one runs it on photographs;
PyTorch's answers to the same photographs are worked out once for all targets of one input size, and compared here. An
artifact folder appears whole, once its verification is done. One that fails goes to ``artifacts/<target>.failed/``,
which nothing opens, and the last good one stays where it is. An artifact that is what would be emitted is left alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import Diagnostic, SegcError, fail
from segc.targets.artifact import DESCRIPTION, check_packages
from segc.targets.base import CALIBRATED, MEASURED, METADATA_DEFAULTS
from segc.targets.publish import UP_TO_DATE, describe, emission_key, intact, publish, weights_digest
from segc.targets.reference import TORCH, Crew, Reference, References, Settings
from segc.targets.registry import find_target, refusals, targets
from segc.targets.worker import load_arrays, save_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from segc.spec.load import LoadedProject
    from segc.targets.base import Requirement, Target, TargetOptions
    from segc.targets.publish import Facts
    from segc.targets.verify import Parity

TIME_LIMIT = 900.0
"""Seconds that a worker may take, unless told otherwise."""

CALIBRATION_IMAGES = 32
"""Training photographs that an int8 artifact is calibrated on."""


@dataclass(frozen=True, slots=True)
class Emission:
    """What came of one target.

    Attributes:
        target: its name.
        status: ``verified``, ``deferred`` (verified as far as this machine can, to be finished on another), ``up to
            date`` (nothing had to be done), ``failed`` (it does not compute what was trained) or ``error`` (there is no
            artifact).
        seconds: wall time.
        folder: the artifact's folder, where there is one.
        model: name of the model in it.
        size: bytes of the model.
        lowering_seconds: time of the conversion in the worker, without imports.
        summary: the verification's result in a line.
        notes: what was not done or not checked.
        diagnostics: why there is no good artifact.
    """

    target: str
    status: str
    seconds: float
    folder: Path | None = None
    model: str = ""
    size: int = 0
    lowering_seconds: float = 0.0
    summary: str = ""
    notes: tuple[str, ...] = ()
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
        target = find_target(name)
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
    force: bool = False,
    jobs: int = 0,
    time_limit: float = TIME_LIMIT,
    memory_limit: int = 0,
    warn: Callable[[Sequence[Diagnostic]], None] = lambda _: None,
    watch: Callable[[str, str], None] = lambda _target, _state: None,
    finished: Callable[[Emission], None] = lambda _emission: None,
) -> list[Emission]:
    """Emit artifacts into ``<build_dir>/artifacts/<target>/`` and verify each against PyTorch on dataset images.

    Args:
        loaded: the project.
        build_dir: the build directory.
        names: as for :func:`requested`.
        weights: weights to take instead of the build directory's.
        untrained: take seeded weights from the start of training instead of trained ones.
        force: emit again what is up to date.
        jobs: targets at a time; 0 for as many as there are processors.
        time_limit: seconds that each worker process may take.
        memory_limit: bytes that each worker process, with the processes it starts, may hold; 0 for three quarters of
            the machine's.
        warn: is told at once what the user should hear about the weights.
        watch: is told what is being done with a target; called from several threads.
        finished: likewise, what came of it.

    Returns:
        One result a target; what goes wrong with one does not stop the others.

    Raises:
        SegcError: for what concerns all of them: names, refusals, PyTorch missing, weights, images.
    """
    wanted = requested(loaded, names)
    if problem := TORCH.problem():
        raise fail("F004", f"{problem}: artifacts are verified against it", help="pip install 'segc[train]'")
    faults = {options.format: _faults(targets()[options.format]) for options in wanted}
    with ExitStack() as stack:
        crew = stack.enter_context(Crew(Settings(time_limit, memory_limit)))
        emitting = [options for options in wanted if not faults[options.format]]
        if force or any(not _description_file(build_dir, options).exists() for options in emitting):
            crew.prepare_reference()  # The slowest import starts before anything is read.
        job = _prepare(loaded, build_dir, weights, untrained=untrained)
        if job.warnings:
            warn(job.warnings)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segc-emit-")))
        references = References(crew, work / "references", loaded, job.weights, job.images)

        def one(number: int, options: TargetOptions) -> Emission:
            started = time.perf_counter()
            made = Emission(options.format, "error", 0.0, diagnostics=faults[options.format])
            try:
                if not made.diagnostics:
                    made = _Order(job, options, work / str(number)).carry_out(crew, references, watch, force=force)
            except SegcError as error:
                made = replace(made, diagnostics=error.diagnostics)
            made = replace(made, seconds=time.perf_counter() - started)
            finished(made)
            return made

        pool = stack.enter_context(ThreadPoolExecutor(jobs or os.cpu_count() or 1))
        try:
            futures = {entry[1].format: pool.submit(one, *entry) for entry in _longest_first(wanted)}
            return [futures[options.format].result() for options in wanted]
        except BaseException:
            crew.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _longest_first(wanted: Sequence[TargetOptions]) -> list[tuple[int, TargetOptions]]:
    """The targets with their numbers, those that are calibrated first: all others are done beside them."""
    return sorted(enumerate(wanted), key=lambda entry: not _is_calibrated(entry[1]))


def _is_calibrated(options: TargetOptions) -> bool:
    return targets()[options.format].settings(options).get("precision") in CALIBRATED


def _faults(target: Target) -> tuple[Diagnostic, ...]:
    """Why this machine cannot emit a target."""
    try:
        check_packages(target, (*target.requirements, *target.runtime))
    except SegcError as error:
        return error.diagnostics
    problem = target.environment() or target.run_environment()
    return (Diagnostic("T003", f"{target.name}: {problem}"),) if problem else ()


def _description_file(build_dir: Path, options: TargetOptions) -> Path:
    return build_dir / "artifacts" / options.format / DESCRIPTION


@dataclass(frozen=True)
class _Job:
    """What all targets of one call share."""

    loaded: LoadedProject
    build_dir: Path
    weights: Mapping[str, Any]
    trained: bool
    weights_digest: str
    images: Sequence[Path]
    warnings: Sequence[Diagnostic]
    _graphs: dict[tuple[tuple[int, int], int], str] = field(default_factory=dict)

    def graph(self, size: tuple[int, int], batch: int) -> str:
        """The network for an input (height, width) and a batch, as JSON; made once for all targets that share it."""
        from segc.architectures import build_graph

        if (size, batch) not in self._graphs:
            project = self.loaded.project
            self._graphs[size, batch] = build_graph(project.architecture, project.dataset.nc, size, batch).to_json()
        return self._graphs[size, batch]

    @property
    def thresholds(self) -> dict[str, Any]:
        """What predict scripts, and graphs that suppress by themselves, take: the project's own."""
        chosen = self.loaded.project.hyperparameters
        return {"conf": chosen.conf, "iou": chosen.iou, "max_det": chosen.max_det}


def _prepare(loaded: LoadedProject, build_dir: Path, weights: Path | None, *, untrained: bool) -> _Job:
    from segc.build import project_graph
    from segc.data.dataset import list_images
    from segc.targets.verify import choose

    graph = project_graph(loaded.project)
    values: Mapping[str, Any]
    warnings: Sequence[Diagnostic] = ()
    if untrained:
        from segc.network.initialise import initial_weights

        values = initial_weights(graph.parameters, loaded.project.hyperparameters.seed)
    else:
        from segc.weights.resolve import trained_weights

        found = trained_weights(loaded, build_dir, graph, weights)
        values, warnings = found.tensors, found.warnings
    images = choose(list_images(loaded, "val"))
    return _Job(loaded, build_dir, values, not untrained, weights_digest(values), images, warnings)


class _Order:
    """One target on its way from options to an artifact folder."""

    def __init__(self, job: _Job, options: TargetOptions, work: Path) -> None:
        from segc.build import model_metadata
        from segc.data.dataset import list_images
        from segc.targets.verify import choose

        project = job.loaded.project
        self.job, self.options, self.work = job, options, work
        self.target = targets()[options.format]
        self.size = options.size(project.hyperparameters.size)
        own = {**METADATA_DEFAULTS, **self.target.settings(options)}
        self.suppression = job.thresholds if own["layout"] == "detections" else None
        self.metadata = {**model_metadata(project), "imgsz": list(self.size), **own, **(self.suppression or {})}
        self.graph = job.graph(self.size, self.metadata["batch"])
        self.calibrated = self.metadata["precision"] in CALIBRATED
        self.calibration = choose(list_images(job.loaded, "train"), CALIBRATION_IMAGES) if self.calibrated else []

    def carry_out(
        self, crew: Crew, references: References, watch: Callable[[str, str], None], *, force: bool
    ) -> Emission:
        """Emit, run, compare, measure where the precision asks for it, and put the artifact in its place."""
        facts = self._facts()
        key = emission_key(facts)
        place = self.job.build_dir / "artifacts" / self.target.name
        if not force and (there := intact(place, key)) is not None:
            return _emission(self.target, UP_TO_DATE, place, there)
        watch(self.target.name, "emitting")
        files = self.work / "files"
        files.mkdir(parents=True)
        with (
            crew.worker(f"the {self.target.name} emitter", _modules(self.target.requirements)) as emitter,
            crew.worker(f"the {self.target.name} session", _modules(self.target.runtime)) as runner,
        ):
            crew.start(emitter, "emit", self._emit_request(files, references.weights()))
            reference = references.of(self.size, dynamic=self.metadata["dynamic"])
            lowered = emitter.result()
            watch(self.target.name, "running")
            crew.start(runner, "run", self._run_request(reference, files / lowered["model"]))
            self._write_scripts(files, lowered["model"])
            ran = runner.result()
        if ran["metadata"] != self.metadata:
            raise fail("T006", f"{self.target.name}: the model does not give back the metadata that was put into it")
        parity = self._compare(reference)
        accuracy = None
        if self.metadata["precision"] in MEASURED and parity.passed:
            watch(self.target.name, "measuring mAP")
            try:
                accuracy = self._accuracy(crew, reference, files / lowered["model"])
            except SegcError as error:
                # The artifact is verified all the same: what is missing is a figure about it.
                lowered["notes"] = [*lowered["notes"], f"mAP was not measured: {error.diagnostics[0].message}"]
        description = describe(facts, key, files, lowered, ran["runtime"], parity, accuracy)
        folder = publish(place.parent, self.target, files, description)
        problems = () if parity.passed else (_mismatch(self.target, parity, folder),)
        made = _emission(self.target, description["status"], folder, description)
        return replace(made, lowering_seconds=lowered["seconds"], diagnostics=problems)

    def _facts(self) -> Facts:
        from segc.targets.publish import Facts

        job = self.job
        return Facts(
            target=self.target,
            options=self.options,
            metadata=self.metadata,
            graph=self.graph,
            weights_digest=job.weights_digest,
            trained=job.trained,
            thresholds=job.thresholds,
            root=job.loaded.dataset_root,
            images=job.images,
            calibration=self.calibration,
        )

    def _emit_request(self, files: Path, weights: Path) -> dict[str, Any]:
        (self.work / "graph.json").write_text(self.graph, encoding="utf-8")
        return {
            "target": self.target.name,
            "graph": str(self.work / "graph.json"),
            "weights": str(weights),
            "options": self.options.model_dump(mode="json"),
            "metadata": self.metadata,
            "stem": self.job.loaded.project.name,
            "folder": str(files),
            "thresholds": self.job.thresholds,
            "calibration": self._write_calibration(),
        }

    def _write_calibration(self) -> str | None:
        from segc.targets.verify import cases

        if not self.calibrated:
            return None
        (case,) = cases(self.calibration, self.size, dynamic=False)
        path = self.work / "calibration.safetensors"
        save_arrays(path, {"images": case.images})
        return str(path)

    def _run_request(self, reference: Reference, model: Path) -> dict[str, Any]:
        return {
            "target": self.target.name,
            "model": str(model),
            "outputs": str(self.work / "artifact.safetensors"),
            **reference.inputs(fixed=self.metadata["batch"], free=len(self.job.images)),
        }

    def _write_scripts(self, files: Path, model: str) -> None:
        from segc.targets.script import render_scripts

        for name, text in render_scripts(self.target, model, self.metadata, self.job.thresholds).items():
            (files / name).write_text(text, encoding="utf-8")

    def _compare(self, reference: Reference) -> Parity:
        from segc.targets.verify import compare

        return compare(
            reference.cases,
            reference.outputs(),
            load_arrays(self.work / "artifact.safetensors"),
            self.metadata["precision"],
            len(self.job.images),
            self.suppression,
        )

    def _accuracy(self, crew: Crew, reference: Reference, model: Path) -> dict[str, Any]:
        """MAP on the validation split, in the artifact's runtime and of the float network in PyTorch."""
        with crew.worker(f"the {self.target.name} measurement", _modules(self.target.runtime)) as worker:
            place = {"target": self.target.name, "model": str(model)}
            crew.start(worker, "measure", {**reference.measure_request(), **place})
            ours = worker.result()
        return {"artifact": ours, "float": reference.accuracy()}


def _modules(requirements: Iterable[Requirement]) -> list[str]:
    return [name for r in requirements if (name := r.module if r.preload is None else r.preload)]


def _emission(target: Target, status: str, folder: Path, description: Mapping[str, Any]) -> Emission:
    return Emission(
        target.name,
        status,
        0.0,
        folder,
        description["model"],
        _model_bytes(description),
        summary=", ".join([description["parity"]["summary"], *_told_accuracy(description)]),
        notes=tuple(description["notes"]),
    )


def _told_accuracy(description: Mapping[str, Any]) -> Iterator[str]:
    """The mAP of a quantised artifact beside the float network's, where there is one."""
    if accuracy := description.get("accuracy"):
        ours, theirs = (accuracy[side]["mask"]["map50_95"] for side in ("artifact", "float"))
        if ours is not None and theirs is not None:
            yield f"mask mAP {ours:.3f}, float {theirs:.3f}"


def _model_bytes(description: Mapping[str, Any]) -> int:
    """Bytes of the model: a file, or all files of a folder."""
    model = description["model"]
    files = description["files"].items()
    return sum(entry["bytes"] for name, entry in files if name == model or name.startswith(f"{model}/"))


def _mismatch(target: Target, parity: Parity, folder: Path) -> Diagnostic:
    return Diagnostic(
        "T007",
        f"{target.name}: {'; '.join(parity.faults())}",
        file=folder / DESCRIPTION,
        help="the artifact is kept there for inspection only; an earlier good one stays as it was",
    )
