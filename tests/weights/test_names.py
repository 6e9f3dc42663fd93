"""Names of tensors with prefixes of others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.architectures import build_graph
from segc.spec.architecture import Architecture
from segc.weights.names import aligned

WANTED = tuple(build_graph(Architecture(family="yolov8-seg", scale="n"), 3, (64, 64)).parameters)
SOURCE = {name: index for index, name in enumerate(WANTED)}


def prefixed(prefix: str) -> dict[str, int]:
    return {prefix + name: value for name, value in SOURCE.items()}


@pytest.mark.parametrize(
    "prefix", ["model.", "net.model.", "_orig_mod.", "module.", "module._orig_mod.", "a.b.c.d.e.f.g.", "model.model."]
)
def test_any_common_prefix_is_left_off(prefix: str) -> None:
    tensors, notes = aligned(prefixed(prefix), WANTED)
    assert tensors == SOURCE
    assert notes == (f"prefix `{prefix}` left off every name",)


def test_own_names_stay_as_they_are() -> None:
    assert aligned(SOURCE, WANTED) == (SOURCE, ())


def test_a_prefix_that_the_names_lack_is_put_before_them() -> None:
    bare = {name.removeprefix("model."): value for name, value in SOURCE.items()}
    assert aligned(bare, WANTED) == (SOURCE, ("prefix `model.` put before every name",))


def test_what_has_no_prefix_stays_and_is_counted() -> None:
    tensors, notes = aligned({**prefixed("net."), "steps": -1}, WANTED)
    assert tensors == {**SOURCE, "steps": -1}
    assert notes == (f"prefix `net.` left off {len(SOURCE)} of {len(SOURCE) + 1} names",)


def test_a_part_of_the_network_under_a_prefix_is_found() -> None:
    backbone = {f"net.{name}": value for name, value in SOURCE.items() if name.startswith(("model.0.", "model.1."))}
    tensors, _ = aligned(backbone, WANTED)
    assert set(tensors) <= set(WANTED)


def test_of_two_copies_the_other_is_told() -> None:
    tensors, notes = aligned({**prefixed("teacher."), **prefixed("student.")}, WANTED)
    assert set(WANTED) <= set(tensors)
    assert notes[1] == "there are as many under `teacher.`, which are left"


def test_names_of_another_network_are_left_alone() -> None:
    tensors = {f"layer{index}.conv.weight": index for index in range(20)} | {"x.model.0.conv.weight": 20}
    assert aligned(tensors, WANTED) == (tensors, ())


@given(
    st.dictionaries(st.text("abm.0", max_size=12), st.integers(), max_size=30),
    st.sets(st.text("abm.0", max_size=8), max_size=30),
)
@settings(max_examples=300, deadline=None)
def test_no_value_that_fits_is_lost(tensors: dict[str, int], wanted: set[str]) -> None:
    found, notes = aligned(tensors, wanted)
    assert set(found.values()) <= set(tensors.values())
    assert len(wanted & found.keys()) >= len(wanted & tensors.keys())
    if not notes:
        assert found == tensors
