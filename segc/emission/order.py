"""One artifact, on its way from options to a folder: emitted, run as it ships, compared, described, published."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from segc.arrays import load_arrays
from segc.diagnostics import Diagnostic, SegcError, fail
from segc.emission import accuracy
from segc.emission.attempt import Attempt, Ran, parity_entry, slower, told_kept, tried
from segc.emission.calibration import CalibrationImages, calibration_images
from segc.emission.publish import UP_TO_DATE, Inputs, file_entries, intact, publish
from segc.emission.requests import EmitReply, EmitTask, RunReply, RunTask, ScriptTask, SensitivityTask
from segc.emission.sensitivity import steps, too_large
from segc.files import digest_file
from segc.inference.filters import Filters, choose_filters
from segc.inference.metadata import parse_metadata
from segc.targets.contract import CALIBRATED, QUANTISED, Accept, modules
from segc.targets.description import DESCRIPTION, Description
from segc.targets.registry import artifact_name, targets
from segc.targets.suppression import suppression_notes, with_thresholds
from segc.weights import lineage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from segc.emission.accuracy import Row, Validation
    from segc.emission.reference import Answer, Reference, References
    from segc.emission.verify import Parity
    from segc.emission.worker import Worker, WorkerPool
    from segc.inference.metadata import Metadata
    from segc.spec.load import LoadedProject
    from segc.targets.contract import TargetOptions
    from segc.targets.description import Status
    from segc.weights.lineage import Lineage

KEPT = "the artifact is kept there for inspection only; an earlier good one stays as it was"

OTHER_LIMITS = "the target's accept sets other limits (false: none)"

MOST_NAMED = 5
"""Scopes that a note names."""

STAND_IN_NOTE = "what ran it stands in for the runtime that people deploy on, and the predict script was not run"
NOT_JUDGED_NOTE = (
    "it runs, but nothing that tells was compared: the trained network finds no object on the photographs of the "
    "validation split; train it further, or lower hyperparameters.conf where the model suppresses by that"
)


@dataclass(frozen=True, slots=True)
class Emission:
    """What came of one artifact.

    Attributes:
        name: of the artifact.
        target: its format.
        status: that of ``artifact.json`` (``segc.targets.description.Status``), or ``up to date`` (nothing had to be
            done), or ``error`` (there is no artifact).
        seconds: wall time.
        folder: the artifact's folder, where there is one.
        model: name of the model in it.
        size: bytes of the model.
        lowering_seconds: time of the conversion in the worker, without imports.
        summary: the verification's result in a line.
        descent: what the weights descend from, in a line.
        notes: what was not done or not checked.
        figures: mAP of all classes together and of each, where it was measured.
        diagnostics: why there is no good artifact.
    """

    name: str
    target: str
    status: str
    seconds: float = 0.0
    folder: Path | None = None
    model: str = ""
    size: int = 0
    lowering_seconds: float = 0.0
    summary: str = ""
    descent: str = ""
    notes: tuple[str, ...] = ()
    figures: tuple[Row, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class Job:
    """What all artifacts of one call share."""

    loaded: LoadedProject
    build_dir: Path
    weights: Mapping[str, Any]
    trained: bool
    lineage: Lineage
    weights_digest: str
    images: Sequence[Path]
    warnings: Sequence[Diagnostic]
    _graphs: dict[tuple[tuple[int, int], int], str] = field(default_factory=dict)
    _validation: dict[int, Validation] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def validation(self, most: int) -> Validation:
        """So many images of the validation split with their objects; read once.

        Raises:
            SegcError: D0xx for what is wrong with the dataset.
        """
        with self._lock:
            if most not in self._validation:
                self._validation[most] = accuracy.validation(self.loaded, most)
            return self._validation[most]

    def graph(self, size: tuple[int, int], batch: int) -> str:
        """The network for an input (height, width) and a batch, as JSON; made once for all targets that share it."""
        from segc.architectures import build_graph
        from segc.graph.serial import write_graph

        if (size, batch) not in self._graphs:
            project = self.loaded.project
            graph = build_graph(project.architecture, project.dataset.nc, size, batch)
            self._graphs[size, batch] = write_graph(graph)
        return self._graphs[size, batch]

    @cached_property
    def calibration(self) -> CalibrationImages:
        """What int8 artifacts are calibrated on.

        Raises:
            SegcError: T015 where there are too few images, or none shows an object.
        """
        return calibration_images(self.loaded)

    @property
    def descent(self) -> str:
        """What the weights descend from, in a line."""
        return lineage.line(self.lineage) if self.trained else "weights come from a seed and were not trained"

    @property
    def filters(self) -> Filters:
        """What predict scripts, and graphs that suppress by themselves, take: the project's own."""
        from segc.prediction import project_filters

        return project_filters(self.loaded.project)


class Order:
    """One artifact to make.

    Args:
        job: what it shares with others.
        options: of its target.
        work: folder for files on the way, not there yet.
    """

    def __init__(self, job: Job, options: TargetOptions, work: Path) -> None:
        from segc.build import model_metadata
        from segc.emission.verify import choose

        project = job.loaded.project
        self.job, self.options, self.work = job, options, work
        self.name, self.target = artifact_name(options), targets()[options.format]
        self.size = options.size(project.hyperparameters.size)
        settings = self.target.settings(options)
        self.accept = self.target.accepted(options)
        metadata = replace(model_metadata(project), imgsz=self.size, **settings)
        self.metadata: Metadata = with_thresholds(metadata, job.filters)
        names = ("conf", "iou", "max_det", "agnostic")
        self.suppression = {n: getattr(self.metadata, n) for n in names} if self.metadata.suppresses else None
        self.graph = job.graph(self.size, metadata.batch)
        calibrated = metadata.precision in CALIBRATED
        self.calibration = job.calibration if calibrated else CalibrationImages()
        self.photographs = choose(job.images)
        self.split: Validation | None = None
        self.remarks: list[str] = list(self.calibration.notes)
        if self.accept is not None or metadata.precision in QUANTISED:
            self._choose_images((self.accept or Accept()).images)
        self.place = job.build_dir / "artifacts" / self.name
        self.files = work / "files"

    def _choose_images(self, most: int) -> None:
        """What mAP is measured on, and photographs that show as many classes as can be."""
        from segc.emission.verify import IMAGES

        try:
            self.split = self.job.validation(most)
        except SegcError as error:
            self.remarks.append(_unmeasured(error))
        else:
            self.photographs = accuracy.covering(self.split.samples, IMAGES)

    def carry_out(
        self, pool: WorkerPool, references: References, watch: Callable[[str, str], None], *, force: bool
    ) -> Emission:
        """Emit, run as it ships, compare, measure where that is asked for, and put it in its place.

        Raises:
            SegcError: where there is no artifact to judge.
        """
        inputs = self._inputs()
        key = inputs.key()
        if not force and (there := intact(self.place, key)) is not None:
            return self._emission(UP_TO_DATE, self.place, there)
        first = self._attempt(pool, references, watch)
        made, kept = self._keep_float(first, pool, references, watch)
        status = self._status(made)
        notes = [*made.lowered.notes, *made.notes]
        if not made.ran.shipped and self.target.script is not None:
            notes.append(f"{made.ran.runtime}: {STAND_IN_NOTE}")
        if not self._is_judged(made.ran.parity):
            notes.append(NOT_JUDGED_NOTE)
        notes += self._one_threshold()
        description: dict[str, Any] = {
            **inputs.to_json(),
            "photographs": inputs.digests(made.photographs),
            "key": key,
            "status": status,
            "model": made.lowered.model,
            "files": file_entries(self.files),
            "script": self._script_entry(made.ran),
            "notes": notes,
            "parity": parity_entry(made.ran),
            **({"beside": {name: parity_entry(one) for name, one in made.beside.items()}} if made.beside else {}),
            **({"accuracy": made.accuracy} if made.accuracy else {}),
            **({"kept_float": kept} if kept else {}),
        }
        self._write_readme(description)
        folder, kept_files = publish(self.place, self.files, description)
        problems = self._problems(made, folder) if status == "failed" else ()
        emission = self._emission(status, folder, Description.model_validate(description))
        said = (*emission.notes, *slower(first, made), *kept_files)
        return replace(emission, lowering_seconds=made.lowered.seconds, notes=said, diagnostics=problems)

    def _keep_float(
        self, first: Attempt, pool: WorkerPool, references: References, watch: Callable[[str, str], None]
    ) -> tuple[Attempt, dict[str, Any] | None]:
        """Where an artifact loses too much, the worst scopes stay in float, step by step, until it does not.

        Returns:
            The first attempt that is accepted, else the one that loses least; and what was tried, where anything was.
        """
        auto = getattr(self.options, "keep_float", None) == "auto" and self.metadata.precision in CALIBRATED
        if not auto or not first.accuracy or first.accuracy["passed"] is not False:
            return first, None
        watch(self.name, "ranking scopes")
        ranking = self.ranking(pool, references)
        asked, best, attempts = self.options, first, [first]
        for number, scopes in enumerate(steps(ranking), 1):
            names = tuple(one["scope"] for one in scopes)
            self.options, self.files = asked.model_copy(update={"keep_float": names}), self.work / f"files{number}"
            made = replace(self._attempt(pool, references, watch), kept=tuple(scopes))
            attempts.append(made)
            best = min(best, made, key=lambda one: accuracy.excess(one.accuracy))
            if made.accuracy and made.accuracy["passed"]:
                break
        self.options, self.files = asked, best.files
        told = [told_kept(first, best, len(attempts) - 1)]
        if large := too_large(ranking, attempts[-1].kept)[:MOST_NAMED]:
            named = ", ".join(large)
            told.append(f"left in int8, for they compute too much: {named}; keep_float can name them all the same")
        best = replace(best, notes=(*best.notes, *told))
        return best, {"tried": [tried(one) for one in attempts], "ranking": ranking}

    def check_ranking(self) -> None:
        """See that there is something to rank.

        Raises:
            SegcError: X210 where what is rounded is not segc's to say.
        """
        if self.target.scheme(self.options) is None:
            able = [name for name, target in targets().items() if "keep_float" in target.options.model_fields]
            text = f"{self.name}: scopes cannot be ranked: nothing of it computes in int8"
            raise fail("X210", text, help=f"they are for {', '.join(able)} with `int8: true`")

    def ranking(self, pool: WorkerPool, references: References) -> list[dict[str, Any]]:
        """Scopes of the network by the error that eight bits bring there, see ``segc.emission.sensitivity``.

        Raises:
            SegcError: whatever a worker came to.
        """
        from segc.emission.sensitivity import IMAGES
        from segc.emission.verify import choose

        images, graph = self.calibration.images, self.work / "network.json"
        self.work.mkdir(parents=True, exist_ok=True)
        graph.write_text(self.job.graph(self.size, 1), encoding="utf-8")
        task = SensitivityTask(
            target=self.target.name,
            options=self.options.model_dump(mode="json"),
            graph=str(graph),
            weights=str(references.weights()),
            observations=str(references.observations(self.size, images)),
            method=self.job.loaded.project.calibration.method,
            photographs=[str(path) for path in choose(images, IMAGES)],
        )
        with pool.worker(f"the {self.name} ranking", ["segc.network.session"]) as worker:
            pool.start(worker, "sensitivity", task)
            found: list[dict[str, Any]] = worker.result()
        return found

    def _one_threshold(self) -> Iterator[str]:
        """What does not keep the least scores by class, where the project has some."""
        if self.job.filters.by_class:
            programs = [name for _, name in self.target.templates if name.endswith((".cpp", ".html", ".md"))]
            for what in (*programs, *(["the model itself"] if self.suppression else [])):
                least = self.job.filters.conf if self.metadata.conf is None else self.metadata.conf
                yield f"{what} takes one least score for all classes, {least:g}"

    def _attempt(self, pool: WorkerPool, references: References, watch: Callable[[str, str], None]) -> Attempt:
        """Emit, run and measure, into ``files``.

        Raises:
            SegcError: where there is no artifact to judge.
        """
        watch(self.name, "calibrating" if self.calibration.images else "emitting")
        self.files.mkdir(parents=True)
        trained = None
        with (
            pool.worker(f"the {self.name} emitter", modules(self.target.requirements(self.options))) as emitter,
            pool.worker(f"the {self.name} model", modules(self.target.needed), self._hidden()) as runner,
        ):
            pool.start(emitter, "emit", self._emit_task(references))
            if self.calibration.images:
                watch(self.name, "emitting")
            reference = references.of(self.size, self.photographs, dynamic=self.metadata.dynamic)
            if self.split is not None:
                # On its way while the model is emitted.
                count = len(self.split.samples)
                trained = references.accuracy(self.size, count, reference.graph, self.suppression)
            lowered = EmitReply(**emitter.result())
            self._write_scripts(lowered.model)
            watch(self.name, "running")
            ran = self._judge(pool, runner, reference, lowered.model)
        if ran.parity.passed and not self._is_judged(ran.parity):
            watch(self.name, "looking for objects")
            telling = references.telling(self.size, dynamic=self.metadata.dynamic)
            if telling is not None:
                reference = telling
                with pool.worker(f"the {self.name} model", modules(self.target.needed), self._hidden()) as runner:
                    ran = self._judge(pool, runner, reference, lowered.model)
        beside = {name: self._judge_beside(pool, reference, name, opener) for name, opener in lowered.beside}
        notes = (*self.remarks, *suppression_notes(self.options, self.metadata, self.job.filters))
        found, milliseconds = None, 0.0
        if trained is not None:
            watch(self.name, "measuring mAP")
            found, said, milliseconds = self._accuracy(pool, references, trained, lowered.model)
            notes += said
        return Attempt(lowered, reference.photographs, ran, beside, found, notes, self.files, milliseconds)

    def _write_readme(self, description: dict[str, Any]) -> None:
        """The page that says how to use the model, from all that is known of it; it is one of the files itself."""
        from segc.emission.readme import README, render_readme
        from segc.graph.serial import read_graph

        graph, job = read_graph(self.graph), self.job
        text = render_readme(
            self.target,
            self.options,
            self.metadata,
            graph,
            self._filters(),
            job.lineage,
            job.descent,
            description,
        )
        (self.files / README).write_text(text, encoding="utf-8")
        description["files"] = file_entries(self.files)

    def _filters(self) -> Filters:
        """What counts as a detection: the project's thresholds, or those of a model that suppresses by itself."""
        return choose_filters(self.metadata, {}, self.job.filters)

    def _is_judged(self, parity: Parity) -> bool:
        """Whether there was something to compare that tells: floats of all anchors, else what was detected."""
        if self.metadata.precision in QUANTISED:
            return parity.judged
        return not self.metadata.suppresses or bool(parity.detections.reference or parity.detections.artifact)

    def _status(self, made: Attempt) -> Status:
        """What is to be said of the artifact, from what ran."""
        accepted = None if made.accuracy is None else made.accuracy["passed"]
        if accepted is False or not all(one.parity.passed for one in (made.ran, *made.beside.values())):
            return "failed"
        if self.accept is not None and accepted is None:
            return "unjudged"
        if not self._is_judged(made.ran.parity):
            return "unjudged"
        if not made.ran.shipped:
            return "evaluated"
        return "deferred" if made.lowered.deferred else "verified"

    def _problems(self, made: Attempt, folder: Path) -> tuple[Diagnostic, ...]:
        """Why an artifact failed."""
        names, place = self.metadata.names, folder / DESCRIPTION
        faults = [
            *made.ran.parity.faults(names),
            *(f"{name}: {fault}" for name, one in made.beside.items() for fault in one.parity.faults(names)),
        ]
        found = []
        if faults:
            found.append(Diagnostic("T007", f"{self.name}: {'; '.join(faults)}", file=place, help=KEPT))
        if made.accuracy and (lost := accuracy.shortfalls(made.accuracy)):
            tables = accuracy.tables(made.accuracy, names)
            furthest = sorted(made.ran.parity.deviations, key=lambda one: -one.share)
            text = "; ".join([*lost, tables, *(one.text(names) for one in furthest)])
            found.append(Diagnostic("T010", f"{self.name}: {text}", file=place, help=f"{KEPT}; {OTHER_LIMITS}"))
        return tuple(found)

    def _hidden(self) -> Sequence[str]:
        """What cannot be imported where the model is run: segc, and PyTorch if that is not its runtime.

        Nothing where no predict script runs it.
        """
        if self.target.script is None or self.target.stand_in(self.files / f"model{self.target.suffix}"):
            return ()
        return ["segc"] if any(r.module == "torch" for r in self.target.needed) else ["segc", "torch"]

    def _inputs(self) -> Inputs:
        job = self.job
        return Inputs(
            name=self.name,
            target=self.target,
            options=self.options,
            metadata=self.metadata,
            graph=self.graph,
            weights_digest=job.weights_digest,
            trained=job.trained,
            lineage=job.lineage,
            filters=self._filters(),
            root=job.loaded.dataset_root,
            images=self.photographs,
            calibration=self.calibration.images,
            calibrated=job.loaded.project.calibration.model_dump(mode="json", exclude={"number"}),
            validation=None if self.split is None else self.split.digest(),
        )

    def _emit_task(self, references: References) -> EmitTask:
        images, weights = self.calibration.images, references.weights()
        observations = references.observations(self.size, images) if images else None
        (self.work / "graph.json").write_text(self.graph, encoding="utf-8")
        return EmitTask(
            target=self.target.name,
            graph=str(self.work / "graph.json"),
            weights=str(weights),
            options=self.options.model_dump(mode="json"),
            metadata=self.metadata.to_json(),
            stem=self.job.loaded.project.name,
            folder=str(self.files),
            observations=str(observations) if observations else None,
            method=self.job.loaded.project.calibration.method,
        )

    def _write_scripts(self, model: str) -> None:
        from segc.emission.script import render_files

        for name, text in render_files(self.target, self.options, model, self.metadata, self.job.filters).items():
            (self.files / name).write_text(text, encoding="utf-8")

    def _cases(self, reference: Reference, outputs: Path) -> dict[str, Any]:
        """What a worker is to run a model on."""
        batches = {"fixed": self.metadata.batch, "free": len(reference.photographs)}
        return {"images": str(reference.images), "outputs": str(outputs), "batches": batches}

    def _judge(self, pool: WorkerPool, runner: Worker, reference: Reference, model: str) -> Ran:
        """Run the model, by the very script that ships where its runtime is here, and compare.

        Raises:
            SegcError: T006 where the model or the script cannot be run, or gives back other metadata.
        """
        path, outputs = self.files / model, self.work / "outputs.safetensors"
        opener = self.target.stand_in(path)
        if opener is not None or self.target.script is None:
            opened_by, shipped = opener or self.target.runtime, opener is None
            if not self._hidden():
                return self._run_by(pool, runner, reference, path, opened_by, shipped=shipped)
            with pool.worker(f"the {self.name} model", modules(self.target.needed)) as worker:
                return self._run_by(pool, worker, reference, path, opened_by, shipped=shipped)
        predictions = self.work / "predictions"
        task = ScriptTask(
            **self._cases(reference, outputs),
            script=str(self.files / self.target.script),
            model=str(path),
            photographs=[str(photograph) for photograph in reference.photographs],
            predictions=str(predictions),
            # What is compared are single frames, as the model sees them.
            arguments=["--threads", "1", "--tile", "0", "--no-track"],
        )
        pool.start(runner, "script", task)
        said = runner.result()
        if "refused" in said:
            raise fail("T006", f"{self.name}: its own script says: {said['refused']}")
        reply = RunReply(**said)
        parity = self._compare(reference, reply, outputs)
        if reply.status:
            parity = replace(parity, script=(f"the script ended with status {reply.status}",))
        elif all(error.largest < float("inf") for error in parity.outputs.values()):
            parity = replace(parity, script=tuple(self._script_faults(reference, outputs, predictions)))
        return Ran(reply.runtime, parity, shipped=True)

    def _run_by(
        self, pool: WorkerPool, worker: Worker, reference: Reference, path: Path, opener: str, *, shipped: bool
    ) -> Ran:
        """Run a model by a module of segc, and compare."""
        outputs = self.work / f"{path.name}.safetensors"
        pool.start(worker, "run", RunTask(**self._cases(reference, outputs), model=str(path), opener=opener))
        reply = RunReply(**worker.result())
        return Ran(reply.runtime, self._compare(reference, reply, outputs), shipped)

    def _judge_beside(self, pool: WorkerPool, reference: Reference, name: str, opener: str) -> Ran:
        """A further model that the emitter wrote."""
        with pool.worker(f"the model {name}") as worker:
            return self._run_by(pool, worker, reference, self.files / name, opener, shipped=True)

    def _compare(self, reference: Reference, reply: RunReply, outputs: Path) -> Parity:
        from segc.emission.verify import ROUNDING, compare

        if parse_metadata(reply.metadata) != self.metadata:
            raise fail("T006", f"{self.name}: the model does not give back the metadata that was put into it")
        found = partial(
            compare,
            reference.cases,
            reference.outputs(),
            load_arrays(outputs),
            self.metadata.precision,
            len(reference.photographs),
            self.suppression,
        )
        parity = found()
        if self.metadata.precision in ROUNDING and not all(one.passed for one in parity.outputs.values()):
            # Asked for only here: it is a run of PyTorch more.
            return found(reference.rounded(self.metadata.precision))
        return parity

    def _script_faults(self, reference: Reference, outputs: Path, predictions: Path) -> list[str]:
        from segc.emission.verify import script_faults

        records = json.loads((predictions / "predictions.json").read_bytes())
        return script_faults(records, reference.photographs, load_arrays(outputs), self.metadata, self._filters())

    def _accuracy(
        self, pool: WorkerPool, references: References, trained: Answer, model: str
    ) -> tuple[dict[str, Any] | None, tuple[str, ...], float]:
        """MAP in the artifact's runtime beside that of the network in PyTorch; what is to be said; milliseconds."""
        path, split = self.files / model, self.split
        if split is None:
            return None, (), 0.0
        try:
            with pool.worker(f"the {self.name} measurement", modules(self.target.needed)) as worker:
                opener = self.target.stand_in(path) or self.target.runtime
                count = len(split.samples)
                pool.start(worker, "measure", references.measure_task(self.size, count, model=str(path), opener=opener))
                ours = worker.result()
            found = accuracy.record(ours, trained.value(), self.accept, split)
        except SegcError as error:
            # The artifact is judged by the rest all the same: what is missing is a figure about it.
            return None, (_unmeasured(error),), 0.0
        notes = []
        if split.of > count:
            sample = f"{count} of the {split.of} images of the validation split"
            notes.append(f"mAP was measured on a seeded sample: {sample}")
        if self.suppression is not None:
            told = ", ".join(f"{name} {value:g}" for name, value in self.suppression.items() if name != "agnostic")
            notes.append(f"mAP of both sides is of what the model leaves: {told}")
        if accuracy.drop(found, "box") is None:
            notes.append("mAP was not measured: no image of the validation split has a labelled object")
        elif self.accept is None:
            notes.append("what it loses was measured, and is not judged: accept is false")
        return found, tuple(notes), ours["milliseconds"]

    def _script_entry(self, ran: Ran) -> dict[str, Any] | None:
        """Which script ships, and whether it was run and passed."""
        if self.target.script is None:
            return None
        digest = digest_file(self.files / self.target.script)
        passed = ran.parity.passed if ran.shipped else None
        return {"file": self.target.script, "digest": digest, "ran": ran.shipped, "passed": passed}

    def _emission(self, status: str, folder: Path, description: Description) -> Emission:
        model = description.model
        size = sum(e.bytes for name, e in description.files.items() if name == model or name.startswith(f"{model}/"))
        measured = accuracy.summary(description.accuracy) if description.accuracy else ""
        summary = ", ".join(filter(None, (str(description.parity.get("summary", "")), measured)))
        return Emission(
            self.name,
            self.target.name,
            status,
            0.0,
            folder,
            model,
            size,
            summary=summary,
            descent=self.job.descent,
            notes=tuple(description.notes),
            figures=tuple(accuracy.rows(description.accuracy, self.metadata.names)) if description.accuracy else (),
        )


def _unmeasured(error: SegcError) -> str:
    first = error.diagnostics[0]
    return f"mAP was not measured: {first.message}" + (f" ({first.help})" if first.help else "")
