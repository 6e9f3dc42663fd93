"""The training itself."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segc.build import model_metadata
from segc.data.check import read_for_training
from segc.data.dataset import Sample
from segc.data.loader import Batch, TrainingLoader
from segc.diagnostics import Diagnostic, fail
from segc.evaluation.coco import evaluate_session
from segc.evaluation.metrics import Evaluation, Metrics
from segc.files import atomic_directory, write_atomic
from segc.network.device import choose_device, peak_memory
from segc.network.initialise import initial_weights
from segc.network.lower import load_weights, to_numpy
from segc.plan import Plan, make_plan
from segc.training.balance import class_weights, weights_line
from segc.training.checkpoint import Checkpoint, Epoch, Progress, load_checkpoint, save_checkpoint
from segc.training.distributed import World, joined, launch_name, launched_world, restarts
from segc.training.ema import NetworkSession
from segc.training.engine import Engine, NotFiniteError
from segc.training.memory import resolve_hyperparameters
from segc.training.optimizer import fitting_state, optimizer_tensors, restore_optimizer, set_rates
from segc.training.precision import choose_precision
from segc.training.report import Report, Run, SilentReport
from segc.training.run import (
    CHECKPOINT,
    RESULTS,
    changed_project,
    identity,
    identity_changes,
    new_run_folder,
    publish,
    read_results,
    run_of_launch,
    run_to_resume,
    write_results,
)
from segc.training.schedule import rates
from segc.weights.resolve import own_metadata, starting_weights
from segc.weights.store import save_weights

if TYPE_CHECKING:
    from segc.build import Build
    from segc.spec.hyperparameters import Hyperparameters
    from segc.spec.load import LoadedProject

SAVING_SHARE = 0.01
"""Most of the time that saving checkpoints may take, but for the first and the last one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training came to.

    Attributes:
        folder: the run's folder.
        best: averaged weights of the best epoch, in ``weights/`` of the build directory.
        last: averaged weights of the last epoch, likewise.
        row: the best epoch's row of ``results.csv``.
    """

    folder: Path
    best: Path
    last: Path
    row: dict[str, Any]


def train(
    loaded: "LoadedProject",
    build: "Build",
    *,
    name: str | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    report: Report | None = None,
) -> Outcome | None:
    """Train a project, or go on with a run of it.

    Every number of a training depends on the spec, the images and the kind of machine alone: a run that was killed and
    resumed ends with the same weights, bit for bit, as one that was not.

    Started by ``torchrun``, this is one of several processes that train together; started again by it after one of
    them died, it goes on with the run of the same launch.

    Args:
        loaded: the project.
        build: what it compiled to, already in its folder.
        name: the run's name; by default a new one, or the one that trained last.
        resume: go on with a run instead of starting one.
        allow_changed: go on with it even where the project changed.
        report: told about the progress.

    Returns:
        What it came to; nothing in a process that does not lead.

    Raises:
        SegcError: R001, R002, R004, R005 where a run cannot be resumed, R003 where one of that name is there, R006
            where the training diverged, R007 to R011 where the device, the batch or the processes do not allow it; D0xx
            for faults of the dataset, W0xx of the starting weights.
        OSError: where something cannot be written.
    """
    world = launched_world()
    device = choose_device(loaded.project.hyperparameters.device, world.size, world.local_rank)
    torch.backends.cudnn.deterministic = True
    with joined(world, device):
        # Only the first process looks: the others may be on machines that do not see the same files.
        going_on = world.from_leader(_find_run(build.folder, name, resume=resume) if world.leads else None)
        checkpoint = None
        if going_on is not None:
            checkpoint = world.from_leader(load_checkpoint(going_on / CHECKPOINT) if world.leads else None)
        samples = read_for_training(loaded, (report if report and world.leads else SilentReport()).say)
        hyper = resolve_hyperparameters(loaded, build.graph, device, world, checkpoint)
        training = Training(loaded, build, hyper, *samples, report or SilentReport(), device, world)
        if checkpoint is not None and going_on is not None:
            training.restore(going_on, checkpoint, allow_changed=allow_changed)
        else:
            training.begin(new_run_folder(build.folder, name) if world.leads else Path())
        return training.run()


def _find_run(build_dir: Path, name: str | None, *, resume: bool) -> Path | None:
    """The folder of the run to go on with; None to start one."""
    if restarts() and (begun := run_of_launch(build_dir, launch_name())):
        return begun
    return run_to_resume(build_dir, name) if resume else None


class Training:
    """A training in memory: networks, optimizer, batches, and how far it is.

    Args:
        loaded: the project.
        build: what it compiled to.
        hyper: its hyperparameters, with a batch and a precision chosen.
        train_samples: images to train on.
        val_samples: images to validate on.
        report: told about the progress.
        device: where it happens.
        world: the processes that train together.
    """

    def __init__(
        self,
        loaded: "LoadedProject",
        build: "Build",
        hyper: "Hyperparameters",
        train_samples: Sequence[Sample],
        val_samples: Sequence[Sample],
        report: Report,
        device: torch.device,
        world: World,
    ) -> None:
        self.loaded, self.build, self.hyper, self.device, self.world = loaded, build, hyper, device, world
        self.report = report if world.leads else SilentReport()
        self.plan = make_plan(hyper, loaded.project.dataset.nc, len(train_samples))
        _refuse_few_values(self.plan, hyper.size, build.graph.metadata["strides"][-1], world)
        self.val_samples = val_samples
        self.identity = identity(loaded, hyper, train_samples, val_samples)
        self.loader = TrainingLoader(
            train_samples,
            hyper,
            pin_memory=device.type == "cuda",
            rank=world.rank,
            world=world.size,
            skip=loaded.project.dataset.corrupt == "skip",
            yielding=device.type == "cpu",
        )
        self._named: set[Diagnostic] = set()
        precision = choose_precision(hyper.precision, device)
        self.engine = Engine(build.graph, hyper, self.plan, device, precision, world)
        names = loaded.project.dataset.class_names
        weights = class_weights(hyper.class_weights, names, train_samples)
        if weights is not None:
            self.engine.loss.class_weights = torch.from_numpy(weights).to(device)
            self.report.say(weights_line(weights, names))
        self.progress = Progress()
        self.rows: list[dict[str, Any]] = []
        self.folder = Path()
        self._saving_took, self._saved_at, self._counted_at = 0.0, 0.0, 0.0

    def _first_weights(self) -> dict[str, Any]:
        initial = initial_weights(self.build.graph.parameters, self.hyper.seed)
        transfer = starting_weights(self.loaded, self.build.graph, self.build.folder)
        if transfer is None:
            return initial
        self.report.say(transfer.summary())
        return transfer.apply(initial)

    def begin(self, folder: Path) -> None:
        """Start a run: its folder appears with a first checkpoint in it.

        Raises:
            SegcError: of the starting weights.
            OSError: where it cannot be written.
        """
        load_weights(self.engine.network, self._first_weights())
        self.engine.average.reset()
        self.progress.launch = launch_name()
        if self.world.leads:
            with atomic_directory(folder) as temporary:
                write_atomic(temporary / "project.lock.json", self.build.files["project.lock.json"])
                save_checkpoint(temporary / CHECKPOINT, self._checkpoint())
        self.folder = folder

    def restore(self, folder: Path, checkpoint: Checkpoint, *, allow_changed: bool = False) -> None:
        """Go on with a run.

        Args:
            folder: the run's.
            checkpoint: the state to go on from.
            allow_changed: go on even where the project changed. The epoch at hand then starts again, as its batches may
                be others; what the optimizer remembers is kept where the optimizer is the same.

        Raises:
            SegcError: R002 where the project changed, R004 where the run is complete, R005 where its checkpoint is of
                another network.
        """
        changes = identity_changes(checkpoint.identity, self.identity)
        if changes and not allow_changed:
            raise changed_project(changes, folder)
        self.progress = checkpoint.progress
        if self.progress.stopped or self.progress.epoch >= self.plan.epochs:
            raise fail(
                "R004",
                f"run `{folder.name}` is complete: {self.progress.epoch} epochs are done",
                file=folder,
                help="start another one: segc train, without --resume",
            )
        optimizer = dict(checkpoint.optimizer)
        if changes:
            self.report.say("\n".join(["the project changed since this run began:", *changes]))
            self.progress.at = Epoch()
            optimizer = fitting_state(self.engine.optimizer, optimizer)
        try:
            self.engine.network.load_state_dict(checkpoint.network)
            self.engine.average.network.load_state_dict(checkpoint.average)
            restore_optimizer(self.engine.optimizer, optimizer)
        except (RuntimeError, KeyError) as error:
            raise fail("R005", f"the checkpoint is of another network: {error}", file=folder / CHECKPOINT) from error
        if self.progress.scaler and self.engine.scaler.is_enabled():
            self.engine.scaler.load_state_dict(self.progress.scaler)
        self.engine.average.updates = self.progress.updates
        self.progress.launch = launch_name()
        self.folder = folder
        if self.world.leads:
            for left_behind in folder.glob(".*.partial"):
                left_behind.unlink()  # by a process that was killed while it wrote
            self.rows = read_results(folder / RESULTS, self.progress.epoch)
        at = f", step {self.progress.at.step} of {self.plan.steps_per_epoch}" if self.progress.at.step else ""
        self.report.say(f"going on with run {folder.name} after epoch {self.progress.epoch} of {self.plan.epochs}{at}")

    def run(self) -> Outcome | None:
        """Train to the last epoch, saving on the way. Gives nothing in a process that does not lead."""
        project, epoch = self.loaded.project, self.progress.epoch
        run = Run.of(project, self.folder, images_per_step=self.plan.batch, epoch=epoch, device=str(self.device))
        self.report.begin(run)
        self.report.say(self._circumstances())
        if lagging := self.plan.lagging():
            self.report.say(f"note: {lagging}")
        self._saved_at = self._counted_at = time.monotonic()
        while self.progress.epoch < self.plan.epochs and not self.progress.stopped:
            self._epoch()
        if not self.world.leads:
            return None
        best, last = (publish(self.folder / f"{which}.safetensors", self.build.folder) for which in ("best", "last"))
        return Outcome(self.folder, best, last, self.progress.best)

    def _circumstances(self) -> str:
        """Where and how the training happens, in a line."""
        several = f" in {self.world.size} processes" if self.world.size > 1 else ""
        compiled = ", compiled" if self.hyper.compile else ""
        return f"training on {self.device}{several}, {self.engine.precision}{compiled}, batch {self.plan.batch}"

    def _epoch(self) -> None:
        """One pass over the training images, a validation where it is due, and what is kept of them."""
        number = self.progress.epoch + 1
        self.report.steps(number, self.plan.epochs, self.plan.steps_per_epoch, self.progress.at.step)
        self._pass(self.progress.epoch)
        if notice := self.loader.new_notice():
            self.report.say(notice)
        last = number == self.plan.epochs
        metrics = self._validate() if last or number % self.hyper.val_interval == 0 else None
        self._count_time()
        done, self.progress.at = self.progress.at, Epoch()
        self.progress.epoch = number
        row = {
            "epoch": number,
            "seconds": round(self.progress.seconds, 3),
            "images_per_second": round(done.images_seen / done.seconds, 3),
            "learning_rate": rates(self.plan, number * self.plan.steps_per_epoch - 1).learning_rate,
            **{f"train_{name}": round(value, 6) for name, value in done.means().items()},
            **_scores(metrics),
            "skipped": done.skipped,
            "unreadable": done.unreadable,
            "memory_gib": round(peak_memory(self.device) / 2**30, 3),
        }
        worth = -math.inf if metrics is None else fitness(metrics)
        if better := worth >= self.progress.fitness:
            self.progress.fitness, self.progress.best = worth, row
        self.progress.stopped = not last and self._got_no_better(metrics)
        if self.world.leads:
            self.rows.append(row)
            write_results(self.folder / RESULTS, self.rows)
            self.report.epoch(row)
            self._keep(better=better, last=last or self.progress.stopped)

    def _name_unreadable(self, batch: Batch) -> int:
        """Say once which images could not be read; gives their number in the batch of all processes."""
        if not self.loader.dataset.skip:
            return 0
        faults = [fault for share in self.world.gathered(batch.faults) for fault in share]
        for fault in faults:
            if fault not in self._named:
                self.report.say(f"left out: {fault.file}: {fault.message}")
        self._named.update(faults)
        return len(faults)

    def _got_no_better(self, metrics: Metrics | None) -> bool:
        """Whether it is time to stop, for want of a better validation."""
        waited = self.progress.epoch - int(self.progress.best.get("epoch", self.progress.epoch))
        if metrics is None or not self.hyper.patience or waited < self.hyper.patience:
            return False
        self.report.say(f"stopping: no better validation for {waited} epochs")
        return True

    def _pass(self, epoch: int) -> None:
        """The steps of an epoch that are still to be done. Gradients left over at its end make an update."""
        at = self.progress.at
        waiting = 0
        self.engine.train_mode()
        self._count_time()
        for index, batch in enumerate(self.loader.epoch(epoch, at.step), at.step):
            now = rates(self.plan, epoch * self.plan.steps_per_epoch + index)
            set_rates(self.engine.optimizer, now)
            waiting += 1
            ends = waiting >= now.accumulate or index + 1 == self.plan.steps_per_epoch
            images = min(self.plan.batch, self.plan.images - index * self.plan.batch)
            try:
                at.add(self.engine.descend(batch.to(self.device), update=ends), images)
                if ends:
                    self.engine.update()
                    self.progress.skipped_in_a_row = 0
            except NotFiniteError as error:
                self._skipped(str(error), epoch, index)
                ends = True
            at.step = index + 1
            at.images_seen += images
            at.unreadable += self._name_unreadable(batch)
            self._count_time(training=True)
            self.report.step({**at.means(), "lr": now.learning_rate})
            if ends:
                waiting = 0
                self._save_where_due()

    def _skipped(self, what: str, epoch: int, index: int) -> None:
        """Count an update that was skipped.

        Raises:
            SegcError: R006 where it is one too many in a row.
        """
        self.progress.at.skipped += 1
        self.progress.skipped_in_a_row += 1
        place = f"epoch {epoch + 1}, step {index + 1} of {self.plan.steps_per_epoch}"
        self.report.say(f"{what} in {place}: this update is skipped")
        if self.progress.skipped_in_a_row > self.hyper.max_skipped:
            raise fail(
                "R006",
                f"{what} in {place}, after {self.hyper.max_skipped} updates skipped: the training has diverged",
                file=self.folder,
                help="lower hyperparameters.lr0 or lengthen warmup_epochs; weights saved before are still there",
            )

    def _count_time(self, *, training: bool = False) -> None:
        """Take in the time since this was called last, as the run's and, where it was spent on steps, the epoch's."""
        spent = time.monotonic() - self._counted_at
        self._counted_at += spent
        self.progress.seconds += spent
        self.progress.at.seconds += spent if training else 0.0

    def _validate(self) -> Metrics:
        """Metrics of the averaged weights: each process looks at its share of the images, the first one sums up."""
        metadata = model_metadata(self.loaded.project)
        metrics = evaluate_session(
            NetworkSession(self.engine.average.network, metadata, self.device),
            self.val_samples[self.world.rank :: self.world.size],
            self.loaded.project.dataset.class_names,
            size=self.hyper.size,
            rect=self.hyper.rect,
            iou=self.hyper.iou,
            max_det=self.hyper.max_det,
            batch=max(self.plan.batch // self.world.size, 1),
            progress=self.report.validated,
            together=self._together,
        )
        return self.world.from_leader(metrics)

    def _together(self, share: Evaluation) -> Evaluation:
        whole = Evaluation(share.names)
        for part in self.world.gathered(share):
            whole.extend(part)
        return whole

    def _keep(self, *, better: bool, last: bool) -> None:
        """Write the best weights where these are the best, and a checkpoint with the last ones where it is time.

        The checkpoint comes after the weights: killed in between, the steps since the last checkpoint are done again
        and give the same weights once more.
        """
        if better:
            self._save_weights("best")
        self._save_where_due(weights=True, at_once=last)

    def _save_where_due(self, *, weights: bool = False, at_once: bool = False) -> None:
        """Write a checkpoint where the last one is long enough ago, so that saving takes little of the time."""
        started = time.monotonic()
        if not self.world.leads or not (at_once or started - self._saved_at >= self._saving_took / SAVING_SHARE):
            return
        if weights:
            self._save_weights("last")
        save_checkpoint(self.folder / CHECKPOINT, self._checkpoint())
        self._saved_at = time.monotonic()
        self._saving_took = self._saved_at - started

    def _save_weights(self, which: str) -> None:
        file = self.folder / f"{which}.safetensors"
        metadata = own_metadata(self.loaded, self.build.graph, self.folder)
        save_weights(file, to_numpy(self.engine.average.network), metadata)
        publish(file, self.build.folder)

    def _checkpoint(self) -> Checkpoint:
        self.progress.updates = self.engine.average.updates
        self.progress.scaler = self.engine.scaler.state_dict()
        return Checkpoint(
            self.progress,
            self.identity,
            self.engine.network.state_dict(),
            self.engine.average.network.state_dict(),
            optimizer_tensors(self.engine.optimizer),
        )


def _refuse_few_values(plan: Plan, size: tuple[int, int], stride: int, world: World) -> None:
    """Refuse a batch with too few images.

    Batch norm cannot train on one value a channel, that is, on one image whose coarsest feature map has a single cell;
    and every process must have a share of a batch.

    Raises:
        SegcError: R008, R011.
    """
    if size[0] * size[1] == stride * stride and 1 in {plan.batch, plan.images % plan.batch}:
        raise fail(
            "R008",
            f"a batch of one image of {size[0]} x {size[1]} pixels leaves batch norm a single value to train on",
            help="enlarge hyperparameters.imgsz, or choose a batch that leaves no single image over",
        )
    if plan.batch < world.size:
        raise fail(
            "R011",
            f"a batch of {plan.batch} images cannot be shared out among {world.size} processes",
            help="hyperparameters.batch counts the images of all processes together",
        )


def fitness(metrics: Metrics) -> float:
    """By what the best epoch is chosen: the mean of box and mask mAP50-95; 0 where nothing is labelled."""
    value = (metrics.box.map + metrics.seg.map) / 2
    return 0.0 if math.isnan(value) else value


def _scores(metrics: Metrics | None) -> dict[str, Any]:
    """The columns of a validation; empty where there was none."""
    parts = {"box": metrics.box, "mask": metrics.seg} if metrics else {"box": None, "mask": None}
    return {
        f"{part}_{name}": "" if value is None else round(getattr(value, name), 5)
        for part, value in parts.items()
        for name in ("map50", "map")
    }
