"""What pydantic found wrong, said in the words of the spec and at its place in the text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from segc.diagnostics import Diagnostic
from segc.schema import PROBLEMS, Problem, SpecModel
from segc.spec.remedies import choices_in, models_in, near, of_unknown_key, of_wrong_type
from segc.spec.source import Node

Path = Sequence[str | int]

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_BOUNDS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))


class Spot(NamedTuple):
    """What a path leads to.

    Attributes:
        node: The value there; where there is none, the one it is missing in.
        trail: The keys and indices from the root to the value or to what is missing.
        found: Whether there is a value.
        field: The model's field it belongs to, if any.
        model: The model of a mapping; of an unknown or missing key, the model that lacks it.
        above: The mapping or list it stands in.
    """

    node: Node
    trail: tuple[str | int, ...]
    found: bool
    field: FieldInfo | None
    model: type[SpecModel] | None
    above: Node

    @property
    def name(self) -> str:
        """Dotted name, for messages."""
        return dotted(self.trail)

    @property
    def parent(self) -> str:
        """Dotted name of the mapping it stands in, or should stand in."""
        return dotted(self.trail[:-1])


def dotted(path: Path) -> str:
    """``targets[0].opset`` for the path ``("targets", 0, "opset")``."""
    return "".join(f"[{token}]" if isinstance(token, int) else f".{token}" for token in path).lstrip(".")


def diagnose(error: ValidationError, root: Node, model: type[SpecModel]) -> list[Diagnostic]:
    """Diagnostics for everything in a validation error of ``model`` on ``root``."""
    found: list[Diagnostic] = []
    spots: list[tuple[str, str, Spot]] = []
    for item in error.errors(include_url=False):
        if item["type"] == PROBLEMS:
            found += [locate(root, model, problem, item["loc"]) for problem in item["ctx"][PROBLEMS]]
        else:
            spots.append((item["type"], item["msg"], _spot(root, model, item["loc"], item["type"])))
    # A value that fits no branch of a union fails once a branch: the deepest complaint knows most, then the first.
    trails = [spot.trail for _, _, spot in spots]
    for index, (kind, message, spot) in enumerate(spots):
        deeper = any(len(other) > len(spot.trail) and other[: len(spot.trail)] == spot.trail for other in trails)
        if spot.trail not in trails[:index] and not (deeper and kind in _WANTED):
            found.append(_explain(kind, spot, message))
    return found


def locate(root: Node, model: type[SpecModel], problem: Problem, above: Path = ()) -> Diagnostic:
    """The diagnostic of a problem whose path starts at ``above``."""
    spot = _spot(root, model, (*above, *problem.path))
    place = spot.node.key if spot.node.key and (problem.at_key or not spot.found) else spot.node.place
    prefix = f"`{spot.name}`: " if spot.name and problem.code.startswith("S") else ""
    found = place.diagnostic(problem.code, prefix + problem.message, problem.help)
    return found if problem.fix is None else replace(found, fix=problem.fix)


def _model_of(annotation: Any, node: Node) -> type[SpecModel] | None:
    """The model that an annotation has for this value; of several, the one whose ``format`` it names."""
    models = list(models_in(annotation))
    if len(models) < 2:
        return models[0] if models else None
    tag = node.child("format")
    return next((m for m in models if tag and tag.value in list(choices_in(m.model_fields["format"].annotation))), None)


def _spot(root: Node, model: type[SpecModel], path: Path, kind: str = "") -> Spot:
    """Follow a pydantic location through the tree; tokens that name a branch of a union lead nowhere."""
    if kind == "invalid_key":  # a key that is no text, which pydantic names as text or, true and false, as 1 and 0
        above = _spot(root, model, path[:-1])
        key = next(key for key in above.node.value if not isinstance(key, str) and path[-1] in {key, str(key)})
        return Spot(above.node.value[key], (*above.trail, str(key)), True, None, above.model, above.node)
    node, above_it, trail = root, root, list[str | int]()
    field: FieldInfo | None = None
    inner: type[SpecModel] | None = model
    annotation: Any = model
    for token in path:
        known = inner.model_fields.get(token) if inner is not None and isinstance(token, str) else None
        child = node.child(token)
        if child is None and known is None:
            continue
        trail.append(token)
        if known is not None:
            field, annotation = known, known.annotation
        if child is None:
            return Spot(node, tuple(trail), False, field, inner, node)
        if not isinstance(child.value, list) and (known is not None or isinstance(node.value, list)):
            inner = _model_of(annotation, child)
        above_it, node = node, child
    return Spot(node, tuple(trail), True, field, inner, above_it)


def _explain(kind: str, spot: Spot, message: str) -> Diagnostic:
    for kinds, explain in _EXPLANATIONS:
        if kind in kinds:
            return explain(spot)
    if kind in _WANTED:
        return _wrong_type(spot, _WANTED[kind])
    return spot.node.place.diagnostic("S103", f"`{spot.name}`: {message}", _example(spot))


def _out_of_range(spot: Spot) -> Diagnostic:
    text = f"`{spot.name}` is {_range(spot.field)}; {spot.node.text} is not"
    return spot.node.place.diagnostic("S104", text)


def _not_finite(spot: Spot) -> Diagnostic:
    text = f"`{spot.name}` is a finite number, not {spot.node.text}"
    return spot.node.place.diagnostic("S108", text, _example(spot))


def _malformed(spot: Spot) -> Diagnostic:
    text = f"`{spot.name}` cannot be {_found(spot.node)}"
    return spot.node.place.diagnostic("S106", text, spot.field.description if spot.field else None)


def _miscounted(spot: Spot) -> Diagnostic:
    return spot.node.place.diagnostic("S107", f"`{spot.name}` has too few or too many items", _example(spot))


def _wrong_type(spot: Spot, wanted: str) -> Diagnostic:
    node = spot.node
    place = node.key if node.value is None and not node.text and node.key else node.place
    remedy = of_wrong_type(node, wanted, spot.trail)
    found = place.diagnostic("S103", f"`{spot.name}` is {wanted}, not {_found(node)}", remedy.advice or _example(spot))
    return replace(found, fix=remedy.fix)


def _found(node: Node) -> str:
    if isinstance(node.value, dict):
        return "a mapping"
    if isinstance(node.value, list):
        return "a list"
    if node.value is None:
        return "nothing"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
    kind = "text" if isinstance(node.value, str) else "true or false," if isinstance(node.value, bool) else "number"
    return f"the {kind} `{text}`" if kind != "true or false," else f"`{text}`"


def _range(field: FieldInfo | None) -> str:
    limits = [
        f"{words} {getattr(item, bound):g}"
        for bound, words in _BOUNDS
        for item in (field.metadata if field else ())
        if getattr(item, bound, None) is not None
    ]
    return " and ".join(limits) or "in another range"


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, SpecModel):
        return flow(value.model_dump())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return str(value)


def _example_value(field: FieldInfo) -> str | None:
    if field.examples:
        return flow(field.examples[0])
    choices = list(choices_in(field.annotation))
    if choices:
        return flow(choices[0])
    return None if field.is_required() or field.default is None else flow(field.default)


def _example(spot: Spot) -> str | None:
    value = _example_value(spot.field) if spot.field else None
    if value is None or not isinstance(spot.trail[-1], str):
        return None
    return f"for example `{spot.trail[-1]}: {value}`"


def _missing_key(spot: Spot) -> Diagnostic:
    # A target without its tag is found; what is missing is inside it.
    key, parent = ("format", spot.name) if spot.found else (str(spot.trail[-1]), spot.parent)
    place = spot.node.key or spot.node.place._replace(length=1)
    if key == "names":
        owner, more = (
            (f"`{parent}`", ", or take them over with `data: data.yaml`")
            if parent
            else ("the data file", ", in the order of the numbers in the labels")
        )
        way_out = f"give `names: [person, bicycle]`{more}"
        return place.diagnostic("X205", f"{owner} has no class names", way_out)
    value = _example_value(spot.field) if spot.field else None
    way_out_of_it = None if value is None or spot.found else f"for example `{key}: {value}`"
    return place.diagnostic("S101", f"key `{key}` is missing{_inside(parent)}", way_out_of_it)


def _inside(name: str) -> str:
    return f" in `{name}`" if name else ""


def _unknown_key(spot: Spot) -> Diagnostic:
    key = str(spot.trail[-1])
    place = spot.node.key or spot.node.place
    remedy = of_unknown_key(key, spot.trail[:-1], spot.model, spot.above)
    found = place.diagnostic("S102", f"unknown key `{key}`{_inside(spot.parent)}", remedy.advice)
    return replace(found, fix=remedy.fix)


def _unknown_value(spot: Spot) -> Diagnostic:
    node, name, field = spot.node, spot.name, spot.field
    tag = node.child("format")
    aliases: Mapping[str, str] = {}
    if tag is not None:
        from segc.targets.registry import targets

        aliases = {alias: target.name for target in targets().values() for alias in target.aliases}
        node, name = tag, f"{name}.format"
        models = models_in(field.annotation if field else None)
        choices = [str(c) for m in models for c in choices_in(m.model_fields["format"].annotation)]
    else:
        choices = [_written(choice) for choice in choices_in(field.annotation if field else None)]
    close = aliases.get(node.text) or near(node.text, choices)
    known = f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices)
    found = node.place.diagnostic(
        "S105", f"`{name}` is {known}, not {_found(node)}", f"did you mean `{close}`?" if close else None
    )
    return replace(found, fix=close)


def _written(choice: Any) -> str:
    """A value as YAML has it."""
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


_EXPLANATIONS: tuple[tuple[frozenset[str], Callable[[Spot], Diagnostic]], ...] = (
    (frozenset({"extra_forbidden", "invalid_key"}), _unknown_key),
    (frozenset({"missing", "union_tag_not_found"}), _missing_key),
    (frozenset({"literal_error", "union_tag_invalid"}), _unknown_value),
    (frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"}), _out_of_range),
    (frozenset({"finite_number"}), _not_finite),
    (frozenset({"string_pattern_mismatch", "string_too_short", "string_too_long"}), _malformed),
    (frozenset({"too_short", "too_long"}), _miscounted),
)
