"""Weights from one network to another, by name and shape, with an account of every key.

A tensor is taken where name and shape agree. Where only the shape is written differently ([64, 32] for
[64, 32, 1, 1]) it is taken in the shape wanted. The last convolutions of the class branch have one row a class:
where both sides say what their classes are called, the rows of classes with the same name are taken. Nothing else is
cut or stretched to fit.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.graph.ir import Parameter
from segc.weights.names import aligned

_CLASS_ROWS = re.compile(r"model\.\d+\.cv3\.\d+\.2\.(weight|bias)")
"""Parameters with one row a class, by their standard names."""


@dataclass(frozen=True, slots=True)
class Reshaped:
    """A key that both sides have in different forms.

    Attributes:
        name: the key.
        shape: its shape in the source.
        wanted: its shape in the network.
        taken: what was taken of it, in words; empty where it was left.
        by_rows: whether single rows were taken, or all in another order.
    """

    name: str
    shape: tuple[int, ...]
    wanted: tuple[int, ...]
    taken: str = ""
    by_rows: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a parameter that stand in the source: ``values[i]`` is row ``indices[i]`` of the network's parameter."""

    values: NDArray[np.generic]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Transfer:
    """What was taken from a source, and what became of every key.

    Attributes:
        tensors: whole parameters, float32 (counters int64), in the network's shapes.
        rows: parameters of which some rows were taken.
        matched: keys taken as they are.
        reshaped: keys that both sides have in different forms, taken or not.
        missing: the network's keys that the source lacks.
        filled: counters and fixed values that the source lacks, set here as the network defines them.
        unused: the source's keys that the network lacks.
        notes: what to know about it, one sentence each.
        source: what it was taken from.
        source_names: the source's class names by index, where it has them.
        parts: of each part of the network its name, how many of its tensors were taken, wholly or by rows, and how many
            it has.
    """

    tensors: dict[str, NDArray[np.generic]]
    rows: dict[str, Rows]
    matched: tuple[str, ...]
    reshaped: tuple[Reshaped, ...]
    missing: tuple[str, ...]
    filled: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()
    source: str = ""
    source_names: tuple[str, ...] | None = None
    parts: tuple[tuple[str, int, int], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every parameter of the network has a value."""
        return not self.missing and all(entry.name in self.tensors for entry in self.reshaped)

    def apply(self, initial: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """A value for every parameter: what was taken, over initial values.

        Args:
            initial: a value for every parameter of the network, as ``initial_weights`` or ``to_numpy`` give them.
        """
        merged = {**initial, **self.tensors}
        for name, rows in self.rows.items():
            merged[name] = np.array(initial[name])
            merged[name][list(rows.indices)] = rows.values
        return merged

    def summary(self) -> str:
        """What was taken, in a line, and a line for each note."""
        total = len(self.matched) + len(self.reshaped) + len(self.missing) + len(self.filled)
        left = [
            f"{count} {what}"
            for count, what in (
                (len(self.filled), "set as the network defines them"),
                (len(self.reshaped), "of another shape or order"),
                (len(self.missing), "missing"),
                (len(self.unused), "unused"),
            )
            if count
        ]
        origin = f" from {self.source}" if self.source else ""
        first = f"{len(self.matched)} of {total} parameters taken{origin}" + "".join(f", {part}" for part in left)
        parts = self.taken_of_parts()
        return "\n".join((first, *([f"tensors taken: {parts}"] if parts else []), *self.notes))

    def taken_of_parts(self) -> str:
        """How many tensors of each part were taken, such as ``backbone 156 of 156``."""
        return ", ".join(f"{part} {taken} of {total}" for part, taken, total in self.parts)

    def to_json(self) -> dict[str, Any]:
        """The account as JSON values: counts, and every key."""
        keys: dict[str, list[Any]] = {
            "matched": list(self.matched),
            "reshaped": [
                {"name": r.name, "shape": list(r.shape), "wanted": list(r.wanted), "taken": r.taken}
                for r in self.reshaped
            ],
            "missing": list(self.missing),
            "filled": list(self.filled),
            "unused": list(self.unused),
        }
        parts = {part: {"taken": taken, "of": total} for part, taken, total in self.parts}
        counts = {kind: len(names) for kind, names in keys.items()}
        return {"counts": counts, "parts": parts, **keys, "notes": list(self.notes)}


def transfer(
    parameters: Mapping[str, Parameter],
    source: Mapping[str, NDArray[np.generic]],
    *,
    names: Sequence[str] | None = None,
    source_names: Sequence[str] | None = None,
    origin: str = "",
    parts: Mapping[str, tuple[str, ...]] | None = None,
) -> Transfer:
    """Take what fits a network from a source, whose names may have a prefix of their own.

    Args:
        parameters: the network's, as in ``Graph.parameters``.
        source: arrays by state-dict name.
        names: the network's class names by index; without them, or without ``source_names``, class rows are taken
            all or none, by their places.
        source_names: the source's class names by index.
        origin: what to call the source in the report.
        parts: prefixes of the parameters of each part of the network, to count by.
    """
    source, renamed = aligned(source, parameters)
    row_keys = _keys_with_class_rows(parameters, source, len(names or ()), len(source_names or ()))
    fit = _Fit(_class_pairs(names, source_names), row_keys)
    for name, parameter in parameters.items():
        if name in source:
            fit.take(parameter, source[name])
        else:
            fit.do_without(parameter)
    unused = tuple(name for name in source if name not in parameters)
    return Transfer(
        tensors=fit.tensors,
        rows=fit.rows,
        matched=tuple(fit.matched),
        reshaped=tuple(fit.reshaped),
        missing=tuple(fit.missing),
        filled=tuple(fit.filled),
        unused=unused,
        notes=(*renamed, *fit.notes, *_remarks(fit, unused, names, source_names)),
        source=origin,
        source_names=None if source_names is None else tuple(source_names),
        parts=_counts(fit, parameters, parts or {}),
    )


def _counts(
    fit: "_Fit", parameters: Mapping[str, Parameter], parts: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[str, int, int], ...]:
    taken = (fit.tensors.keys() | fit.rows.keys()) - set(fit.filled)
    names = ((part, [name for name in parameters if name.startswith(prefixes)]) for part, prefixes in parts.items())
    return tuple((part, len(taken.intersection(found)), len(found)) for part, found in names)


class _Fit:
    """The network's parameters, one after another, sorted by what becomes of them."""

    def __init__(self, pairs: tuple[tuple[int, int], ...] | None, row_keys: frozenset[str]) -> None:
        self.pairs, self.row_keys = pairs, row_keys
        self.tensors: dict[str, NDArray[np.generic]] = {}
        self.rows: dict[str, Rows] = {}
        self.matched: list[str] = []
        self.missing: list[str] = []
        self.filled: list[str] = []
        self.reshaped: list[Reshaped] = []
        self.notes: list[str] = []

    def do_without(self, parameter: Parameter) -> None:
        """A parameter that the source lacks."""
        value = _own_value(parameter)
        if value is None:
            self.missing.append(parameter.name)
        else:
            self.tensors[parameter.name] = value
            self.filled.append(parameter.name)

    def take(self, parameter: Parameter, array: NDArray[np.generic]) -> None:
        """A parameter that the source has, in whatever form."""
        name = parameter.name
        array = array.astype(np.int64 if parameter.role == "counter" else np.float32, copy=False)
        if array.shape == parameter.shape and not self._out_of_place(parameter):
            self.tensors[name] = array
            self.matched.append(name)
        elif self.pairs and name in self.row_keys:
            self._take_rows(parameter, array, self.pairs)
        elif _squeezed(array.shape) == _squeezed(parameter.shape):
            self.tensors[name] = array.reshape(parameter.shape)
            self.reshaped.append(Reshaped(name, array.shape, parameter.shape, "whole, in the shape wanted"))
        else:
            self.reshaped.append(Reshaped(name, array.shape, parameter.shape))
        if parameter.role == "fixed" and name in self.tensors:
            self._check_fixed(parameter)

    def _out_of_place(self, parameter: Parameter) -> bool:
        """Whether taking the rows as they stand would give a class the row of another one."""
        moved = self.pairs is not None and any(here != there for here, there in self.pairs)
        return moved and _CLASS_ROWS.fullmatch(parameter.name) is not None

    def _take_rows(self, parameter: Parameter, array: NDArray[np.generic], pairs: tuple[tuple[int, int], ...]) -> None:
        here, there = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        nc = parameter.shape[0]
        taken = f"rows of {len(pairs)} of {nc} classes, by name"
        self.reshaped.append(Reshaped(parameter.name, array.shape, parameter.shape, taken, by_rows=True))
        if len(pairs) == nc:  # the pairs are in the order of the network's classes
            self.tensors[parameter.name] = np.ascontiguousarray(array[there])
        else:
            self.rows[parameter.name] = Rows(np.ascontiguousarray(array[there]), tuple(here))

    def _check_fixed(self, parameter: Parameter) -> None:
        name, value = parameter.name, _own_value(parameter)
        if value is not None and not np.array_equal(value, self.tensors[name]):
            self.tensors[name] = value
            self.notes.append(f"{name} is fixed in this network and differs in the source: the network's is kept")


def _class_pairs(names: Sequence[str] | None, source_names: Sequence[str] | None) -> tuple[tuple[int, int], ...] | None:
    """(index in the network, index in the source) of classes that both name; None where either side has no names."""
    if names is None or source_names is None:
        return None
    place = {name: index for index, name in reversed(list(enumerate(source_names)))}
    return tuple((index, place[name]) for index, name in enumerate(names) if name in place)


def _keys_with_class_rows(
    parameters: Mapping[str, Parameter], source: Mapping[str, NDArray[np.generic]], nc: int, source_nc: int
) -> frozenset[str]:
    """Keys that have a row a class on both sides.

    A bias goes only with its weight: it means nothing to a row that reads other features.
    """

    def fits(name: str) -> bool:
        array, shape = source.get(name), parameters[name].shape
        return array is not None and shape[0] == nc and array.shape == (source_nc, *shape[1:])

    keys = [name for name in parameters if _CLASS_ROWS.fullmatch(name)]
    return frozenset(name for name in keys if fits(name) and fits(re.sub(r"\.bias$", ".weight", name)))


def _own_value(parameter: Parameter) -> NDArray[np.generic] | None:
    """What a counter or a fixed parameter is where no source says: zero, and as the architecture states."""
    if parameter.role == "counter":
        return np.zeros(parameter.shape, np.int64)
    if parameter.role == "fixed" and isinstance(parameter.initial, tuple):
        return np.asarray(parameter.initial, np.float32).reshape(parameter.shape)
    if parameter.role == "fixed" and parameter.initial is not None:
        return np.full(parameter.shape, parameter.initial, np.float32)
    return None


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _remarks(
    fit: _Fit, unused: Sequence[str], names: Sequence[str] | None, source_names: Sequence[str] | None
) -> list[str]:
    found = []
    if names and source_names and any(_CLASS_ROWS.fullmatch(name) for name in fit.matched):
        others = [
            f"{here} has that of {there}" for here, there in zip(names, source_names, strict=False) if here != there
        ]
        shown = ", ".join(others[:3]) + (f", and {len(others) - 3} more" if len(others) > 3 else "")
        found += [f"class rows taken by their places: {shown}"] if others else []
    if fit.pairs and names and any(entry.by_rows for entry in fit.reshaped):
        shown = ", ".join(names[here] for here, _ in fit.pairs[:8]) + (", …" if len(fit.pairs) > 8 else "")
        found.append(f"class rows taken by name for {len(fit.pairs)} of {len(names)} classes: {shown}")
    left = [entry for entry in fit.reshaped if not entry.taken and _CLASS_ROWS.fullmatch(entry.name)]
    if left:
        found.append(
            f"the class branch's last layers start afresh: {left[0].name} is {list(left[0].shape)} in the source, "
            f"{list(left[0].wanted)} here"
        )
    if any(_folded_bias(name) in unused for name in fit.missing):
        found.append("the source is fused (batch norms folded into convolutions): take the checkpoint it came from")
    if broken := not_finite(fit.tensors):
        found.append(f"{len(broken)} tensors hold NaN or infinity, the first is {broken[0]}")
    return found


def _folded_bias(name: str) -> str:
    """The key that a fused source has in place of a batch norm's."""
    return re.sub(r"\.bn\.weight$", ".conv.bias", name)


def class_count(tensors: Mapping[str, NDArray[np.generic]]) -> int | None:
    """Number of classes of a state dict, from the class branch; None where it has none."""
    found = (array.shape[0] for name, array in tensors.items() if _CLASS_ROWS.fullmatch(name) and array.ndim)
    return next(found, None) or None


def not_finite(tensors: Mapping[str, NDArray[np.generic]]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, array in tensors.items() if not np.isfinite(array).all()]
