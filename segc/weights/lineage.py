"""What weights descend from, and under which licences: a chain from the first file to the last training.

The chain stands in the metadata of every file that segc writes, in the lock of a project and of a run, in
``artifact.json`` and in reports. A licence is what the file says itself, word for word; where weights are published by
name, what is published with them stands beside it. Nothing of it is checked: it is what was said, kept.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from segc.architectures.published import BY_ADDRESS
from segc.diagnostics import SegcError, fail
from segc.files import digest_file
from segc.spec.licences import allows, licence_name
from segc.spec.weights import SHA256
from segc.weights.cache import origin_of, read_record

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

LOCK = "project.lock.json"
"""The file of a build directory, and of a run, that holds fast what was compiled and started from."""

KEY = "lineage"
"""Key of the chain in a file's metadata, as JSON."""

Kind = Literal["weights", "training"]
_MOST_LINKS = 1000
_LONGEST_TEXT = 2048
LONGEST_LOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a descent.

    Attributes:
        kind: ``weights``, a file from elsewhere, or ``training``, one by segc.
        name: published name, address or file name; of a training the project's name.
        sha256: hex digits of the digest of the file that came of it, where it is known.
        licence: what the file itself says, word for word.
        published: the licence published with the file.
        address: where it was fetched from.
        producer: what the file says made it.
        spec_digest: of the project that was trained.
        segc_version: that trained it.
    """

    kind: Kind
    name: str
    sha256: str | None = None
    licence: str | None = None
    published: str | None = None
    address: str | None = None
    producer: str | None = None
    spec_digest: str | None = None
    segc_version: str | None = None

    @property
    def claims(self) -> tuple[str, ...]:
        """The licences that are stated for it; none for a training, which adds none."""
        return tuple(text for text in (self.licence, self.published) if text)

    @property
    def licences(self) -> str:
        """Its licences by name, in words."""
        said, published = (licence_name(text) if text else None for text in (self.licence, self.published))
        if said and published and said.casefold() != published.casefold():
            return f"{said} as the file says, {published} as published"
        return said or published or "licence unknown: the file does not say"

    def to_json(self) -> dict[str, str]:
        """What is known of it, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


Lineage = tuple[Link, ...]
"""A chain, the first ancestor first; empty for what comes from nothing but a seed."""

UNKNOWN: Lineage = (Link("weights", "unknown"),)
"""The chain of what does not say."""


def to_json(lineage: Sequence[Link]) -> list[dict[str, str]]:
    """A chain as JSON values."""
    return [link.to_json() for link in lineage]


def to_text(lineage: Sequence[Link]) -> str:
    """A chain as it stands in a file's metadata."""
    return json.dumps(to_json(lineage), ensure_ascii=False, separators=(",", ":"))


def from_json(value: Any) -> Lineage | None:
    """The chain that :func:`to_json` gave; None for anything else."""
    names = {field.name for field in fields(Link)}
    if not isinstance(value, list) or len(value) > _MOST_LINKS:
        return None
    for link in value:
        sound = (
            isinstance(link, dict)
            and {"kind", "name"} <= link.keys() <= names
            and all(
                isinstance(text, str) and len(text) <= _LONGEST_TEXT and text.isprintable() for text in link.values()
            )
            and link["kind"] in get_args(Kind)
        )
        if not sound:
            return None
    return tuple(Link(**link) for link in value)


def from_metadata(metadata: Mapping[str, str]) -> Lineage | None:
    """The chain in a file's metadata; None where there is none, or it is no chain."""
    try:
        return from_json(json.loads(metadata.get(KEY, "null")))
    except (ValueError, RecursionError):
        return None


def stated(metadata: Mapping[str, str]) -> Lineage:
    """The chain in the metadata of weights that were read; the unknown one where there is none."""
    known = from_metadata(metadata)
    return UNKNOWN if known is None else known


def lineage_from(path: Path, metadata: Mapping[str, str]) -> Lineage:
    """What a weights file descends from, itself included.

    Args:
        path: own weights, or another project's checkpoint.
        metadata: what it says of itself.

    Raises:
        OSError: where it cannot be read.
    """
    sha256 = digest_file(path).removeprefix("sha256:")
    known = from_metadata(metadata)
    if known:
        return (*known[:-1], replace(known[-1], sha256=sha256)) if known[-1].kind == "training" else known
    origin = origin_of(path)
    row = BY_ADDRESS.get(origin.address) if origin else None
    name = row.name if row else without_query(origin.address) if origin else path.name
    link = Link(
        "weights",
        _text(name) or "unnamed",
        sha256,
        licence=_text(metadata.get("license")),
        published=row.licence if row else None,
        address=without_query(origin.address) if origin else None,
        producer=_text(metadata.get("producer")),
    )
    return (link,)


def without_query(address: str) -> str:
    """A query may hold a key, which records would spread."""
    return address.partition("?")[0]


def _text(value: str | None) -> str | None:
    text = "".join(c if c.isprintable() else "\ufffd" for c in value or "")[:_LONGEST_TEXT]
    return text or None


def trained(loaded: "LoadedProject", run: Path) -> Lineage:
    """The chain of what a run trains: that of its starting weights, by the lock in its folder, and the training.

    Args:
        loaded: the project.
        run: the run's folder.
    """
    from segc.spec.project import spec_digest
    from segc.version import __version__

    lock = read_record(run / LOCK, LONGEST_LOCK)
    begun = lock.get("weights", {})
    # Runs of a segc that kept no chain say what they started from in their spec alone.
    known = from_json(begun.get(KEY)) if isinstance(begun, dict) else ()
    if "weights" not in lock and loaded.project.architecture.weights is None:
        known = ()
    project = loaded.project
    own = Link("training", project.name, spec_digest=spec_digest(project), segc_version=__version__)
    return (*(UNKNOWN if known is None else known), own)


def pinned(build_dir: Path, address: str | None) -> str | None:
    """The digest that the lock of a build directory holds fast for an address."""
    entry = read_record(build_dir / LOCK, LONGEST_LOCK).get("weights")
    if address is None or not isinstance(entry, dict) or entry.get("address") != address:
        return None
    digest = entry.get("sha256")
    return digest if isinstance(digest, str) and SHA256.fullmatch(digest) else None


def check_licences(loaded: "LoadedProject", lineage: Sequence[Link], file: Path) -> None:
    """Refuse weights of which an ancestor has a licence that ``architecture.licences`` does not allow, or says none.

    Raises:
        SegcError: W012, naming each of them.
    """
    allowed = loaded.project.architecture.licences
    refused = [
        f"{link.name} ({link.licences})"
        for link in lineage
        if link.kind == "weights" and not all(allows(allowed, claim) for claim in link.claims or (None,))
    ]
    if refused:
        raise _refusal(refused, allowed or (), file)


def _refusal(refused: Sequence[str], allowed: Iterable[str], file: Path) -> SegcError:
    return fail(
        "W012",
        f"the weights descend from {'; '.join(refused)}; architecture.licences allows {', '.join(allowed)}",
        file=file,
        help="start from other weights or from none; `segc weights licence FILE` shows the whole chain",
    )


def line(lineage: Sequence[Link]) -> str:
    """The chain in a line."""
    roots = [f"{link.name} ({link.licences})" for link in lineage if link.kind == "weights"]
    trainings = [link.name for link in lineage if link.kind == "training"]
    begun = f"weights descend from {', '.join(roots)}" if roots else "weights were trained from scratch"
    if not trainings:
        return begun
    times = "one training" if len(trainings) == 1 else f"{len(trainings)} trainings"
    shown = ", ".join(trainings[:1] + ["…"] * (len(trainings) > 4) + trainings[max(1, len(trainings) - 3) :])
    return f"{begun}, by {times}: {shown}"


def licences(lineage: Sequence[Link]) -> list[str]:
    """The licences that weights inherit, each once, by the names at their heads; ``unknown`` where a file says none."""
    found = (licence_name(claim) for link in lineage if link.kind == "weights" for claim in link.claims or ("unknown",))
    return list(dict.fromkeys(found))
