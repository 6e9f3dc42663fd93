"""Walls against inputs that grow by what they reach: libFuzzer, through atheris, on the readers that are all Python.

    python -m venv fuzzing && fuzzing/bin/pip install atheris -e . && mkdir -p corpus/specs
    fuzzing/bin/python benchmarks/fuzz_coverage.py specs corpus/specs -max_total_time=300

What follows the class is libFuzzer's own: the folder in which the corpus grows, which begins with what the class has,
and its options. An input that is neither read nor refused in segc's words, takes more than ten seconds or a gigabyte,
is left beside the corpus as `crash-…`, `timeout-…` or `oom-…`: it belongs into `crafted.ROWS`.
"""

import contextlib
import io
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["segc"]):
    from segc import json_stream
    from segc.data import labels
    from segc.diagnostics import render_text
    from segc.inference import image_headers, metadata
    from segc.spec import load
    from segc.weights import inert

from benchmarks import fuzz_kinds

json_stream._CHUNK = 16  # noqa: SLF001 - every token is met at the edge of a window

NOWHERE = Path("/nowhere/file")


@dataclass(frozen=True)
class Reader:
    """What reads bytes, what it begins with, and the errors in which it may refuse them."""

    read: Callable[[bytes], object]
    seeds: Callable[[], tuple[bytes, ...]]
    refusals: tuple[type[Exception], ...] = ()


def _spec(data: bytes) -> None:
    _, diagnostics = load.check_text(data.decode("utf-8", "replace"), NOWHERE)
    if not render_text(diagnostics).replace("\n", "").isprintable():
        raise AssertionError("control characters between ours")


def _labels(data: bytes) -> None:
    _, faults = labels.parse_labels(data.decode("utf-8", "replace"), NOWHERE, 3)
    render_text(faults)


def _json(data: bytes) -> None:
    """What is read through a window of a few characters is what Python reads at once, refused or not."""
    try:
        read: object = {
            key: list(value) if isinstance(value, json_stream.Elements) else value
            for key, value in json_stream._members(json_stream._Window(io.BytesIO(data)))  # noqa: SLF001
        }
    except json_stream.JsonError:
        read = None
    try:
        whole = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        whole = None
    if isinstance(read, dict) and repr(read) != repr(whole):
        raise AssertionError(f"read as {read!r:.200}, it is {whole!r:.200}")


def _pickles() -> tuple[bytes, ...]:
    found = []
    for checkpoint in fuzz_kinds.checkpoints():
        with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
            found += [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
    return tuple(found)


READERS: dict[str, Reader] = {
    "specs": Reader(_spec, lambda: (fuzz_kinds.SPEC.encode(),)),
    "pickles": Reader(inert.read, _pickles, (inert.Refused, inert.Malformed, inert.TooLarge)),
    "headers": Reader(image_headers.check_image_header, fuzz_kinds.images, (image_headers.HeaderError,)),
    "labels": Reader(_labels, lambda: (fuzz_kinds.LABELS.encode(),)),
    "json": Reader(_json, lambda: (json.dumps(fuzz_kinds.COCO).encode(),)),
    "metadata": Reader(
        metadata.parse_metadata,
        lambda: tuple(json.dumps(one).encode() for one in fuzz_kinds.metadata_values()),
        (metadata.ModelError,),
    ),
}
"""By the class that stands on the command line."""


def main() -> None:
    """Let libFuzzer have a reader."""
    if len(sys.argv) < 3 or sys.argv[1] not in READERS:
        sys.exit(f"{__doc__}\nclasses: {', '.join(READERS)}")
    reader, folder = READERS[sys.argv.pop(1)], Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(reader.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        with contextlib.suppress(*reader.refusals):
            reader.read(data)

    limits = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", f"-artifact_prefix={folder}-")
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
