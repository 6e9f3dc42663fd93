"""What to do about a key or a value that stands where it means nothing: ways out that follow from the place."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from segc.schema import SpecModel
from segc.spec.source import Node


class Remedy(NamedTuple):
    """A way out.

    Attributes:
        advice: in words.
        fix: what to write in place of the key or value, where that is safe to do.
    """

    advice: str | None = None
    fix: str | None = None


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

_NOT_THE_SAME_VALUE = frozenset({"classes", "model", "nc", "num_classes", "pretrained"})
"""Of those, the names whose values are written in another way here."""


def models_in(annotation: Any) -> Iterator[type[SpecModel]]:
    """The models in an annotation."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, SpecModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def choices_in(annotation: Any) -> Iterator[Any]:
    """The values that an annotation lists."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for argument in get_args(annotation):
            yield from choices_in(argument)


def near(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that was probably meant."""
    by_lower = {candidate.lower(): candidate for candidate in words}
    synonym = _SYNONYMS.get(word.lower().replace("-", "_"))
    if synonym in by_lower.values():
        return synonym
    close = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def homes(key: str) -> list[str]:
    """Dotted names of the mappings of the spec that have a key, targets left out; '' is the top."""
    from segc.spec.project import Project

    return [home for name, home in _homes(Project, ()) if name == key]


def _homes(model: type[SpecModel], above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield name, ".".join(above)
        if name != "targets":
            for inner in models_in(field.annotation):
                yield from _homes(inner, (*above, name))


def targets_with(key: str) -> list[str]:
    """Names of the targets that have an option."""
    from segc.targets import registry

    return [
        str(next(choices_in(model.model_fields["format"].annotation)))
        for model in registry.options_models()
        if key in model.model_fields and key != "format"
    ]


def reason_without(target: str, key: str) -> str | None:
    """Why a target does not have an option that others have, where it says so."""
    from segc.targets.registry import targets

    found = targets().get(target)
    return None if found is None else found.without.get(key)


def of_unknown_key(key: str, parent: Sequence[str | int], model: type[SpecModel] | None, siblings: Node) -> Remedy:
    """What to do about a key that its mapping does not have.

    Args:
        key: the key.
        parent: keys and indices down to the mapping that it stands in.
        model: what that mapping describes, if anything.
        siblings: the mapping.
    """
    keys = list(model.model_fields) if model else []
    in_target = bool(parent) and parent[0] == "targets"
    elsewhere = homes(key)
    takers = targets_with(key)
    if in_target and takers:
        here = getattr(siblings.child("format"), "text", "this target")
        reason = reason_without(here, key)
        told = f": {reason}" if reason else ""
        return Remedy(f"{here} has no `{key}`{told}; {_joined(takers)} {'has' if len(takers) == 1 else 'have'} it")
    if elsewhere:
        places = _joined([f"under `{home}`" if home else "at the top" for home in elsewhere], "or")
        return Remedy(f"`{key}` stands {places}")
    close = near(key, keys)
    if close:
        free = siblings.child(close) is None and key.lower() not in _NOT_THE_SAME_VALUE
        return Remedy(f"did you mean `{close}`?", close if free else None)
    if takers:
        return Remedy(f"`{key}` is an option of targets: of {_joined(takers)}")
    return Remedy(f"the keys here are {', '.join(keys)}" if keys else "there are no keys here")


def _joined(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


_TRUTHS = {
    "yes": "true",
    "on": "true",
    "y": "true",
    "1": "true",
    "no": "false",
    "off": "false",
    "n": "false",
    "0": "false",
}


def of_wrong_type(node: Node, wanted: str, trail: Sequence[str | int]) -> Remedy:
    """How the value would be written that was probably meant.

    Args:
        node: the value.
        wanted: what belongs there, in words.
        trail: keys and indices down to it.
    """
    value, text = node.value, node.text
    if trail and trail[0] == "targets" and (remedy := _of_targets(node, trail)):
        return remedy
    if value is None or isinstance(value, dict | list):
        return Remedy()
    if list(trail) == ["architecture"] and (letter := re.fullmatch(r"yolov8([nsmlx])(-seg)?(\.\w+)?", text)):
        scaled = f"{{family: yolov8-seg, scale: {letter[1]}}}"
        return Remedy(f"write `architecture: {scaled}`", scaled)
    if wanted == "true or false":
        return _of_truth(node)
    if wanted == "text":
        quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return Remedy(f'in quotes it is text: "{text}"', quoted)
    if wanted == "a list":
        return Remedy(f"a list of one is written [{text}]", f"[{text}]" if not node.quoted else None)
    if wanted.endswith("number"):
        return _of_number(value, text, node.quoted)
    return Remedy()


def _of_truth(node: Node) -> Remedy:
    lower = node.text.lower()
    if lower in _TRUTHS:
        return Remedy(f"YAML 1.2 writes `{_TRUTHS[lower]}`", _TRUTHS[lower])
    if lower in {"true", "false"}:
        return Remedy("remove the quotes", lower)
    return Remedy()


def _of_targets(node: Node, trail: Sequence[str | int]) -> Remedy | None:
    """What to do where targets are not written as items with a format."""
    from segc.targets import registry

    formats = [str(next(choices_in(model.model_fields["format"].annotation))) for model in registry.options_models()]
    if len(trail) == 1 and isinstance(node.value, dict):
        named = next((key for key in node.value if key in formats), None)
        written = f"- format: {named or getattr(node.child('format'), 'text', 'onnx')}"
        return Remedy(f"targets are a list, an item each: `{written}`")
    if node.value not in formats or len(trail) > 2:
        return None
    item = f"{{format: {node.value}}}"
    if len(trail) == 1:
        return Remedy(f"write `targets: [{item}]`", f"[{item}]")
    return Remedy(f"write `- format: {node.value}`", item)


def _of_number(value: Any, text: str, quoted: bool) -> Remedy:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return Remedy(f"write {int(value)}", str(int(value)))
    if not isinstance(value, str):
        return Remedy()
    for candidate in (text, text.replace("_", ""), text.replace(",", "."), text.rstrip("%")):
        try:
            number = float(candidate)
        except ValueError:
            continue
        if candidate == text and "_" not in text:
            return Remedy("remove the quotes", text) if quoted else Remedy()
        written = f"{number / 100:g}" if text.endswith("%") else candidate.replace("_", "")
        # 1,000 may be a thousand as well as one.
        return Remedy(f"write {written}", None if "," in text else written)
    return Remedy()


def option_hint(option: str) -> str | None:
    """How a key of the spec is set that somebody takes for an option of the command line."""
    key = option.lstrip("-").replace("-", "_")
    for name in (key, _SYNONYMS.get(key, key)):
        if places := homes(name):
            home = f"{places[0]}.{name}" if places[0] else name
            return f"it is a key of the project: --set {home}=VALUE"
        if takers := targets_with(name):
            return f"it is an option of the targets {_joined(takers)}: write it under `targets` in the project"
    return None
