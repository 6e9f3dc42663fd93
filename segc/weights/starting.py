"""The weights that a project starts from: their file, fetched where need be, and what the lock says of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import Diagnostic, SegcError, fail
from segc.files import canonical_json, digest_file, write_atomic
from segc.locks import writing
from segc.spec.architecture import start_problems
from segc.spec.weights import NoReferenceError, WeightsReference, parse_reference
from segc.weights import fetching
from segc.weights.cache import read_record
from segc.weights.fetching import Expected
from segc.weights.lineage import KEY, LOCK, LONGEST_LOCK, Link, check_licences, pinned, to_json, without_query

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject


def weights_file(text: str) -> Path:
    """The file of weights as a command line names them: a published name, an address, fetched where need be, or a file.

    Raises:
        SegcError: X207 where the text names none, else as ``segc.weights.fetching.fetch``.
    """
    try:
        reference = parse_reference(text)
    except NoReferenceError as error:
        # What is there under the very name is meant.
        if Path(text).is_file():
            return Path(text)
        raise fail("X207", error.message, help=error.way_out) from None
    return reference.file(Path()) or fetching.fetch(reference)


def starting_file(loaded: "LoadedProject", build_dir: Path, *, seconds: float = fetching.FETCH_SECONDS) -> Path | None:
    """The file that ``architecture.weights`` names, fetched where need be; None where the project names none.

    What was fetched for the first time is held fast in the lock of the build directory.

    Raises:
        SegcError: X217 and X218 for published weights that cannot be started from, N003 where the file's digest is not
            what it must be, else as ``segc.weights.fetching.fetch``.
    """
    start = loaded.project.architecture.start
    if start is None:
        return None
    if (file := loaded.weights_path) is not None:
        _check_digest(start, file)
        return file
    refused = [
        Diagnostic(p.code, p.message, file=loaded.path, help=p.help)
        for p in start_problems(loaded.project.architecture)
    ]
    if refused:
        raise SegcError(refused)
    fixed = pinned(build_dir, start.address)
    path = fetching.fetch(start, _fixed(start, build_dir), seconds=seconds)
    if fixed is None:
        hold_fast(loaded, build_dir)
    return path


def standing(loaded: "LoadedProject", build_dir: Path) -> Path | None:
    """The file that ``architecture.weights`` names, where it is there already; nothing is fetched.

    Raises:
        SegcError: N003 where a file's digest is not the one that the project states.
    """
    start = loaded.project.architecture.start
    if start is None:
        return None
    if (file := loaded.weights_path) is not None:
        if not file.is_file():
            return None
        _check_digest(start, file)
        return file
    return fetching.cached(start, _fixed(start, build_dir))


def start_facts(loaded: "LoadedProject", build_dir: Path) -> dict[str, str | None] | None:
    """Where the weights to start from come from, and whether they are there; None where a project starts from none.

    Returns:
        ``source`` as the project has it; ``address`` that they are fetched from, if they are no file; ``licence``, as
        published; ``file``, where it is there already. Nothing is fetched, and a file's bytes are not looked at.
    """
    start = loaded.project.architecture.start
    if start is None:
        return None
    file = loaded.weights_path
    fetched = start.address is not None and file is None
    there = fetching.cached(start, _fixed(start, build_dir), thorough=False) if fetched else file
    return {
        "source": start.text,
        "address": fetching.mirrored(start) if fetched else None,
        "licence": start.published.licence if fetched and start.published else None,
        "file": str(there) if there is not None and there.is_file() else None,
    }


def told(facts: Mapping[str, str | None]) -> str:
    """The same in a line."""
    licence = f" ({facts['licence']})" if facts["licence"] else ""
    if facts["address"] is None:
        return f"weights: {facts['source']}, {'a file' if facts['file'] else 'a file that is not there'}"
    state = "in the cache" if facts["file"] else "not in the cache, to be fetched at first use"
    return f"weights: {facts['source']}{licence}, {state}; {facts['address']}"


def _fixed(start: WeightsReference, build_dir: Path) -> list[Expected]:
    """The digest that the lock holds fast, where the project itself states none."""
    digest = pinned(build_dir, start.address)
    if digest is None or start.sha256:
        return []
    way_out = (
        "where it was published anew and you trust it, state its digest: "
        f"architecture.weights: {{source: {start.text}, sha256: {{sha256}}}}"
    )
    return [Expected(digest, str(build_dir / LOCK), way_out)]


def _check_digest(start: WeightsReference, file: Path) -> None:
    if start.sha256 and file.is_file() and (digest := digest_file(file)) != f"sha256:{start.sha256}":
        raise fail("N003", f"its digest is {digest}; the project states {start.sha256}", file=file)


def start_record(loaded: "LoadedProject", build_dir: Path) -> dict[str, Any] | None:
    """What the lock says of the weights that a project starts from; None where it starts from none.

    ``source`` is as the project has it, ``address`` where it is fetched from, ``sha256`` the digest that it must have
    from now on, null as long as it was never there, ``lineage`` its chain.

    Raises:
        SegcError: W012 where a licence is not allowed, else as the readers.
    """
    # Reading files takes numpy, and telling what a project starts from does not.
    from segc.weights.reading import lineage_of

    start = loaded.project.architecture.start
    if start is None:
        return None
    file = standing(loaded, build_dir)
    fixed = pinned(build_dir, start.address)
    row = start.published
    if file is not None:
        chain = lineage_of(file)
    elif start.address is not None:
        name, address = start.shown, without_query(start.address)
        chain = (Link("weights", name, fixed, published=row.licence if row else None, address=address),)
    else:
        return {"source": start.text, "address": None, "sha256": None, KEY: None}
    if file is not None or row is not None:
        check_licences(loaded, chain, file or loaded.path)
    digest = fixed if file is None else digest_file(file).removeprefix("sha256:")
    return {"source": start.text, "address": start.address, "sha256": digest, KEY: to_json(chain)}


def hold_fast(loaded: "LoadedProject", build_dir: Path) -> None:
    """Write what a project starts from into the lock of its build directory; the rest of the lock stays as it is.

    Raises:
        SegcError: as :func:`start_record`.
        OSError: where it cannot be written.
    """
    lock = read_record(build_dir / LOCK, LONGEST_LOCK)
    with writing(build_dir, (LOCK,)):
        write_atomic(build_dir / LOCK, canonical_json({**lock, "weights": start_record(loaded, build_dir)}))
