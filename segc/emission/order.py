"""One artifact, on its way from options to a folder: emitted, run as it ships, compared, described, published."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from segc.arrays import load_arrays, save_arrays
from segc.diagnostics import Diagnostic, SegcError, fail
from segc.emission.publish import UP_TO_DATE, Inputs, file_entries, intact, publish
from segc.emission.requests import EmitReply, EmitTask, RunReply, RunTask, ScriptTask
from segc.files import digest_file
from segc.inference.filters import Filters, choose_filters
from segc.inference.metadata import parse_metadata
from segc.targets.contract import CALIBRATED, MEASURED, modules
from segc.targets.description import DESCRIPTION, Description
from segc.targets.registry import artifact_name, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from segc.emission.reference import Reference, References
    from segc.emission.verify import Parity
    from segc.emission.worker import Worker, WorkerPool
    from segc.inference.metadata import Metadata
    from segc.spec.load import LoadedProject
    from segc.targets.contract import TargetOptions
    from segc.targets.description import Status

CALIBRATION_IMAGES = 32
"""Training photographs that an int8 artifact is calibrated on."""

STAND_IN_NOTE = "what ran it stands in for the runtime that people deploy on, and the predict script was not run"


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
        notes: what was not done or not checked.
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
    notes: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class Job:
    """What all artifacts of one call share."""

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
        from segc.graph.serial import write_graph

        if (size, batch) not in self._graphs:
            project = self.loaded.project
            graph = build_graph(project.architecture, project.dataset.nc, size, batch)
            self._graphs[size, batch] = write_graph(graph)
        return self._graphs[size, batch]

    @property
    def filters(self) -> Filters:
        """What predict scripts, and graphs that suppress by themselves, take: the project's own."""
        chosen = self.loaded.project.hyperparameters
        return Filters(chosen.conf, chosen.iou, chosen.max_det)


@dataclass(frozen=True, slots=True)
class Ran:
    """How the model was run.

    Attributes:
        runtime: what ran it.
        parity: how far it is from PyTorch.
        shipped: whether the predict script that ships did.
    """

    runtime: str
    parity: Parity
    shipped: bool


class Order:
    """One artifact to make.

    Args:
        job: what it shares with others.
        options: of its target.
        work: folder for files on the way, not there yet.
    """

    def __init__(self, job: Job, options: TargetOptions, work: Path) -> None:
        from segc.build import model_metadata
        from segc.data.dataset import list_images
        from segc.emission.verify import choose

        project = job.loaded.project
        self.job, self.options, self.work = job, options, work
        self.name, self.target = artifact_name(options), targets()[options.format]
        self.size = options.size(project.hyperparameters.size)
        settings = self.target.settings(options)
        metadata = replace(model_metadata(project), imgsz=self.size, **settings)
        self.suppression: dict[str, Any] | None = None
        if metadata.layout == "detections":
            chosen = job.filters
            self.suppression = {"conf": chosen.conf, "iou": chosen.iou, "max_det": chosen.max_det}
            metadata = replace(metadata, **self.suppression)
        self.metadata: Metadata = metadata
        self.graph = job.graph(self.size, metadata.batch)
        calibrated = metadata.precision in CALIBRATED
        self.calibration = choose(list_images(job.loaded, "train"), CALIBRATION_IMAGES) if calibrated else []
        self.place = job.build_dir / "artifacts" / self.name
        self.files = work / "files"

    def carry_out(
        self, pool: WorkerPool, references: References, watch: Callable[[str, str], None], *, force: bool
    ) -> Emission:
        """Emit, run as it ships, compare, measure where the precision asks for it, and put it in its place.

        Raises:
            SegcError: where there is no artifact to judge.
        """
        inputs = self._inputs()
        key = inputs.key()
        if not force and (there := intact(self.place, key)) is not None:
            return self._emission(UP_TO_DATE, self.place, there)
        watch(self.name, "emitting")
        self.files.mkdir(parents=True)
        reference = None
        with (
            pool.worker(f"the {self.name} emitter", modules(self.target.requirements(self.options))) as emitter,
            pool.worker(f"the {self.name} model", modules(self.target.needed), self._hidden()) as runner,
        ):
            pool.start(emitter, "emit", self._emit_task(references.weights()))
            reference = references.of(self.size, dynamic=self.metadata.dynamic)
            lowered = EmitReply(**emitter.result())
            self._write_scripts(lowered.model)
            watch(self.name, "running")
            ran = self._judge(pool, runner, reference, lowered.model)
        notes = list(lowered.notes)
        if ran.parity.passed and not ran.parity.judged and self.metadata.precision in MEASURED:
            watch(self.name, "looking for objects")
            telling = references.telling(self.size)
            if telling is not None:
                reference = telling
                with pool.worker(f"the {self.name} model", modules(self.target.needed), self._hidden()) as runner:
                    ran = self._judge(pool, runner, reference, lowered.model)
        beside = {name: self._judge_beside(pool, reference, name, opener) for name, opener in lowered.beside}
        accuracy = None
        if self.metadata.precision in MEASURED and ran.parity.passed:
            watch(self.name, "measuring mAP")
            try:
                accuracy = self._accuracy(pool, reference, lowered.model)
            except SegcError as error:
                # The artifact is judged all the same: what is missing is a figure about it.
                first = error.diagnostics[0]
                notes.append(f"mAP was not measured: {first.message}" + (f" ({first.help})" if first.help else ""))
        status = self._status(ran, [one.parity for one in beside.values()], deferred=lowered.deferred)
        if not ran.shipped and self.target.script is not None:
            notes.append(f"{ran.runtime}: {STAND_IN_NOTE}")
        description = {
            **inputs.to_json(),
            "photographs": inputs.digests(reference.photographs),
            "key": key,
            "status": status,
            "model": lowered.model,
            "files": file_entries(self.files),
            "script": self._script_entry(ran),
            "notes": notes,
            "parity": _parity_entry(ran),
            **({"beside": {name: _parity_entry(one) for name, one in beside.items()}} if beside else {}),
            **({"accuracy": accuracy} if accuracy else {}),
        }
        folder = publish(self.place, self.files, description)
        made = self._emission(status, folder, Description.model_validate(description))
        faults = [*ran.parity.faults(), *(f"{n}: {f}" for n, one in beside.items() for f in one.parity.faults())]
        problems = (_mismatch(self.name, faults, folder),) if status == "failed" else ()
        return replace(made, lowering_seconds=lowered.seconds, diagnostics=problems)

    def _status(self, ran: Ran, beside: Sequence[Parity], *, deferred: bool) -> Status:
        """What is to be said of the artifact, from what ran."""
        if not all(parity.passed for parity in (ran.parity, *beside)):
            return "failed"
        if self.metadata.precision in MEASURED and not ran.parity.judged:
            return "unjudged"
        if not ran.shipped:
            return "evaluated"
        return "deferred" if deferred else "verified"

    def _hidden(self) -> Sequence[str]:
        """What cannot be imported where the model is run: segc, and PyTorch if that is not its runtime.

        Nothing where no predict script runs it.
        """
        if self.target.script is None or self.target.stand_in(self.files / f"model{self.target.suffix}"):
            return ()
        return ["segc"] if any(r.module == "torch" for r in self.target.needed) else ["segc", "torch"]

    def _inputs(self) -> Inputs:
        from segc.emission.verify import choose

        job = self.job
        return Inputs(
            name=self.name,
            target=self.target,
            options=self.options,
            metadata=self.metadata,
            graph=self.graph,
            weights_digest=job.weights_digest,
            trained=job.trained,
            filters=job.filters,
            root=job.loaded.dataset_root,
            images=choose(job.images),
            calibration=self.calibration,
        )

    def _emit_task(self, weights: Path) -> EmitTask:
        (self.work / "graph.json").write_text(self.graph, encoding="utf-8")
        return EmitTask(
            target=self.target.name,
            graph=str(self.work / "graph.json"),
            weights=str(weights),
            options=self.options.model_dump(mode="json"),
            metadata=self.metadata.to_json(),
            stem=self.job.loaded.project.name,
            folder=str(self.files),
            calibration=self._write_calibration(),
        )

    def _write_calibration(self) -> str | None:
        from segc.emission.verify import cases

        if not self.calibration:
            return None
        (case,) = cases(self.calibration, self.size, dynamic=False)
        path = self.work / "calibration.safetensors"
        save_arrays(path, {"images": case.images})
        return str(path)

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
            arguments=["--threads", "1"],
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
        from segc.emission.verify import compare

        if parse_metadata(reply.metadata) != self.metadata:
            raise fail("T006", f"{self.name}: the model does not give back the metadata that was put into it")
        return compare(
            reference.cases,
            reference.outputs(),
            load_arrays(outputs),
            self.metadata.precision,
            len(reference.photographs),
            self.suppression,
        )

    def _script_faults(self, reference: Reference, outputs: Path, predictions: Path) -> list[str]:
        from segc.emission.verify import script_faults

        records = json.loads((predictions / "predictions.json").read_bytes())
        filters = choose_filters(self.metadata, {}, self.job.filters)
        return script_faults(records, reference.photographs, load_arrays(outputs), self.metadata, filters)

    def _accuracy(self, pool: WorkerPool, reference: Reference, model: str) -> dict[str, Any]:
        """MAP on the validation split, in the artifact's runtime and of the float network in PyTorch."""
        path = self.files / model
        with pool.worker(f"the {self.name} measurement", modules(self.target.needed)) as worker:
            opener = self.target.stand_in(path) or self.target.runtime
            pool.start(worker, "measure", reference.measure_task(model=str(path), opener=opener))
            ours = worker.result()
        return {"artifact": ours, "float": reference.accuracy()}

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
        summary = ", ".join([str(description.parity.get("summary", "")), *_told_accuracy(description.accuracy)])
        return Emission(
            self.name,
            self.target.name,
            status,
            0.0,
            folder,
            model,
            size,
            summary=summary,
            notes=tuple(description.notes),
        )


def _parity_entry(ran: Ran) -> dict[str, Any]:
    return {"runtime": ran.runtime, "summary": ran.parity.summary(), **ran.parity.to_json()}


def _told_accuracy(accuracy: Mapping[str, Any] | None) -> Iterator[str]:
    """The mAP of a quantised artifact beside the float network's, where there is one."""
    if accuracy:
        ours, theirs = (accuracy[side]["mask"]["map50_95"] for side in ("artifact", "float"))
        if ours is not None and theirs is not None:
            yield f"mask mAP {ours:.3f}, float {theirs:.3f}"


def _mismatch(name: str, faults: Sequence[str], folder: Path) -> Diagnostic:
    return Diagnostic(
        "T007",
        f"{name}: {'; '.join(faults)}",
        file=folder / DESCRIPTION,
        help="the artifact is kept there for inspection only; an earlier good one stays as it was",
    )
