"""Compile a project into its build directory: lock, graph, layer table and training plan.

The files depend on the project and its dataset listing alone, and with tiles on the sizes of the images: the same input
gives the same bytes.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segc.architectures import build_graph
from segc.files import canonical_json, digest, write_atomic
from segc.graph.cost import Cost, LayerCost, cost, layer_costs
from segc.graph.ir import Graph
from segc.graph.passes import fused_form
from segc.graph.serial import write_graph
from segc.inference.metadata import Metadata
from segc.locks import writing
from segc.plan import Launch, Plan, Setting, launch_commands, make_plan, settings
from segc.spec.hyperparameters import Hyperparameters
from segc.spec.load import LoadedProject
from segc.spec.project import Project, spec_digest
from segc.version import __version__

LOCK_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Build:
    """What a project compiles to.

    Attributes:
        graph: in inference form, batch norms unfolded, batch 1.
        plan: the training in numbers; ``None`` where the dataset's training images cannot be listed here.
        folder: the build directory.
        files: text by file name, as written there.
    """

    graph: Graph
    plan: Plan | None
    folder: Path
    files: dict[str, str]


def compile_project(loaded: LoadedProject, folder: Path) -> Build:
    """Compile a project without writing anything.

    Raises:
        SegcError: where the dataset is there but lists no training images.
    """
    from segc.weights.lineage import LOCK

    project = loaded.project
    graph = project_graph(project)
    images = _training_images(loaded)
    plan = None if images is None else make_plan(project.hyperparameters, project.dataset.nc, *images)
    launch = launch_commands(loaded.path.name, project.name)
    graph_text = write_graph(graph)
    files = {
        LOCK: _lock(loaded, folder, graph_text),
        "graph.json": graph_text,
        "plan.json": canonical_json(_plan_text(project, plan, launch)),
        "summary.txt": summary(project, graph, plan, launch),
    }
    return Build(graph, plan, folder, files)


def build(loaded: LoadedProject, folder: Path) -> Build:
    """Compile a project and write its build directory.

    Raises:
        SegcError: as :func:`compile_project`.
        OSError: where the folder cannot be written; files are whole or as they were.
    """
    compiled = compile_project(loaded, folder)
    with writing(folder, compiled.files):
        for name, text in compiled.files.items():
            write_atomic(folder / name, text)
    return compiled


def project_graph(project: Project) -> Graph:
    """The network of a project at its own size, batch 1, batch norms unfolded."""
    return build_graph(project.architecture, project.dataset.nc, project.hyperparameters.size)


def model_metadata(project: Project) -> Metadata:
    """What models of a project say about themselves, of whatever form."""
    return Metadata(
        names=project.dataset.class_names,
        imgsz=project.hyperparameters.size,
        strides=tuple(project_graph(project).metadata["strides"]),
        family=project.architecture.family,
        spec_digest=spec_digest(project),
        segc_version=__version__,
    )


def summary(project: Project, graph: Graph, plan: Plan | None, launch: Launch) -> str:
    """The layer table, the totals, the plan, and how to train on several GPUs, for people."""
    unfused, fused = cost(graph), cost(fused_form(graph))
    scale = project.architecture.scale
    size = "x".join(str(length) for length in project.hyperparameters.size)
    named = scale if isinstance(scale, str) else f"{scale.depth:g}/{scale.width:g}/{scale.max_channels}"
    heading = f"{project.name}: {project.architecture.family} {named}, {project.dataset.nc} classes, {size} (h x w)"
    parts = [
        [heading],
        _layer_table(list(layer_costs(graph))),
        _totals(unfused, fused),
        _plan_lines(project.hyperparameters, plan),
        _setting_lines(project, plan),
        _launch_lines(launch),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _lock(loaded: LoadedProject, folder: Path, graph_text: str) -> str:
    """What the project says with all defaults, its graph's digest, and the weights it starts from.

    The digest of weights that were fetched stays what the lock in the folder says it is.
    """
    from segc.weights.starting import start_record

    return canonical_json(
        {
            "format": LOCK_FORMAT,
            "segc_version": __version__,
            "spec": loaded.project.model_dump(mode="json"),
            "spec_digest": spec_digest(loaded.project),
            "graph_digest": digest(graph_text),
            "weights": start_record(loaded, folder),
        }
    )


def _plan_text(project: Project, plan: Plan | None, launch: Launch) -> dict[str, Any]:
    return {
        "launch": asdict(launch),
        "spec_digest": spec_digest(project),
        "training": None if plan is None else plan.to_json(),
        "settings": {one.key: {"value": one.value, "origin": one.origin} for one in _settings(project, plan)},
        "hyperparameters": project.hyperparameters.model_dump(mode="json"),
    }


def _training_images(loaded: LoadedProject) -> tuple[int, int | None] | None:
    """Number of training images, without reading labels; ``None`` where the dataset is not on this machine.

    Where the project has tiles: the number of crops, by the sizes that the files name, and that of images.
    """
    if not loaded.dataset_root.exists():
        return None
    from segc.data.dataset import list_images

    images, tiles = list_images(loaded, "train"), loaded.project.hyperparameters.tiles
    if tiles is None:
        return len(images), None
    from segc.data.crops import crop_count

    return crop_count(images, tiles.tiling), len(images)


def _layer_table(layers: list[LayerCost]) -> list[str]:
    rows = [("layer", "nodes", "params", "MFLOPs", "output")]
    rows += [
        (
            layer.scope,
            str(layer.nodes),
            f"{layer.parameters:,}",
            f"{layer.flops / 1e6:,.1f}",
            "x".join(str(length) for length in layer.output_shape),
        )
        for layer in layers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _totals(unfused: Cost, fused: Cost) -> list[str]:
    return [
        f"parameters   {unfused.parameters:,} ({fused.parameters:,} with batch norms folded)",
        f"GFLOPs       {fused.flops / 1e9:.2f} an image (a multiply-add counts as two)",
        f"activations  {fused.peak_activation_bytes / 1e6:.1f} MB at most at once, float32, batch 1",
    ]


def _plan_lines(hyper: Hyperparameters, plan: Plan | None) -> list[str]:
    if plan is None:
        return ["training     not planned: the dataset is not on this machine"]
    batch = f"auto, on a GPU as its memory allows, elsewhere {plan.batch}" if hyper.batch == "auto" else str(plan.batch)
    epochs, fits, average = f"{hyper.time} of epochs", ", or what fits of them into the time", []
    if plan.averaged is not None:
        epochs, fits = f"{plan.epochs} epochs", ""
        average = [f"average      of about {plan.averaged:.0f} updates at the end, of {plan.updates} in all"]
    images = f"{plan.images} images"
    if plan.cut_from is not None:
        images = f"{plan.images} crops of {plan.cut_from} images"
    return [
        f"training     {images}, {epochs} of {plan.steps_per_epoch} steps of {batch}",
        (
            f"optimizer    {plan.optimizer}, learning rate {plan.learning_rate:g} to "
            f"{plan.learning_rate * plan.final_factor:g} ({plan.schedule}), momentum {plan.momentum:g}, "
            f"weight decay {plan.weight_decay:g}, an update every {plan.accumulate} steps"
        ),
        f"warm-up      {plan.warmup_steps} steps{fits}",
        *average,
        *([f"note         {lagging}"] if (lagging := plan.lagging()) else []),
    ]


def _settings(project: Project, plan: Plan | None) -> list[Setting]:
    return settings(project.hyperparameters, project.dataset.nc, plan)


def _setting_lines(project: Project, plan: Plan | None) -> list[str]:
    found = _settings(project, plan)
    shown = [_as_yaml(one.value) for one in found]
    widths = max(len(one.key) for one in found), max(map(len, shown))
    return [
        "hyperparameters",
        *(
            f"  {one.key.ljust(widths[0])}  {value.ljust(widths[1])}  {one.origin}"
            for one, value in zip(found, shown, strict=True)
        ),
    ]


def _as_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _launch_lines(launch: Launch) -> list[str]:
    return [
        "several GPUs share a batch; in the folder of the project:",
        f"  one machine        {launch.one_machine}",
        f"  several machines   {launch.several_machines}",
    ]
