"""What a prediction of many images has done, so that one that ended early goes on: ``segc predict --resume``.

A record in the output folder has a line an image: its name, the digest of its content, and how long the tables were
once it was written. It begins with the digest of all that the results depend on but the images.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail
from segc.files import canonical_json, digest, digest_file, write_atomic

if TYPE_CHECKING:
    from segc.inference.sources import Source
    from segc.inference.writing import Plan


class Record:
    """The record of a run of ``segc predict``; what an earlier run with the same options has done stands in it.

    Args:
        path: its file.
        options: all that results depend on but the images, as JSON values.
        tables: the tables that are written beside pictures, by kind; each grows line by line.

    Attributes:
        lengths: bytes of the tables that are kept.
        outdated: why nothing of an earlier run is kept, where there was one; else empty.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], tables: Mapping[str, Path]) -> None:
        self._path, self._tables = path, tables
        self._head = {"options": digest(canonical_json(dict(options)))}
        self.lengths: dict[str, int] = {}
        self.outdated = ""

    def remaining(self, sources: "Sequence[Source]") -> "list[Source]":
        """The sources that are still to be done; the record is begun anew where what it says no longer holds."""
        done, lengths = self._read()
        left: list[Source] = []
        for source in sources:
            if source.path is None or source.kind != "image":
                left.append(source)
                continue
            known = done.get(source.name)
            if known is not None and known == _digest(source.path):
                continue
            if known is not None and self._tables:
                # Its rows are among others that stay.
                self.outdated = f"{source.name} has changed since, and its rows stand in a table"
                break
            left.append(source)
        if not self.outdated and any(not self._holds(kind, lengths.get(kind, 0)) for kind in self._tables if done):
            self.outdated = "a table of that run is gone, or shorter than it was"
        if self.outdated:
            done, lengths, left = {}, {}, list(sources)
        self.lengths = lengths
        lines: list[Mapping[str, Any]] = [
            self._head,
            *({"name": name, "digest": known, "tables": lengths} for name, known in done.items()),
        ]
        write_atomic(self._path, "".join(f"{_line(line)}\n" for line in lines))
        return left

    def add(self, source: "Source") -> None:
        """An image is done, and all of it is written."""
        if source.path is None or source.kind != "image":
            return
        lengths = {kind: path.stat().st_size for kind, path in self._tables.items() if path.exists()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"name": source.name, "digest": _digest(source.path), "tables": lengths}) + "\n")

    def _read(self) -> tuple[dict[str, str], dict[str, int]]:
        """Digests of what is done by name, and the last lengths of the tables."""
        try:
            # The last line of a run that was killed may be torn.
            lines = self._path.read_text("utf-8").splitlines(keepends=True)
            head, *rows = [json.loads(line) for line in lines if line.endswith("\n")]
            done = {str(row["name"]): str(row["digest"]) for row in rows}
            lengths = {str(kind): int(size) for kind, size in rows[-1]["tables"].items()} if rows else {}
        except FileNotFoundError:
            return {}, {}
        except (ValueError, KeyError, TypeError, AttributeError):
            self.outdated = f"{self._path} is damaged"
            return {}, {}
        if head != self._head:
            self.outdated = "it had another model or other options"
            return {}, {}
        return done, lengths

    def _holds(self, kind: str, length: int) -> bool:
        path = self._tables[kind]
        return length > 0 and path.is_file() and path.stat().st_size >= length


def record_of(plan: "Plan", options: Mapping[str, Any]) -> Record:
    """The record of a run that writes this.

    Args:
        plan: what is written.
        options: all that results depend on but the images and what is written, as JSON values.

    Raises:
        SegcError: I003 where a file of its name is there that no run wrote.
    """
    from segc.inference.earlier import Written
    from segc.inference.writers import tables
    from segc.inference.writing import foreign_file

    paths = {kind: plan.table_path(table) for kind, table in tables().items() if kind in plan.kinds}
    path, written = plan.folder / f"done{plan.mark}.jsonl", Written(plan.folder)
    if written.is_foreign(path):
        raise fail("I003", str(foreign_file(path)), file=plan.folder)
    written.add(path)
    return Record(path, {**options, "kinds": sorted(plan.kinds)}, paths)


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError:
        return "unreadable"


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=True, separators=(",", ":"))


def identity(path: Path | None) -> str:
    """A digest of a model's file, or of all files of its folder."""
    if path is None:
        return ""
    if path.is_file():
        return digest_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest(canonical_json({str(file.relative_to(path)): digest_file(file) for file in files}))


def shard_of(sources: "Sequence[Source]", number: int, count: int) -> "list[Source]":
    """Every ``count``-th source from the ``number``-th on, counted from 1: each is in one part, and parts are even."""
    return list(sources[number - 1 :: count])
