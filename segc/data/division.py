"""Images divided into splits: the same way every time, with all classes in every split, and likes kept together.

The method is iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011), of groups in place of single
images: the rarest class comes first, and each group with it goes where most of it is still wanted.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Member:
    """An image to be put into a split.

    Attributes:
        name: by which it is told from others; chance depends on it and on the seed alone.
        counts: number of its objects by class; classes without any are left out.
    """

    name: str
    counts: Mapping[int, int]


def grouped(members: Sequence[Member], pattern: re.Pattern[str] | None, likes: Mapping[int, int]) -> list[int]:
    """The group of every image: those that must not be separated have the same number.

    Args:
        members: the images.
        pattern: what of a name makes the group, its first part in brackets where it has one; an image whose name does
            not have it is alone.
        likes: places of images with the place of one that they are like.
    """
    above = list(range(len(members)))

    def head(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    def join(one: int, other: int) -> None:
        first, second = sorted((head(one), head(other)))
        above[second] = first

    named: dict[str, int] = {}
    for place, member in enumerate(members):
        found = pattern.search(member.name) if pattern else None
        if found is not None:
            key = found.group(1) if found.re.groups and found.group(1) is not None else found.group(0)
            join(place, named.setdefault(key, place))
    for place, other in likes.items():
        join(place, other)
    return [head(place) for place in range(len(members))]


def divide(members: Sequence[Member], groups: Sequence[int], shares: Sequence[float], seed: int) -> list[int]:
    """The split of every image, as an index into ``shares``.

    Args:
        members: the images.
        groups: the group of each; see :func:`grouped`.
        shares: of the splits, with the sum 1.
        seed: another one gives another division.
    """
    inside: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        inside.setdefault(group, []).append(place)
    # One more class stands for the images themselves, so that splits get their shares of those too.
    images = 1 + max((class_id for member in members for class_id in member.counts), default=-1)
    counts = {group: _together([members[place].counts for place in places]) for group, places in inside.items()}
    for group, places in inside.items():
        counts[group][images] = len(places)
    chance = {group: _chance(min(members[place].name for place in inside[group]), seed) for group in inside}
    chosen = _stratify(counts, images, np.array(shares), chance)
    _leave_none_empty(chosen, len(shares), {group: (len(inside[group]), chance[group]) for group in inside})
    return [chosen[group] for group in groups]


def _leave_none_empty(chosen: dict[int, int], splits: int, sizes: Mapping[int, tuple[int, bytes]]) -> None:
    """Give a split that nothing came into the smallest group of the one with the most groups, as far as these reach."""
    for empty in sorted(set(range(splits)) - set(chosen.values())):
        groups = [[group for group, split in chosen.items() if split == one] for one in range(splits)]
        fullest = max(groups, key=len)
        if len(fullest) > 1:
            chosen[min(fullest, key=sizes.__getitem__)] = empty


def _together(counts: Sequence[Mapping[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for one in counts:
        for class_id, count in one.items():
            total[class_id] = total.get(class_id, 0) + count
    return total


def _chance(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _stratify(
    counts: Mapping[int, Mapping[int, int]], images: int, shares: NDArray[np.float64], chance: Mapping[int, bytes]
) -> dict[int, int]:
    """The split of every group."""
    remaining = np.zeros(images + 1, np.int64)
    having: dict[int, list[int]] = {}
    for group, own in counts.items():
        for class_id, count in own.items():
            remaining[class_id] += count
            having.setdefault(class_id, []).append(group)
    wanted = shares[:, None] * remaining
    chosen: dict[int, int] = {}
    while len(chosen) < len(counts):
        # The images themselves come last, after every class that still has objects.
        left = np.where(remaining[:images] > 0, remaining[:images], np.iinfo(np.int64).max)
        rarest = int(left.argmin()) if images and (remaining[:images] > 0).any() else images
        rows = [group for group in having[rarest] if group not in chosen]
        for group in sorted(rows, key=lambda one: (-counts[one][rarest], chance[one])):
            best = max(range(len(shares)), key=lambda split: (wanted[split, rarest], wanted[split, images]))
            chosen[group] = best
            for class_id, count in counts[group].items():
                remaining[class_id] -= count
                wanted[best, class_id] -= count
    return chosen
