"""How much memory a training takes, and the batch that makes the most of it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch

from segc.compute import memory_limit, processors
from segc.data.batch import Batch
from segc.data.loader import room
from segc.data.workers import AHEAD
from segc.diagnostics import fail
from segc.inference.metadata import PADDING_GREY
from segc.plan import Plan, make_plan
from segc.spec.hyperparameters import AUTO_BATCH, LARGEST_BATCH, MOST_AUTO_WORKERS
from segc.training.distributed import World
from segc.training.engine import Engine, NotFiniteError
from segc.training.precision import choose_precision

if TYPE_CHECKING:
    from segc.graph.ir import Graph
    from segc.spec.hyperparameters import Hyperparameters
    from segc.spec.load import LoadedProject
    from segc.training.checkpoint import Checkpoint

MEMORY_SHARE = 0.8
"""Of the GPU's free memory, what an automatic batch may take: batches with more objects need more than the trial's."""

_TRIALS = (1, 2, 4, 8, 16, 32)
_NO_MEMORY = "can't allocate memory"
_ALLOCATION = re.compile(r"ried to allocate ([0-9.]+ \w+)")
_OBJECTS = 24
"""Objects in each image of a trial, more than photographs have on average."""

Probe = Callable[[int], int | None]
"""From a number of images to the bytes that a training step with them takes at most; None where it does not fit."""


def resolve_hyperparameters(
    loaded: "LoadedProject",
    graph: "Graph",
    device: torch.device,
    world: World,
    checkpoint: "Checkpoint | None",
) -> "Hyperparameters":
    """The hyperparameters of a project, with batch, precision and workers chosen where they are ``auto``.

    A run that goes on keeps the batch that was chosen for it.

    Raises:
        SegcError: R010 where not even one image fits into the memory.
    """
    hyper = loaded.project.hyperparameters
    hyper = hyper.model_copy(update={"precision": choose_precision(hyper.precision, device)})
    if hyper.batch == "auto":
        if checkpoint is not None:
            batch = int(checkpoint.identity["hyperparameters.batch"])
        elif device.type == "cuda":
            batch = _fitting_batch(hyper, graph, loaded.project.dataset.nc, device, world)
        else:
            batch = max(AUTO_BATCH, world.size)
        hyper = hyper.model_copy(update={"batch": batch})
    if hyper.workers == "auto" and device.type != "cpu":
        hyper = hyper.model_copy(update={"workers": choose_workers(room(hyper, world.size), world.local_size)})
    return hyper


def _fitting_batch(hyper: "Hyperparameters", graph: "Graph", nc: int, device: torch.device, world: World) -> int:
    """The largest batch of all processes whose shares fit into the memory of their GPUs.

    Raises:
        SegcError: R010 where not even one image does.
    """
    free, _ = torch.cuda.mem_get_info(device)
    each = choose_batch(step_probe(hyper, graph, nc, device), int(free * MEMORY_SHARE))
    torch.cuda.reset_peak_memory_stats(device)  # what the run reports shall be its own peak, not the trials'
    return min(world.least(each, device) * world.size, LARGEST_BATCH)


def choose_workers(batch_bytes: int, processes: int = 1) -> int:
    """How many processes make batches for a GPU.

    Each of the processes that train on this machine has its share of the processors, and keeps one for itself. The
    batches that workers make ahead take a quarter of the memory at most.

    Args:
        batch_bytes: what a process's share of a batch takes.
        processes: that train on this machine.
    """
    spare = processors() // processes - 1
    fitting = memory_limit() // 4 // processes // (AHEAD * batch_bytes)
    return max(min(spare, fitting, MOST_AUTO_WORKERS), 1)


def choose_batch(probe: Probe, budget: int, largest: int = LARGEST_BATCH) -> int:
    """The largest batch whose step stays within a budget of bytes, from 8 images on a multiple of 8.

    A few small batches are tried. Memory grows linearly with the images, so the line through the last two says where it
    meets the budget; that batch is tried too, and smaller ones until one fits.

    Raises:
        SegcError: R010 where a single image does not fit.
    """
    known: list[tuple[int, int]] = []
    for images in _TRIALS:
        taken = probe(images) if images <= largest else None
        if taken is None or taken > budget:
            break
        known.append((images, taken))
        if taken > budget / 2:
            break
    if not known:
        raise fail(
            "R010",
            f"a training step with a single image takes more than the {budget / 2**30:.1f} GiB that are free",
            help="set hyperparameters.gradient_checkpointing, lower imgsz, or choose a smaller architecture.scale",
        )
    chosen = _round(min(_extrapolated(known, budget), largest))
    most = known[-1][0]
    while chosen > most and ((taken := probe(chosen)) is None or taken > budget):
        chosen = _round(max(chosen * 9 // 10, most))
    return max(chosen, most)


def _extrapolated(known: list[tuple[int, int]], budget: int) -> int:
    if len(known) == 1:
        return known[0][0]
    (few, low), (many, high) = known[-2:]
    slope = max((high - low) / (many - few), 1.0)
    return int(many + (budget - high) / slope)


def _round(images: int) -> int:
    return images // 8 * 8 if images >= 8 else images


@contextmanager
def memory_told(hyper: "Hyperparameters", batch: int) -> Iterator[None]:
    """Say in words of the project that memory ran out.

    Args:
        hyper: what the training is told to do.
        batch: images of a step.

    Raises:
        SegcError: R014 where PyTorch says so, of a GPU or of the machine.
    """
    try:
        yield
    except RuntimeError as error:
        # Of the machine's own memory PyTorch has no error of its own.
        if not isinstance(error, torch.OutOfMemoryError) and _NO_MEMORY not in str(error):
            raise
        wanted = _ALLOCATION.search(str(error))
        what = f": it takes {wanted[1]} more" if wanted else ""
        less = "lower hyperparameters.batch or imgsz"
        cannot = hyper.compile or hyper.gradient_checkpointing
        raise fail(
            "R014",
            f"the memory ran out with batches of {batch} images at {hyper.size[0]} x {hyper.size[1]} pixels{what}",
            help=less if cannot else f"go on with --resume and gradient_checkpointing: true, or {less}",
        ) from error


def step_probe(hyper: "Hyperparameters", graph: "Graph", nc: int, device: torch.device) -> Probe:
    """Measures a training step on a GPU, with a network and an optimizer that are thrown away afterwards."""

    def probe(images: int) -> int | None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            trial_step(hyper, graph, nc, device, images)
        except torch.OutOfMemoryError:
            return None
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved(device)

    return probe


def trial_step(hyper: "Hyperparameters", graph: "Graph", nc: int, device: torch.device, images: int) -> None:
    """Two training steps with a batch full of objects; in the first one the optimizer's memory fills."""
    plan = make_plan(hyper.model_copy(update={"batch": images}), nc, images)
    # Without the other processes: what they exchange is as large as the gradients, which the share left free covers.
    eager = hyper.model_copy(update={"compile": False, "gradient_checkpointing": hyper.recomputes})
    engine = Engine(graph, eager, plan, device, hyper.precision, World())  # type: ignore[arg-type]
    engine.train_mode()
    batch = trial_batch(images, hyper, nc).to(device)
    for _ in range(2):
        with suppress(NotFiniteError):  # the first steps in fp16 find a scale
            engine.descend(batch, update=True)
            engine.update()


def trial_batch(images: int, hyper: "Hyperparameters", nc: int) -> Batch:
    """Grey images, each with many large objects."""
    height, width = (round(side * (1 + getattr(hyper, "multi_scale", 0.0)) / 32) * 32 for side in hyper.size)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((images * _OBJECTS, 2, 2), generator=generator) * torch.tensor([width, height])
    rows, columns = height // hyper.mask_ratio, width // hyper.mask_ratio
    masks = (
        torch.zeros((images, rows, columns), dtype=torch.int32)
        if hyper.overlap_mask
        else torch.zeros((images * _OBJECTS, rows, columns), dtype=torch.uint8)
    )
    return Batch(
        images=torch.full((images, 3, height, width), PADDING_GREY, dtype=torch.uint8),
        image_index=torch.arange(images).repeat_interleave(_OBJECTS),
        classes=torch.randint(nc, (images * _OBJECTS,), generator=generator),
        boxes=torch.cat([corners.amin(1), corners.amax(1)], 1),
        masks=masks,
    )


def refuse_few_values(plan: Plan, size: tuple[int, int], stride: int, world: World) -> None:
    """Refuse a batch with too few images.

    Batch norm cannot train on one value a channel, that is, on one image whose coarsest feature map has a single cell;
    and every process must have a share of a batch.

    Raises:
        SegcError: R008, R011.
    """
    if size[0] * size[1] == stride * stride and 1 in {plan.batch, plan.images % plan.batch}:
        raise fail(
            "R008",
            f"a batch of one image of {size[0]} x {size[1]} pixels leaves batch norm a single value to train on",
            help="enlarge hyperparameters.imgsz, or choose a batch that leaves no single image over",
        )
    if plan.batch < world.size:
        raise fail(
            "R011",
            f"a batch of {plan.batch} images cannot be shared out among {world.size} processes",
            help="hyperparameters.batch counts the images of all processes together",
        )
