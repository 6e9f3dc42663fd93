"""``docs/api.md``: every public name of segc, from its docstring and its signature."""

import inspect
import re
import textwrap
from collections.abc import Iterator

import segc
from segc.model import Asked

HEAD = """\
# The Python API

    import segc

Everything here is what `segc.__all__` names, generated from the docstrings by `python tests/conformance/pages.py`.
Arrays are numpy's. Pixels are counted from the top left corner, x to the right and y down; pictures are
[height, width, 3] uint8 in BGR order, as OpenCV has them. What a command shows as a diagnostic is raised as
`segc.SegcError`, with its code.
"""

_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes):$")
_ENTRY = re.compile(r"(\*{0,2}[\w., ]+): (.*)", re.DOTALL)


def api_page() -> str:
    """All public names, as Markdown."""
    parts = [HEAD]
    for name in ("load", "Model", "Prediction", "Project", "SegcError"):
        parts += _described(f"segc.{name}", getattr(segc, name), 2)
    parts += _described("segc.model.Asked", Asked, 2)
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _described(name: str, thing: object, level: int) -> Iterator[str]:
    """A name's heading and text, and those of what a class has."""
    kind = "class " if inspect.isclass(thing) else ""
    yield f"{'#' * level} {kind}`{name}`"
    if not (inspect.isclass(thing) or isinstance(thing, property)):
        yield textwrap.indent(_signature(name.rpartition(".")[2], thing), "    ")
    yield from _markdown(inspect.getdoc(thing) or "")
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if _is_public(member, value):
                plain = value.__func__ if isinstance(value, classmethod) else value
                yield from _described(_member_name(name, member, value), plain, level + 1)


def _member_name(owner: str, member: str, value: object) -> str:
    short = owner.rpartition(".")[2]
    if member == "__call__":
        return f"{short.lower()}(…)"
    if isinstance(value, classmethod):
        return f"{short}.{member}"
    return f"{short.lower()}.{member}" if member != "__getitem__" else f"{short.lower()}[…]"


def _is_public(name: str, value: object) -> bool:
    shown = callable(value) or isinstance(value, property | classmethod)
    return shown and (not name.startswith("_") or name in {"__call__", "__getitem__"}) and bool(inspect.getdoc(value))


def _signature(name: str, thing: object) -> str:
    """One line, or a line a parameter where that is long; without ``self``."""
    found = inspect.signature(thing)  # type: ignore[arg-type]
    kept = [p for p in found.parameters.values() if p.name not in {"self", "cls"}]
    shown = [_parameter(parameter) for parameter in kept]
    first = next((place for place, p in enumerate(kept) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None and not any(p.kind is p.VAR_POSITIONAL for p in kept):
        shown.insert(first, "*")
    name = re.sub(r"\W.*", "", name) or "model"
    returns = found.return_annotation
    ending = "" if returns is found.empty else f" -> {_annotation(returns)}"
    line = f"{name}({', '.join(shown)}){ending}"
    return line if len(line) <= 110 else "\n".join([f"{name}(", *(f"    {one}," for one in shown), f"){ending}"])


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}: {_annotation(parameter.annotation)}{default}"


def _annotation(value: object) -> str:
    """As it is written in the source, whether that is evaluated or not."""
    return re.sub(
        r"\bsegc\.[\w.]+\.|\bpathlib\.",
        "",
        value.strip("'\"") if isinstance(value, str) else inspect.formatannotation(value),
    )


def _markdown(text: str) -> Iterator[str]:
    """A docstring's paragraphs; its sections as lists."""
    for block in re.split(r"\n\n+", text):
        head, _, rest = block.partition("\n")
        if not _SECTION.match(head):
            yield _roles(block)
            continue
        yield f"**{head[:-1]}**"
        entries = _entries(textwrap.dedent(rest))
        yield "\n".join(entries)


def _entries(text: str) -> list[str]:
    """What a section lists, a line an entry; text without entries as it is."""
    joined: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and joined:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    found = [_ENTRY.fullmatch(line) for line in joined]
    if not all(found):
        return [_roles(" ".join(joined))]
    return [f"- `{match[1]}`: {_roles(match[2])}" for match in found if match]


def _roles(text: str) -> str:
    """Markdown of what docstrings mark."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")
