"""Names of tensors as others write them: with a wrapper's prefix before every one, or without the network's own."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")

_LEAST = 4
"""A prefix is one where at least this part of the names fits without it: a quarter."""


def aligned(tensors: Mapping[str, T], wanted: Collection[str]) -> tuple[dict[str, T], tuple[str, ...]]:
    """Tensors under the names that a network has, where one prefix left off, or put before, makes most of them fit.

    ``module.``, ``_orig_mod.`` and the like come from wrappers, others from modules that hold the network.

    Args:
        tensors: by the names of a file.
        wanted: the network's names.

    Returns:
        The tensors under their new names, those that the change does not concern as they were; and what was done.
    """
    known = set(wanted)
    deepest = max((name.count(".") for name in known), default=0)
    found: Counter[tuple[str, str]] = Counter()
    for name in tensors:
        found.update((cut, "") for cut in _prefixes(name, deepest) if name[len(cut) :] in known)
    for name in known:
        found.update(("", put) for put in _prefixes(name, deepest) if put and name[len(put) :] in tensors)
    if not found:
        return dict(tensors), ()
    # Of equally good ones the shortest: a network's own names before those of a copy.
    (cut, put), fitting = min(found.items(), key=lambda item: (-item[1], len(item[0][0]) + len(item[0][1]), item[0]))
    if (not cut and not put) or fitting * _LEAST < min(len(tensors), len(known)):
        return dict(tensors), ()
    others = {name: value for name, value in tensors.items() if not name.startswith(cut)}
    moved = {put + name[len(cut) :]: value for name, value in tensors.items() if name.startswith(cut)}
    done = f"prefix `{cut}` left off" if cut else f"prefix `{put}` put before"
    notes = [f"{done} {'every name' if not others else f'{len(moved)} of {len(tensors)} names'}"]
    if copies := sorted(other for (other, _), count in found.items() if count == fitting and other not in {"", cut}):
        notes.append(f"there are as many under `{copies[0]}`, which are left")
    return {**others, **moved}, tuple(notes)


def _prefixes(name: str, deepest: int) -> list[str]:
    """What can stand before a name of at most ``deepest`` dots, the empty prefix too."""
    parts = name.split(".")
    starts = range(max(len(parts) - deepest - 1, 0), len(parts))
    return ["".join(f"{part}." for part in parts[:start]) for start in starts]
