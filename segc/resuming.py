"""What a prediction of many sources has done, so that one that ended early goes on: ``segc predict --resume``.

A record in the output folder has a line an image or video: its name, the digest of its content, and how long the tables
were once it was written. What is to be done anew though it has rows in tables, as a camera, has a line without a
digest. The record begins with the digest of all that the results depend on but the sources.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail
from segc.files import atomic_path, canonical_json, digest, digest_file, sweep, write_atomic

if TYPE_CHECKING:
    from segc.inference.sources import Source
    from segc.inference.writing import Completed, Plan


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the record.

    Attributes:
        name: of the source.
        digest: of its content; None where it is not done.
        tables: bytes of the tables with all its rows, by kind.
    """

    name: str
    digest: str | None
    tables: Mapping[str, int]


class Record:
    """The record of a run of ``segc predict``; what an earlier run with the same options has done stands in it.

    Args:
        path: its file.
        options: all that results depend on but the sources, as JSON values.
        tables: the tables that are written beside pictures, by kind; each grows line by line.
        heads: bytes of what they begin with.

    Attributes:
        lengths: bytes of the tables that are kept.
        outdated: why nothing of an earlier run is kept, where there was one; else empty.
    """

    def __init__(
        self, path: Path, options: Mapping[str, Any], tables: Mapping[str, Path], heads: Mapping[str, int]
    ) -> None:
        self._path, self._tables, self._heads = path, tables, heads
        self._head = {"options": digest(canonical_json(dict(options)))}
        self.lengths: dict[str, int] = {}
        self.outdated = ""

    def remaining(self, sources: "Sequence[Source]") -> "list[Source]":
        """The sources that are still to be done, whose rows are taken out of the tables.

        The record is begun anew where what it says no longer holds.
        """
        rows = self._read()
        done = {row.name: row.digest for row in rows if row.digest is not None}
        left: list[Source] = []
        for source in sources:
            if source.path is None:
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
        if not self.outdated and any(not self._holds(kind, rows[-1].tables) for kind in self._tables if rows):
            self.outdated = "a table of that run is gone, or shorter than it was"
        if self.outdated:
            rows, left = [], list(sources)
        for path in (self._path, *self._tables.values()):
            sweep(path.parent, path.name)
        rows = self._without(rows, {source.name for source in left})
        self.lengths = dict(rows[-1].tables) if rows else {}
        lines = [self._head, *map(asdict, rows)]
        write_atomic(self._path, "".join(f"{_line(line)}\n" for line in lines))
        return left

    def add(self, written: "Completed") -> None:
        """Nothing more is written of a source."""
        source = written.source
        known = _digest(source.path) if written.is_whole and source.path is not None else None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(asdict(_Row(source.name, known, written.lengths))) + "\n")

    def _without(self, rows: Sequence[_Row], names: Collection[str]) -> list[_Row]:
        """The rows of other sources than these, with tables as long as they are without what these wrote into them."""
        lengths = {kind: self._take_out(kind, rows, names) for kind in self._tables}
        left = [row for row in rows if row.name not in names]
        return [replace(row, tables={kind: lengths[kind][at] for kind in lengths}) for at, row in enumerate(left)]

    def _take_out(self, kind: str, rows: Sequence[_Row], names: Collection[str]) -> list[int]:
        """Take what these sources wrote out of a table; its length behind each of the others."""
        ends = [row.tables.get(kind, 0) for row in rows]
        before = length = min(self._heads[kind], max(ends, default=0))
        parts, lengths = [(0, length)], []
        for row, end in zip(rows, ends, strict=True):
            begin, before = before, max(before, end)
            if row.name not in names:
                parts.append((begin, before))
                length += before - begin
                lengths.append(length)
        if length < before:
            _keep(self._tables[kind], parts)
        return lengths

    def _read(self) -> list[_Row]:
        """What an earlier run with the same options has recorded."""
        try:
            # The last line of a run that was killed may be torn.
            lines = self._path.read_text("utf-8").splitlines(keepends=True)
            head, *rows = [json.loads(line) for line in lines if line.endswith("\n")]
            known = [_row(row) for row in rows]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError):
            self.outdated = f"{self._path} is damaged"
            return []
        if head != self._head:
            self.outdated = "it had another model or other options"
            return []
        return known

    def _holds(self, kind: str, lengths: Mapping[str, int]) -> bool:
        path = self._tables[kind]
        return path.is_file() and path.stat().st_size >= lengths.get(kind, 0)


def record_of(plan: "Plan", options: Mapping[str, Any]) -> Record:
    """The record of a run that writes this.

    Args:
        plan: what is written.
        options: all that results depend on but the sources and what is written, as JSON values.

    Raises:
        SegcError: I003 where a file of its name is there that no run wrote.
    """
    from segc.inference.earlier import Written
    from segc.inference.writers import tables
    from segc.inference.writing import foreign_file

    path, own = plan.folder / f"done{plan.mark}.jsonl", Written(plan.folder)
    if own.is_foreign(path):
        raise fail("I003", str(foreign_file(path)), file=plan.folder)
    own.add(path)
    written = {kind: table for kind, table in tables().items() if kind in plan.kinds}
    return Record(
        path,
        {**options, "kinds": sorted(plan.kinds)},
        {kind: plan.table_path(table) for kind, table in written.items()},
        {kind: len(table.head) for kind, table in written.items()},
    )


def _row(given: Mapping[str, Any]) -> _Row:
    known = given["digest"]
    tables = {str(kind): int(size) for kind, size in given["tables"].items()}
    return _Row(str(given["name"]), None if known is None else str(known), tables)


def _keep(path: Path, parts: Iterable[tuple[int, int]]) -> None:
    """Leave of a file what is between these bytes."""
    with atomic_path(path) as kept, path.open("rb") as file, kept.open("wb") as copy:
        for begin, end in parts:
            file.seek(begin)
            left = end - begin
            while data := file.read(min(left, 1 << 20)):
                copy.write(data)
                left -= len(data)


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
