"""How much objects of each class count in the loss."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from segc.data.samples import Sample
    from segc.spec.hyperparameters import ClassWeights

LEAST, MOST = 0.1, 10.0
"""Bounds of balanced weights: a class of three objects among thousands must not drown all others."""


def class_weights(
    wanted: "ClassWeights", names: Sequence[str], samples: Sequence["Sample"]
) -> NDArray[np.float32] | None:
    """The weight [nc] of every class, or None where all count alike.

    Balanced weights are those of G. King and L. Zeng, "Logistic Regression in Rare Events Data" (2001): with n objects
    of k classes that have any, one of a class with m objects weighs n / (k m), within bounds. A class without objects
    weighs 1.

    Args:
        wanted: what the spec says.
        names: the classes that the network tells apart.
        samples: the images that are trained on.
    """
    if wanted is None:
        return None
    if wanted != "balanced":
        return np.array([wanted.get(name, 1.0) for name in names], np.float32)
    found = _objects(samples)
    counts = np.array([found[index] for index in range(len(names))], np.float64)
    present = counts > 0
    mean = counts.sum() / max(1, present.sum())
    weights = np.where(present, mean / np.maximum(counts, 1), 1.0)
    return np.clip(weights, LEAST, MOST).astype(np.float32)


def _objects(samples: Sequence["Sample"]) -> Counter[int]:
    """The number of objects that are learned, by class."""
    return Counter(one.class_id for sample in samples for one in sample.instances if not one.is_crowd)


def weights_line(weights: NDArray[np.float32], names: Sequence[str], samples: Sequence["Sample"]) -> str:
    """The weights in words, the lightest and the heaviest of the classes that the samples have objects of."""
    low, *_, high = sorted(2 * sorted(_objects(samples)), key=lambda index: float(weights[index]))
    if weights[low] == weights[high]:
        return f"every class that has objects weighs {weights[low]:.3g} in the class loss"
    ends = f"from {weights[low]:.3g} ({names[low]}) to {weights[high]:.3g} ({names[high]})"
    return f"class weights {ends}, in the class loss"
