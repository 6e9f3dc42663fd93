"""segc from Python: what the commands do, as methods of one class.

    from segc import Project, load

    project = Project.load("project.yaml", "hyperparameters.epochs=30")
    project.train()
    metrics = project.evaluate()
    print(metrics.seg.map, metrics.box.map50, metrics.seg.maps)
    for prediction in project.predict("photos/"):
        print(prediction.path, prediction.counts(), prediction.areas)
    project.emit("onnx")
    model = load("build/artifacts/onnx")  # opened once
    model("photo.jpg").plot()

The methods call the functions that the commands call, and raise ``SegcError`` where those show diagnostics. Training
and evaluating set, for the whole process, how threads wait and memory is kept: see ``segc.compute``.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, cast, get_args

from segc.compute import prepare_to_compute
from segc.diagnostics import Diagnostic
from segc.sessions.choose import RUNTIMES, Runtime, artifact_session, refuse_half, weights_session
from segc.spec import project as spec
from segc.spec.load import LoadedProject, load_project

if TYPE_CHECKING:
    from segc.build import Build
    from segc.emission.order import Emission
    from segc.evaluation.comparison import MaskGrid
    from segc.evaluation.metrics import Metrics
    from segc.model import Asked, Model
    from segc.results import Prediction
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
        run: str | None = None,
        artifact: PathLike | None = None,
        split: Literal["train", "val", "test"] = "val",
        batch: int = 1,
        rect: bool | None = None,
        mask_grid: "MaskGrid" = "photograph",
        runtime: Runtime = "auto",
    ) -> "Metrics":
        """Metrics of boxes and masks: ``metrics.box.map``, ``.map50``, ``.map75``, ``.maps``; ``metrics.seg`` the same.

        Args:
            weights: a file, a published name or an address to use instead of the trained weights.
            run: the run whose weights to take; the one that ``segc runs use`` chose, or that finished last.
            artifact: an emitted model to run in place of weights.
            split: whose images.
            batch: images a run, where the model leaves it open.
            rect: frames of the images' own shapes; the project's ``rect`` where not given.
            mask_grid: where masks are compared.
            runtime: what runs weights; ``auto``: onnxruntime where there is no GPU and it is installed, else PyTorch.

        Predictions have one class an object; here, as the protocol of this family has it, what scores in several
        classes counts in each of them, so that COCO's tools give saved predictions somewhat lower figures.

        Raises:
            SegcError: as ``segc.evaluation.project.evaluate_project``.
            ValueError: where an argument is none of what it can be, two models are named, or a runtime is for an
                artifact, which has its own.
        """
        prepare_to_compute()
        from segc.data.samples import Split
        from segc.evaluation.comparison import MASK_GRIDS
        from segc.evaluation.project import evaluate_project
        from segc.inference.filters import fitting
        from segc.model import one_of

        one_of("split", split, get_args(Split))
        one_of("rect", rect, (None, True, False))
        one_of("mask_grid", mask_grid, MASK_GRIDS)
        batch = fitting("batch", batch, int, 1)
        _check_runtime(runtime, of_weights=artifact is None)

        return evaluate_project(
            self.loaded,
            self.build_dir,
            weights=self._chosen(weights, run, artifact),
            artifact=_path(artifact),
            split=split,
            batch=batch,
            rect=rect,
            mask_grid=mask_grid,
            runtime=runtime,
            warn=_warn,
        ).metrics

    def model(
        self,
        *,
        weights: PathLike | None = None,
        run: str | None = None,
        artifact: PathLike | None = None,
        runtime: Runtime | None = None,
        device: str | None = None,
        half: bool = False,
        imgsz: int | tuple[int, int] | None = None,
        **asked: "Unpack[Asked]",
    ) -> "Model":
        """Open the trained weights, or an artifact: a model to be called with frames.

        Args:
            weights: a file, a published name or an address to use instead of the trained weights.
            run: the run whose weights to take; the one that ``segc runs use`` chose, or that finished last.
            artifact: an emitted model to run in place of weights: its name, or its folder or file.
            runtime: what runs weights; PyTorch where not given.
            device: where it runs: ``auto``, or a device of whatever runs it; the project's where not given, and for an
                artifact the one that it was verified on.
            half: run weights in fp16, in PyTorch on a GPU.
            imgsz: side, or (height, width), in pixels of the frames that the network sees, where it leaves that open.
            **asked: what counts as a detection, see ``segc.model.Asked``; where not given, that of a model that
                suppresses by itself, else the project's.

        Raises:
            SegcError: I005 where the model has left out already what is asked for; X201 where it cannot have this size;
                else as ``segc.sessions``.
            TypeError: where nothing is called as what is asked for.
            ValueError: where a value is of another kind or out of its bounds, two models are named, or a runtime is for
                an artifact, which has its own.
        """
        from segc.model import Model, named
        from segc.prediction import filters_of

        given = named(asked)  # before a model is opened for nothing
        if runtime is not None:
            _check_runtime(runtime, of_weights=artifact is None)
        file = self._chosen(weights, run, artifact)
        if artifact is not None:
            refuse_half(half=half)
            session = artifact_session(self.loaded, self.build_dir, Path(artifact), device)
        else:
            session = weights_session(
                self.loaded,
                self.build_dir,
                file,
                runtime="torch" if runtime is None else runtime,
                device=device,
                half=half,
                warn=_warn,
            )
        return Model(session, filters_of(session, given, self.loaded), imgsz)

    def predict(
        self,
        *sources: PathLike | int,
        weights: PathLike | None = None,
        run: str | None = None,
        artifact: PathLike | None = None,
        runtime: Runtime | None = None,
        **asked: "Unpack[Asked]",
    ) -> "Iterator[Prediction]":
        """Segment what sources give: ``project.model(…).stream(sources)``.

        The sources are found and the model is opened at once, frames are read and predicted one by one as the iterator
        is asked for them.

        Args:
            sources: files, folders, patterns, addresses, videos, numbers of cameras; of a folder what lies in it, not
                in folders below.
            weights: as for :meth:`model`.
            run: likewise.
            artifact: likewise.
            runtime: likewise.
            **asked: likewise.

        Raises:
            SegcError: I001 where there are no sources, I002 where one cannot be read; else as :meth:`model`.
            TypeError: where a source is something else; else as :meth:`model`.
            ValueError: as :meth:`model`.
        """
        from segc.model import found_sources

        found_sources(sources)  # before a model is opened for nothing
        model = self.model(weights=weights, run=run, artifact=artifact, runtime=runtime, **asked)
        return model.stream(sources)

    def _chosen(self, weights: PathLike | None, run: str | None, artifact: PathLike | None) -> Path | None:
        """The file of the weights that a call names; None where it names none.

        Raises:
            ValueError: where it names two models.
        """
        named = [
            name for name, value in (("weights", weights), ("run", run), ("artifact", artifact)) if value is not None
        ]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other")
        if run is None:
            return _weights(weights)
        from segc.weights.resolve import choose_weights

        return choose_weights(self.loaded, self.build_dir, run=run).path

    def emit(
        self,
        *targets: str,
        weights: PathLike | None = None,
        run: str | None = None,
        untrained: bool = False,
        force: bool = False,
        time_limit: float | None = None,
    ) -> "list[Emission]":
        """Emit artifacts with their predict scripts, each verified against the trained network.

        Args:
            targets: names of targets; all that the project lists where none is given.
            weights: a file, a published name or an address to use instead of the trained weights.
            run: the run whose weights to take; the one that ``segc runs use`` chose, or that finished last.
            untrained: seeded weights as they are before training, to try a target out.
            force: emit again what is up to date.
            time_limit: seconds that a worker process may take, 1..86,400; 900 where not given.

        Returns:
            One result a target. What went wrong with one stands in its ``status`` and ``diagnostics``.

        Raises:
            SegcError: for what concerns all of them: names, refusals, weights, images.
            ValueError: where the time limit is none, or two models are named.
        """
        from segc.emission.project import TIME_LIMIT, emit_project
        from segc.inference.filters import fitting

        return emit_project(
            self.loaded,
            self.build_dir,
            targets,
            weights=self._chosen(weights, run, None),
            untrained=untrained,
            force=force,
            time_limit=TIME_LIMIT if time_limit is None else fitting("time_limit", time_limit, float, 1, 86400),
            warn=_warn,
        )


def load(
    source: "PathLike | Project",
    *,
    run: str | None = None,
    runtime: Runtime = "auto",
    device: str | None = None,
    half: bool = False,
    threads: int = 0,
    trusted: bool = False,
    imgsz: int | tuple[int, int] | None = None,
    **asked: "Unpack[Asked]",
) -> "Model":
    """Open a model once, to be called with frames as often as you like.

    Args:
        source: an artifact, its folder or its model; a ``project.yaml``, the folder that holds one, or a
            :class:`Project`; or weights: a file, a published name or an address, whose file says what its classes are.
        run: of a project, the run whose weights to take.
        runtime: what runs weights; ``auto``: onnxruntime where there is no GPU and it is installed, else PyTorch.
        device: where it runs: ``auto``, or a device of whatever runs it; the project's where not given, and for an
            artifact the one that it was verified on.
        half: run weights in fp16, in PyTorch on a GPU.
        threads: of an artifact's runtime; 0 leaves it the choice.
        trusted: run an artifact in this process wherever it lies. Else one that does not lie whole in ``build/`` of the
            working directory is a stranger's, and runs in a process of its own: some milliseconds a frame more.
        imgsz: side, or (height, width), in pixels of the frames that the network sees, where it leaves that open.
        **asked: what counts as a detection, see ``segc.model.Asked``; where not given, that of a model that suppresses
            by itself, else the project's, else ``conf`` 0.25, ``iou`` 0.7, ``max_det`` 300.

    Raises:
        SegcError: X207 where a name without folder and suffix is none of published weights, and nothing lies there;
            F001 where a path leads to no file; and what else there is to say about the model.
        TypeError: where nothing is called as what is asked for.
        ValueError: where a value is of another kind or out of its bounds, or a runtime is asked for of an artifact,
            which has its own.
    """
    from segc.inference.filters import fitting
    from segc.model import Model, named
    from segc.prediction import filters_of

    given = named(asked)  # before a model is opened for nothing
    threads = fitting("threads", threads, int, 0)
    trusted = fitting("trusted", trusted, bool)
    _check_runtime(runtime, of_weights=True)
    project = source if isinstance(source, Project) else _project_at(source)
    if project is not None:
        return project.model(run=run, runtime=runtime, device=device, half=half, imgsz=imgsz, **asked)
    if run is not None:
        raise ValueError("a run is one of a project: load a project.yaml")
    prepare_to_compute()
    session = _session(cast("PathLike", source), runtime, device, threads, half=half, trusted=trusted)
    return Model(session, filters_of(session, given, None), imgsz)


def _project_at(source: PathLike) -> Project | None:
    """The project that a file or a folder is; None where it is none."""
    path = Path(source)
    file = path / "project.yaml" if path.is_dir() else path
    return Project.load(file) if file.suffix in (".yaml", ".yml") and file.is_file() else None


def _session(
    source: PathLike, runtime: Runtime, device: str | None, threads: int, *, half: bool, trusted: bool
) -> "Session":
    from segc.sessions.artifact import find_artifact, locate, open_artifact, open_target
    from segc.sessions.choose import file_session
    from segc.weights.reading import is_weights

    path = find_artifact(Path(source), Path("build"))
    if not path.is_dir() and (is_weights(path) or not path.exists()):
        file = _weights(os.fspath(source)) or path
        return file_session(file, runtime=runtime, device=device, half=half, warn=_warn)
    _check_runtime(runtime, of_weights=False)
    refuse_half(half=half)
    if trusted:
        return open_target(*locate(path), threads, device)
    return open_artifact(path, threads, Path("build"), device)


def _check_runtime(runtime: str, *, of_weights: bool) -> None:
    """See that there is such a runtime, and that none is asked for where an artifact brings its own.

    Raises:
        ValueError: where it is not so.
    """
    from segc.model import one_of

    one_of("runtime", runtime, RUNTIMES)
    if not of_weights and runtime != "auto":
        raise ValueError("runtime is for weights: an artifact has its own")


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
