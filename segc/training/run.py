"""Run folders: ``runs/<name>`` in the build directory, one a training, never overwritten by another one.

    project.lock.json        what was trained
    checkpoint.safetensors   the state to resume from
    results.csv              one row an epoch
    best.safetensors         averaged weights of the best epoch
    last.safetensors         averaged weights of the last epoch

``weights/{best,last}.safetensors`` beside ``runs`` are those of the run that trained last.
"""

import csv
import hashlib
import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.data.dataset import Sample
from segc.diagnostics import SegcError, fail
from segc.files import atomic_path, digest, write_atomic
from segc.training.checkpoint import saved_launch

if TYPE_CHECKING:
    from segc.spec.hyperparameters import Hyperparameters
    from segc.spec.load import LoadedProject

CHECKPOINT = "checkpoint.safetensors"
RESULTS = "results.csv"
FIRST_NAME = "train"

_MACHINE = frozenset({"device", "workers", "conf", "cache", "cache_gib", "loggers"})
"""Hyperparameters that may change between parts of a training: they belong to the machine, or to prediction."""

_PLACES = frozenset({"path", "data"})
"""Entries of the dataset that may change: images may have moved, as long as they are the same ones."""


def new_run_folder(build_dir: Path, name: str | None) -> Path:
    """A folder for a new run, which is not there yet: the name given, else ``train``, ``train-2``, ….

    Raises:
        SegcError: R003 where the given one is there.
    """
    runs = build_dir / "runs"
    if name is not None:
        if (runs / name).exists():
            raise fail(
                "R003",
                f"there is a run `{name}` already",
                file=runs / name,
                help="give another --name, or go on with it: --resume",
            )
        return runs / name
    taken = {path.name for path in runs.iterdir()} if runs.exists() else set()
    number = 1
    while (chosen := FIRST_NAME if number == 1 else f"{FIRST_NAME}-{number}") in taken:
        number += 1
    return runs / chosen


def run_to_resume(build_dir: Path, name: str | None) -> Path:
    """The folder of the run of that name, else of the one that saved its state last.

    Raises:
        SegcError: R001 where there is none.
    """
    runs = build_dir / "runs"
    if name is not None:
        found = [runs / name / CHECKPOINT]
    else:
        # A folder whose name starts with a dot was being made when segc was killed.
        found = [path for path in runs.glob(f"*/{CHECKPOINT}") if not path.parent.name.startswith(".")]
    found = sorted((path for path in found if path.is_file()), key=lambda path: (path.stat().st_mtime_ns, path))
    if not found:
        what = f"no run `{name}`" if name else "no run"
        raise fail("R001", f"{what} to resume", file=runs, help="start one: segc train, without --resume")
    return found[-1].parent


def run_of_launch(build_dir: Path, launch: str) -> Path | None:
    """The folder of the run that a launch by ``torchrun`` began, or went on with."""
    runs = sorted(path for path in (build_dir / "runs").glob(f"*/{CHECKPOINT}") if not path.parent.name.startswith("."))
    return next((path.parent for path in runs if launch and saved_launch(path) == launch), None)


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
    parts = {
        "architecture": project.architecture.model_dump(mode="json"),
        "dataset": project.dataset.model_dump(mode="json", exclude=set(_PLACES)),
        "hyperparameters": hyper.model_dump(mode="json", exclude=set(_MACHINE)),
    }
    flat = dict(_flatten("", parts))
    for split, samples in (("train", train), ("val", val)):
        names = "\n".join(sample.image.name for sample in samples)
        flat[f"images of dataset.{split}"] = f"{len(samples)} ({digest(names)[7:15]})"
        flat[f"labels of dataset.{split}"] = _labels(samples)
    return flat


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


def _flatten(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def identity_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, one ``key: then → now`` each."""
    absent = "absent"
    return [
        f"{key}: {_short(then.get(key, absent))} → {_short(now.get(key, absent))}"
        for key in sorted({*then, *now})
        if then.get(key, absent) != now.get(key, absent)
    ]


def changed_project(changes: Sequence[str], folder: Path) -> SegcError:
    """The refusal to go on with another training (R002), naming every difference."""
    return fail(
        "R002",
        f"the project changed since this run began: {'; '.join(changes)}",
        file=folder,
        help="change it back, accept it with --allow-changed, or start a new run: segc train, without --resume",
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def read_results(path: Path, epochs: int) -> list[dict[str, Any]]:
    """The rows of a ``results.csv`` up to an epoch; those after it belong to work that was lost."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    return [row for row in rows if (row.get("epoch") or "").isdecimal() and int(row["epoch"]) <= epochs]


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a ``results.csv``; columns are those of the first row and, where it has more, the last."""
    columns = list(dict.fromkeys([*rows[0], *rows[-1]]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def publish(file: Path, build_dir: Path) -> Path:
    """Copy weights of a run to ``weights/`` of the build directory, where the other commands find them."""
    target = build_dir / "weights" / file.name
    with atomic_path(target) as temporary:
        shutil.copyfile(file, temporary)
    return target
