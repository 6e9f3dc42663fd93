"""What pydantic found wrong, said in the words of the spec and at its place in the text."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from segc.diagnostics import Diagnostic
from segc.schema import PROBLEMS, Problem, SpecModel
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
_SYNONYMS = {
    "batch_size": "batch",
    "classes": "names",
    "class_names": "names",
    "image_size": "imgsz",
    "img_size": "imgsz",
    "input_size": "imgsz",
    "learning_rate": "lr0",
    "large": "l",
    "lr": "lr0",
    "medium": "m",
    "model": "architecture",
    "nano": "n",
    "nc": "names",
    "num_classes": "names",
    "num_epochs": "epochs",
    "num_workers": "workers",
    "pretrained": "weights",
    "root": "path",
    "small": "s",
    "type": "format",
    "validation": "val",
    "xlarge": "x",
}
"""Names of the same thing elsewhere, too far from ours for a likeness of letters."""


class Spot(NamedTuple):
    """What a path leads to.

    Attributes:
        node: The value there; where there is none, the one it is missing in.
        trail: The keys and indices from the root to the value or to what is missing.
        found: Whether there is a value.
        field: The model's field it belongs to, if any.
        model: The model of a mapping; of an unknown or missing key, the model that lacks it.
    """

    node: Node
    trail: tuple[str | int, ...]
    found: bool
    field: FieldInfo | None
    model: type[SpecModel] | None

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
    return place.diagnostic(problem.code, prefix + problem.message, problem.help)


def _models(annotation: Any) -> Iterator[type[SpecModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, SpecModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for argument in get_args(annotation):
            yield from _choices(argument)


def _model_of(annotation: Any, node: Node) -> type[SpecModel] | None:
    """The model that an annotation has for this value; of several, the one whose ``format`` it names."""
    models = list(_models(annotation))
    if len(models) < 2:
        return models[0] if models else None
    tag = node.child("format")
    return next((m for m in models if tag and tag.value in list(_choices(m.model_fields["format"].annotation))), None)


def _spot(root: Node, model: type[SpecModel], path: Path, kind: str = "") -> Spot:
    """Follow a pydantic location through the tree; tokens that name a branch of a union lead nowhere."""
    if kind == "invalid_key":  # a key that is no text, which pydantic names as text or, true and false, as 1 and 0
        above = _spot(root, model, path[:-1])
        key = next(key for key in above.node.value if not isinstance(key, str) and path[-1] in {key, str(key)})
        return Spot(above.node.value[key], (*above.trail, str(key)), True, None, above.model)
    node, trail = root, list[str | int]()
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
            return Spot(node, tuple(trail), False, field, inner)
        if not isinstance(child.value, list) and (known is not None or isinstance(node.value, list)):
            inner = _model_of(annotation, child)
        node = child
    return Spot(node, tuple(trail), True, field, inner)


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
    way_out = _conversion(node, wanted) or _example(spot)
    return place.diagnostic("S103", f"`{spot.name}` is {wanted}, not {_found(node)}", way_out)


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


_TRUTHS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def _conversion(node: Node, wanted: str) -> str | None:
    """How the value would be written that was probably meant."""
    value, text = node.value, node.text
    if value is None:
        return None
    if wanted == "true or false" and text.lower() in _TRUTHS:
        return f"YAML 1.2 writes `{_TRUTHS[text.lower()]}`"
    if wanted == "true or false" and text.lower() in {"true", "false"}:
        return "remove the quotes"
    if wanted == "text" and not isinstance(value, dict | list):
        return f'in quotes it is text: "{text}"'
    if wanted == "a list" and not isinstance(value, dict | list):
        return f"a list of one is written [{text}]"
    if wanted.endswith("number"):
        return _number_conversion(value, text, node.quoted)
    return None


def _number_conversion(value: Any, text: str, quoted: bool) -> str | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write {int(value)}"
    if not isinstance(value, str):
        return None
    for candidate in (text, text.replace("_", ""), text.replace(",", "."), text.rstrip("%")):
        try:
            number = float(candidate)
        except ValueError:
            continue
        if candidate == text and "_" not in text:
            return "remove the quotes" if quoted else None
        return f"write {number / 100:g}" if text.endswith("%") else f"write {candidate.replace('_', '')}"
    return None


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
    choices = list(_choices(field.annotation))
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
        way_out = "give `names: [person, bicycle]`, or take them over with `data: data.yaml`"
        return place.diagnostic("X205", f"`{parent}` has no class names", way_out)
    value = _example_value(spot.field) if spot.field else None
    way_out_of_it = None if value is None or spot.found else f"for example `{key}: {value}`"
    return place.diagnostic("S101", f"key `{key}` is missing{_inside(parent)}", way_out_of_it)


def _inside(name: str) -> str:
    return f" in `{name}`" if name else ""


def _unknown_key(spot: Spot) -> Diagnostic:
    key = str(spot.trail[-1])
    keys = list(spot.model.model_fields) if spot.model else []
    place = spot.node.key or spot.node.place
    return place.diagnostic("S102", f"unknown key `{key}`{_inside(spot.parent)}", _meant_key(key, keys))


def _meant_key(key: str, keys: Sequence[str]) -> str:
    close = near(key, keys)
    if close:
        return f"did you mean `{close}`?"
    from segc.spec.project import Project

    homes = dict(_homes(Project, ()))
    elsewhere = key if key in homes else None
    if elsewhere:
        return f"`{elsewhere}` stands under `{homes[elsewhere]}`" if homes[elsewhere] else f"`{key}` stands at the top"
    return f"the keys here are {', '.join(keys)}" if keys else "there are no keys here"


def _homes(model: type[SpecModel], above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every key of the spec with the dotted name of the mapping it stands in."""
    for name, field in model.model_fields.items():
        yield name, ".".join(above)
        for inner in _models(field.annotation):
            yield from _homes(inner, (*above, name))


def near(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that was probably meant."""
    by_lower = {candidate.lower(): candidate for candidate in words}
    synonym = _SYNONYMS.get(word.lower().replace("-", "_"))
    if synonym in by_lower.values():
        return synonym
    close = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def _unknown_value(spot: Spot) -> Diagnostic:
    node, name, field = spot.node, spot.name, spot.field
    tag = node.child("format")
    if tag is not None:
        node, name = tag, f"{name}.format"
        models = _models(field.annotation if field else None)
        choices = [str(c) for m in models for c in _choices(m.model_fields["format"].annotation)]
    else:
        choices = [str(choice) for choice in _choices(field.annotation if field else None)]
    close = near(node.text, choices)
    known = f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices)
    return node.place.diagnostic(
        "S105", f"`{name}` is {known}, not {_found(node)}", f"did you mean `{close}`?" if close else None
    )


_EXPLANATIONS: tuple[tuple[frozenset[str], Callable[[Spot], Diagnostic]], ...] = (
    (frozenset({"extra_forbidden", "invalid_key"}), _unknown_key),
    (frozenset({"missing", "union_tag_not_found"}), _missing_key),
    (frozenset({"literal_error", "union_tag_invalid"}), _unknown_value),
    (frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"}), _out_of_range),
    (frozenset({"finite_number"}), _not_finite),
    (frozenset({"string_pattern_mismatch", "string_too_short", "string_too_long"}), _malformed),
    (frozenset({"too_short", "too_long"}), _miscounted),
)
