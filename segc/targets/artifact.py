"""Artifacts on disk: the folder's description ``artifact.json``, and opening a model with the runtime it needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from segc.diagnostics import Diagnostic, SegcError, fail
from segc.targets.registry import targets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from segc.targets.base import Requirement, Session, Target

DESCRIPTION = "artifact.json"
"""The file that describes an artifact folder."""

VERIFIED, DEFERRED, FAILED = "verified", "deferred", "failed"
"""States of an artifact; a deferred one is verified as far as this machine can, and finished on another."""


def check_packages(target: Target, requirements: Iterable[Requirement]) -> None:
    """Look for a target's packages without importing them.

    Raises:
        SegcError: F004 for every package that is missing, T002 for every one that is too old.
    """
    found = [(requirement, problem) for requirement in requirements if (problem := requirement.problem())]
    if found:
        raise SegcError(
            Diagnostic(
                "T002" if "older" in problem else "F004",
                f"{target.name}: {problem}",
                help=f"pip install 'segc[{target.extra}]', or just that package: pip install '{requirement}'",
            )
            for requirement, problem in found
        )


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of an artifact folder's ``artifact.json``.

    Raises:
        SegcError: T006 where there is none, or it is not one that segc wrote.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise fail("T006", f"no {DESCRIPTION} in {folder}: not an artifact of segc", file=folder)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        target, model, status = (description[key] for key in ("target", "model", "status"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise fail("T006", "damaged: not a description that segc wrote", file=path) from None
    # The name comes from a file: it must not lead out of the folder.
    if (
        target not in targets()
        or not isinstance(model, str)
        or "/" in model
        or "\\" in model
        or model in {"", "..", "."}
    ):
        raise fail("T006", "damaged: it names no known target, or no model beside it", file=path)
    if status not in {VERIFIED, DEFERRED, FAILED}:
        raise fail("T006", f"damaged: unknown status {status!r}", file=path)
    result: dict[str, Any] = description
    return result


def locate(path: Path) -> tuple[Target, Path]:
    """The target and the model's path of an artifact folder or a model.

    Raises:
        SegcError: F001 where nothing is there, T006 where it is no artifact, or one that failed its verification.
    """
    if not path.exists():
        raise fail("F001", f"no such file or folder: {path}", file=path, help="segc emit writes artifacts")
    # The longest ending wins: what ends in _edgetpu.tflite ends in .tflite too.
    target = max((t for t in targets().values() if path.name.endswith(t.suffix)), key=_suffix_length, default=None)
    if target is not None:
        return target, path
    if not path.is_dir():
        known = ", ".join(t.suffix for t in targets().values())
        raise fail("T006", f"no target has such files: {path.name}", file=path, help=f"models end in {known}")
    description = read_description(path)
    if description["status"] == FAILED:
        text = "this artifact failed its verification: it does not compute what was trained"
        raise fail("T006", text, file=path, help=f"see parity in {DESCRIPTION}, and emit again")
    model = path / description["model"]
    if not model.exists():
        raise fail("T006", f"the model {description['model']} is gone from {path}", file=path, help="emit again")
    return targets()[description["target"]], model


def _suffix_length(target: Target) -> int:
    return len(target.suffix)


def open_artifact(path: Path, threads: int = 0) -> Session:
    """Open an emitted model in its own runtime.

    Args:
        path: the model's file or folder, or the artifact folder that holds it.
        threads: threads of the runtime; 0 leaves it the choice.

    Raises:
        SegcError: F001 where there is no such file, F004 where a package is missing, T006 where no target has such
            a file, it cannot be read, or its verification failed.
    """
    target, model = locate(path)
    check_packages(target, target.runtime)
    return target.session(model, threads)
