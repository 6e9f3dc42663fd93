"""A dataset divided into splits, as lists of images or annotation files that projects can name."""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.data.division import Member, divide, grouped
from segc.data.samples import Sample, Split
from segc.data.survey import Progress, survey
from segc.diagnostics import SegcError, fail
from segc.files import write_atomic

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject


@dataclass(frozen=True, slots=True)
class Divided:
    """A division.

    Attributes:
        splits: images of each new split, sorted.
        counts: objects of every class, by split.
        groups: number of groups.
        likes: images that are kept together with one that they are like.
        alone: images whose names the pattern does not fit.
        section: the ``dataset`` section of a spec that reads it, in its parts that are new.
        remarks: number of other things that are odd about the images and labels, or left out.
    """

    splits: Mapping[str, Sequence[Path]]
    counts: Mapping[str, Counter[int]]
    groups: int
    likes: int
    alone: int
    section: Mapping[str, Any]
    remarks: int


def split_dataset(
    loaded: "LoadedProject",
    splits: Sequence[Split],
    folder: Path,
    shares: Mapping[str, float],
    *,
    pattern: str | None = None,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Divided:
    """Divide the images of some splits anew, and write a list, or an annotation file, for each new one.

    Images that are the same, or nearly so, come into one split, as do those with the same part of their names.

    Args:
        loaded: the dataset.
        splits: whose images are divided, all together.
        folder: where the lists go.
        shares: of the new splits, by name; their sum is 1.
        pattern: a regular expression; what it finds in the name of an image, from the dataset's folder on, is the
            group that the image belongs to.
        seed: of what is left to chance.
        progress: called with the images done and the number of all.

    Raises:
        SegcError: D034 where there are several annotation files, F005 where there are such lists already, and other
            ones; S106 for a pattern that is none; all that is wrong with labels and images.
        OSError: where a file cannot be read or written.
    """
    try:
        compiled = re.compile(pattern) if pattern else None
    except re.error as error:
        raise fail("S106", f"`{pattern}` is no regular expression: {error}") from None
    members: list[Member] = []

    def take(sample: Sample) -> None:
        counts = Counter(one.class_id for one in sample.instances if not one.is_crowd)
        members.append(Member(_name(sample.image, loaded.dataset_root), counts))

    done = survey(loaded, splits, progress=progress, visit=take)
    if done.faults:
        raise SegcError(done.faults)
    groups = grouped(members, compiled, done.twins)
    chosen = divide(members, groups, list(shares.values()), seed)
    images: dict[str, list[Path]] = {name: [] for name in shares}
    counts: dict[str, Counter[int]] = {name: Counter() for name in shares}
    for path, member, place in zip(done.paths, members, chosen, strict=True):
        name = list(shares)[place]
        images[name].append(Path(path))
        counts[name].update(member.counts)
    empty = [name for name, paths in images.items() if not paths]
    if empty:
        text = (
            f"{' and '.join(empty)} would have no image: {len(members)} images in {len(set(groups))} groups are too few"
        )
        raise fail("D001", text, help="take another pattern for groups, or other shares")
    section = _write(loaded, splits, folder, {name: sorted(set(paths)) for name, paths in images.items()})
    alone = sum(compiled is not None and not compiled.search(member.name) for member in members)
    return Divided(
        images,
        counts,
        len(set(groups)),
        len(done.twins),
        alone,
        section,
        sum(n for code, n in done.remarks.counts.items() if code not in _OF_OLD_SPLITS),
    )


_OF_OLD_SPLITS = frozenset({"D018", "D019", "D032", "D033"})
"""What is remarked on splits as they were, and on images that are kept together."""


def _name(image: Path, root: Path) -> str:
    try:
        return image.relative_to(root).as_posix()
    except ValueError:
        return image.as_posix()


def _write(
    loaded: "LoadedProject", splits: Sequence[Split], folder: Path, images: Mapping[str, Sequence[Path]]
) -> dict[str, Any]:
    form = loaded.project.dataset.format
    divide_file = _ANNOTATED.get(form)
    texts: dict[Path, str] = {}
    if divide_file is not None:
        file = _annotation_file(loaded, splits, folder)
        folders = list(dict.fromkeys(one for split in splits for one in loaded.split_paths(split)))
        place = {path: name for name, paths in images.items() for path in paths}
        for name, text in divide_file(file, folders, place, list(images)).items():
            texts[folder / f"instances_{name}{file.suffix}"] = text
    else:
        for name, paths in images.items():
            lines = [_line(path, form, folder) for path in paths]
            texts[folder / f"{name}.txt"] = "".join(f"{line}\n" for line in lines)
    for path, text in texts.items():
        if path.exists() and path.read_text("utf-8") != text:
            raise fail("F005", f"{path} is there already, with other images", file=path, help="name another folder")
    for path, text in texts.items():
        write_atomic(path, text)
    files = {name: str(path.absolute()) for name, path in zip(images, texts, strict=True)}
    if divide_file is not None:
        return {"annotations": files, **{name: [str(one) for one in folders] for name in images}}
    return dict(files)


def _line(image: Path, form: str, folder: Path) -> str:
    """An image as a list in a folder names it."""
    line = image.stem if form == "voc" else Path(os.path.relpath(image, folder)).as_posix()
    if not {"\n", "\r"}.isdisjoint(line) or not _is_text(line):
        text = "a list cannot name this image: its name has a line end in it, or bytes that are no text"
        raise fail("D034", text, file=image, help="rename it, and its labels")
    return line


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _annotation_file(loaded: "LoadedProject", splits: Sequence[Split], folder: Path) -> Path:
    """The one annotation file of some splits."""
    files = list(dict.fromkeys(loaded.annotations_path(split) for split in splits))
    if len(files) > 1:
        text = "two annotation files may number their images alike: they cannot be divided together"
        images = loaded.split_paths(splits[0])[0]
        command = shlex.join(["segc", "data", "split", str(files[0]), "--images", str(images), "-o", str(folder)])
        raise fail("D034", text, help=f"divide one of them: {command}")
    return files[0]


def _divided_coco(
    file: Path, folders: Sequence[Path], place: Mapping[Path, str], names: Sequence[str]
) -> dict[str, str]:
    """A COCO file as one text a split; ids and all other entries stay as they are."""
    from segc.data.coco import EntryError, entry_id, image_place
    from segc.data.formats.common import read_json

    document = read_json(file)
    split_of: dict[Any, str] = {}
    parts: dict[str, dict[str, Any]] = {name: {**document, "images": [], "annotations": []} for name in names}
    for entry in document["images"]:
        with suppress(EntryError):  # it is among the remarks that were told
            name = place[image_place(entry["file_name"], folders)[0]]
            split_of[entry_id(entry, "id")] = name
            parts[name]["images"].append(entry)
    for entry in document["annotations"]:
        with suppress(EntryError):
            if (owner := split_of.get(entry_id(entry, "image_id"))) is not None:
                parts[owner]["annotations"].append(entry)
    return {name: json.dumps(part, ensure_ascii=False) + "\n" for name, part in parts.items()}


def _divided_cvat(
    file: Path, folders: Sequence[Path], place: Mapping[Path, str], names: Sequence[str]
) -> dict[str, str]:
    """A CVAT file as one text a split; what is said of the task stands in each."""
    from segc.data.formats.common import Fault
    from segc.data.formats.cvat import image_path
    from segc.data.formats.xml import elements

    parts: dict[str, list[str]] = {name: [] for name in names}
    for element in elements(file, "annotations"):
        if element.tag != "image":
            for part in parts.values():
                part.append(element.to_xml("  "))
            continue
        with suppress(Fault):  # as with COCO
            parts[place[image_path(element, folders)]].append(element.to_xml("  "))
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n'
    return {name: f"{head}{''.join(part)}</annotations>\n" for name, part in parts.items()}


_ANNOTATED: Mapping[str, Callable[[Path, Sequence[Path], Mapping[Path, str], Sequence[str]], dict[str, str]]] = {
    "coco": _divided_coco,
    "cvat": _divided_cvat,
}
"""Formats with one file of annotations, and what divides it."""
