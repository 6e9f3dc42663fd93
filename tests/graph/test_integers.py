"""int8: grids hold nought and what was seen, maps are rounded where a runtime computes in integers, and only there."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segc.architectures.yolov8_seg import Scale, build
from segc.graph.passes import fixed_anchors, fold_batch_norm
from segc.graph.passes.integers import (
    Scheme,
    all_integer_weights,
    computing,
    float_weights,
    observed_tensors,
    quantise,
    silu_apart,
)
from segc.graph.passes.ranges import BINS, Observation, chosen_grid, grid, reach_of
from segc.graph.serial import check
from segc.network.initialise import initial_weights

if TYPE_CHECKING:
    from segc.graph.ir import Graph
    from segc.graph.passes.ranges import Method

INPUTS = Scheme(signed=True, throughout=False, operators=frozenset({"conv2d", "conv_transpose2d"}), weight_bits=8)
ALL = Scheme(
    signed=False,
    throughout=True,
    operators=frozenset({"conv2d", "sigmoid", "mul", "add", "concat", "split", "max_pool2d", "resize_nearest"}),
    weight_bits=7,
)


def observation(values: np.ndarray) -> Observation:
    low, high = float(values.min()), float(values.max())
    reach = reach_of(low, high)
    return Observation(low, high, reach, np.histogram(values, BINS, (-reach, reach))[0])


@pytest.fixture(scope="module")
def network() -> tuple[Graph, dict[str, np.ndarray]]:
    graph = build(Scale(0.1, 0.125, 128), 3, (64, 64))
    return fixed_anchors(*fold_batch_norm(graph, initial_weights(graph.parameters, 0)))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.28, 5.0), (-3.0, 0.5), (1.0, 2.0), (-2.0, -1.0), (0.0, 0.0)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_grid_holds_nought_and_both_ends(low: float, high: float, *, signed: bool) -> None:
    made = grid(low, high, signed=signed)
    values = np.array([0.0, low, high])
    assert made.rounded(values)[0] == 0
    assert np.abs(made.rounded(values) - values).max() <= made.scale * 0.501
    assert made.low <= made.zero <= made.high


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_a_lone_value_far_out_does_not_take_the_steps_from_all_others(method: Method) -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=400_000), [60.0]])
    seen = observation(values)
    all_of_it, chosen = (chosen_grid(seen, one, signed=True) for one in ("min-max", method))
    assert all_of_it.scale == pytest.approx(60 / 127)
    errors = [np.square(one.rounded(values[:-1]) - values[:-1]).mean() for one in (all_of_it, chosen)]
    assert errors[1] < errors[0] / 5


def test_observations_join_whatever_their_reach() -> None:
    draw = np.random.default_rng(1)
    small, large = draw.normal(size=999), draw.normal(size=777) * 50
    joined = observation(small).joined(observation(large))
    whole = observation(np.concatenate([small, large]))
    assert (joined.low, joined.high, joined.reach) == (whole.low, whole.high, whole.reach)
    assert joined.counts.sum() == 1776
    assert np.abs(np.cumsum(joined.counts) - np.cumsum(whole.counts)).max() <= 15
    again = Observation.from_array(joined.to_array())
    assert again.counts.tolist() == joined.counts.tolist()


def test_integer_weights_are_half_a_step_off_at_most(network: tuple[Graph, dict[str, np.ndarray]]) -> None:
    graph, weights = network
    integers = all_integer_weights(graph, weights)
    check(integers[0])
    again, floats = float_weights(*integers)
    assert again == graph
    for node in graph.nodes:
        if node.op in {"conv2d", "conv_transpose2d"}:
            name = node.parameters["weight"]
            assert integers[1][name].dtype == np.int8
            largest = np.abs(weights[name]).max()
            assert np.abs(floats[name] - weights[name]).max() <= 0.51 * largest / 127


@pytest.mark.parametrize("scheme", [INPUTS, ALL], ids=["inputs", "all"])
def test_a_bias_fits_32_bits_of_the_products_steps_however_small_its_weights_are(
    network: tuple[Graph, dict[str, np.ndarray]], scheme: Scheme
) -> None:
    graph, weights = silu_apart(*network) if scheme is ALL else network
    last = next(node for node in reversed(graph.nodes) if node.op == "conv2d" and node.region != "decode")
    weight, bias = last.parameters["weight"], last.parameters["bias"]
    small = {**weights, weight: weights[weight] * np.float32(1e-12), bias: np.full_like(weights[bias], -11)}
    observations = {name: observation(np.array([-1e-3, 1e-3])) for name in observed_tensors(graph)}
    made, values = quantise(graph, small, observations, scheme, "min-max")
    (node,) = (node for node in made.nodes if node.name == last.name)
    source = made.producer(node.inputs[0])
    assert source is not None
    products = values[node.parameters["scale"]].astype(np.float64) * source.attributes["scale"]
    assert (np.abs(values[bias] / products) < 2**31).all()


def test_biases_of_convolutions_that_share_a_weight_all_fit(network: tuple[Graph, dict[str, np.ndarray]]) -> None:
    graph, weights = network
    first, *others = (node for node in graph.nodes if node.op == "conv2d" and fnmatch(node.name, "model.22.cv3.?.2*"))
    weight, bias = first.parameters["weight"], others[-1].parameters["bias"]
    shared = {node.name: replace(node, parameters={**node.parameters, "weight": weight}) for node in others}
    graph = replace(graph, nodes=tuple(shared.get(node.name, node) for node in graph.nodes))
    small = {**weights, weight: weights[weight] * np.float32(1e-12), bias: np.full_like(weights[bias], -11)}
    observations = {name: observation(np.array([-1e-3, 1e-3])) for name in observed_tensors(graph)}
    made, values = quantise(graph, small, observations, INPUTS, "min-max")
    (node,) = (node for node in made.nodes if node.name == others[-1].name)
    source = made.producer(node.inputs[0])
    assert source is not None
    products = values[node.parameters["scale"]].astype(np.float64) * source.attributes["scale"]
    assert (np.abs(values[bias] / products) < 2**31).all()


@pytest.mark.parametrize("scheme", [INPUTS, ALL], ids=["inputs", "all"])
def test_no_value_of_the_decode_region_is_rounded_and_every_convolution_reads_rounded_ones(
    network: tuple[Graph, dict[str, np.ndarray]], scheme: Scheme
) -> None:
    graph, weights = silu_apart(*network) if scheme is ALL else network
    seen = observation(np.linspace(-0.3, 2, 1000))
    observations = dict.fromkeys(observed_tensors(network[0]), seen)
    made, values = quantise(graph, weights, observations, scheme)
    check(made)
    rounded = {node.outputs[0] for node in made.nodes if node.op == "fake_quantize"}
    for node in made.nodes:
        if node.op == "fake_quantize":
            assert len(made.tensors[node.outputs[0]].shape) == 4
            assert node.outputs[0] not in made.outputs
    moved = set(rounded)
    for node in made.nodes:
        if node.op in {"split", "concat", "max_pool2d", "resize_nearest"} and {*node.inputs} <= moved:
            moved.update(node.outputs)
        if node.name in {one.name for one in computing(graph, scheme)} and node.op == "conv2d":
            assert {*node.inputs} <= moved, node.name
            assert np.abs(values[node.parameters["weight"]]).max() <= (127 if scheme is INPUTS else 63)


def test_what_is_kept_in_float_reads_and_makes_floats(network: tuple[Graph, dict[str, np.ndarray]]) -> None:
    graph, weights = network
    observations = dict.fromkeys(observed_tensors(graph), observation(np.linspace(-0.3, 2, 1000)))
    made, values = quantise(graph, weights, observations, INPUTS, keep_float=("model.22.cv?.0",))
    rounded = {node.outputs[0] for node in made.nodes if node.op == "fake_quantize"}
    kept = [node for node in made.nodes if node.name.startswith("model.22.cv2.0") and node.op == "conv2d"]
    assert len(kept) == 3
    for node in kept:
        assert not {*node.inputs} & rounded
        assert values[node.parameters["weight"]].dtype == np.float32
    others = [node for node in made.nodes if node.name.startswith("model.22.cv2.1") and node.op == "conv2d"]
    assert all("scale" in node.parameters for node in others)
