"""segc from Python: what the commands do, as methods of one class.

    from segc import Project

    project = Project.load("project.yaml", "hyperparameters.epochs=30")
    project.train()
    metrics = project.evaluate()
    print(metrics.seg.map, metrics.box.map50, metrics.seg.maps)
    for prediction in project.predict("photos/"):
        print(prediction.path, prediction.counts())
    project.emit("onnx")

The methods call the functions that the commands call, and raise ``SegcError`` where those show diagnostics. Training
and evaluating set, for the whole process, how threads wait and memory is kept: see ``segc.compute``.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segc.compute import prepare_to_compute
from segc.diagnostics import Diagnostic
from segc.sessions.choose import Runtime, artifact_session, weights_session
from segc.spec import project as spec
from segc.spec.load import LoadedProject, load_project

if TYPE_CHECKING:
    from segc.build import Build
    from segc.emission.order import Emission
    from segc.evaluation.comparison import MaskGrid
    from segc.evaluation.metrics import Metrics
    from segc.inference.results import Prediction
    from segc.sessions import Session
    from segc.training.loop import Outcome

PathLike = str | os.PathLike[str]


class Project:
    """A project that was read and found valid, and its build directory.

    Made by :meth:`load`. The typed, frozen content of the ``project.yaml`` is :attr:`spec`, a
    ``segc.spec.project.Project``.

    Args:
        loaded: the project as the loader gives it.
        build_dir: where results go; ``build/`` beside the ``project.yaml`` where not given.

    Attributes:
        loaded: the project as the loader gives it, with its place and its warnings.
        build_dir: where results go.
    """

    def __init__(self, loaded: LoadedProject, build_dir: PathLike | None = None) -> None:
        self.loaded = loaded
        self.build_dir = loaded.build_dir if build_dir is None else Path(build_dir)

    @classmethod
    def load(cls, path: PathLike = "project.yaml", *overrides: str, build_dir: PathLike | None = None) -> "Project":
        """Read and check a ``project.yaml``.

        Args:
            path: the file.
            overrides: texts such as ``hyperparameters.epochs=3``, as for ``--set``.
            build_dir: where results go; ``build/`` beside the file where not given.

        Raises:
            SegcError: with a diagnostic for everything that is wrong.
        """
        return cls(load_project(Path(path), overrides), build_dir)

    def __repr__(self) -> str:
        return f"Project({self.spec.name!r}, {str(self.loaded.path)!r})"

    @property
    def spec(self) -> spec.Project:
        """What the ``project.yaml`` says, with overrides and defaults filled in."""
        return self.loaded.project

    def build(self) -> "Build":
        """Compile into the build directory: lock, graph, layer table and training plan.

        Raises:
            SegcError: where the dataset is there but lists no training images.
            OSError: where the folder cannot be written.
        """
        from segc.build import build

        return build(self.loaded, self.build_dir)

    def train(
        self,
        *,
        name: str | None = None,
        resume: bool = False,
        allow_changed: bool = False,
        quiet: bool = False,
        report: bool = True,
    ) -> "Outcome | None":
        """Compile and train; the weights are in ``runs/<name>/weights/`` of the build directory.

        Args:
            name: the run's name; by default a new one, or the one that trained last.
            resume: go on with a run instead of starting one.
            allow_changed: go on with it even where the project changed.
            quiet: show no progress on standard error.
            report: measure the best weights at the end and write ``report.html`` into the run's folder.

        Returns:
            Where the run and its weights are, and its best epoch; None in a process of ``torchrun`` that does not lead.

        Raises:
            SegcError: as ``segc.training.loop.train``; F004 for a logger that is not installed.
        """
        prepare_to_compute()
        from rich.console import Console

        from segc.training.project import train_project

        screen = Console(stderr=True, quiet=quiet)
        outcome = train_project(
            self.loaded, self.build_dir, screen, name=name, resume=resume, allow_changed=allow_changed
        )
        if outcome is not None and report:
            from segc.reports.run import report_run

            report_run(self.loaded, outcome.folder, warn=_warn)
        return outcome

    def evaluate(
        self,
        *,
        weights: PathLike | None = None,
        artifact: PathLike | None = None,
        split: Literal["train", "val"] = "val",
        batch: int = 1,
        rect: bool | None = None,
        mask_grid: "MaskGrid" = "photograph",
        runtime: Runtime = "auto",
    ) -> "Metrics":
        """Metrics of boxes and masks: ``metrics.box.map``, ``.map50``, ``.map75``, ``.maps``; ``metrics.seg`` the same.

        Args:
            weights: a file, a published name or an address to use instead of the trained weights.
            artifact: an emitted model to run in place of weights.
            split: whose images.
            batch: images a run, where the model leaves it open.
            rect: frames of the images' own shapes; the project's ``rect`` where not given.
            mask_grid: where masks are compared.
            runtime: what runs weights; ``auto``: onnxruntime where there is no GPU and it is installed, else PyTorch.

        Raises:
            SegcError: as ``segc.evaluation.project.evaluate_project``.
        """
        prepare_to_compute()
        from segc.evaluation.project import evaluate_project

        return evaluate_project(
            self.loaded,
            self.build_dir,
            weights=_weights(weights),
            artifact=_path(artifact),
            split=split,
            batch=batch,
            rect=rect,
            mask_grid=mask_grid,
            runtime=runtime,
            warn=_warn,
        ).metrics

    def predict(
        self,
        *sources: PathLike,
        weights: PathLike | None = None,
        artifact: PathLike | None = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        retina: bool | None = None,
        runtime: Runtime = "torch",
    ) -> "Iterator[Prediction]":
        """Segment images: files, folders, patterns and http(s) addresses.

        The sources are found and the model is opened at once, images are read and predicted one by one as the iterator
        is asked for them.

        Args:
            sources: what to segment; of a folder its images, not those in folders below.
            weights: a file, a published name or an address to use instead of the trained weights.
            artifact: an emitted model to run in place of weights.
            conf: least score; where not given, that of a model that suppresses by itself, else the project's.
            iou: overlap that makes two boxes one; likewise.
            max_det: most detections an image; likewise.
            retina: masks interpolated at the photograph's resolution, the default, or scaled from the frame.
            runtime: what runs weights.

        Raises:
            SegcError: I001 where there are no sources, I002 where an image cannot be read, I005 where the model has
                left out already what is asked for; else as ``segc.sessions``.
        """
        from segc.prediction import filters_of, find, predict

        found = find([str(source) for source in sources])
        session = self._session(_weights(weights), _path(artifact), runtime)
        given = {"conf": conf, "iou": iou, "max_det": max_det, "retina": retina}
        filters = filters_of(session, given, self.loaded)
        return (predict(source, session, filters)[1] for source in found)

    def _session(self, weights: Path | None, artifact: Path | None, runtime: Runtime) -> "Session":
        if artifact is not None:
            return artifact_session(self.loaded, self.build_dir, artifact)
        return weights_session(self.loaded, self.build_dir, weights, runtime=runtime, warn=_warn)

    def emit(
        self,
        *targets: str,
        weights: PathLike | None = None,
        untrained: bool = False,
        force: bool = False,
        time_limit: float | None = None,
    ) -> "list[Emission]":
        """Emit artifacts with their predict scripts, each verified against the trained network.

        Args:
            targets: names of targets; all that the project lists where none is given.
            weights: a file, a published name or an address to use instead of the trained weights.
            untrained: seeded weights as they are before training, to try a target out.
            force: emit again what is up to date.
            time_limit: seconds that a worker process may take.

        Returns:
            One result a target. What went wrong with one stands in its ``status`` and ``diagnostics``.

        Raises:
            SegcError: for what concerns all of them: names, refusals, weights, images.
        """
        from segc.emission.project import TIME_LIMIT, emit_project

        return emit_project(
            self.loaded,
            self.build_dir,
            targets,
            weights=_weights(weights),
            untrained=untrained,
            force=force,
            time_limit=TIME_LIMIT if time_limit is None else time_limit,
            warn=_warn,
        )


def _path(value: PathLike | None) -> Path | None:
    return None if value is None else Path(value)


def _weights(value: PathLike | None) -> Path | None:
    """A file, or what a published name or an address gives."""
    if not isinstance(value, str):
        return _path(value)
    from segc.weights.starting import weights_file

    return weights_file(value)


def _warn(diagnostics: Sequence[Diagnostic]) -> None:
    """Python code hears of warnings as warnings."""
    import warnings

    for diagnostic in diagnostics:
        warnings.warn(f"[{diagnostic.code}] {diagnostic.message}", stacklevel=3)
