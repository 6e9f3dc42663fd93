"""What must be the same for a training to go on, and the run that it goes on with."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.data.samples import Sample
from segc.diagnostics import SegcError, fail
from segc.files import encoded
from segc.locks import Lock, try_lock
from segc.runs import CHECKPOINT, busy, flat, lock_file, name_fault, read_record, resume_command, run_names
from segc.training.checkpoint import saved_launch

if TYPE_CHECKING:
    from segc.spec.hyperparameters import Hyperparameters
    from segc.spec.load import LoadedProject

FIRST_NAME = "train"

_MACHINE = frozenset({"device", "workers", "conf", "cache", "cache_gib", "gradient_checkpointing", "loggers"})
"""Hyperparameters that may change between parts of a training: they belong to the machine, or to prediction."""

_PLACES = frozenset({"path", "data"})
"""Entries of the dataset that may change: images may have moved, as long as they are the same ones."""


_MEASURE = (
    *(f"hyperparameters.{key}" for key in ("imgsz", "rect", "iou", "max_det", "tiles")),
    *("dataset.val", "images of dataset.val", "labels of dataset.val"),
)
"""Entries of an identity, with all below them, that say what a validation measures and how."""


def new_run(build_dir: Path, name: str | None) -> Lock:
    """The lock of a run that is not there yet: of the name given, else ``train``, ``train-2``, ….

    Raises:
        SegcError: R003 where the given one is there, R012 where another process is making it.
        ValueError: where no run can have that name.
    """
    runs = build_dir / "runs"
    if name is not None:
        if fault := name_fault(name):
            raise ValueError(fault)
        lock = try_lock(lock_file(runs / name))
        if lock is None:
            raise busy(runs / name)
        if (runs / name).exists():
            lock.release()
            raise fail(
                "R003",
                f"there is a run `{name}` already",
                file=runs / name,
                help="give another --name, go on with it (--resume), or remove it: segc runs rm",
            )
        return lock
    number = 1
    while True:
        folder = runs / (FIRST_NAME if number == 1 else f"{FIRST_NAME}-{number}")
        if not folder.exists() and (lock := try_lock(lock_file(folder))):
            if not folder.exists():
                return lock
            lock.release()
        number += 1


def run_of_launch(build_dir: Path, launch: str) -> Path | None:
    """The folder of the run that a launch by ``torchrun`` began, or went on with."""
    runs = [build_dir / "runs" / name for name in run_names(build_dir)]
    return next((one for one in runs if launch and saved_launch(one / CHECKPOINT) == launch), None)


def identity(
    loaded: "LoadedProject", hyper: "Hyperparameters", train: Sequence[Sample], val: Sequence[Sample]
) -> dict[str, Any]:
    """What must be the same for a training to go on as if it had not been interrupted, as JSON values by dotted key.

    Args:
        loaded: the project.
        hyper: its hyperparameters, with a batch and a precision chosen.
        train: images to train on.
        val: images to validate on.
    """
    project = loaded.project
    idle = {"epochs"} if hyper.time else set()
    parts = {
        "architecture": project.architecture.model_dump(mode="json"),
        "dataset": project.dataset.model_dump(mode="json", exclude=set(_PLACES)),
        "hyperparameters": hyper.model_dump(mode="json", exclude=set(_MACHINE) | idle),
    }
    found = dict(flat("", parts))
    for split, samples in (("train", train), ("val", val)):
        names = "\n".join(sample.image.name for sample in samples)
        found[f"images of dataset.{split}"] = f"{len(samples)} ({hashlib.sha256(encoded(names)).hexdigest()[:8]})"
        found[f"labels of dataset.{split}"] = _labels(samples)
    return found


def _labels(samples: Sequence[Sample]) -> str:
    """The number of labelled objects, and a digest of all that is said about them."""
    instances = [one for sample in samples for one in sample.instances]
    content = hashlib.sha256()
    for one in instances:
        content.update(repr((one.class_id, one.is_box, one.is_crowd, [len(part) for part in one.polygons])).encode())
        for part in one.polygons:
            content.update(part.tobytes())
    for sample in samples:
        content.update(len(sample.instances).to_bytes(4, "little"))
    return f"{len(instances)} ({content.hexdigest()[:8]})"


def identity_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, one ``key: then → now`` each."""
    absent = "absent"
    return [
        f"{key}: {_short(then.get(key, absent))} → {_short(now.get(key, absent))}"
        for key in sorted({*then, *now})
        if then.get(key, absent) != now.get(key, absent)
    ]


def measured_otherwise(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys by which validations of two identities differ, so that their scores cannot be compared."""
    keys = (change.partition(": ")[0] for change in identity_changes(then, now))
    return [key for key in keys if any(key == one or key.startswith(f"{one}.") for one in _MEASURE)]


def changed_project(changes: Sequence[str], folder: Path, loaded: "LoadedProject", build_dir: Path) -> SegcError:
    """The refusal to go on with another training (R002), naming every difference and the lines to type."""
    record = read_record(folder)
    given = [text for text in loaded.overrides if record is None or text not in record.overrides]
    here = loaded.path, build_dir, folder.name
    as_it_was = f"as it was: {resume_command(*here)}" if given else "as it was: change the project back"
    with_changes = f"with the changes: {resume_command(*here, overrides=given, allow_changed=True)}"
    return fail(
        "R002",
        f"the project changed since this run began: {'; '.join(changes)}",
        file=folder,
        help=f"{as_it_was}; {with_changes}; or start a new run, without --resume",
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
