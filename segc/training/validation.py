"""Validation during a training: each process looks at its share of the images, the first one sums up."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from segc.compute import processors
from segc.data.samples import Sample, read_sample
from segc.diagnostics import Diagnostic, Findings, SegcError
from segc.evaluation.coco import Progress, evaluate_session
from segc.evaluation.metrics import Evaluation, Metrics
from segc.evaluation.tiled import evaluate_tiled
from segc.training.distributed import World
from segc.training.ema import NetworkSession

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject


def unlabelled(train: Sequence[Sample], val: Sequence[Sample]) -> list[str]:
    """What cannot be learned or measured, for want of labels."""
    told = {
        "train": (train, "the network learns that there is nothing to find"),
        "val": (val, "nothing can be measured, and the last epoch counts as the best"),
    }
    return [
        f"note: no image of dataset.{split} has a labelled object: {what}"
        for split, (samples, what) in told.items()
        if not any(not one.is_crowd for sample in samples for one in sample.instances)
    ]


def unreadable(samples: Sequence[Sample]) -> tuple[Diagnostic, ...]:
    """What is wrong with validation images, by kind: each of them is decoded, so that no epoch is lost to one.

    Scores over fewer images would be other scores, so that none is left out.
    """
    found = Findings()
    with ThreadPoolExecutor(processors()) as readers:  # decoding leaves Python's lock alone
        for faults in readers.map(_faults, samples):
            found.extend(faults)
    return tuple(found)


def _faults(sample: Sample) -> tuple[Diagnostic, ...]:
    try:
        read_sample(sample)
    except SegcError as error:
        return error.diagnostics
    return ()


def validate(
    session: NetworkSession,
    loaded: "LoadedProject",
    samples: Sequence[Sample],
    world: World,
    batch: int,
    progress: Progress,
) -> Metrics:
    """Metrics of a network, the same in every process; on the tiles of images where the project has tiles.

    Args:
        session: the network.
        loaded: the project.
        samples: the validation split.
        world: the processes that share it.
        batch: images a run.
        progress: called after every image.
    """
    hyper = loaded.project.hyperparameters

    def together(share: Evaluation) -> Evaluation:
        whole = Evaluation(share.names)
        for part in world.gathered(share):
            whole.extend(part)
        return whole

    share, names = samples[world.rank :: world.size], loaded.project.dataset.class_names
    if hyper.tiles is not None:
        return world.from_leader(
            evaluate_tiled(
                session, share, names, hyper.tiles.tiling, hyper, hyper.size, progress=progress, together=together
            )
        )
    metrics = evaluate_session(
        session,
        share,
        names,
        size=hyper.size,
        rect=hyper.rect,
        iou=hyper.iou,
        max_det=hyper.max_det,
        batch=batch,
        progress=progress,
        together=together,
    )
    return world.from_leader(metrics)
