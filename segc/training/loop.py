"""The training itself."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segc.build import model_metadata
from segc.data.batch import Batch
from segc.data.check import read_for_training
from segc.data.crops import crops_of
from segc.data.loader import TrainingLoader
from segc.data.samples import Sample
from segc.diagnostics import Diagnostic, SegcError, fail
from segc.evaluation.metrics import Metrics
from segc.interrupts import Interrupted, StopRequest
from segc.locks import try_lock
from segc.network.device import choose_device, exact_arithmetic, peak_memory
from segc.network.initialise import initial_weights
from segc.network.lower import load_weights, to_numpy
from segc.plan import make_plan
from segc.runs import (
    CHECKPOINT,
    COMPLETE,
    FINISHED,
    STOPPED,
    best_epochs,
    busy,
    lock_file,
    ranked,
    read_record,
    resume_command,
    run_to_resume,
    typed,
)
from segc.spec.hyperparameters import seconds_of
from segc.training.balance import class_weights, weights_line
from segc.training.checkpoint import Checkpoint, Epoch, Progress, load_checkpoint
from segc.training.distributed import World, joined, launch_name, launched_world, restarts
from segc.training.ema import NetworkSession
from segc.training.engine import Engine, NotFiniteError
from segc.training.identity import (
    changed_project,
    identity,
    identity_changes,
    measured_otherwise,
    new_run,
    run_of_launch,
)
from segc.training.keeping import AVERAGED, Keeper, new_record, new_segment
from segc.training.memory import memory_told, refuse_few_values, resolve_hyperparameters
from segc.training.optimizer import fitting_state, optimizer_tensors, restore_optimizer, set_rates
from segc.training.precision import choose_precision
from segc.training.report import Report, Run
from segc.training.schedule import rates
from segc.training.table import scores
from segc.training.validation import unlabelled, unreadable, validate
from segc.weights.resolve import own_metadata, starting_weights

if TYPE_CHECKING:
    from segc.build import Build
    from segc.spec.hyperparameters import Hyperparameters
    from segc.spec.load import LoadedProject


_TIME = "hyperparameters.time"


class Ended(Exception):  # noqa: N818 - it is no error
    """Raised by a report to end a training before its time; its text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training came to.

    Attributes:
        folder: the run's folder.
        best: averaged weights of the best epoch.
        last: averaged weights of the last epoch.
        row: the best epoch's row of ``results.csv``.
        ties: epochs that were as good.
    """

    folder: Path
    best: Path
    last: Path
    row: dict[str, Any]
    ties: tuple[int, ...] = ()


def train(
    loaded: "LoadedProject",
    build: "Build",
    *,
    name: str | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    report: Report | None = None,
    started: Callable[[Path], None] = lambda _: None,
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
        started: told the run's folder, once there is something to go on from.

    Returns:
        What it came to; nothing in a process that does not lead.

    Raises:
        SegcError: R001, R002, R004, R005 where a run cannot be resumed, R003 where one of that name is there, R006
            where the training diverged, R007 to R011 where the device, the batch or the processes do not allow it, R012
            where another process trains the run, R014 where memory ran out; D0xx for faults of the dataset, which
            validation images that cannot be read are before the first step; W0xx of the starting weights. What was done
            until then is kept, but for R006; after R014 what the last checkpoint has.
        Interrupted: where a signal asked to end; what was done until then is kept.
        OSError: where something cannot be written.
        ValueError: where no run can have that name.
    """
    world = launched_world()
    device = choose_device(loaded.project.hyperparameters.device, world.size, world.local_rank)
    exact_arithmetic()
    with joined(world, device):
        # Only the first process looks: the others may be on machines that do not see the same files.
        going_on = world.from_leader(_find_run(loaded.path, build.folder, name, resume=resume) if world.leads else None)
        checkpoint = None
        if going_on is not None:
            checkpoint = world.from_leader(load_checkpoint(going_on / CHECKPOINT) if world.leads else None)
        samples = read_for_training(loaded, (report if report and world.leads else Report()).say)
        if faults := world.from_leader(unreadable(samples[1]) if world.leads else ()):
            raise SegcError(faults)
        hyper = resolve_hyperparameters(loaded, build.graph, device, world, checkpoint)
        training = Training(loaded, build, hyper, *samples, report or Report(), device, world)
        if checkpoint is not None and going_on is not None:
            training.restore(going_on, checkpoint, allow_changed=allow_changed)
        else:
            training.begin(name)
        if world.leads:
            started(training.folder)
        return training.run()


def _find_run(project: Path, build_dir: Path, name: str | None, *, resume: bool) -> Path | None:
    """The folder of the run to go on with; None to start one."""
    if restarts() and (begun := run_of_launch(build_dir, launch_name())):
        return begun
    return run_to_resume(project, build_dir, name) if resume else None


class Training:
    """A training in memory: networks, optimizer, batches, and how far it is.

    Args:
        loaded: the project.
        build: what it compiled to.
        hyper: its hyperparameters, with a batch and a precision chosen.
        train_samples: whole images to train on; where the project has tiles they are cut into crops.
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
        self.report = report if world.leads else Report()
        cut_from = None
        if hyper.tiles is not None:
            crops = crops_of(train_samples, hyper.tiles.tiling)
            train_samples, cut_from = crops.samples, crops.images
            self.report.say(crops.summary())
        self._plan_for = partial(make_plan, hyper, loaded.project.dataset.nc, len(train_samples), cut_from)
        self.plan = self._plan_for()
        refuse_few_values(self.plan, hyper.size, build.graph.metadata["strides"][-1], world)
        self.val_samples = val_samples
        self.identity = identity(loaded, hyper, train_samples, val_samples)
        self.loader = TrainingLoader(
            train_samples,
            hyper if self.plan.epochs else hyper.model_copy(update={"epochs": sys.maxsize}),
            pin_memory=device.type == "cuda",
            rank=world.rank,
            world=world.size,
            skip=loaded.project.dataset.corrupt == "skip",
            yielding=device.type == "cpu",
            said=self.report.say,
        )
        self._named: set[Diagnostic] = set()
        precision = choose_precision(hyper.precision, device)
        self.engine = Engine(build.graph, hyper, self.plan, device, precision, world)
        names = loaded.project.dataset.class_names
        weights = class_weights(hyper.class_weights, names, train_samples)
        if weights is not None:
            self.engine.loss.class_weights = torch.from_numpy(weights).to(device)
            self.report.say(weights_line(weights, names, train_samples))
        self.progress = Progress()
        self.folder = Path()
        self._keeper: Keeper | None = None
        self._stop = StopRequest("\nending after this step; once more ends at once\n")
        self._whole = False
        """Whether weights, optimizer and progress belong to one moment, so that they can be kept."""
        self._counted_at = 0.0

    def _first_weights(self) -> tuple[dict[str, Any], str]:
        """Values of all parameters, and what they were taken from."""
        initial = initial_weights(self.build.graph.parameters, self.hyper.seed)
        transfer = starting_weights(self.loaded, self.build.graph, self.build.folder)
        if transfer is None:
            return initial, ""
        self.report.say(transfer.summary())
        return transfer.apply(initial), str(self.loaded.project.architecture.weights)

    def begin(self, name: str | None) -> None:
        """Start a run.

        Args:
            name: the run's name; a new one where not given.

        Raises:
            SegcError: R003 where there is one of that name, R012 where another process makes it; of the starting
                weights.
            OSError: where it cannot be written.
        """
        values, source = self._first_weights()
        load_weights(self.engine.network, values)
        self.engine.average.reset()
        self.progress.launch = launch_name()
        self._whole = True
        if not self.world.leads:
            return
        lock = new_run(self.build.folder, name)
        self.folder = self.build.folder / "runs" / lock.path.name.removeprefix(".").removesuffix(".lock")
        segment = new_segment(self.loaded, self.device, self.world.size, self.progress)
        record = new_record(self.loaded, self.folder.name, self.hyper, self.identity, segment, source, self.progress)
        metadata = own_metadata(self.loaded, self.build.graph, self.build.folder)
        try:
            self._keeper = Keeper.begin(lock, self.folder, self.build, record, metadata, self._checkpoint())
        except BaseException:
            lock.release()
            raise

    def restore(self, folder: Path, checkpoint: Checkpoint, *, allow_changed: bool = False) -> None:
        """Go on with a run.

        Args:
            folder: the run's.
            checkpoint: the state to go on from.
            allow_changed: go on even where the project changed. The epoch at hand then starts again, as its batches may
                be others; what the optimizer remembers is kept where the optimizer is the same.

        Raises:
            SegcError: R002 where the project changed, R004 where the run is complete, R005 where its checkpoint is of
                another network, R012 where another process trains it.
        """
        changes = identity_changes(checkpoint.identity, self.identity)
        self.progress = checkpoint.progress
        otherwise = self._follow_changes(checkpoint.identity) if changes else []
        self._plan_epochs()
        if self._is_complete() and self._has_ended(folder):
            raise self._complete(folder)
        if changes and not allow_changed:
            raise changed_project(changes, folder, self.loaded, self.build.folder)
        optimizer, gradients = dict(checkpoint.optimizer), dict(checkpoint.gradients)
        if changes:
            self.report.say("\n".join(["the project changed since this run began:", *changes]))
            self.progress.at = Epoch()
            optimizer, gradients = fitting_state(self.engine.optimizer, optimizer), {}
        try:
            self.engine.network.load_state_dict(checkpoint.network)
            self.engine.average.network.load_state_dict(checkpoint.average)
            restore_optimizer(self.engine.optimizer, optimizer)
            self.engine.restore_gradients(gradients)
        except (RuntimeError, KeyError) as error:
            raise fail("R005", f"the checkpoint is of another network: {error}", file=folder / CHECKPOINT) from error
        if self.progress.scaler and self.engine.scaler.is_enabled():
            self.engine.scaler.load_state_dict(self.progress.scaler)
        self.engine.average.updates = self.progress.updates
        self.progress.launch = launch_name()
        self.folder = folder
        self._whole = True
        if self.world.leads:
            lock = try_lock(lock_file(folder))
            if lock is None:
                raise busy(folder)
            segment = new_segment(self.loaded, self.device, self.world.size, self.progress, changes)
            record = new_record(self.loaded, folder.name, self.hyper, self.identity, segment, "", self.progress)
            metadata = own_metadata(self.loaded, self.build.graph, folder)
            self._keeper = Keeper.go_on(lock, folder, self.build, record, metadata, self.progress)
            if otherwise:
                self._tell_anew(otherwise)
        of = f" of {self.plan.epochs}" if self.plan.epochs else ""
        at = f", step {self.progress.at.step} of {self.plan.steps_per_epoch}" if self.progress.at.step else ""
        self.report.say(f"going on with run {folder.name} after epoch {self.progress.epoch}{of}{at}")

    def _follow_changes(self, then: Mapping[str, Any]) -> list[str]:
        """See how many epochs fit into a new time, and whether a training that was to end goes on.

        Args:
            then: the identity before the changes.

        Returns:
            The keys by which validation measures otherwise than before.
        """
        otherwise = measured_otherwise(then, self.identity) if self.progress.best else []
        if otherwise:
            self.progress.measured_anew = (*self.progress.measured_anew, self.progress.epoch)
        if then.get(_TIME) != self.identity.get(_TIME):
            self.progress.epochs = self._fitting_epochs() if self.hyper.time and self.progress.epoch else 0
        if self.progress.stopped:
            over = self.world.from_leader(self._is_over(self.progress.epoch))
            self.progress.stopped = over or self._is_out_of_patience()
        return otherwise

    def _complete(self, folder: Path) -> SegcError:
        """The refusal to go on with a run that is complete (R004), with what ended it and the lines to type."""
        done, waited = self.progress.epoch, self._waited()
        ends = (
            (
                self.progress.stopped and self._is_out_of_patience(),
                f"; patience ended it, after {waited} epochs without a better validation",
                "patience=0",
            ),
            (self.hyper.time, f"; more do not fit into {self.hyper.time}", f"time={ceil(2 * self.progress.seconds)}s"),
            (True, "", f"epochs={2 * done}"),
        )
        what, setting = next((what, setting) for applies, what, setting in ends if applies)
        anew = partial(typed, "train", self.loaded.path, self.build.folder)
        on = resume_command(
            self.loaded.path,
            self.build.folder,
            folder.name,
            overrides=[f"hyperparameters.{setting}"],
            allow_changed=True,
        )
        return fail(
            "R004",
            f"run `{folder.name}` is complete: {done} of {self.plan.epochs} epochs are done{what}",
            file=folder,
            help=f"train it further: {on}; or start another one from its weights: {anew('--from', folder.name)}; "
            f"or from none: {anew()}",
        )

    def _tell_anew(self, otherwise: Sequence[str]) -> None:
        """Say that the best epoch is looked for anew, and where the best weights until now are kept."""
        done = self.progress.epoch
        kept = self._keeper.keep_best(done) if self._keeper else None
        where = f"; the best weights until then are kept: {kept}" if kept else ""
        self.report.say(
            f"validation measures otherwise from now on ({', '.join(otherwise)}): scores up to epoch {done} are not "
            f"compared with later ones, the best epoch and patience count from epoch {done + 1}{where}"
        )

    def _is_complete(self) -> bool:
        return self.progress.stopped or self.progress.epoch >= (self.plan.epochs or sys.maxsize)

    def _has_ended(self, folder: Path) -> bool:
        """Whether a run that is complete came to its end, too, and was not killed in between."""
        record = read_record(folder) if self.world.leads else None
        return self.world.from_leader(record is not None and record.end in COMPLETE)

    def run(self) -> Outcome | None:
        """Train to the last epoch, saving on the way. Gives nothing in a process that does not lead."""
        try:
            with self._stop, memory_told(self.hyper, self.plan.batch):
                self._run()
            self._end(STOPPED if self.progress.stopped else FINISHED)
        except Interrupted as stop:
            self._end(f"interrupted by {stop}", keep=True)
            raise
        except Ended as end:
            self._end(str(end))
            raise
        except Exception as error:
            code = f" ({error.diagnostics[0].code})" if isinstance(error, SegcError) else ""
            self._end(f"failed{code}", keep=True)
            raise
        finally:
            if self._keeper is not None:
                self._keeper.close()
            self.loader.close()
        if self._keeper is None:
            return None
        best, last = (self._keeper.weights(which) for which in ("best", "last"))
        return Outcome(self.folder, best, last, self.progress.best, self.progress.ties)

    def _run(self) -> None:
        project, epoch = self.loaded.project, self.progress.epoch
        run = Run.of(
            project,
            self.folder,
            images_per_step=self.plan.batch,
            epoch=epoch,
            steps=self.progress.steps,
            device=str(self.device),
            changes=self._keeper.record.segments[-1].changes if self._keeper else (),
        )
        self.report.begin(run)
        self.report.say(self._circumstances())
        if self.hyper.compile:
            self.report.say("compiling: the first step takes a minute or more")
        if lagging := self.plan.lagging():
            self.report.say(f"note: {lagging}")
        for note in unlabelled(self.loader.dataset.samples, self.val_samples):
            self.report.say(note)
        self._counted_at = time.monotonic()
        while not self._is_complete():
            self._epoch()
        if self._keeper and self.hyper.average_last:
            averaged = self._keeper.average(self.hyper.average_last, self.progress.epoch)
            if averaged:
                self.report.say(f"the mean of the last {averaged} epochs: {self._keeper.weights(AVERAGED)}")

    def _end(self, how: str, *, keep: bool = False) -> None:
        """Say how it ended; where it was not the end, with the state to go on from."""
        if self._keeper is None:
            return
        if keep and self._whole:
            self._count_time()
            with suppress(SegcError, OSError):  # a full disk has been told already, and the last checkpoint is there
                self._keeper.save(self._checkpoint())
                self._save_weights("last", self.progress.epoch)
        self._keeper.end(how, self.progress)

    def _circumstances(self) -> str:
        """Where and how the training happens, in a line."""
        several = f" in {self.world.size} processes" if self.world.size > 1 else ""
        compiled = ", compiled" if self.hyper.compile else ""
        recomputes = ", gradient checkpointing" if self.hyper.recomputes else ""
        how = f"{self.engine.precision}{compiled}{recomputes}"
        chosen = self.loaded.project.hyperparameters.workers == "auto" and self.device.type != "cpu"
        workers = f", {self.hyper.worker_count} workers" if chosen else ""
        return f"training on {self.device}{several}, {how}, batch {self.plan.batch}{workers}"

    def _epoch(self) -> None:
        """One pass over the training images, a validation where it is due, and what is kept of them."""
        number = self.progress.epoch + 1
        self.report.steps(number, self.plan.epochs, self.plan.steps_per_epoch, self.progress.at.step)
        self._pass(self.progress.epoch)
        if notice := self.loader.new_notice():
            self.report.say(notice)
        self._count_time()
        over = self._is_out_of_time(number)
        last = over or number == self.plan.epochs
        metrics = self._validate() if last or number % self.hyper.val_interval == 0 else None
        self._count_time()
        done = self.progress.at
        row = {
            "epoch": number,
            "seconds": round(self.progress.seconds, 3),
            "images_per_second": round(done.images_seen / done.seconds, 3) if done.seconds else 0.0,
            "learning_rate": rates(self.plan, number * self.plan.steps_per_epoch - 1).learning_rate,
            **{f"train_{name}": round(value, 6) for name, value in done.means().items()},
            **scores(metrics),
            "skipped": done.skipped,
            "unreadable": done.unreadable,
            "memory_gib": round(peak_memory(self.device) / 2**30, 3),
        }
        best, ties = self.progress.best, self.progress.ties
        if self._keeper is not None:
            self._keeper.add_row(row)
            top, ties = best_epochs(ranked(self._keeper.rows, self.progress.measured_anew))
            if top is self._keeper.rows[-1]:
                self._save_weights("best", number)
                best = row
            self._keeper.keep_epoch(to_numpy(self.engine.average.network), number, self.hyper)
        # Only now that its files are there is the epoch done: where one cannot be written, it is done again.
        self.progress.epoch, self.progress.at = number, Epoch()
        self.progress.best, self.progress.ties = self.world.from_leader((best, ties))
        if self._keeper is not None:
            self.report.epoch(row)
        self.progress.stopped = over or (not last and self._got_no_better(metrics))
        if self.hyper.time and number == 1:
            self._fit_to_time()
        if self._keeper is not None:
            # The checkpoint comes after the weights: killed in between, the epoch is done again and gives the same.
            if self._is_complete() or self._keeper.is_due():
                self._save_weights("last", number)
            self._keeper.write_progress(self.progress)
            self._keeper.save(self._checkpoint())

    def _fit_to_time(self) -> None:
        """Plan as many epochs as there is time for, by how long the first one took."""
        self.progress.epochs = self._fitting_epochs()
        planned = self.plan.warmup_steps
        self._plan_epochs()
        if self.progress.epochs == 1:
            return
        warmup = f"; warm-up takes {self.plan.warmup_steps} steps of {planned}"
        self.report.say(
            f"{self.progress.epochs} epochs fit into {self.hyper.time}, by the time of the first one"
            f"{warmup if self.plan.warmup_steps < planned else ''}"
        )
        if lagging := self.plan.lagging():
            self.report.say(f"note: {lagging}")

    def _fitting_epochs(self) -> int:
        """How many epochs there is time for, those done included, by how long these took."""
        done = self.progress.epoch
        fitting = int(seconds_of(self.hyper.time or "") * done / self.progress.seconds)
        return self.world.from_leader(max(fitting, done))

    def _plan_epochs(self) -> None:
        """Have the plan and the batches follow the number of epochs that was fitted."""
        if self.progress.epochs:
            self.plan = self._plan_for(fitted=self.progress.epochs)
            self.loader.set_epochs(self.progress.epochs)

    def _is_out_of_time(self, epoch: int) -> bool:
        """Whether the time ends a training after this epoch, which is not the last one that is planned."""
        over = epoch != self.plan.epochs and self.world.from_leader(self._is_over(epoch))
        if over:
            self.report.say(f"the last epoch: another one would go beyond {self.hyper.time}")
        return over

    def _is_over(self, epoch: int) -> bool:
        """Whether an epoch after this one would take longer than there is time for."""
        seconds = self.progress.seconds
        return self.hyper.time is not None and seconds + seconds / epoch > seconds_of(self.hyper.time)

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
        if metrics is None or not self._is_out_of_patience():
            return False
        self.report.say(f"stopping: no better validation for {self._waited()} epochs")
        return True

    def _waited(self) -> int:
        """Epochs since the best one, or since validation measures as it does."""
        best = int(self.progress.best.get("epoch", self.progress.epoch))
        return self.progress.epoch - max((best, *self.progress.measured_anew[-1:]))

    def _is_out_of_patience(self) -> bool:
        return 0 < self.hyper.patience <= self._waited()

    def _pass(self, epoch: int) -> None:
        """The steps of an epoch that are still to be done. Gradients left over at its end make an update."""
        at = self.progress.at
        self.engine.train_mode()
        self._count_time()
        for index, batch in enumerate(self.loader.epoch(epoch, at.step), at.step):
            now = rates(self.plan, epoch * self.plan.steps_per_epoch + index)
            set_rates(self.engine.optimizer, now)
            self._whole = False
            at.waiting += 1
            ends = at.waiting >= now.accumulate or index + 1 == self.plan.steps_per_epoch
            images = min(self.plan.batch, self.plan.images - index * self.plan.batch)
            try:
                at.add(self.engine.descend(batch.to(self.device), update=ends), images)
                if index + 1 < self.plan.steps_per_epoch or epoch + 1 != self.plan.epochs:
                    self.loader.prefetch()
                if ends:
                    self.engine.update()
                    self.progress.skipped_in_a_row = 0
            except NotFiniteError as error:
                self._skipped(str(error), epoch, index)
                ends = True
            at.step = index + 1
            at.images_seen += images
            at.unreadable += self._name_unreadable(batch)
            at.waiting = 0 if ends else at.waiting
            self.progress.steps += 1
            # Each of several processes has gradients of its own: only after an update do all have the same state.
            self._whole = ends or self.world.size == 1
            self._count_time(training=True)
            self.report.step({**at.means(), "lr": now.learning_rate})
            if self._whole:
                self._stop_where_asked()
                if self._keeper is not None and self._keeper.is_due():
                    self._keeper.save(self._checkpoint())

    def _stop_where_asked(self) -> None:
        """End where a signal asked one of the processes to.

        Raises:
            Interrupted: where it is so.
        """
        if number := self.world.most(self._stop.number or 0, self.device):
            raise Interrupted(number)

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
        """Metrics of the averaged weights."""
        started = time.monotonic()
        average = NetworkSession(self.engine.average.network, model_metadata(self.loaded.project), self.device)
        batch = max(self.plan.batch // self.world.size, 1)
        metrics = validate(average, self.loaded, self.val_samples, self.world, batch, self._looked_at)
        self.progress.validation_seconds = round(time.monotonic() - started, 1)
        return metrics

    def _looked_at(self, done: int, total: int) -> None:
        self.report.validated(done, total)
        if self.world.size == 1:  # several go on, for they wait for each other
            self._stop.check()

    def _save_weights(self, which: str, epoch: int) -> None:
        if self._keeper is not None:
            self._keeper.save_weights(which, to_numpy(self.engine.average.network), epoch)

    def _checkpoint(self) -> Checkpoint:
        self.progress.updates = self.engine.average.updates
        self.progress.scaler = self.engine.scaler.state_dict()
        return Checkpoint(
            self.progress,
            self.identity,
            self.engine.network.state_dict(),
            self.engine.average.network.state_dict(),
            optimizer_tensors(self.engine.optimizer),
            self.engine.gradients() if self.progress.at.waiting else {},
        )
