"""Artifact folders: what ``artifact.json`` says, when one is up to date, and how it gets to its place."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import SegcError
from segc.emission.provenance import code_digest
from segc.emission.reference import TORCH
from segc.files import atomic_directory, canonical_json, digest, digest_file
from segc.targets.description import DESCRIPTION, FORMAT, changed_files, is_as_described, read_description
from segc.weights import lineage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from segc.inference.filters import Filters
    from segc.inference.metadata import Metadata
    from segc.targets.contract import Target, TargetOptions
    from segc.targets.description import Description
    from segc.weights.lineage import Lineage

UP_TO_DATE = "up to date"
"""What is said of an artifact that did not have to be made again."""

FAILED_SUFFIX = ".failed"
"""What follows the name of a folder whose artifact failed its verification."""

CHANGED_SUFFIX = ".changed"
"""What follows the name of a file of an artifact that somebody changed, once segc has made it anew."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that an artifact depends on.

    Attributes:
        name: of the artifact.
        target: the format.
        options: its options.
        metadata: what the model says about itself.
        graph: the graph as JSON.
        weights_digest: of the weights' names and values.
        trained: whether they were trained.
        lineage: what they descend from.
        filters: defaults of the predict scripts.
        root: the dataset's folder.
        images: photographs that it is verified on.
        calibration: photographs that it is calibrated on, if at all.
        calibrated: how they were drawn, and what follows from them.
        validation: a digest of what its mAP is measured on; None where it is not measured.
    """

    name: str
    target: Target
    options: TargetOptions
    metadata: Metadata
    graph: str
    weights_digest: str
    trained: bool
    lineage: Lineage
    filters: Filters
    root: Path
    images: Sequence[Path]
    calibration: Sequence[Path]
    calibrated: Mapping[str, Any]
    validation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``artifact.json`` has them: no times and no machine paths, so that equal emissions are equal."""
        from segc.version import __version__

        needed = (*self.target.requirements(self.options), *self.target.needed, TORCH)
        return {
            "format": FORMAT,
            "name": self.name,
            "target": self.target.name,
            "options": self.options.model_dump(mode="json"),
            "metadata": self.metadata.to_json(),
            "thresholds": {
                "conf": self.filters.conf,
                "iou": self.filters.iou,
                "max_det": self.filters.max_det,
                **({"conf_by_class": dict(self.filters.by_class)} if self.filters.by_class else {}),
            },
            "graph_digest": digest(self.graph),
            "weights": {
                "digest": self.weights_digest,
                "trained": self.trained,
                lineage.KEY: lineage.to_json(self.lineage),
            },
            "versions": {"segc": __version__, **{r.package: r.version() for r in needed}, **self.target.tools()},
            "photographs": self.digests(self.images),
            "calibration": (
                {**self.calibrated, "photographs": self.digests(self.calibration)} if self.calibration else {}
            ),
            **({"validation": self.validation} if self.validation else {}),
        }

    def digests(self, paths: Sequence[Path]) -> dict[str, str]:
        """Photographs by their name relative to the dataset, or their own where they lie elsewhere."""
        root = self.root
        return {
            path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name: digest_file(path)
            for path in paths
        }

    def key(self) -> str:
        """A digest of all this and of the code that an artifact is made by: equal keys give equal artifacts."""
        return digest(canonical_json({**self.to_json(), "code": code_digest(self.target)}))


def intact(folder: Path, key: str) -> Description | None:
    """The description of a good artifact that has this key and whose files are what they were; else None."""
    try:
        description = read_description(folder)
    except SegcError:
        return None
    if description.key != key or description.status == "failed":
        return None
    return None if changed_files(folder, description, description.files) else description


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file of an artifact."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "digest": digest_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def publish(good: Path, files: Path, description: Mapping[str, Any]) -> tuple[Path, list[str]]:
    """Put a finished artifact in its place, whole; one that failed beside it, under another name.

    What somebody else put into the folder stays in it, and what was changed there stays under another name.

    Returns:
        The artifact's folder, and what is to be said of files that segc did not write.
    """
    failed = description["status"] == "failed"
    bad = good.with_name(f"{good.name}{FAILED_SUFFIX}")
    place = bad if failed else good
    with atomic_directory(place) as folder:
        # Not shutil.copytree, whose error hides what happened: a full disk must be called that.
        for source in sorted(path for path in files.rglob("*") if path.is_file()):
            copy = folder / source.relative_to(files)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        (folder / DESCRIPTION).write_text(canonical_json(description), encoding="utf-8")
        said = _keep(place, folder)
    if not failed and bad.is_dir():
        said += _clear(bad)
    return place, said


def _not_ours(folder: Path) -> list[Path]:
    """Files and links of an artifact folder that segc did not write, or that were changed, relative to it."""
    try:
        entries = read_description(folder).files
    except SegcError:
        entries = {}
    found = []
    for here, folders, names in os.walk(folder):
        links = [name for name in folders if Path(here, name).is_symlink()]
        found += [Path(here, name).relative_to(folder) for name in (*links, *names)]
    return sorted(
        path
        for path in found
        if path.as_posix() != DESCRIPTION
        and "__pycache__" not in path.parts
        and not is_as_described(folder, path.as_posix(), entries)
    )


def _keep(before: Path, folder: Path) -> list[str]:
    """Take what segc did not write from the folder as it is into that which replaces it; what is to be said of it."""
    kept, changed = 0, []
    for path in _not_ours(before):
        source, copy = before / path, folder / path
        if copy.exists():
            if source.is_file() and digest_file(source) == digest_file(copy):
                continue
            copy = folder / _free_name(path, before, folder)
            changed.append(copy.relative_to(folder).as_posix())
        else:
            kept += 1
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, copy, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(source, copy, follow_symlinks=False)
    said = [f"kept {kept} file{'s' * (kept > 1)} in its folder that segc did not write"] if kept else []
    return [*said, f"what was changed by hand is made anew, and kept as {', '.join(changed)}"] if changed else said


def _free_name(path: Path, *folders: Path) -> Path:
    """What a changed file is called where it is kept: as none in any of the folders is."""
    ends = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (path.with_name(f"{path.name}{CHANGED_SUFFIX}{end}") for end in ends)
    return next(name for name in names if not any(os.path.lexists(folder / name) for folder in folders))


def _clear(bad: Path) -> list[str]:
    """Remove an artifact that failed before, but for what segc did not write."""
    kept = frozenset(_not_ours(bad))
    if not kept:
        shutil.rmtree(bad, ignore_errors=True)
        return []
    for here, _, names in os.walk(bad, topdown=False):
        for name in names:
            if Path(here, name).relative_to(bad) not in kept:
                Path(here, name).unlink()
        with contextlib.suppress(OSError):  # not empty
            Path(here).rmdir()
    return [f"{bad.name}: left {len(kept)} file{'s' * (len(kept) > 1)} there that segc did not write"]


def weights_digest(weights: Mapping[str, NDArray[np.generic]]) -> str:
    """A digest of names, shapes, formats and values."""
    import numpy as np

    state = hashlib.sha256()
    for name in sorted(weights):
        array = np.asarray(weights[name], order="C")
        state.update(f"{name}:{array.dtype.str}:{array.shape}\n".encode())
        state.update(array.data)
    return f"sha256:{state.hexdigest()}"
