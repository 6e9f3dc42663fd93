"""Searching hyperparameters: trials of an Optuna study, each of them a run on record.

The study lies in a database that any number of processes and machines may share. Trials of a process that died are
taken up by the next one, where their runs left off.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail
from segc.locks import is_locked
from segc.runs import CHECKPOINT, fitness, lock_file
from segc.schema import LARGEST_STRIDE
from segc.spec.load import load_project
from segc.spec.tune import Range, as_range
from segc.training.report import Report

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

    from segc.spec.load import LoadedProject

Said = Callable[[str], None]

_RUN, _PROCESS = "run", "process"
"""Attributes of a trial: the name of its run; the machine and the number of the process that makes it."""


@dataclass(frozen=True, slots=True)
class Winner:
    """The best trial.

    Attributes:
        run: the name of its run.
        value: its fitness: mean of box and mask mAP50-95.
        overrides: ``--set`` texts that make the project the one of this trial.
        changes: what differs from the project, ``key: then → now``.
    """

    run: str
    value: float
    overrides: tuple[str, ...]
    changes: tuple[str, ...]


def tune(
    loaded: "LoadedProject", build_dir: Path, *, trials: int, study: str, storage: str | None, said: Said
) -> Winner | None:
    """Search until a study has so many trials.

    Args:
        loaded: the project, which has ranges.
        build_dir: the build directory, where the runs go.
        trials: how many the study shall have, those of other processes and earlier calls included.
        study: its name, which the names of its runs start with.
        storage: the database, as an address that SQLAlchemy understands; a file in the build directory where not given.
        said: told what is done.

    Returns:
        The best trial; None where none was completed.

    Raises:
        SegcError: X225 where the project has no ranges; else as ``segc.training.loop.train``.
    """
    import optuna

    ranges = [as_range(key, values) for key, values in loaded.project.tune.items()]
    if not ranges:
        raise fail(
            "X225",
            "the project says no ranges to search",
            file=loaded.path,
            help="for example `tune: {lr0: [1e-4, 1e-2, log], augment.mosaic: [0.0, 1.0]}`",
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage is None:
        (build_dir / "tune").mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{(build_dir / 'tune' / f'{study}.db').absolute()}"
    opened = _opened(study, storage)
    _take_up_dead(opened, build_dir, said)
    while _counted(opened) < trials:
        _one_trial(opened, opened.ask(), loaded, build_dir, ranges, said)
    return winner(opened, loaded, ranges)


_ATTEMPTS = 10
"""Tries to open a database: of several processes that make it at once, all but one fail at first."""


def _opened(name: str, storage: str) -> "Study":
    import optuna
    from optuna.exceptions import DuplicatedStudyError, StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    for attempt in range(_ATTEMPTS):
        try:
            return optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                # What others are trying is taken for bad meanwhile, so that several processes try different things.
                sampler=optuna.samplers.TPESampler(constant_liar=True),
                pruner=optuna.pruners.SuccessiveHalvingPruner(),
            )
        except ImportError as error:
            driver = str(error.__cause__ or error).partition("\n")[0]
            raise fail(
                "F004",
                f"the driver of this database is not installed: {driver}",
                help="install it (for example psycopg2-binary for postgresql), or name it: postgresql+psycopg://…",
            ) from error
        except (DuplicatedStudyError, StorageInternalError, SQLAlchemyError) as error:
            if attempt + 1 == _ATTEMPTS:
                text = str(error).partition("\n")[0]
                raise fail("F002", f"the database of the study cannot be opened: {text}") from error
            time.sleep(0.3 * (attempt + 1))
    raise AssertionError("not reached")


def _counted(study: "Study") -> int:
    """Trials that are done or are being done; those that failed or wait are not."""
    from optuna.trial import TrialState

    counted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return len(study.get_trials(deepcopy=False, states=counted))


def _take_up_dead(study: "Study", build_dir: Path, said: Said) -> None:
    """Have the trials of processes that died tried again, by the runs that they began here."""
    import psutil
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        name = trial.user_attrs.get(_RUN)
        host, _, number = str(trial.user_attrs.get(_PROCESS, "")).rpartition(":")
        # What happens on other machines is not known here.
        if host != socket.gethostname() or not number.isdecimal() or psutil.pid_exists(int(number)):
            continue
        if is_locked(lock_file(build_dir / "runs" / str(name))):
            continue
        with suppress(ValueError):  # another process has just done it
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={_RUN: name})
            said(f"trial {trial.number} was left by a process that died; run {name} goes on")


def _one_trial(
    study: "Study", trial: "Trial", loaded: "LoadedProject", build_dir: Path, ranges: list[Range], said: Said
) -> None:
    from optuna.trial import TrialState
    from rich.console import Console

    from segc.training.loop import Ended
    from segc.training.project import train_project

    overrides = tuple(_override(one, _suggested(trial, one)) for one in ranges)
    name = str(trial.user_attrs.get(_RUN) or f"{study.study_name}-{trial.number}")
    trial.set_user_attr(_RUN, name)
    trial.set_user_attr(_PROCESS, f"{socket.gethostname()}:{os.getpid()}")
    going_on = (build_dir / "runs" / name / CHECKPOINT).exists()
    said(f"trial {trial.number}, run {name}: {', '.join(text.removeprefix('hyperparameters.') for text in overrides)}")
    changed = load_project(loaded.path, (*loaded.overrides, *overrides))
    try:
        outcome = train_project(
            changed, build_dir, Console(quiet=True), name=name, resume=going_on, watched=_Watch(trial)
        )
    except Ended as end:
        study.tell(trial, state=TrialState.PRUNED)
        said(f"trial {trial.number}: {end}")
        return
    except Exception:
        study.tell(trial, state=TrialState.FAIL)
        raise
    value = fitness(outcome.row) if outcome else None
    study.tell(trial, 0.0 if value is None else value)
    said(f"trial {trial.number}: {value:.4f}" if value is not None else f"trial {trial.number}: not measured")


class _Watch(Report):
    """Tells a study of validations, and ends the trainings that it gives up."""

    def __init__(self, trial: "Trial") -> None:
        self._trial = trial

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`Report`."""
        from segc.training.loop import Ended

        value = fitness(row)
        if value is None:
            return
        self._trial.report(value, int(row["epoch"]))
        if self._trial.should_prune():
            raise Ended(f"given up after epoch {row['epoch']}, others are better by then")


def _suggested(trial: "Trial", one: Range) -> Any:
    if one.low is None or one.high is None:
        return trial.suggest_categorical(one.key, one.choices)
    if one.whole:
        # Sides lie that far apart; Optuna knows no steps of a logarithmic range.
        step = LARGEST_STRIDE if one.key == "imgsz" else 1
        return trial.suggest_int(one.key, int(one.low), int(one.high), step=step, log=one.log)
    return trial.suggest_float(one.key, one.low, one.high, log=one.log)


def _override(one: Range, value: Any) -> str:
    """The ``--set`` text of a value; six digits are enough, and what is trained is what is told."""
    import json

    text = f"{value:.5e}" if isinstance(value, float) else json.dumps(value)
    return f"hyperparameters.{one.key}={text}"


def winner(study: "Study", loaded: "LoadedProject", ranges: list[Range]) -> Winner | None:
    """The best trial of a study so far."""
    from optuna.trial import TrialState

    done = study.get_trials(states=(TrialState.COMPLETE,))
    if not done:
        return None
    best: FrozenTrial = max(done, key=lambda trial: (trial.value or 0.0, -trial.number))
    overrides = tuple(_override(one, best.params[one.key]) for one in ranges if one.key in best.params)
    return Winner(str(best.user_attrs[_RUN]), best.value or 0.0, overrides, _changes(loaded, overrides))


def _changes(loaded: "LoadedProject", overrides: tuple[str, ...]) -> tuple[str, ...]:
    from segc.runs import flat
    from segc.spec.project import resolved
    from segc.training.identity import identity_changes

    there = load_project(loaded.path, (*loaded.overrides, *overrides))
    then, now = (dict(flat("", resolved(one.project))) for one in (loaded, there))
    return tuple(identity_changes(then, now))
