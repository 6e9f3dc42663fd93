"""The PyTorch lowering computes what the graph says, under the standard names."""

import copy

import numpy as np
import pytest
import torch

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.passes import fold_batch_norm, fused_form, training_form
from segc.network.initialise import initial_weights
from segc.network.lower import SegmentationNetwork, initialise, load_weights, lower, to_numpy


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    graph = build(SCALES["n"], 3, (64, 96))
    network = lower(graph)
    initialise(network, graph, seed=1)
    return network


def lively(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights with running statistics that are not at rest, so that folding them does something."""
    graph = build(SCALES["n"], 3, (64, 96))
    weights = initial_weights(graph.parameters, seed)
    random = np.random.default_rng(seed)
    for name, parameter in graph.parameters.items():
        if parameter.role in {"norm", "statistic"}:
            weights[name] = random.uniform(0.5, 1.5, parameter.shape).astype(np.float32)
    return weights


def test_state_dict_names_and_shapes_are_those_of_the_graph(network: SegmentationNetwork) -> None:
    graph = build(SCALES["n"], 3, (64, 96))
    assert {name: tuple(v.shape) for name, v in network.state_dict().items()} == {
        name: parameter.shape for name, parameter in graph.parameters.items()
    }
    assert set(network.inference_graph.state_dict()) == set(graph.parameters)


def test_what_the_standard_names_are(network: SegmentationNetwork) -> None:
    names = set(network.state_dict())
    assert {
        "model.0.conv.weight",
        "model.0.bn.num_batches_tracked",
        "model.2.m.0.cv1.conv.weight",
        "model.9.cv2.bn.running_var",
        "model.22.cv2.0.2.weight",
        "model.22.cv3.1.0.conv.weight",
        "model.22.cv4.2.2.bias",
        "model.22.proto.upsample.bias",
        "model.22.dfl.conv.weight",
    } <= names


def test_both_forms_are_fx_graph_modules_that_can_be_read(network: SegmentationNetwork) -> None:
    for form in (network.training_graph, network.inference_graph):
        assert isinstance(form, torch.fx.GraphModule)
        assert "model_2_m_0_add = " in form.code


def test_the_forms_share_their_parameters(network: SegmentationNetwork) -> None:
    shared = network.get_submodule("model.0.conv")
    assert network.training_graph.get_submodule("model.0.conv") is shared
    assert network.inference_graph.get_submodule("model.0.conv") is shared
    assert len(list(network.parameters())) == len(set(network.parameters()))


def test_a_copy_of_the_network_stands_on_its_own(network: SegmentationNetwork) -> None:
    images = torch.rand(1, 3, 64, 96)
    before = network.eval()(images)["scores"]
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for value in twin.parameters():
            value.zero_()
    assert torch.equal(network(images)["scores"], before)
    assert not torch.equal(twin.eval()(images)["scores"], before)


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (160, 64)])
def test_shapes_follow_the_input(network: SegmentationNetwork, size: tuple[int, int]) -> None:
    graph = build(SCALES["n"], 3, size, batch=2)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        found = {name: tuple(v.shape) for name, v in network.eval()(images).items()}
        raw = {name: tuple(v.shape) for name, v in network.raw(images).items()}
    assert found == {name: graph.tensors[name].shape for name in graph.outputs}
    assert raw == {name: graph.tensors[name].shape for name in training_form(graph).outputs}


def test_decoding_lays_expected_distances_off_from_the_cell_centres(network: SegmentationNetwork) -> None:
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        raw, decoded = network.eval().raw(images), network(images)
    logits = raw["box_logits"][0].double().numpy()
    expected = []
    anchor = 0
    for stride in (8, 16, 32):
        for y in range(64 // stride):
            for x in range(96 // stride):
                sides = np.exp(logits[anchor].reshape(4, 16))
                left, top, right, bottom = (sides / sides.sum(1, keepdims=True)) @ np.arange(16)
                corners = [x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom]
                expected.append([stride * corner for corner in corners])
                anchor += 1
    np.testing.assert_allclose(decoded["boxes"][0].numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(decoded["scores"], 1 / (1 + np.exp(-raw["class_logits"].numpy())), atol=1e-6)


def test_folding_batch_norms_leaves_the_outputs_as_they_are() -> None:
    graph, weights = build(SCALES["n"], 3, (64, 96)), lively()
    folded, fewer = fold_batch_norm(graph, weights)
    assert folded == fused_form(graph)
    assert set(fewer) == set(folded.parameters)
    assert not any(node.op == "batch_norm" for node in folded.nodes)
    before, after = lower(graph), lower(folded)
    load_weights(before, weights)
    load_weights(after, fewer)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        one, other = before.eval()(images), after.eval()(images)
    for name in graph.outputs:
        scale = one[name].abs().max()
        assert (one[name] - other[name]).abs().max() < 1e-4 * scale


def test_folding_twice_changes_nothing_more() -> None:
    graph, weights = fold_batch_norm(build(SCALES["n"], 3, (64, 96)), lively())
    again, values = fold_batch_norm(graph, weights)
    assert again == graph
    assert all(np.array_equal(values[name], weights[name]) for name in weights)


def test_the_start_of_training_depends_on_the_seed_alone() -> None:
    parameters = build(SCALES["n"], 3, (64, 96)).parameters
    one, same, other = (initial_weights(parameters, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(one[name], same[name]) for name in parameters)
    assert not np.array_equal(one["model.0.conv.weight"], other["model.0.conv.weight"])


def test_the_start_of_training_is_as_published() -> None:
    parameters = build(SCALES["n"], 80, (64, 64)).parameters
    weights = initial_weights(parameters, 0)
    assert np.all(weights["model.22.cv2.1.2.bias"] == 1)
    for level, stride in enumerate((8, 16, 32)):
        assert np.allclose(weights[f"model.22.cv3.{level}.2.bias"], np.log(5 / 80 / (640 / stride) ** 2))
    assert weights["model.22.dfl.conv.weight"].ravel().tolist() == list(range(16))
    bound = 1 / np.sqrt(3 * 3 * 3)
    first = weights["model.0.conv.weight"]
    assert 0.9 * bound < np.abs(first).max() <= bound
    assert np.all(weights["model.0.bn.running_var"] == 1)
    assert weights["model.0.bn.num_batches_tracked"].dtype == np.int64


def test_weights_go_in_and_come_out_unchanged(network: SegmentationNetwork) -> None:
    graph = build(SCALES["n"], 3, (64, 96))
    twin, weights = lower(graph), lively(3)
    load_weights(twin, weights)
    out = to_numpy(twin)
    assert all(np.array_equal(out[name], weights[name]) for name in weights)
    assert set(out) == set(network.state_dict())


def test_training_moves_every_trained_parameter() -> None:
    graph = build(SCALES["n"], 3, (64, 64))
    network = lower(graph)
    initialise(network, graph, 0)
    network.train()
    loss = sum((value.square().mean() for value in network.raw(torch.rand(2, 3, 64, 64)).values()), torch.zeros(()))
    loss.backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in network.parameters())
    assert "model.22.dfl.conv.weight" not in dict(network.named_parameters())
