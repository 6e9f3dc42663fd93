"""Runs of a build directory: a folder each, the record of what was trained in it, and which one the commands use.

    runs/<name>/run.json                          what was trained, when, where, and how it ended
    runs/<name>/project.lock.json                 the spec that it was trained by
    runs/<name>/checkpoint.safetensors            the state that --resume goes on from
    runs/<name>/results.csv                       one row an epoch
    runs/<name>/report.html                       its page
    runs/<name>/weights/best.safetensors          averaged weights of the best epoch
    runs/<name>/weights/last.safetensors          averaged weights of the last epoch
    runs/chosen.json                              the run that `segc runs use` chose, where somebody did

No run replaces the files of another one. Reading them needs neither PyTorch nor the dataset.
"""

import csv
import json
import math
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segc.diagnostics import SegcError, fail
from segc.files import canonical_json, write_atomic
from segc.locks import is_locked

RECORD = "run.json"
LOCK = "project.lock.json"
CHECKPOINT = "checkpoint.safetensors"
RESULTS = "results.csv"
REPORT = "report.html"
WEIGHTS = "weights"
TRAINED = ("best.safetensors", "last.safetensors")
"""Names of weights in the folder of that name, the preferred first."""

FINISHED, STOPPED = "finished", "stopped early"
COMPLETE = frozenset({FINISHED, STOPPED})
"""How a run ends that has nothing left to do."""

UNMEASURED = "-"
"""In place of a figure where an epoch was validated and nothing was labelled."""

_FORMAT = 1
_CHOSEN = "chosen.json"


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a training without an interruption.

    Attributes:
        started: when, in UTC, as in ISO 8601.
        epoch: epochs that were done before.
        steps: steps that were done before.
        overrides: ``--set`` texts that it was started with.
        spec_digest: of the project with them.
        changes: what differs from the segment before, ``key: then → now``.
        versions: of segc, Python and the libraries that compute.
        machine: what it ran on.
        ended: when; empty while it goes on, or where it was killed.
        end: how; empty likewise.
    """

    started: str
    epoch: int = 0
    steps: int = 0
    overrides: tuple[str, ...] = ()
    spec_digest: str = ""
    changes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    ended: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known about a run.

    Attributes:
        name: of its folder.
        project: the project's name.
        epochs: how long it is to train; 0 of a training by time until its first epoch is done.
        hyperparameters: those of the last segment, with everything chosen that the spec leaves open.
        dataset: numbers and digests of images and labels.
        dataset_digest: of these.
        weights: what it started from; empty where that was nothing.
        segments: the parts of the training, in their order.
        best: the best epoch's row of ``results.csv``, None where it has no figure; empty before the first validation.
        ties: epochs that were as good.
        seconds: time spent.
        validation_seconds: time that the last validation took.
        measured_anew: epochs that were done whenever validation began to measure otherwise; see :func:`ranked`.
        order: place among the runs of its build directory by when it began, went on or ended, from 1: clocks are set
            back. 0 where it was not counted.
    """

    name: str
    project: str
    epochs: int
    hyperparameters: Mapping[str, Any]
    dataset: Mapping[str, str]
    dataset_digest: str
    weights: str = ""
    segments: tuple[Segment, ...] = ()
    best: Mapping[str, Any] = field(default_factory=dict)
    ties: tuple[int, ...] = ()
    seconds: float = 0.0
    validation_seconds: float = 0.0
    measured_anew: tuple[int, ...] = ()
    order: int = 0

    @property
    def overrides(self) -> tuple[str, ...]:
        """``--set`` texts of the last segment."""
        return self.segments[-1].overrides if self.segments else ()

    @property
    def end(self) -> str:
        """How the last segment ended."""
        return self.segments[-1].end if self.segments else ""

    @property
    def when(self) -> tuple[int, str]:
        """By what runs are ordered."""
        return self.order, self.time

    @property
    def time(self) -> str:
        """When the last segment ended, or began where that is not known."""
        return (self.segments[-1].ended or self.segments[-1].started) if self.segments else ""


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_names(build_dir: Path) -> list[str]:
    """Names of the runs of a build directory."""
    # A folder whose name starts with a dot was being made when segc was killed.
    runs = build_dir / "runs"
    if not runs.is_dir():
        return []
    return sorted(path.name for path in runs.iterdir() if path.is_dir() and not path.name.startswith("."))


PROJECT_SUFFIXES = (".yaml", ".yml")
"""How a word of a command line ends that is a project, and no run."""


def name_fault(name: str) -> str | None:
    """Why a run cannot be called so; None where it can."""
    rules = (
        (not name, "and this one is empty"),
        (Path(name).name != name, "and not a path"),
        (name.startswith((".", "-")), "and starts neither with a dot nor with a hyphen"),
        (not name.isprintable(), "without control characters"),
        (Path(name).suffix in PROJECT_SUFFIXES, f"and does not end as a project file does, in {name[-5:]}"),
    )
    return next((f"a run's name is the name of a folder, {rule}" for broken, rule in rules if broken), None)


def run_folder(build_dir: Path, name: str) -> Path:
    """The folder of a run.

    Raises:
        SegcError: R001 where there is no run of that name.
    """
    folder = build_dir / "runs" / name
    if not name or name.startswith(".") or Path(name).name != name or not folder.is_dir():
        known = ", ".join(run_names(build_dir)) or "none yet"
        raise fail("R001", f"there is no run `{name}`", file=build_dir / "runs", help=f"there are: {known}")
    return folder


def lock_file(folder: Path) -> Path:
    """What a process that works on a run holds locked."""
    return folder.parent / f".{folder.name}.lock"


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record of a run."""
    write_atomic(folder / RECORD, canonical_json({"format": _FORMAT, **asdict(record)}))


def read_record(folder: Path) -> RunRecord | None:
    """The record of a run; None where there is none that can be read."""
    from pydantic import TypeAdapter, ValidationError

    try:
        text = (folder / RECORD).read_bytes()
        record = TypeAdapter(RunRecord).validate_json(text, strict=True)
        return record if record.segments and json.loads(text)["format"] == _FORMAT else None
    except (OSError, ValueError, KeyError, RecursionError, ValidationError):
        return None


def next_order(build_dir: Path) -> int:
    """The place of the run that begins, goes on or ends now."""
    records = (read_record(build_dir / "runs" / name) for name in run_names(build_dir))
    return 1 + max((record.order for record in records if record is not None), default=0)


def state_of(folder: Path, record: RunRecord | None) -> str:
    """How a run is, in a few words: running, finished, how it was interrupted, or killed."""
    if is_locked(lock_file(folder)):
        return "running"
    if record is None:
        return "without a record"
    return record.end or "killed"


def weights_of(folder: Path) -> Path | None:
    """The weights of a run to work with: the best, else the last."""
    return next((path for name in TRAINED if (path := folder / WEIGHTS / name).is_file()), None)


@dataclass(frozen=True, slots=True)
class Choice:
    """The run whose weights the commands take.

    Attributes:
        name: of the run.
        folder: its folder.
        why: why this one, in a few words.
    """

    name: str
    folder: Path
    why: str


def pinned_run(build_dir: Path) -> str | None:
    """The run that ``segc runs use`` chose."""
    try:
        name = json.loads((build_dir / "runs" / _CHOSEN).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return name if isinstance(name, str) else None


def chosen_run(build_dir: Path, name: str | None = None) -> Choice | None:
    """The run whose weights are used: the one named, else the one chosen, else the last one finished, else the last.

    Raises:
        SegcError: R001 where the named or the chosen one is not there, or has no weights yet.
    """
    pinned = None if name is not None else pinned_run(build_dir)
    if (asked := name if name is not None else pinned) is not None:
        folder = run_folder(build_dir, asked)
        if weights_of(folder) is None:
            raise fail("R001", f"run `{asked}` has no weights yet", file=folder, help="segc runs list shows all")
        return Choice(asked, folder, "chosen by `segc runs use`" if pinned else "named by --run")
    found = []
    for one in run_names(build_dir):
        folder = build_dir / "runs" / one
        record = read_record(folder)
        if record is not None and weights_of(folder) is not None:
            found.append((record.end in COMPLETE, record.when, one))
    if not found:
        return None
    complete, _, latest = max(found)
    why = "finished last" if complete else "not finished"
    return Choice(latest, build_dir / "runs" / latest, why)


def use_run(build_dir: Path, name: str | None) -> None:
    """Have the commands use a run from now on; None for the one that finished last.

    Raises:
        SegcError: R001 where there is no such run, or it has no weights yet.
    """
    if name is None:
        (build_dir / "runs" / _CHOSEN).unlink(missing_ok=True)
        return
    chosen_run(build_dir, name)
    write_atomic(build_dir / "runs" / _CHOSEN, canonical_json({"run": name}))


def remove_run(build_dir: Path, name: str) -> int:
    """Remove a run with all its files; gives their bytes.

    Raises:
        SegcError: R001 where there is none, R012 where it is being trained.
    """
    from segc.locks import try_lock

    folder = run_folder(build_dir, name)
    lock = try_lock(lock_file(folder))
    if lock is None:
        raise busy(folder)
    try:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        # Under a name that is no run's it can be half removed.
        doomed = folder.with_name(f".{name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.replace(doomed)
        shutil.rmtree(doomed)
        if pinned_run(build_dir) == name:
            use_run(build_dir, None)
        lock.path.unlink(missing_ok=True)
    finally:
        lock.release()
    return size


def run_to_resume(project: Path, build_dir: Path, name: str | None) -> Path:
    """The folder of the run of that name, else of the one that saved its state last.

    Args:
        project: the ``project.yaml``, absolute, for the line that starts a run.
        build_dir: the build directory.
        name: of the run.

    Raises:
        SegcError: R001 where there is none.
    """
    runs, names = build_dir / "runs", run_names(build_dir)
    wanted = [one for one in names if name is None or one == name]
    found = [path for one in wanted if (path := runs / one / CHECKPOINT).is_file()]
    if not found:
        what = "no run" if name is None else f"no run `{name}`"
        words = [] if name is None or name_fault(name) else ["--name", name]
        there = f"there are: {', '.join(names)}; " if names else ""
        advice = f"{there}start one: {typed('train', project, build_dir, *words)}"
        raise fail("R001", f"{what} to resume", file=runs, help=advice)
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def started_with(project: Path, build_dir: Path, name: str | None, given: Sequence[str]) -> tuple[str, ...]:
    """The ``--set`` texts of a run to go on with, and those given now in the place of those that set the same key.

    Raises:
        SegcError: R001 where there is no such run.
    """
    record = read_record(run_to_resume(project, build_dir, name))
    keys = {text.partition("=")[0] for text in given}
    kept = () if record is None else record.overrides
    return (*(text for text in kept if text.partition("=")[0] not in keys), *given)


def without_report(project: Path, build_dir: Path, name: str | None) -> Path | None:
    """The folder of the run to go on with, where all that is missing of it is its report.

    Raises:
        SegcError: R001 where there is no such run.
    """
    folder = run_to_resume(project, build_dir, name)
    record = read_record(folder)
    ended = record is not None and record.end in COMPLETE
    return folder if ended and not (folder / REPORT).exists() else None


def resume_command(
    project: Path, build_dir: Path, name: str, *, overrides: Sequence[str] = (), allow_changed: bool = False
) -> str:
    """The line that goes on with a run, as it is typed here.

    Args:
        project: the ``project.yaml``, absolute.
        build_dir: the build directory.
        name: of the run.
        overrides: ``--set`` texts to give with it; those that it was started with are in its record.
        allow_changed: accept what changed.
    """
    words = ["--resume", "--name", name, *(word for text in overrides for word in ("--set", text))]
    return typed("train", project, build_dir, *words, *(["--allow-changed"] if allow_changed else []))


def typed(command: str, project: Path, build_dir: Path, *words: str) -> str:
    """A line as it is typed here, with the project and the build directory where they are not where they usually are.

    Args:
        command: what stands before the project, as in ``runs use``.
        project: the ``project.yaml``, absolute.
        build_dir: the build directory.
        words: what stands behind.
    """
    shown = _from_here(project)
    place = [] if shown == "project.yaml" else [shown]
    if build_dir.absolute() != project.parent / "build":
        place += ["--build-dir", _from_here(build_dir.absolute())]
    return shlex.join(["segc", *command.split(), *place, *words])


def _from_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def busy(folder: Path) -> SegcError:
    """The refusal to touch a run that another process works on (R012)."""
    return fail(
        "R012",
        f"run `{folder.name}` is being trained by another process",
        file=folder,
        help="wait for it, end it, or start a run of another name: --name NAME",
    )


def read_results(path: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """The rows of a ``results.csv`` up to an epoch; those after it belong to work that was lost.

    Raises:
        SegcError: F002 where it is not one that segc wrote.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
        for row in rows:
            _check_row(row)
    except (csv.Error, ValueError) as error:
        advice = "it is the table of a run alone: put back the one that was there, or take it away"
        raise fail("F002", f"not a table that segc wrote: {error}", file=path, help=advice) from None
    return [row for row in rows if epochs is None or int(row["epoch"]) <= epochs]


def _check_row(row: Mapping[Any, Any]) -> None:
    """See that a row of ``results.csv`` holds figures.

    Raises:
        ValueError: where it does not.
    """
    epoch = row.get("epoch") or ""
    if not (epoch.isascii() and epoch.isdecimal() and len(epoch) < 10) or not row.get("seconds"):
        raise ValueError(f"a row has no epoch, or no seconds: {str(row)[:80]}")
    for name, value in row.items():
        # Fields without a heading stand under None, headings without a field have None.
        if name is None or value is None:
            raise ValueError(f"the row of epoch {epoch} is longer or shorter than its heading")
        if value not in {"", UNMEASURED}:
            float(value)


def fitness(row: Mapping[str, Any]) -> float | None:
    """By what the best epoch is chosen: the mean of box and mask mAP50-95, as the row has them.

    None where the epoch was not validated; 0 where there was nothing labelled to find, which the row has as ``-``.
    """
    values = [str(row.get(f"{part}_map", "")) for part in ("box", "mask")]
    if not all(values):
        return None
    return sum(0.0 if value == UNMEASURED else float(value) for value in values) / 2


def best_epochs(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], tuple[int, ...]]:
    """The best epoch's row, which is the latest of several that are equal, and the numbers of the others.

    Where there was nothing to measure it is the last one.
    """
    worth = [(value, row) for row in rows if (value := fitness(row)) is not None]
    if not worth:
        return {}, ()
    most = max(value for value, _ in worth)
    equal = [row for value, row in worth if value == most]
    # Epochs of which nothing was measured are not as good as one another.
    ties = equal[:-1] if is_measured(equal[-1]) else []
    return equal[-1], tuple(int(row["epoch"]) for row in ties)


def is_measured(row: Mapping[str, Any]) -> bool:
    """Whether a row of ``results.csv`` has figures of a validation that had something to measure."""
    return all(str(row.get(f"{part}_map", "")) not in {"", UNMEASURED} for part in ("box", "mask"))


def as_numbers(row: Mapping[str, Any]) -> dict[str, int | float | None]:
    """A row of ``results.csv`` for JSON: None where it has no figure."""

    def number(value: Any) -> int | float | None:
        text = str(value)
        if text in {"", UNMEASURED}:
            return None
        return int(text) if text.isdecimal() else float(text)

    return {key: number(value) for key, value in row.items()}


def measured_alike(rows: Sequence[Mapping[str, Any]], measured_anew: Sequence[int]) -> list[list[Mapping[str, Any]]]:
    """Rows of ``results.csv`` in groups, the oldest first: only figures of one group can be compared.

    Args:
        rows: of the run.
        measured_anew: epochs that were done whenever validation began to measure otherwise.
    """
    ends = (*measured_anew, math.inf)
    return [
        [row for row in rows if after < int(row["epoch"]) <= end]
        for after, end in zip((0, *measured_anew), ends, strict=True)
    ]


def ranked(rows: Sequence[Mapping[str, Any]], measured_anew: Sequence[int]) -> list[Mapping[str, Any]]:
    """The rows that the best epoch is one of: those that were measured as the last validation was."""
    groups = measured_alike(rows, measured_anew)
    return next((group for group in reversed(groups) if any(fitness(row) is not None for row in group)), [])


def told_anew(measured_anew: Sequence[int]) -> str:
    """Which epochs are not compared, in words; empty where all are."""
    text = "epochs up to {} were measured otherwise, and are not compared with later ones"
    return text.format(measured_anew[-1]) if measured_anew else ""


def told_ties(ties: Sequence[int]) -> str:
    """Which epochs were as good as the best one, to be put after its number."""
    if not ties:
        return ""
    shown = ", ".join(map(str, ties[:5])) + (f" and {len(ties) - 5} more" if len(ties) > 5 else "")
    return f" (as good: {shown})"


def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Nested mappings as values by dotted key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value
