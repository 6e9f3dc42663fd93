"""Artifacts on disk: which target a file or folder is of, and opening it in its runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segc.diagnostics import fail
from segc.inference.metadata import ModelError
from segc.inference.model import DeviceError
from segc.inference.text import named_in_text
from segc.sessions.isolated import IsolatedModel, no_device
from segc.targets.contract import check_packages
from segc.targets.description import DESCRIPTION, changed_files, read_description
from segc.targets.registry import targets

if TYPE_CHECKING:
    from pathlib import Path

    from segc.inference.model import Model
    from segc.sessions import Session
    from segc.targets.contract import Target


def find_artifact(given: Path, build_dir: Path) -> Path:
    """The artifact of this name in a build directory; ``given`` itself where it is a path, or there is none."""
    named = build_dir / "artifacts" / given
    return named if len(given.parts) == 1 and not given.exists() and named.exists() else given


def locate(path: Path) -> tuple[Target, Path]:
    """The target and the model's path of an artifact folder or a model.

    Raises:
        SegcError: F001 where nothing is there, T006 where it is no artifact, one that failed its verification, or one
            whose model is not the one that was verified.
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
    if description.status == "failed":
        if description.parity.get("passed") and (description.accuracy or {}).get("passed") is False:
            text, where = "it loses more accuracy than is accepted", "accuracy"
        else:
            text, where = "it does not compute what was trained", "parity"
        text = f"this artifact failed its verification: {text}"
        raise fail("T006", text, file=path, help=f"see {where} in {DESCRIPTION}, and emit again")
    model = path / description.model
    if not model.exists():
        raise fail("T006", f"the model {description.model} is gone from {path}", file=path, help="emit again")
    if changed := changed_files(path, description, description.model_files()):
        text = f"{changed[0]} is not the one that {DESCRIPTION} describes: damaged, or another model"
        raise fail("T006", text, file=path, help=f"emit or copy it again, or name the model itself: {model}")
    return targets()[description.target], model


def _suffix_length(target: Target) -> int:
    return len(target.suffix)


def open_artifact(path: Path, threads: int = 0, build_dir: Path | None = None, device: str | None = None) -> Session:
    """Open an emitted model in its own runtime.

    Args:
        path: the model's file or folder, or the artifact folder that holds it.
        threads: threads of the runtime; 0 leaves it the choice.
        build_dir: what lies whole among its artifacts was written here, and runs in this process; a stranger's model
            runs in one of its own.
        device: where its runtime is to run it, see ``segc.targets.contract.OpenModel``.

    Raises:
        SegcError: F001 where there is no such file, F004 where a package is missing, R007 where the device is, T006
            where no target has such a file, it cannot be read, or its verification failed.
    """
    target, model = locate(path)
    if build_dir is not None and _is_own(path, build_dir):
        return open_target(target, model, threads, device)
    _prepare(target, model)
    return IsolatedModel(target, model, threads, device)


def _is_own(path: Path, build_dir: Path) -> bool:
    """Whether an artifact folder lies in a build directory, and its files are those that its description names."""
    if path.absolute().parent != (build_dir / "artifacts").absolute() or path.is_symlink():
        return False
    description = read_description(path)
    return bool(description.files) and not changed_files(path, description, description.files)


def open_target(target: Target, model: Path, threads: int = 0, device: str | None = None) -> Model:
    """Open a model of a target: its guard looks at it first.

    Raises:
        SegcError: F004 and T002 where the runtime is not here, R007 where the device is not, T006 where the model
            cannot be run.
    """
    _prepare(target, model)
    try:
        with named_in_text(model) as place:
            return target.opener(model)(place, threads, device)
    except DeviceError as error:
        raise no_device(error) from None
    except ModelError as error:
        raise fail("T006", str(error), file=model, help="emit it again, or copy it again") from None


def _prepare(target: Target, model: Path) -> None:
    """See that the runtime is here, and look at the model before it does.

    Raises:
        SegcError: F004 and T002 where it is not, T006 where the target's guard refuses the model.
    """
    check_packages(target, target.needed)
    if problem := target.run_environment():
        raise fail("F004", f"{target.name}: {problem}")
    target.check(model)
