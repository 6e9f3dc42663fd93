"""Weights fetched once: into the shared cache, whole, checked, and by one process at a time.

A download is resumed where it was cut, in the same call or in a later one, as far as the server shows that it still has
the same file. Nothing of it is read as a checkpoint, and no other name than ``….part`` stands for it, before its digest
is what it must be: what the user says, what is published, what the lock of the project holds fast.
"""

import contextlib
import errno
import os
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from segc.diagnostics import SegcError, fail
from segc.files import canonical_json, digest_file, write_atomic
from segc.inference.text import printable
from segc.spec.weights import MAX_FILE_BYTES, SHA256, WeightsReference
from segc.weights.cache import PART, Entry, Origin, read_record
from segc.weights.web import Answer, Deadline, Fault, exchange

FETCH_SECONDS = 1800.0
"""Seconds that fetching a file may take, unless told otherwise."""

_PIECE = 1 << 20
_ATTEMPTS = 3
"""Tries in a row that may bring nothing."""
_PAUSE = 0.5
"""Seconds before trying again; longer where nothing came."""
_SLOWEST, _WINDOW = 1024, 60.0
"""Bytes a second that must come, on the average of so many seconds."""

Watch = Callable[[int, int | None], None]
"""Told how many bytes are there, of how many where that is known."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A digest that a file must have.

    Attributes:
        sha256: hex digits, whole or their beginning.
        origin: who says so.
        way_out: what to do where the file has another one; ``{sha256}`` in it stands for that.
    """

    sha256: str
    origin: str
    way_out: str = "find out which of the two is right before you use the file"


def offline() -> bool:
    """Whether ``SEGC_OFFLINE`` forbids the network."""
    return os.environ.get("SEGC_OFFLINE", "").lower() not in {"", "0", "false", "no"}


def mirrored(reference: WeightsReference) -> str:
    """Where a file is really fetched from: published ones from ``SEGC_WEIGHTS_URL``, where that is set.

    Raises:
        SegcError: X207 where the mirror is no http, https or file address.
    """
    mirror = os.environ.get("SEGC_WEIGHTS_URL", "").rstrip("/")
    if not mirror or reference.published is None:
        return address_of(reference)
    if urllib.parse.urlsplit(mirror).scheme not in {"http", "https", "file"}:
        raise fail(
            "X207", f"SEGC_WEIGHTS_URL is no address: {mirror}", help="for example https://mirror.example/weights"
        )
    return f"{mirror}/{reference.published.file_name}"


def address_of(reference: WeightsReference) -> str:
    """The address of weights that are fetched.

    Raises:
        ValueError: where they are a file.
    """
    if reference.address is None:
        raise ValueError(f"{reference.text} is a file")
    return reference.address


def entry_of(reference: WeightsReference) -> Entry:
    """The place in the cache of weights that are fetched."""
    return Entry.of(address_of(reference), reference.file_name)


def fetch(
    reference: WeightsReference,
    expected: Sequence[Expected] = (),
    *,
    seconds: float = FETCH_SECONDS,
    watch: Watch | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """The file of an address, from the cache or else from the network; checked either way.

    Args:
        reference: what to fetch; it has an address.
        expected: digests that it must have beside those of the reference and of its row.
        seconds: time that it may take, waiting for another process included.
        watch: told how far it is; a bar in a terminal if not given.
        say: told what is done, a line each; standard error if not given.

    Returns:
        The file in the cache.

    Raises:
        SegcError: N001 to N009 for what goes wrong, F003 where the cache cannot be written; with the address, and what
            to do by hand.
    """
    wanted = _wanted(reference, expected)
    return _Fetching(reference, wanted, Deadline(seconds), say or _say).run(seconds, watch)


def cached(reference: WeightsReference, expected: Sequence[Expected] = (), *, thorough: bool = True) -> Path | None:
    """The file of an address where the cache has it as it must be; nothing is fetched.

    Args:
        reference: what was fetched.
        expected: digests that it must have, as for :func:`fetch`.
        thorough: read the file to compare its digest; else its record is believed.
    """
    return _Fetching(reference, _wanted(reference, expected), Deadline(0), lambda _: None).cached(thorough=thorough)


def _wanted(reference: WeightsReference, expected: Sequence[Expected]) -> list[Expected]:
    row = reference.published
    return [
        *([Expected(reference.sha256, "the digest given with it")] if reference.sha256 else []),
        *([Expected(row.sha256, "the published digest")] if row and row.sha256 else []),
        *expected,
    ]


def _say(text: str) -> None:
    import click

    click.echo(printable(text), err=True)


class _Fetching:
    """One file on its way."""

    def __init__(
        self, reference: WeightsReference, wanted: Sequence[Expected], deadline: Deadline, say: Callable[[str], None]
    ) -> None:
        self.reference, self.wanted, self.deadline, self.say = reference, wanted, deadline, say
        self.name, self.canonical = reference.shown, address_of(reference)
        self.address = mirrored(reference)
        self.where = self.address if self.name == self.address else f"{self.name}: {self.address}"
        self.entry = entry_of(reference)
        row = reference.published
        self.limit = row.size if row and row.size else MAX_FILE_BYTES
        self.knows_digest = any(SHA256.fullmatch(one.sha256) for one in wanted)

    def run(self, seconds: float, watch: Watch | None) -> Path:
        if (found := self.cached()) is not None:
            return found
        bring = self._copied if self.address.startswith("file:") else self._downloaded
        if bring == self._downloaded and offline():
            self._fail("N009", "SEGC_OFFLINE is set, and the cache does not have the file as it must be")
        try:
            with self.entry.lock(seconds, lambda: self.say(f"waiting for another process that fetches {self.name}")):
                # That process may have fetched it meanwhile.
                if (found := self.cached()) is not None:
                    return found
                self.say(f"fetching {self.name}" + ("" if self.name == self.address else f" from {self.address}"))
                with watching(self.name, watch) as told:
                    sha256 = bring(told)
                size = self.entry.part.stat().st_size
                self.entry.keep(Origin(self.canonical, self.entry.name, sha256, size))
        except Fault as fault:
            if fault.code == "N006":
                self.entry.drop_part()
            self._fail(fault.code, fault.message)
        except TimeoutError:
            self._fail("N005", f"another process has been fetching it for {seconds:g} seconds")
        except OSError as error:
            self._fail_to_write(error)
        self.say(f"fetched {self.name}: {size / 1e6:.1f} MB, sha256:{sha256}")
        return self.entry.file

    def cached(self, *, thorough: bool = True) -> Path | None:
        """The file where the cache has it as it must be."""
        origin = self.entry.origin()
        if origin is None:
            return None
        if thorough and not self.entry.sound():
            self.say(f"{self.entry.file} is damaged: its digest is not the one recorded")
            return None
        if other := self._unlike(origin.sha256):
            self.say(f"{self.entry.file} is not as {other.origin} says")
            return None
        return self.entry.file

    def _copied(self, watch: Watch) -> str:
        """Copy the file of a mirror that is a folder of this machine; gives its digest."""
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(self.address).path))
        if not path.is_file():
            raise Fault("N002", f"there is no {path}, where SEGC_WEIGHTS_URL points")
        size = path.stat().st_size
        if size > self.limit:
            raise Fault("N006", f"{size} bytes, over {self.limit}")
        shutil.copyfile(path, self.entry.part)
        watch(size, size)
        return self._checked()

    def _checked(self) -> str:
        """The digest of the part, which is dropped where it is not as expected."""
        row, size = self.reference.published, self.entry.part.stat().st_size
        sha256 = digest_file(self.entry.part).removeprefix("sha256:")
        other = self._unlike(sha256)
        if other is not None:
            self.entry.drop_part()
            raise self._another_file(sha256, other)
        if row and row.size and row.size != size:
            self.entry.drop_part()
            raise Fault("N003", f"{size} bytes came, {row.size} are published; nothing of it was read")
        return sha256

    def _unlike(self, sha256: str) -> Expected | None:
        return next((one for one in self.wanted if not sha256.startswith(one.sha256)), None)

    def _another_file(self, sha256: str, other: Expected) -> SegcError:
        beginning = "" if SHA256.fullmatch(other.sha256) else "one that begins with "
        return fail(
            "N003",
            f"{self.where} has the digest sha256:{sha256}; {other.origin} says "
            f"{beginning}{other.sha256}; nothing of it was read",
            help=other.way_out.replace("{sha256}", sha256),
        )

    # -- the network

    def _downloaded(self, watch: Watch) -> str:
        """Bring the whole file into its part; gives its digest."""
        while self._complete(watch) and self._unlike(digest_file(self.entry.part).removeprefix("sha256:")):
            # Parts of two files, perhaps, though the server took them for one.
            self.say(f"{self.name}: what was resumed is not the file expected; fetching it from the beginning")
            self.entry.drop_part()
        return self._checked()

    def _complete(self, watch: Watch) -> bool:
        """Fetch until the part is whole; tells whether an earlier download was gone on with."""
        start, idle = self._begun(), 0
        while True:
            before = self._begun()
            try:
                self._exchange(before, watch)
            except Fault as fault:
                idle = 0 if self._begun() > before else idle + 1
                if not fault.passing or idle >= _ATTEMPTS:
                    raise
                self.say(f"{self.name}: {fault.message}; trying again")
                time.sleep(min(_PAUSE * 2**idle, self.deadline.left()))
            else:
                return start > 0

    def _begun(self) -> int:
        """Bytes of an earlier download that can be gone on with."""
        record = read_record(self.entry.folder / PART)
        usable = record.get("from") == self.address and (record.get("validator") or self.knows_digest)
        return self.entry.part.stat().st_size if usable and self.entry.part.is_file() else 0

    def _exchange(self, offset: int, watch: Watch) -> None:
        headers = {"User-Agent": "segc", "Accept": "*/*", "Accept-Encoding": "identity"}
        validator = read_record(self.entry.folder / PART).get("validator")
        if offset:
            headers["Range"] = f"bytes={offset}-"
            headers |= {"If-Range": str(validator)} if validator else {}
        with exchange(self.address, headers, self.deadline) as answer:
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Fault("N002", f"the server packs the file ({answer.headers['Content-Encoding'][:40]})")
            if answer.status == 416 and offset:
                total = _total(answer)
                if total == offset:
                    return
                self.entry.drop_part()
                raise Fault("N008", "the server has no such part of the file", passing=True)
            if answer.status == 416:
                raise Fault("N002", "the server answered 416, though the whole file was asked for")
            at = _start(answer) if answer.status == 206 else 0
            if answer.status == 206 and at != offset:
                self.entry.drop_part()
                raise Fault("N008", "the server sent another part than it was asked for", passing=True)
            if at < offset:
                self.say(f"{self.name}: the server sends it from the beginning")
            self._take(answer, at, watch)

    def _take(self, answer: Answer, at: int, watch: Watch) -> None:
        """Write a body behind the first ``at`` bytes of the part."""
        total = None if answer.length is None else at + answer.length
        if not answer.ends_surely and not self.knows_digest:
            raise Fault("N002", "the server does not say how long the file is, and no digest is known to check it by")
        if total is not None and total > self.limit:
            raise Fault("N006", f"{total} bytes, over {self.limit}")
        if total is not None and (free := shutil.disk_usage(self.entry.folder).free) < total - at:
            raise OSError(errno.ENOSPC, f"{total - at} bytes are needed, {free} are free")
        if at == 0:
            self.entry.part.write_bytes(b"")
            record = {
                "address": self.canonical,
                "file": self.entry.name,
                "from": self.address,
                "validator": _validator(answer),
            }
            write_atomic(self.entry.folder / PART, canonical_json(record))
        with self.entry.part.open("r+b") as file:
            file.seek(at)
            done = self._copy(answer, file, at, total, watch)
            file.truncate()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise Fault("N008", f"the download broke off after {done} of {total} bytes", passing=True)

    def _copy(self, answer: Answer, file: IO[bytes], at: int, total: int | None, watch: Watch) -> int:
        done, window, since = at, at, time.monotonic()
        while piece := answer.read(_PIECE):
            done += len(piece)
            if done > (self.limit if total is None else total):
                raise Fault("N006", f"over {self.limit if total is None else total} bytes, and no end")
            file.write(piece)
            watch(done, total)
            self.deadline.left()
            if (now := time.monotonic()) - since > _WINDOW:
                if done - window < _SLOWEST * _WINDOW:
                    raise Fault("N005", f"{done - window} bytes in {now - since:.0f} seconds: the server hardly sends")
                window, since = done, now
        return done

    # -- what is said of a failure

    def _fail(self, code: str, message: str) -> NoReturn:
        kept = self.entry.part.stat().st_size if self.entry.part.is_file() else 0
        left = f"; {kept / 1e6:.1f} MB are kept, and the next try goes on from there" if kept and self._begun() else ""
        raise fail(code, f"{self.where}: {message}{left}", help=self._by_hand(code))

    def _fail_to_write(self, error: OSError) -> NoReturn:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            with contextlib.suppress(OSError):
                self.entry.drop_part()
        raise fail(
            "F003",
            f"{self.where}: cannot be kept in {self.entry.folder}: {error.strerror or error}",
            help="free some space, or set SEGC_CACHE to a folder elsewhere; nothing half-written was left behind",
        ) from error

    def _by_hand(self, code: str) -> str:
        row = self.reference.published
        fetched = (
            f"set SEGC_WEIGHTS_URL to its folder (file:///folder; the file is {row.file_name} there)"
            if row
            else "name the file: architecture.weights, or --weights"
        )
        first = {
            "N004": "where the network has certificates of its own, set SSL_CERT_FILE to a file of them; or ",
            "N005": "run it again; or ",
            "N008": "run it again; or ",
            "N009": "unset SEGC_OFFLINE; or ",
        }.get(code, "")
        return f"{first}download {self.canonical} by hand and {fetched}"


def _total(answer: Answer) -> int | None:
    """Length of the whole file by ``Content-Range: bytes 0-9/10`` or ``bytes */10``."""
    _, _, total = answer.headers.get("Content-Range", "").rpartition("/")
    return int(total) if total.isascii() and total.isdecimal() and len(total) < 20 else None


def _start(answer: Answer) -> int:
    """Where the part that a server sends begins; -1 where it does not say."""
    unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isascii() and start.isdecimal() and len(start) < 20 else -1


def _validator(answer: Answer) -> str | None:
    """What shows a server later that it still has the same file: a strong tag, else the time of its last change."""
    tag = answer.headers.get("ETag", "")
    text = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
    return text if 0 < len(text) < 500 and text.isprintable() else None


@contextmanager
def watching(what: str, watch: Watch | None = None) -> Iterator[Watch]:
    """A watch: the one given, else a bar of bytes in a terminal, nothing elsewhere."""
    if watch is not None:
        yield watch
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(printable(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
