"""Values at the start of training."""

import hashlib
from collections.abc import Mapping
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from segc.graph.ir import Parameter


def initial_weights(parameters: Mapping[str, Parameter], seed: int) -> dict[str, NDArray[np.generic]]:
    """A value for every parameter.

    Parameters with a stated initial value get it. The others are uniform in ±1/sqrt(fan-in) (He et al., arXiv
    1502.01852, with the gain that PyTorch gives its convolutions). Each is drawn from a stream of its own, made of
    the seed and its name, so that changing one layer leaves the others' values as they are.
    """
    return {name: _value(parameter, parameters, seed) for name, parameter in parameters.items()}


def _value(parameter: Parameter, parameters: Mapping[str, Parameter], seed: int) -> NDArray[np.generic]:
    if parameter.role == "counter":
        return np.zeros(parameter.shape, np.int64)
    if isinstance(parameter.initial, tuple):
        return np.asarray(parameter.initial, np.float32).reshape(parameter.shape)
    if parameter.initial is not None:
        return np.full(parameter.shape, parameter.initial, np.float32)
    # A bias is drawn with the fan-in of the weight that stands beside it.
    weight = parameters.get(f"{parameter.name.rpartition('.')[0]}.weight", parameter)
    bound = 1 / sqrt(prod(weight.shape[1:]))
    stream = np.random.default_rng([seed, *hashlib.sha256(parameter.name.encode()).digest()])
    return stream.uniform(-bound, bound, parameter.shape).astype(np.float32)
