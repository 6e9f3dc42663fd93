"""Paths in a spec: what stands for a home folder or a variable, what exports write, and the way out of a wrong one."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)
_MOST_NAMES = 6


class ReadPath(NamedTuple):
    """What a path in a spec means here.

    Attributes:
        path: absolute where the folder is.
        note: how it was read, where not as it is written.
    """

    path: Path
    note: str | None = None


def expand(text: str) -> str:
    """A path with ``~`` and ``${VAR}`` or ``$VAR`` replaced; a variable that is not set stays as it is."""
    replaced = _VARIABLE.sub(lambda match: os.environ.get(match[1] or match[2], match[0]), text)
    if "\0" in replaced:
        return replaced  # no path of any system
    return os.path.expanduser(replaced)  # noqa: PTH111 - Path.expanduser raises where there is no home


def unset_variables(text: str) -> tuple[str, ...]:
    """Names of the variables in a path that the environment does not have."""
    names = (match[1] or match[2] for match in _VARIABLE.finditer(text))
    return tuple(dict.fromkeys(name for name in names if name not in os.environ))


def read_path(folder: Path, text: str) -> ReadPath:
    """The path that a text means, from a folder on.

    What is there under the very name counts. Else blanks around the name are taken off, backslashes are taken for the
    slashes they are elsewhere, and a leading ``../`` that leads past the dataset, as some exports write it, is left
    out. Where nothing of that is there, the path is as it is written.
    """
    written = expand(text)
    for variant, note in _variants(written):
        # os.path answers for impossible names too, where pathlib raises.
        if os.path.exists(folder / variant):  # noqa: PTH110
            return ReadPath(folder / variant, None if variant == written else f"{note}: read as `{variant}`")
    return ReadPath(folder / written)


def _variants(text: str) -> Iterator[tuple[str, str]]:
    yield text, ""
    bare = text.strip()
    yield bare, "there are blanks around it"
    slashed = bare.replace("\\", "/") if os.sep == "/" else bare
    yield slashed, "it is written with backslashes"
    inner = slashed
    while inner.startswith("../"):
        inner = inner.removeprefix("../")
        yield inner, "it starts a folder too high"


def missing_path_help(path: Path) -> str:
    """The way out where a path is not there: a name that is close, or the nearest folder that is there."""
    text = str(path)
    if re.match(r"([A-Za-z]:[\\/]|\\\\)", text) or re.search(r"/[A-Za-z]:[\\/]", text):
        return "this is a path of Windows: write where it is on this machine"
    above = path
    while not os.path.isdir(above) and above != above.parent:  # noqa: PTH112
        above = above.parent
    wanted = path.relative_to(above).parts[0] if path != above else ""
    if os.path.isfile(above / wanted):  # noqa: PTH113
        unpack = " It is an archive: unpack it" if path.suffix.lower() in {".zip", ".tar", ".gz", ".tgz", ".7z"} else ""
        return f"{above / wanted} is a file, not a folder{'.' if unpack else ''}{unpack}"
    try:
        inside = [entry for entry in os.scandir(above) if not entry.name.startswith(".")]
        names = sorted(entry.name for entry in inside if path.suffix or entry.is_dir())
    except OSError:
        names = []
    import difflib  # valid specs need none of it

    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
    if close:
        return f"the nearest folder that is there is {above}; did you mean `{close[0]}` in it?"
    shown = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    return f"the nearest folder that is there is {above}" + (f", which holds {shown}" if shown else "")
