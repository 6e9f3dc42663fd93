"""Least scores by class: a class that is hard to tell apart may ask for more than others."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from segc.inference.results import Prediction

Conf = float | Mapping[str, float]
"""One least score for all classes, or those of some by name, and of the others as ``default``."""

DEFAULT = "default"
"""Stands for all classes that have no least score of their own."""

DEFAULT_CONF = 0.25


def thresholds(conf: Conf, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """The least score [nc] of every class.

    Args:
        conf: what the project asks for, each in 0..1.
        names: the classes, in the order of the network's outputs.
    """
    return np.array(least_scores(conf, names), np.float32)


def least_scores(conf: Conf, names: Sequence[str]) -> list[float]:
    """As :func:`thresholds`, with the numbers as they are written."""
    if not isinstance(conf, Mapping):
        return [conf] * len(names)
    other = conf.get(DEFAULT, DEFAULT_CONF)
    return [conf.get(name, other) for name in names]


def above(prediction: Prediction, by_class: Conf | None) -> Prediction:
    """The detections of a prediction whose score is above the least one of their class; all where there is none.

    Suppression with the smallest of these goes before: of two boxes of one class the better one stays, so what is left
    out here has suppressed nothing that would be above.
    """
    return prediction if by_class is None else prediction.select(are_above(prediction, by_class))


def are_above(prediction: Prediction, by_class: Conf) -> npt.NDArray[np.bool_]:
    """Which detections [n] of a prediction have a score above the least one of their class."""
    return prediction.scores > thresholds(by_class, prediction.names)[prediction.classes]
