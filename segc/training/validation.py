"""Validation during a training: each process looks at its share of the images, the first one sums up."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segc.build import model_metadata
from segc.data.dataset import Sample
from segc.evaluation.coco import Progress, evaluate_session
from segc.evaluation.metrics import Evaluation, Metrics
from segc.training.ema import NetworkSession

if TYPE_CHECKING:
    from segc.training.loop import Training


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


def validate(training: "Training", progress: Progress) -> Metrics:
    """Metrics of the averaged weights of a training, the same in every process.

    Args:
        training: the training.
        progress: called after every image.
    """
    project, hyper, world = training.loaded.project, training.hyper, training.world

    def together(share: Evaluation) -> Evaluation:
        whole = Evaluation(share.names)
        for part in world.gathered(share):
            whole.extend(part)
        return whole

    metrics = evaluate_session(
        NetworkSession(training.engine.average.network, model_metadata(project), training.device),
        training.val_samples[world.rank :: world.size],
        project.dataset.class_names,
        size=hyper.size,
        rect=hyper.rect,
        iou=hyper.iou,
        max_det=hyper.max_det,
        batch=max(training.plan.batch // world.size, 1),
        progress=progress,
        together=together,
    )
    return world.from_leader(metrics)
