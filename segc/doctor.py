"""What this machine can emit and run, found out without importing a framework or installing anything."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from segc.emission.reference import TORCH
from segc.targets.registry import targets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.targets.contract import Requirement, Target


@dataclass(frozen=True, slots=True)
class Ability:
    """Whether something can be done here.

    Attributes:
        possible: nothing is missing.
        problems: what is, a phrase each.
    """

    possible: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkup:
    """What this machine can do with one target.

    Attributes:
        target: its name.
        title: for people.
        emit: writing the model; verifying it takes ``run``, too.
        run: running the artifact and its predict script.
        versions: installed version of each package that is needed; None where it is missing.
        install: the command that brings what is missing; empty where that is no package.
        remarks: what comes to less here than on another machine.
    """

    target: str
    title: str
    emit: Ability
    run: Ability
    versions: dict[str, str | None]
    install: str
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def examine(target: Target) -> Checkup:
    """Look at one target."""
    options = target.default_options()
    # PyTorch is what every artifact is verified against.
    to_emit = (*target.requirements(options), TORCH)
    return Checkup(
        target.name,
        target.title,
        _ability(to_emit, target.environment(options)),
        _ability(target.needed, target.run_environment()),
        {r.package: r.version() for r in (*to_emit, *target.needed)},
        _install((*to_emit, *target.needed)),
        target.remarks(),
    )


def examine_all(names: Iterable[str] = ()) -> list[Checkup]:
    """Look at the named targets, or at all."""
    wanted = set(names)
    return [examine(target) for target in targets().values() if not wanted or target.name in wanted]


def machine() -> str:
    """The machine and the interpreter in a line."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"


def _ability(requirements: Iterable[Requirement], environment: str | None) -> Ability:
    problems = [problem for requirement in requirements if (problem := requirement.problem())]
    if environment:
        problems.append(environment)
    return Ability(not problems, tuple(problems))


def _install(requirements: Iterable[Requirement]) -> str:
    missing = dict.fromkeys(str(requirement) for requirement in requirements if requirement.problem())
    return f"pip install {' '.join(repr(package) for package in missing)}" if missing else ""
