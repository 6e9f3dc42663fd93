from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segc.architectures import build_graph
from segc.graph.ir import Graph
from segc.network.initialise import initial_weights
from segc.spec.architecture import Architecture
from segc.weights.recognise import recognise
from segc.weights.transfer import transfer

Tensors = dict[str, NDArray[Any]]
CLASS_KEYS = tuple(f"model.22.cv3.{level}.2.{kind}" for level in range(3) for kind in ("weight", "bias"))


def graph_of(nc: int, scale: str = "n") -> Graph:
    return build_graph(Architecture(family="yolov8-seg", scale=scale, weights=None), nc, (64, 64))


def weights_of(graph: Graph, seed: int = 1) -> Tensors:
    return dict(initial_weights(graph.parameters, seed))


def test_equal_networks_match_in_every_key() -> None:
    graph = graph_of(3)
    source = weights_of(graph)
    result = transfer(graph.parameters, source)
    assert result.complete
    assert set(result.matched) == set(graph.parameters)
    assert (result.reshaped, result.missing, result.filled, result.unused, result.notes) == ((), (), (), (), ())
    assert all(np.array_equal(result.tensors[name], source[name]) for name in source)


def test_another_number_of_classes_leaves_the_class_branch_and_says_so() -> None:
    # At scale n the width of the class branch itself depends on the number of classes: 64 for 3, 80 for 80.
    result = transfer(graph_of(3).parameters, weights_of(graph_of(80)), names=("a", "b", "c"))
    assert not result.complete
    assert {entry.name.split(".")[2] for entry in result.reshaped} == {"cv3"}
    assert not any(entry.taken for entry in result.reshaped)
    assert {entry.name for entry in result.reshaped} >= set(CLASS_KEYS)
    assert not result.missing
    assert not result.unused
    assert "class branch" in result.notes[0]
    assert len(result.matched) + len(result.reshaped) == len(graph_of(3).parameters)


def test_rows_that_classes_of_other_names_take_by_their_places_are_told() -> None:
    result = transfer(
        *(graph_of(3).parameters, weights_of(graph_of(3))),
        names=("cat", "fox", "owl"),
        source_names=("dog", "fox", "hen"),
    )
    assert result.complete
    assert "class rows taken by their places: cat has that of dog, owl has that of hen" in result.notes


def test_rows_of_classes_with_the_same_name_are_taken() -> None:
    there = ("person", "car", "dog", "cat")
    here = ("cat", "fox", "person")
    source = weights_of(graph_of(4))
    target = graph_of(3)
    result = transfer(target.parameters, source, names=here, source_names=there)
    assert {entry.name for entry in result.reshaped} == set(CLASS_KEYS) == set(result.rows)
    assert all(entry.taken == "rows of 2 of 3 classes, by name" for entry in result.reshaped)
    assert any("cat, person" in note for note in result.notes)
    initial = weights_of(target, seed=2)
    merged = result.apply(initial)
    assert set(merged) == set(target.parameters)
    for name in CLASS_KEYS:
        assert np.array_equal(merged[name][0], source[name][3])
        assert np.array_equal(merged[name][1], initial[name][1])
        assert np.array_equal(merged[name][2], source[name][0])
    assert np.array_equal(initial[CLASS_KEYS[0]], weights_of(target, seed=2)[CLASS_KEYS[0]])


def test_the_same_classes_in_another_order_are_put_in_order() -> None:
    source = weights_of(graph_of(3))
    result = transfer(graph_of(3).parameters, source, names=("a", "b", "c"), source_names=("c", "a", "b"))
    assert result.complete
    assert not result.rows
    assert np.array_equal(result.tensors[CLASS_KEYS[0]], source[CLASS_KEYS[0]][[1, 2, 0]])
    assert {entry.name for entry in result.reshaped} == set(CLASS_KEYS)


def test_renamed_classes_in_the_same_places_are_taken_by_place() -> None:
    result = transfer(graph_of(2).parameters, weights_of(graph_of(2)), names=("tv", "cat"), source_names=("TV", "cat"))
    assert result.complete
    assert set(CLASS_KEYS) <= set(result.matched)


def test_without_names_classes_are_taken_by_place() -> None:
    result = transfer(graph_of(2).parameters, weights_of(graph_of(2)), names=("a", "b"))
    assert set(CLASS_KEYS) <= set(result.matched)


def test_layers_inside_the_class_branch_are_never_taken_for_class_rows() -> None:
    # With 70 and 80 classes at scale n their width equals the number of classes.
    here, there = [f"c{i}" for i in range(70)], [f"c{i}" for i in range(80)]
    result = transfer(graph_of(70).parameters, weights_of(graph_of(80)), names=here, source_names=there)
    assert not result.rows
    assert not any(entry.taken for entry in result.reshaped)


def test_a_detection_only_source_gives_what_it_has() -> None:
    graph = graph_of(3)
    source = {
        name: array
        for name, array in weights_of(graph).items()
        if not name.startswith(("model.22.cv4", "model.22.proto"))
    }
    result = transfer(graph.parameters, source)
    assert set(result.matched) == set(source)
    assert all(name.startswith(("model.22.cv4", "model.22.proto")) for name in result.missing)
    assert all(name.endswith("num_batches_tracked") for name in result.filled)
    assert not result.complete
    assert f"{len(source)} of {len(graph.parameters)} parameters" in result.summary()


def test_counters_and_fixed_values_are_set_where_the_source_lacks_them() -> None:
    graph = graph_of(3)
    left_out = {name for name, parameter in graph.parameters.items() if parameter.role in {"counter", "fixed"}}
    source = {name: array for name, array in weights_of(graph).items() if name not in left_out}
    result = transfer(graph.parameters, source)
    assert result.complete
    assert set(result.filled) == left_out
    assert result.tensors["model.22.dfl.conv.weight"].shape == (1, 16, 1, 1)
    assert result.tensors["model.22.dfl.conv.weight"].ravel().tolist() == list(range(16))
    assert result.tensors["model.0.bn.num_batches_tracked"].dtype == np.int64


def test_fixed_values_that_differ_are_kept_as_the_network_has_them() -> None:
    graph = graph_of(3)
    source = {**weights_of(graph), "model.22.dfl.conv.weight": np.zeros((1, 16, 1, 1), np.float32)}
    result = transfer(graph.parameters, source)
    assert result.tensors["model.22.dfl.conv.weight"].ravel().tolist() == list(range(16))
    assert any("dfl" in note for note in result.notes)


def test_shapes_that_differ_only_in_ones_are_taken() -> None:
    graph = graph_of(3)
    source = weights_of(graph)
    name = "model.2.cv1.conv.weight"
    source[name] = source[name][:, :, 0, 0]
    result = transfer(graph.parameters, source)
    assert result.complete
    assert result.tensors[name].shape == graph.parameters[name].shape
    assert [entry.name for entry in result.reshaped] == [name]


def test_a_fused_source_is_recognised() -> None:
    graph = graph_of(3)
    source = {name: array for name, array in weights_of(graph).items() if ".bn." not in name}
    source |= {"model.0.conv.bias": np.zeros(16, np.float32)}
    assert any("fused" in note for note in transfer(graph.parameters, source).notes)


def test_values_that_are_not_numbers_are_pointed_out() -> None:
    graph = graph_of(3)
    source = weights_of(graph)
    source["model.0.conv.weight"] = np.full_like(source["model.0.conv.weight"], np.nan)
    assert "NaN" in transfer(graph.parameters, source).notes[0]


def test_keys_of_the_source_that_the_network_lacks_are_listed() -> None:
    graph = graph_of(3)
    result = transfer(graph.parameters, {**weights_of(graph), "extra.weight": np.zeros(1, np.float32)})
    assert result.unused == ("extra.weight",)
    assert result.complete


@pytest.mark.parametrize("scale", ["n", "s", "m", "l", "x"])
def test_the_scale_is_told_from_the_shapes(scale: str) -> None:
    graph = graph_of(5, scale)
    shapes = {
        name: np.broadcast_to(np.float32(0), parameter.shape)
        for name, parameter in graph.parameters.items()
        if not name.startswith("model.22.proto")
    }
    architecture, found = recognise(shapes)
    assert architecture.scale == scale
    assert found.metadata["nc"] == 5
