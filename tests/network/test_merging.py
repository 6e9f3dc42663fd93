"""What training runs as one call computes what its nodes compute one by one, gradients included."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import segc.network.lower
from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.builder import GraphBuilder
from segc.graph.ir import Graph
from segc.network.lower import SegmentationNetwork, initialise, lower
from segc.network.merging import Merged, batch_norm_silu, merged, pointwise_of_enlarged, transposed_then_plain

LAYOUTS = [torch.contiguous_format, torch.channels_last]
sides = st.integers(1, 6)
channels = st.integers(1, 5)


def gradients(result: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Of a sum of the values, each with a factor of its own."""
    factors = torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view(result.shape)
    return torch.autograd.grad((result * factors).sum(), of)


def agree(one: tuple[Tensor, ...], other: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def norms(count: int, *, training: bool = True) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """Two of the same random state."""
    one, other = (nn.BatchNorm2d(count, eps=1e-3, momentum=0.03).train(training) for _ in range(2))
    for value in (*one.parameters(), one.running_mean, one.running_var):
        assert value is not None
        nn.init.uniform_(value, 0.5, 1.5)
    other.load_state_dict(one.state_dict())
    return one, other


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_silu_together_are_both_in_turn(layout: torch.memory_format, training: bool) -> None:
    torch.manual_seed(0)
    one, other = norms(5, training=training)
    x = torch.randn(3, 5, 6, 4).contiguous(memory_format=layout).requires_grad_()
    together, apart = batch_norm_silu(x, one), F.silu(other(x))
    torch.testing.assert_close(together, apart)
    agree(
        gradients(together, x, one.weight, one.bias),
        gradients(apart, x, other.weight, other.bias),
        1e-5,
    )
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_batch_norm_and_silu_take_the_gradient_of_a_slice() -> None:
    torch.manual_seed(1)
    one, other = norms(4)
    x = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    joined = [torch.cat([y, y.square()], 1) for y in (batch_norm_silu(x, one), F.silu(other(x)))]
    agree(gradients(joined[0], x), gradients(joined[1], x), 1e-5)


def test_batch_norm_and_silu_keep_the_input_alone() -> None:
    kept: list[int] = []

    def pack(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    one, other = norms(2)
    x = torch.randn(2, 2, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        batch_norm_silu(x, one)
        together = sum(kept)
        F.silu(other(x))
    assert kept.count(x.numel()) == 3
    assert together < 1.2 * x.numel()


def test_batch_norm_and_silu_survive_values_that_are_all_the_same() -> None:
    one, other = norms(2)
    x = torch.full((2, 2, 3, 3), 7.0, requires_grad=True)
    agree(gradients(batch_norm_silu(x, one), x), gradients(F.silu(other(x)), x), 1e-4)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(0, 3), channels, sides, sides),
    between=channels,
    out=channels,
    kernel=st.integers(1, 3),
    second=st.integers(1, 4),
    data=st.data(),
)
def test_a_transposed_and_a_plain_convolution_are_one_transposed_convolution(
    size: tuple[int, int, int, int], between: int, out: int, kernel: int, second: int, data: Any
) -> None:
    padding = data.draw(st.integers(0, second - 1))
    if min(side * kernel + 2 * padding for side in size[2:]) < second:
        return
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    bias = data.draw(st.booleans())
    first = nn.ConvTranspose2d(size[1], between, kernel, kernel, bias=bias).double()
    plain = nn.Conv2d(between, out, second, padding=padding, bias=False).double()
    left = (second - 1 - padding,) * 2
    together, apart = transposed_then_plain(x, first, plain, padding=left), plain(first(x))
    torch.testing.assert_close(together, apart)
    of = (x, *first.parameters(), *plain.parameters())
    agree(gradients(together, *of), gradients(apart, *of), 1e-9)


@settings(deadline=None, max_examples=40)
@given(
    images=st.integers(0, 3), small=channels, other=channels, out=channels, size=st.tuples(sides, sides), scale=sides
)
def test_enlarging_after_a_pointwise_convolution_is_enlarging_before_it(
    images: int, small: int, other: int, out: int, size: tuple[int, int], scale: int
) -> None:
    a = torch.randn(images, small, *size, dtype=torch.float64, requires_grad=True)
    b = torch.randn(images, other, size[0] * scale, size[1] * 2, dtype=torch.float64, requires_grad=True)
    convolution = nn.Conv2d(small + other, out, 1, bias=False).double()
    together = pointwise_of_enlarged(a, b, convolution, scale=(scale, 2))
    apart = convolution(torch.cat([F.interpolate(a, scale_factor=(float(scale), 2.0)), b], 1))
    torch.testing.assert_close(together, apart)
    of = (a, b, convolution.weight)
    agree(gradients(together, *of), gradients(apart, *of), 1e-9)


def node_by_node(_: Graph) -> Iterator[Merged]:
    return iter(())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_network_gives_and_learns_the_same_with_its_nodes_merged(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format
) -> None:
    graph = build(SCALES["n"], 3, (64, 96))
    one = lower(graph)
    # Made when first asked for: before it is merged otherwise.
    assert "batch_norm_silu" in one.training_graph.code
    monkeypatch.setattr(segc.network.lower, "merged", node_by_node)
    other = lower(graph)
    assert "batch_norm_silu" not in other.training_graph.code
    initialise(one, graph, 0)
    initialise(other, graph, 0)
    images = torch.rand(2, 3, 64, 96)
    found: list[dict[str, Tensor]] = []
    for network in (one, other):
        network.to(memory_format=layout).train()  # type: ignore[call-overload]
        outputs = network.raw(images)
        loss = sum((value.square().mean() for value in outputs.values()), torch.zeros(()))
        loss.backward()
        learned = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
        found.append({**outputs, **learned, **network.state_dict(prefix="state of ")})
    assert found[0].keys() == found[1].keys()
    for name, value in found[1].items():
        scale = max(float(value.detach().float().abs().max()), 1e-3)
        assert (found[0][name] - value).abs().max() <= 2e-5 * scale, name


def test_what_is_merged_in_the_network() -> None:
    from segc.graph.passes import training_form

    graph = training_form(build(SCALES["n"], 80, (64, 64)))
    found = list(merged(graph))
    norms = sum(node.op == "batch_norm" for node in graph.nodes)
    assert Counter(one.function for one in found) == {
        batch_norm_silu: norms,
        transposed_then_plain: 1,
        pointwise_of_enlarged: 2,
    }
    assert max(Counter(node.name for one in found for node in one.nodes).values()) == 1


def test_inference_runs_node_by_node() -> None:
    network = lower(build(SCALES["n"], 3, (64, 64)))
    assert "merging" in network.training_graph.code
    assert "merging" not in network.inference_graph.code


Builds = Callable[[GraphBuilder, str], str]


def enlarged_and_other(b: GraphBuilder, x: str) -> str:
    small = b.conv2d(x, 4, 3, "small", stride=2, bias=False)
    return b.op("concat", [b.op("resize_nearest", [small], "up", scale=(2, 2)), x], "join", axis=1)


def transposed(b: GraphBuilder, x: str, channels: int = 8, kernel: int = 2) -> str:
    return b.conv_transpose2d(x, channels, kernel, "up", stride=2)


NOT_MERGED: dict[str, Builds] = {
    "a pointwise convolution of what is not enlarged": lambda b, x: b.conv2d(
        b.op("concat", [b.op("sigmoid", [x], "gate"), x], "join", axis=1), 4, 1, "conv", bias=False
    ),
    "a larger kernel on what is enlarged": lambda b, x: b.conv2d(enlarged_and_other(b, x), 4, 3, "conv", bias=False),
    "a stride on what is enlarged": lambda b, x: b.conv2d(enlarged_and_other(b, x), 4, 1, "conv", stride=2, bias=False),
    "a bias on what is enlarged": lambda b, x: b.conv2d(enlarged_and_other(b, x), 4, 1, "conv", bias=True),
    "a stride after a transposed convolution": lambda b, x: b.conv2d(
        transposed(b, x), 8, 3, "conv", stride=2, bias=False
    ),
    "a bias after a transposed convolution": lambda b, x: b.conv2d(transposed(b, x), 8, 3, "conv", bias=True),
    "a transposed convolution that overlaps itself": lambda b, x: b.conv2d(
        transposed(b, x, kernel=3), 8, 3, "conv", bias=False
    ),
    "two that would be more work as one": lambda b, x: b.conv2d(transposed(b, x, 1), 8, 3, "conv", bias=False),
}


@pytest.mark.parametrize("name", NOT_MERGED)
def test_other_sequences_stay_as_they_are(name: str) -> None:
    b = GraphBuilder("other")
    graph = b.build([NOT_MERGED[name](b, b.input("x", (1, 8, 8, 8)))], {})
    assert list(merged(graph)) == []


def test_a_result_that_others_read_too_is_made() -> None:
    b = GraphBuilder("shared")
    x = b.input("x", (1, 8, 8, 8))
    normal = b.batch_norm(b.conv2d(x, 8, 1, "conv", bias=False), "bn", epsilon=1e-3, momentum=0.03)
    graph = b.build([b.op("silu", [normal], "act"), b.op("sigmoid", [normal], "gate")], {})
    assert list(merged(graph)) == []


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    one, _ = norms(3, training=False)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    batch_norm_silu(torch.randn(2, 3, 4, 4, requires_grad=True), one).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_the_network_is_still_one_module(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(SCALES["n"], 3, (64, 64))
    with_merged = set(lower(graph).training_graph.state_dict())
    monkeypatch.setattr(segc.network.lower, "merged", node_by_node)
    network: SegmentationNetwork = lower(graph)
    assert set(network.training_graph.state_dict()) == with_merged
