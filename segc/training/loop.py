"""The training itself."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segc.build import model_metadata
from segc.data.dataset import Sample, read_split
from segc.data.loader import Batch, TrainingLoader
from segc.diagnostics import fail
from segc.evaluation.coco import Metrics, evaluate_session
from segc.files import atomic_directory, write_atomic
from segc.network.initialise import initial_weights
from segc.network.lower import SegmentationNetwork, load_weights, lower, to_numpy
from segc.plan import make_plan
from segc.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from segc.training.device import choose_device
from segc.training.ema import MovingAverage, NetworkSession
from segc.training.loss import TERMS, Gains, SegmentationLoss
from segc.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer, set_rates
from segc.training.report import Report, Run, SilentReport
from segc.training.run import (
    CHECKPOINT,
    RESULTS,
    check_identity,
    identity,
    new_run_folder,
    publish,
    read_results,
    run_to_resume,
    write_results,
)
from segc.training.schedule import rates
from segc.weights.resolve import own_metadata, starting_weights
from segc.weights.store import save_weights

if TYPE_CHECKING:
    from segc.build import Build
    from segc.graph.ir import Graph
    from segc.spec.load import LoadedProject

_SAVING_SHARE = 0.05
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
    report: Report | None = None,
) -> Outcome:
    """Train a project, or go on with a run of it.

    Every number of a training depends on the spec, the images and the kind of machine alone: a run that was killed and
    resumed ends with the same weights, bit for bit, as one that was not.

    Args:
        loaded: the project.
        build: what it compiled to, already in its folder.
        name: the run's name; by default a new one, or the one that trained last.
        resume: go on with a run instead of starting one.
        report: told about the progress.

    Raises:
        SegcError: R001, R002, R004, R005 where a run cannot be resumed, R003 where one of that name is there, R006
            where the loss is not a finite number any more, R007 where there is no such device; D0xx for faults of
            the dataset, W0xx of the starting weights.
        OSError: where something cannot be written.
    """
    folder = run_to_resume(build.folder, name) if resume else new_run_folder(build.folder, name)
    samples = read_split(loaded, "train"), read_split(loaded, "val")
    training = Training(loaded, build, *samples, report or SilentReport(), fresh=not resume)
    if resume:
        training.restore(folder)
    else:
        training.begin(folder)
    return training.run()


@dataclass(slots=True)
class _Means:
    """Means of the loss terms over the images of an epoch so far."""

    images: int = 0
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(len(TERMS), dtype=torch.float64))

    def add(self, terms: torch.Tensor, images: int) -> None:
        self.images += images
        self.sums += terms.double() * images

    def values(self) -> dict[str, float]:
        return dict(zip(TERMS, (self.sums / max(self.images, 1)).tolist(), strict=True))


class Training:
    """A training in memory: networks, optimizer, batches, and how far it is.

    Args:
        loaded: the project.
        build: what it compiled to.
        train_samples: images to train on.
        val_samples: images to validate on.
        report: told about the progress.
        fresh: give the network the values of the start; a run that goes on gets all of them from its checkpoint.
    """

    def __init__(
        self,
        loaded: "LoadedProject",
        build: "Build",
        train_samples: Sequence[Sample],
        val_samples: Sequence[Sample],
        report: Report,
        *,
        fresh: bool,
    ) -> None:
        project = loaded.project
        self.loaded, self.build, self.report = loaded, build, report
        self.hyper = project.hyperparameters
        self.device = choose_device(self.hyper.device)
        self.plan = make_plan(self.hyper, project.dataset.nc, len(train_samples))
        _refuse_single_values(self.plan.images, self.hyper.batch, self.hyper.size, build.graph.metadata["strides"][-1])
        self.val_samples = val_samples
        self.identity = identity(loaded, train_samples, val_samples)
        self.loader = TrainingLoader(train_samples, self.hyper, pin_memory=self.device.type == "cuda")
        self.network = _network(build.graph, self.device).train()
        if fresh:
            load_weights(self.network, self._first_weights())
        self.average = MovingAverage(
            self.network,
            _network(build.graph, self.device),
            decay=self.hyper.ema_decay,
            tau=self.hyper.ema_tau,
        )
        self.optimizer = make_optimizer(self.network, self.plan)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.loss = SegmentationLoss(Gains.of(self.hyper), tuple(build.graph.metadata["strides"]))
        self.progress = Progress()
        self.rows: list[dict[str, Any]] = []
        self.folder = Path()
        self._saving_took, self._saved_at = 0.0, 0.0

    def _first_weights(self) -> dict[str, Any]:
        initial = initial_weights(self.build.graph.parameters, self.hyper.seed)
        transfer = starting_weights(self.loaded, self.build.graph)
        if transfer is None:
            return initial
        self.report.say(transfer.summary())
        return transfer.apply(initial)

    def begin(self, folder: Path) -> None:
        """Start a run: its folder appears with a first checkpoint in it."""
        with atomic_directory(folder) as temporary:
            write_atomic(temporary / "project.lock.json", self.build.files["project.lock.json"])
            save_checkpoint(temporary / CHECKPOINT, self._checkpoint())
        self.folder = folder

    def restore(self, folder: Path) -> None:
        """Go on with a run.

        Raises:
            SegcError: R002 where the project changed, R004 where the run is complete, R005 where its checkpoint cannot
                be read.
        """
        checkpoint = load_checkpoint(folder / CHECKPOINT)
        check_identity(checkpoint.identity, self.identity, folder)
        if checkpoint.progress.epoch >= self.plan.epochs:
            raise fail(
                "R004",
                f"run `{folder.name}` is complete: all {self.plan.epochs} epochs are done",
                file=folder,
                help="start another one: segc train, without --resume",
            )
        try:
            self.network.load_state_dict(checkpoint.network)
            self.average.network.load_state_dict(checkpoint.average)
            restore_optimizer(self.optimizer, dict(checkpoint.optimizer))
        except (RuntimeError, KeyError) as error:
            raise fail("R005", f"the checkpoint is of another network: {error}", file=folder / CHECKPOINT) from error
        self.progress = checkpoint.progress
        self.average.updates = checkpoint.progress.updates
        for left_behind in folder.glob(".*.partial"):
            left_behind.unlink()  # by a process that was killed while it wrote
        self.rows = read_results(folder / RESULTS, self.progress.epoch)
        self.folder = folder
        self.report.say(f"going on with run {folder.name} after epoch {self.progress.epoch} of {self.plan.epochs}")

    def run(self) -> Outcome:
        """Train to the last epoch, saving on the way."""
        torch.backends.cudnn.deterministic = True
        project, epoch = self.loaded.project, self.progress.epoch
        self.report.begin(Run.of(project, self.folder, images_per_step=self.plan.batch, epoch=epoch))
        self._saved_at = time.monotonic()
        while self.progress.epoch < self.plan.epochs:
            self._epoch()
        best, last = (publish(self.folder / f"{which}.safetensors", self.build.folder) for which in ("best", "last"))
        return Outcome(self.folder, best, last, self.progress.best)

    def _epoch(self) -> None:
        """One pass over the training images, a validation where it is due, and what is kept of them."""
        started = time.monotonic()
        number = self.progress.epoch + 1
        self.report.steps(number, self.plan.epochs, self.plan.steps_per_epoch)
        means = self._pass(self.progress.epoch)
        trained = time.monotonic()
        last = number == self.plan.epochs
        metrics = self._validate() if last or number % self.hyper.val_interval == 0 else None
        self.progress.epoch = number
        self.progress.updates = self.average.updates
        self.progress.seconds += time.monotonic() - started
        row = {
            "epoch": number,
            "seconds": round(self.progress.seconds, 3),
            "images_per_second": round(means.images / (trained - started), 3),
            "learning_rate": rates(self.plan, number * self.plan.steps_per_epoch - 1).learning_rate,
            **{f"train_{name}": round(value, 6) for name, value in means.values().items()},
            **_scores(metrics),
        }
        self.rows.append(row)
        write_results(self.folder / RESULTS, self.rows)
        self.report.epoch(row)
        self._keep(row, metrics, last=last)

    def _pass(self, epoch: int) -> _Means:
        """The steps of an epoch. Gradients left over at its end make an update of their own."""
        means = _Means()
        waiting = 0
        self.network.train()
        for index, batch in enumerate(self.loader.epoch(epoch)):
            now = rates(self.plan, epoch * self.plan.steps_per_epoch + index)
            set_rates(self.optimizer, now)
            terms = self._descend(batch.to(self.device), epoch, index)
            waiting += 1
            if waiting >= now.accumulate or index + 1 == self.plan.steps_per_epoch:
                self._update(epoch, index)
                waiting = 0
            means.add(terms, len(batch.images))
            self.report.step({**means.values(), "lr": now.learning_rate})
        return means

    def _descend(self, batch: Batch, epoch: int, index: int) -> torch.Tensor:
        """Add the gradients of a batch; gives the terms of its loss."""
        images = batch.images.to(memory_format=torch.channels_last).float() / 255
        total, terms = self.loss(self.network.raw(images), batch)
        terms = terms.cpu()
        if not bool(terms.isfinite().all()):
            broken = [name for name, value in zip(TERMS, terms.tolist(), strict=True) if not math.isfinite(value)]
            raise self._diverged(f"the {' and '.join(broken)} loss is not a finite number", epoch, index)
        total.backward()  # type: ignore[no-untyped-call]
        return terms

    def _update(self, epoch: int, index: int) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.hyper.clip_grad_norm)
        if not math.isfinite(float(norm)):
            raise self._diverged("the gradients are not finite numbers", epoch, index)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()

    def _diverged(self, what: str, epoch: int, index: int) -> Exception:
        return fail(
            "R006",
            f"{what} in epoch {epoch + 1}, step {index + 1} of {self.plan.steps_per_epoch}: the training has diverged",
            file=self.folder,
            help="lower hyperparameters.lr0 or lengthen warmup_epochs; weights saved before are still there",
        )

    def _validate(self) -> Metrics:
        metadata = model_metadata(self.loaded.project)
        return evaluate_session(
            NetworkSession(self.average.network, metadata, self.device),
            self.val_samples,
            self.loaded.project.dataset.names,
            size=self.hyper.size,
            rect=self.hyper.rect,
            iou=self.hyper.iou,
            max_det=self.hyper.max_det,
            batch=self.hyper.batch,
            progress=self.report.validated,
        )

    def _keep(self, row: dict[str, Any], metrics: Metrics | None, *, last: bool) -> None:
        """Write the best weights where these are the best, and a checkpoint with the last ones where it is time.

        The checkpoint comes after the weights: killed in between, the epochs since the last checkpoint are done again
        and give the same weights once more.
        """
        if metrics is not None and fitness(metrics) >= self.progress.fitness:
            self.progress.fitness, self.progress.best = fitness(metrics), row
            self._save_weights("best")
        started = time.monotonic()
        if last or started - self._saved_at >= self._saving_took / _SAVING_SHARE:
            self._save_weights("last")
            save_checkpoint(self.folder / CHECKPOINT, self._checkpoint())
            self._saved_at = time.monotonic()
            self._saving_took = self._saved_at - started

    def _save_weights(self, which: str) -> None:
        file = self.folder / f"{which}.safetensors"
        metadata = own_metadata(self.loaded, self.build.graph)
        save_weights(file, to_numpy(self.average.network), metadata)
        publish(file, self.build.folder)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.progress,
            self.identity,
            self.network.state_dict(),
            self.average.network.state_dict(),
            optimizer_tensors(self.optimizer),
        )


def _refuse_single_values(images: int, batch: int, size: tuple[int, int], stride: int) -> None:
    """Batch norm cannot train on one value a channel: one image whose coarsest feature map has a single cell."""
    if size[0] * size[1] == stride * stride and 1 in {batch, images % batch}:
        raise fail(
            "R008",
            f"a batch of one image of {size[0]} x {size[1]} pixels leaves batch norm a single value to train on",
            help="enlarge hyperparameters.imgsz, or choose a batch that leaves no single image over",
        )


def _network(graph: "Graph", device: torch.device) -> SegmentationNetwork:
    """A network on a device, in the memory layout in which convolutions are fastest."""
    network = lower(graph).to(device)
    # PyTorch's stubs do not know this argument together with others.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


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
