"""What a training writes into its run's folder, and when."""

import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from segc import files
from segc.files import atomic_directory, atomic_path, canonical_json, digest, write_atomic
from segc.locks import Lock
from segc.runs import (
    CHECKPOINT,
    COMPLETE,
    LOCK,
    REPORT,
    RESULTS,
    WEIGHTS,
    RunRecord,
    Segment,
    as_numbers,
    fitness,
    measured_alike,
    next_order,
    now,
    read_record,
    read_results,
    write_record,
)
from segc.training.checkpoint import Checkpoint, Progress, save_checkpoint
from segc.training.table import write_results
from segc.version import __version__
from segc.weights.store import load_weights, save_weights

if TYPE_CHECKING:
    from segc.build import Build
    from segc.spec.hyperparameters import Hyperparameters
    from segc.spec.load import LoadedProject

SAVING_SHARE = 0.01
"""Most of the time that saving checkpoints may take, unless the last one is older than the longest time without."""

LONGEST_WITHOUT = 30.0
"""Seconds of work that a kill may cost."""


_EPOCH = "epoch-{:04d}"
_BEST_UNTIL = "best-until-{:04d}"
AVERAGED = "averaged"
"""Names of weights besides the best and the last ones."""


class Keeper:
    """The files of a run that is trained.

    Made by :meth:`begin` or :meth:`go_on`.

    Args:
        folder: the run's.
        lock: held as long as the training goes on.
        record: what is known about the run.
        metadata: what its weights say about themselves.
        rows: of ``results.csv`` so far.
    """

    def __init__(
        self,
        folder: Path,
        lock: Lock,
        record: RunRecord,
        metadata: Mapping[str, str],
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.folder, self.record, self.rows = folder, record, list(rows)
        self._lock, self._metadata = lock, metadata
        self._took, self._saved_at = 0.0, time.monotonic()

    @classmethod
    def begin(
        cls, lock: Lock, folder: Path, build: "Build", record: RunRecord, metadata: Mapping[str, str], first: Checkpoint
    ) -> "Keeper":
        """Start a run: its folder appears with a first checkpoint in it.

        Raises:
            OSError: where it cannot be written.
        """
        sweep(folder)
        record = replace(record, order=next_order(folder.parent.parent))
        with atomic_directory(folder) as temporary:
            write_atomic(temporary / LOCK, build.files[LOCK])
            write_record(temporary, record)
            save_checkpoint(temporary / CHECKPOINT, first)
        return cls(folder, lock, record, metadata)

    @classmethod
    def go_on(
        cls,
        lock: Lock,
        folder: Path,
        build: "Build",
        record: RunRecord,
        metadata: Mapping[str, str],
        progress: Progress,
    ) -> "Keeper":
        """Go on with a run: a new segment in its record and, where the project changed, in its lock."""
        sweep(folder)
        then = read_record(folder)
        earlier = then.segments if then else ()
        if earlier and not earlier[-1].end:
            earlier = (*earlier[:-1], replace(earlier[-1], end="killed"))
        record = replace(
            record,
            segments=(*earlier, *record.segments),
            weights=then.weights if then else "",
            order=next_order(folder.parent.parent),
        )
        if record.segments[-1].changes:
            write_atomic(folder / LOCK, _lengthened(folder / LOCK, build.files[LOCK], progress.epoch))
        keeper = cls(folder, lock, record, metadata, read_results(folder / RESULTS, progress.epoch))
        keeper.write_progress(progress)
        return keeper

    def write_progress(self, progress: Progress) -> None:
        """Say in the record how far the training is.

        Raises:
            OSError: where it cannot be written.
        """
        self._take_in(progress)
        write_record(self.folder, self.record)

    def _take_in(self, progress: Progress) -> None:
        self.record = replace(
            self.record,
            best=as_numbers(progress.best),
            ties=progress.ties,
            epochs=progress.epochs or self.record.epochs,
            seconds=round(progress.seconds, 1),
            validation_seconds=progress.validation_seconds,
        )

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``results.csv``."""
        self.rows.append(dict(row))
        write_results(self.folder / RESULTS, self.rows)

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another one."""
        return time.monotonic() - self._saved_at >= min(self._took / SAVING_SHARE, LONGEST_WITHOUT)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the state to go on from.

        Raises:
            SegcError, OSError: where it cannot be written; the last one stays.
        """
        started = time.monotonic()
        save_checkpoint(self.folder / CHECKPOINT, checkpoint)
        self._saved_at = time.monotonic()
        self._took = self._saved_at - started

    def save_weights(self, which: str, tensors: Mapping[str, NDArray[Any]], epoch: int) -> None:
        """Write averaged weights, which name their run and epoch."""
        metadata = {**self._metadata, "run": self.folder.name, "epoch": str(epoch)}
        save_weights(self.weights(which), tensors, metadata)

    def keep_epoch(self, tensors: Mapping[str, NDArray[Any]], epoch: int, hyper: "Hyperparameters") -> None:
        """Keep the weights of an epoch as far as that is asked for, and remove those that are not wanted any more."""
        best = hyper.keep_best if hyper.keep_best > 1 else 0
        wanted = {
            one for rows in measured_alike(self.rows, self.record.measured_anew) for one in _best_first(rows)[:best]
        }
        wanted |= set(range(epoch - hyper.average_last + 1, epoch + 1)) if hyper.average_last else set()
        if hyper.save_period:
            wanted |= set(range(hyper.save_period, epoch + 1, hyper.save_period))
        if epoch in wanted:
            self.save_weights(_EPOCH.format(epoch), tensors, epoch)
        for path in (self.folder / WEIGHTS).glob("epoch-*.safetensors"):
            number = path.stem.removeprefix("epoch-")
            if number.isdecimal() and int(number) not in wanted:
                path.unlink()

    def keep_best(self, epoch: int) -> Path | None:
        """Keep the best weights of the epochs so far, which later ones replace unseen; gives where, if there are any.

        Raises:
            OSError: where they cannot be written.
        """
        best, kept = self.weights("best"), self.weights(_BEST_UNTIL.format(epoch))
        if not best.is_file():
            return None
        with atomic_path(kept) as temporary:
            shutil.copyfile(best, temporary)
        return kept

    def average(self, last: int, epoch: int) -> int:
        """Write the mean of the weights after the last epochs; gives how many there were, 0 where it was one alone."""
        files = [self.weights(_EPOCH.format(one)) for one in range(epoch - last + 1, epoch + 1)]
        found = [load_weights(path).tensors for path in files if path.is_file()]
        if len(found) < 2:
            return 0
        means = {
            name: value if value.dtype.kind != "f" else _mean([one[name] for one in found])
            for name, value in found[-1].items()
        }
        self.save_weights(AVERAGED, means, epoch)
        return len(found)

    def weights(self, which: str) -> Path:
        """Where weights are written to."""
        return self.folder / WEIGHTS / f"{which}.safetensors"

    def end(self, how: str, progress: Progress) -> None:
        """Say in the record how the segment ended; what cannot be written then is written at the next one."""
        if how in COMPLETE:
            # The page that an interruption left would pass for that of the whole run, which comes after this.
            with suppress(OSError):
                (self.folder / REPORT).unlink(missing_ok=True)
        last = replace(self.record.segments[-1], ended=now(), end=how)
        self._take_in(progress)
        segments, order = (*self.record.segments[:-1], last), next_order(self.folder.parent.parent)
        self.record = replace(self.record, segments=segments, order=order)
        with suppress(OSError):
            write_record(self.folder, self.record)

    def close(self) -> None:
        """Let others have the run."""
        self._lock.release()


def _best_first(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Epochs that were validated, the best first, of equal ones the latest."""
    worth = ((value, int(row["epoch"])) for row in rows if (value := fitness(row)) is not None)
    return [epoch for _, epoch in sorted(worth, reverse=True)]


def _mean(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    return np.asarray(np.mean(arrays, axis=0, dtype=np.float64), np.float32)


def sweep(folder: Path) -> None:
    """Remove what a killed process left of a run: files and folders it was writing. The run's lock must be held."""
    files.sweep(folder.parent, folder.name)
    files.sweep(folder)
    files.sweep(folder / WEIGHTS)
    shutil.rmtree(folder.with_name(f".{folder.name}.removed"), ignore_errors=True)


def new_record(
    loaded: "LoadedProject",
    name: str,
    hyper: "Hyperparameters",
    identity: Mapping[str, Any],
    segment: Segment,
    weights: str,
    progress: Progress,
) -> RunRecord:
    """The record of a run, of its present segment alone."""
    planned = progress.epochs if hyper.time else hyper.epochs
    images = {key: str(value) for key, value in identity.items() if " of dataset." in key}
    return RunRecord(
        name=name,
        project=loaded.project.name,
        epochs=planned,
        hyperparameters=hyper.model_dump(mode="json"),
        dataset=images,
        dataset_digest=digest(canonical_json(images)),
        weights=weights,
        segments=(segment,),
        measured_anew=progress.measured_anew,
    )


def new_segment(
    loaded: "LoadedProject", device: torch.device, processes: int, progress: Progress, changes: Sequence[str] = ()
) -> Segment:
    """The part of a training that begins now."""
    from segc.spec.project import spec_digest

    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return Segment(
        started=now(),
        epoch=progress.epoch,
        steps=progress.steps,
        overrides=loaded.overrides,
        spec_digest=spec_digest(loaded.project),
        changes=tuple(changes),
        versions={"segc": __version__, "python": platform.python_version(), **_versions("torch", "numpy")},
        machine={
            "system": platform.system(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "device": str(device),
            "processes": processes,
            **gpu,
        },
    )


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _lengthened(lock: Path, text: str, epoch: int) -> str:
    """A lock with those that were in force before it, each with the epochs that were done when it ended."""
    import json

    try:
        then = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return text
    earlier = then.pop("earlier", [])
    return canonical_json({**json.loads(text), "earlier": [*earlier, {**then, "until_epoch": epoch}]})
