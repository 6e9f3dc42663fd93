"""Two convolutions that are less work as one give what they gave apart; all others stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.builder import GraphBuilder
from segc.graph.cost import cost
from segc.graph.passes import fold_batch_norm, merge_transposed
from segc.graph.serial import check
from segc.network.initialise import initial_weights
from segc.network.lower import lower

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from segc.graph.ir import Graph


def drawn(graph: Graph) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=one.shape).astype(np.float32) for name, one in graph.parameters.items()}


def results(graph: Graph, weights: Mapping[str, NDArray[np.generic]], images: int) -> list[NDArray[np.float64]]:
    network = lower(graph).eval()
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    draw = torch.Generator().manual_seed(1)
    shape = (images, *graph.tensors[graph.inputs[0]].shape[1:])
    with torch.no_grad():
        made = network.double()(torch.rand(shape, generator=draw, dtype=torch.float64))
    return [value.numpy() for value in (made.values() if isinstance(made, dict) else made)]


@pytest.mark.parametrize("second", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_transposed_and_a_plain_convolution_give_the_same_as_one(second: int, *, bias: bool) -> None:
    b = GraphBuilder("two")
    x = b.input("images", (1, 5, 6, 7))
    attributes = {"stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0), "groups": 1}
    held = {"weight": b.parameter("up.weight", (5, 16, 2, 2), "weight")}
    if bias:
        held["bias"] = b.parameter("up.bias", (16,), "bias")
    (x,) = b.node("conv_transpose2d", [x], "up", attributes=attributes, parameters=held)
    attributes = {"stride": (1, 1), "padding": (second - 2,) * 2, "dilation": (1, 1), "groups": 1}
    held = {
        "weight": b.parameter("plain.weight", (9, 16, second, second), "weight"),
        "bias": b.parameter("plain.bias", (9,), "bias"),
    }
    (y,) = b.node("conv2d", [x], "plain", attributes=attributes, parameters=held, outputs=["result"])
    graph = b.build([y], {"raw_outputs": (y,)})
    weights = drawn(graph)
    merged, held_now = merge_transposed(graph, weights)
    check(merged)
    kinds = [node.op for node in merged.nodes]
    assert kinds == (["constant", "conv2d", "conv_transpose2d", "add"] if bias else ["conv_transpose2d"])
    for ours, theirs in zip(results(merged, held_now, 2), results(graph, weights, 2), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_network_takes_a_tenth_less_arithmetic_and_gives_the_same() -> None:
    graph = build(SCALES["n"], 3, (64, 96))
    folded, weights = fold_batch_norm(graph, initial_weights(graph.parameters, 0))
    merged, held = merge_transposed(folded, weights)
    check(merged)
    assert cost(merged).flops / cost(folded).flops == pytest.approx(0.89, abs=0.02)
    for ours, theirs in zip(results(merged, held, 2), results(folded, weights, 2), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


UNTOUCHED: dict[str, Callable[[GraphBuilder, str], str]] = {
    "a stride after it": lambda b, x: b.conv2d(b.conv_transpose2d(x, 8, 2, "up", stride=2), 8, 3, "conv", stride=2),
    "kernels that overlap": lambda b, x: b.conv2d(b.conv_transpose2d(x, 8, 3, "up", stride=2), 8, 3, "conv"),
    "more work as one": lambda b, x: b.conv2d(b.conv_transpose2d(x, 1, 2, "up", stride=2), 8, 3, "conv"),
}


@pytest.mark.parametrize("make", UNTOUCHED.values(), ids=UNTOUCHED)
def test_others_stay_as_they_are(make: Callable[[GraphBuilder, str], str]) -> None:
    b = GraphBuilder("apart")
    y = make(b, b.input("images", (1, 4, 6, 6)))
    graph = b.build([y], {"raw_outputs": (y,)})
    assert merge_transposed(graph, drawn(graph))[0].nodes == graph.nodes


def test_what_is_read_twice_stays() -> None:
    b = GraphBuilder("twice")
    x = b.conv_transpose2d(b.input("images", (1, 16, 6, 6)), 16, 2, "up", stride=2)
    y = b.op("add", [x, b.conv2d(x, 16, 3, "conv")], "sum", output="result")
    graph = b.build([y], {"raw_outputs": (y,)})
    assert merge_transposed(graph, drawn(graph))[0].nodes == graph.nodes
