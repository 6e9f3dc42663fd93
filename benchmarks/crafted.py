"""The table of inputs made by hand, each with what must be said of it: each once got through, or is a neighbour.

They are quick, and `tests/hostile/` runs them, too. Those whose makers stand in other tests are in `crafted_tests`.
"""

import io
import json
import os
import socket
import struct
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """An input made by hand.

    Attributes:
        name: what it is.
        make: writes it into a folder; gives what `read` takes.
        read: gives what is said of it.
        says: stands in that.
        seconds: on the clock that it may take.
    """

    name: str
    make: Callable[[Path], Any]
    read: Callable[[Any], str]
    says: str
    seconds: float = 30.0


def try_row(row: Row, folder: Path) -> str:
    """Try an input in a folder of its own.

    Raises:
        AssertionError: where something else is said, or it takes too long.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        said = row.read(row.make(Path(own)))
    taken = time.monotonic() - started
    if row.says not in said:
        raise AssertionError(f"{row.name}: {said[:300]!r} where {row.says!r} is to be said")
    if taken > row.seconds:
        raise AssertionError(f"{row.name}: took {taken:.1f} s")
    if not said.replace("\n", "").isprintable():
        raise AssertionError(f"{row.name}: control characters: {said[:300]!r}")
    return "accepted" if said.startswith(READ) else "refused"


# -- what reads them; each gives what a user is told

READ = "read: "


def told(read: Callable[[], object]) -> str:
    """What is said of an input by what it raises, or what it is read as."""
    from segc.diagnostics import Diagnostic, SegcError, render_text
    from segc.inference.metadata import ModelError
    from segc.inference.sources import ImageError, SourceError

    try:
        return f"{READ}{read()}"
    except SegcError as error:
        return render_text(error.diagnostics)
    except (ImageError, SourceError, ModelError) as error:
        return render_text([Diagnostic("I002", str(error))])


def _spec(given: tuple[str, tuple[str, ...]]) -> str:
    from segc.diagnostics import render_text
    from segc.spec.load import check_text

    loaded, diagnostics = check_text(given[0], Path("/nowhere/project.yaml"), given[1])
    return render_text(diagnostics) if loaded is None else f"{READ}{loaded.project.dataset.class_names}"


def _weights(path: Path) -> str:
    from segc.weights.importing import describe
    from segc.weights.store import load_weights

    said = told(lambda: describe(path) and (path.suffix == ".safetensors" and load_weights(path)))
    if (path.parent / CANARY).exists():
        raise AssertionError("something of the file was run")
    return said


def read_image(data: bytes) -> str:
    """A picture's bytes."""
    from segc.inference.sources import decode_image

    return told(lambda: decode_image(data, "image").shape)


def _split(path: Path) -> str:
    from segc.data.dataset import read_split
    from segc.spec.load import load_project

    return told(lambda: len(read_split(load_project(path), "train")))


def _video(path: Path) -> str:
    from segc.inference.frames import Frame, Reading, read_frames
    from segc.inference.pipeline import Line
    from segc.inference.sources import find_sources

    with Line() as line:
        found = list(read_frames(find_sources([str(path)]), line, Reading(), print))
    return told(lambda: sum(isinstance(one, Frame) for one in found))


def _metadata(value: Any) -> str:
    from segc.inference.metadata import parse_metadata

    return told(lambda: parse_metadata(value).names)


def read_address(address: str, seconds: float = 0.5) -> str:
    """What an address gives within so many seconds."""
    from segc.inference.sources import fetch

    return told(lambda: fetch(address, seconds=seconds))


def _command(given: tuple[Path, list[str]]) -> str:
    from segc.cli import run

    folder, command = given
    said, home = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            status = run(command)
    finally:
        os.chdir(home)
    return f"exit status {status}\n{said.getvalue()}"


# -- what makes them

PROJECT = """\
version: 1
name: x
architecture: {family: yolov8-seg, scale: n}
dataset: {path: ., train: images, val: images, names: [thing]}
"""

CANARY = "canary"


def _same(value: Any) -> Callable[[Path], Any]:
    return lambda _: value


def _text(text: str, *overrides: str) -> Callable[[Path], Any]:
    return _same((text, overrides))


def _named(name: str) -> Callable[[Path], Any]:
    return _text(PROJECT.replace("thing", name))


def _safetensors(header: Any, data: int = 4, *, length: int | None = None) -> Callable[[Path], Path]:
    text = json.dumps(header).encode()

    def make(folder: Path) -> Path:
        path = folder / "weights.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
        return path

    return make


def _tensor(shape: list[int], told: int = 4, size: int | None = None) -> Callable[[Path], Path]:
    """A file that tells of a tensor of so many bytes, and has so many."""
    return _safetensors(
        {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, told]}}, told if size is None else size
    )


def _checkpoint(stream: bytes, *more: tuple[str, bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "weights.pt"
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of names that are there already
            for name, content in (("it/data.pkl", stream), ("it/version", b"3\n"), *more):
                archive.writestr(name, content)
        return path

    return make


def _call(module: str, name: str) -> bytes:
    """A pickle that calls a function."""
    return f"\x80\x02c{module}\n{name}\nX".encode("latin-1") + struct.pack("<I", 12) + b"touch canary\x85R."


def _dataset(files: dict[str, bytes | int], dataset: str = "") -> Callable[[Path], Path]:
    """A project with one picture and these files, of which a number is the length of an empty one."""

    def make(folder: Path) -> Path:
        import cv2
        import numpy as np

        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((48, 64, 3), np.uint8))
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                (folder / name).touch()
                os.truncate(folder / name, content)
        path = folder / "project.yaml"
        path.write_text(PROJECT.replace("names: [thing]", f"names: [thing]{dataset}"))
        return path

    return make


OF_CVAT = ", format: cvat, annotations: {train: a.xml, val: a.xml}"
OF_COCO = ", format: coco, annotations: {train: coco.json, val: coco.json}"


def _coco(value: Any) -> Callable[[Path], Path]:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return _dataset({"coco.json": text}, OF_COCO)


def _one_object(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**annotation, **changes}],
    }


def _claimed(side: int) -> dict[str, Any]:
    """Four masks of a picture that is said to be so large."""
    value = _one_object()
    value["images"][0].update(width=side, height=side)
    runs = {"size": [side, side], "counts": [side, side * side - side]}
    value["annotations"] = [{"id": n, "image_id": 1, "category_id": 1, "segmentation": runs} for n in range(4)]
    return value


def _mask(width: int, height: int) -> Callable[[Path], Path]:
    """A mask of colours that claims a size, in a hundred bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9_000))), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return _dataset({"masks/a.png": b"\x89PNG\r\n\x1a\n" + data}, ", format: masks")


def _changed_metadata(**changes: Any) -> Callable[[Path], Any]:
    from segc.inference.metadata import Metadata

    return lambda _: {**Metadata(("a", "b"), (64, 96)).to_json(), **changes}


def served(first: bytes, again: bytes = b"", pause: float = 0.02) -> Callable[[Path], str]:
    """The address of a server that sends something, then something else for ever."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError), listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(first)
                while again:
                    connection.sendall(again)
                    time.sleep(pause)

    def make(_: Path) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg"

    return make


def _picture_of_a_name(name: str, *command: str) -> Callable[[Path], tuple[Path, list[str]]]:
    """A broken picture whose name is a stranger's, and a command that tells of it."""

    def make(folder: Path) -> tuple[Path, list[str]]:
        project = _dataset({})(folder)
        (folder / "images" / name).write_bytes(b"\x89PNG\r\n\x1a\nnone")
        return folder, [*(command or ("validate", "--data")), str(project)]

    return make


def _video_of_a_name(name: str) -> Callable[[Path], Path]:
    """A video of three frames."""

    def make(folder: Path) -> Path:
        import cv2
        import numpy as np

        writer = cv2.VideoWriter(str(folder / "a.mp4"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for level in range(3):
            writer.write(np.full((48, 64, 3), 80 * level, np.uint8))
        writer.release()
        return (folder / "a.mp4").rename(folder / name)

    return make


def _table(text: str) -> Callable[[Path], tuple[Path, list[str]]]:
    """A run with a table of results, and a command that shows it."""

    def make(folder: Path) -> tuple[Path, list[str]]:
        run = folder / "build" / "runs" / "a"
        run.mkdir(parents=True)
        (run / "results.csv").write_text(text)
        return folder, ["runs", "list", "--build-dir", "build"]

    return make


def _arguments(text: str) -> Callable[[Path], tuple[Path, list[str]]]:
    """Arguments of a run elsewhere, and a command that takes them over."""

    def make(folder: Path) -> tuple[Path, list[str]]:
        (folder / "args.yaml").write_text(f"task: segment\nmode: train\nmodel: yolov8n-seg.pt\nepochs: 3\n{text}\n")
        return folder, ["init", "--from", "args.yaml"]

    return make


def _data_file(folder_of_data: str) -> Callable[[Path], tuple[Path, list[str]]]:
    """A data file that speaks of a folder, and a project that takes it over."""

    def make(folder: Path) -> tuple[Path, list[str]]:
        (folder / "data.yaml").write_text(f"path: {folder_of_data}\ntrain: images\nval: images\nnames: [thing]\n")
        project = folder / "project.yaml"
        project.write_text(f"{PROJECT.partition('dataset')[0]}dataset: {{data: data.yaml}}\n")
        return folder, ["validate", "project.yaml"]

    return make


PNG_OF_4_GB = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080802000000" + "4b6d29dc" + "fffff049" + "49444154" + "7876e684e6"
)
"""A chunk of 4 GB in a file of 46 bytes."""


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-30])
    return path


def _listed(name: str) -> dict[str, Any]:
    """An annotation file about an image of this name."""
    return {**_one_object(), "images": [{"id": 1, "file_name": name, "width": 64, "height": 48}]}


DOUBLING = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
"""Aliases of YAML that come to 2^61 values."""

LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%b">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><annotations>&j;</annotations>"
)
"""Entities of XML that come to 10 GB."""

GONE = b"HTTP/1.1 404 \x1b[31mGone\r\nContent-Length: 0\r\n\r\n"
TO_A_FILE = b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
CUT_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\nhello"

METADATA: tuple[tuple[str, Any, str], ...] = (
    ("batch", 1e9, "batch is not a number from 1 to 1024"),
    ("batch", 10**9, "batch is not a number from 1 to 1024"),
    ("batch", True, "batch is not a number from 1 to 1024"),
    ("batch", "1", "batch is not a number from 1 to 1024"),
    ("imgsz", [10**5, 10**5], "imgsz is not a height and a width"),
    ("imgsz", [8192, 8192], "('a', 'b')"),
    ("imgsz", [33, 64], "are no multiples of 32"),
    ("imgsz", [64], "imgsz is not a height and a width"),
    ("imgsz", 64, "imgsz is not a height and a width"),
    ("imgsz", {"0": 64}, "imgsz is not a height and a width"),
    ("names", ["\ud83d"], "names is not a list"),
    ("names", ["a\x1b[31m"], "names is not a list"),
    ("names", [], "names is not a list"),
    ("names", ["a", "a"], "names is not a list"),
    ("names", {"0": "a"}, "names is not a list"),
    ("names", ["a"] * 20_000, "names is not a list"),
    ("strides", [0], "strides is not a rising list"),
    ("strides", [32, 8], "strides is not a rising list"),
    ("layout", "sideways", "layout is not named or"),
    ("layout", ["named"], "layout is not named or"),
    ("layout", "masks", "conf, iou, max_det and agnostic go with the layouts"),
    ("channels", None, "channels is not first or last"),
    ("boxes", "furlongs", "boxes is not pixels or"),
    ("dynamic", 1, "dynamic is not true or false"),
    ("precision", "fp8", "precision is not fp32 or"),
    ("preprocessing", {"divisor": 0}, "preprocessing is not one"),
    ("conf", float("nan"), "conf is not between 0 and 1"),
    ("max_det", 1 << 40, "max_det is not a number from 1 to"),
    ("schema", 99, "take a newer segc"),
    ("schema", "1", "schema is no version"),
    ("family", "a\nerror: all is lost", "family is not a line"),
    ("segc_version", ["x"], "segc_version is not a line"),
    ("__class__", "os.system", "nothing is called '__class__'"),
)
"""Fields of a model's metadata, values that a stranger might give them, and what is said."""


ROWS: tuple[Row, ...] = (
    # specs
    Row("a spec of 1 MiB of !", _text("!" * (1 << 20)), _spec, "error[Y005]: a tag of more than 255", 10),
    Row("an endless tag in a list", _named("!" * 300), _spec, "error[Y005]: a tag of more than 255"),
    Row("exclamation marks in a comment", _text(f"{PROJECT}# {'!' * 200}\n"), _spec, "('thing',)"),
    Row("exclamation marks in a text", _named(f'"{"!" * 300}"'), _spec, "!!!"),
    Row("2000 faults", _text("a: b\n" * 2000), _spec, "more faults like these"),
    Row("400 dots", _text(PROJECT, "a." * 400 + "b=1"), _spec, "error[S109]: 401 keys, one inside another"),
    Row(
        "a tag of Python", _named("!!python/object/apply:os.system [touch canary]"), _spec, "error[Y008]: a tag is not"
    ),
    Row("brackets without end", _text("a: " + "[" * 100_000), _spec, "error[Y005]: more than 32 levels"),
    Row("a mapping in itself", _text(f"{PROJECT}hyperparameters: &a {{lr0: *a}}\n"), _spec, "error[Y009]: "),
    Row("aliases that double", _text(DOUBLING), _spec, "error[Y005]: "),
    Row("a NUL", _named("th\0ing"), _spec, "error[Y002]: character U+0000"),
    Row("an escape in a name", _named(r'"\x1b[31mred"'), _spec, "error[X202]: a class name is"),
    Row("a newline in a name", _named(r'"a\nerror: all is lost"'), _spec, "error[X202]: a class name is"),
    Row("an emoji as JSON writes it", _named(r'"\ud83d\ude00"'), _spec, "('😀',)"),
    Row("half an emoji", _named(r'"\ud83d"'), _spec, "error[Y002]: an escape stands for a character"),
    Row(
        "an emoji the wrong way round",
        _named(r'"\ude00\ud83d"'),
        _spec,
        "error[Y002]: an escape stands for a character",
    ),
    Row(
        "a number of 5000 digits",
        _text(PROJECT, f"hyperparameters.epochs={'9' * 5000}"),
        _spec,
        "error[Y005]: a number of",
    ),
    Row("a key twice", _text(PROJECT + "name: y\n"), _spec, "error[Y003]: key `name` is given twice"),
    # weights
    Row("a tensor of 65 dimensions", _tensor([1] * 65), _weights, "tensor a cannot have the shape"),
    Row("a zero times 2^63", _tensor([0, 2**63], 0), _weights, "tensor a cannot have the shape"),
    Row("a zero times 2^64 - 1", _tensor([0, 2**64 - 1], 0), _weights, "tensor a cannot have the shape"),
    Row("a header of 2^62 bytes", _safetensors({}, length=2**62), _weights, "error[W001]: not a safetensors"),
    Row("an empty header", _safetensors({}, length=0), _weights, "error[W002]: the safetensors file is broken"),
    Row("values from beyond", _tensor([1 << 40], 1 << 42, 4), _weights, "error[W002]: "),
    Row("a call of the system", _checkpoint(_call("os", "system")), _weights, "holds the name os.system"),
    Row("a call of eval", _checkpoint(_call("builtins", "eval")), _weights, "holds the name builtins.eval"),
    Row("a pickle twice", _checkpoint(b"\x80\x02N.", ("it/data.pkl", b"\x80\x02}.")), _weights, "same name"),
    Row("a pickle without an end", _checkpoint(b"\x80\x02" + b"(" * 100_000), _weights, "exhausted before seeing STOP"),
    Row("a checkpoint that is cut", lambda f: _cut(_checkpoint(b"\x80\x02N.")(f)), _weights, "broken or cut off"),
    # pictures
    Row("46 bytes that ask for 4 GB", _same(PNG_OF_4_GB), read_image, "a chunk IDAT of 4294963273 bytes"),
    Row("no bytes", _same(b""), read_image, "the file is empty"),
    # datasets
    Row("5000 rows of junk", _dataset({"labels/a.txt": b"junk\n" * 5000}), _split, "rows from here on"),
    Row("a label file of 100 MB", _dataset({"labels/a.txt": 100 << 20}), _split, "larger than 16 MiB", 10),
    Row(
        "labels that are no text",
        _dataset({"labels/a.txt": b"\xff\xfe0 0.1"}),
        _split,
        "error[D003]: the label file is not text",
    ),
    Row(
        "a class of 10^30",
        _dataset({"labels/a.txt": b"9" * 30 + b" .1 .1 .5 .1 .5 .5\n"}),
        _split,
        "is out of range: the project's",
    ),
    Row("a label of NaN", _dataset({"labels/a.txt": b"0 nan .1 .5 .1 .5 .5\n"}), _split, "nan is not a finite number"),
    Row("brackets without end in COCO", _coco(b"[" * 100_000), _split, "error[D003]: not JSON"),
    Row("half a character in COCO", _coco(_listed("\ud83d.png")), _split, "error[D0"),
    Row(
        "an endless run in COCO",
        _coco(_one_object(segmentation={"size": [48, 64], "counts": [1 << 60]})),
        _split,
        "a run is negative or longer",
    ),
    Row(
        "a mask of 2^62 pixels",
        _coco(_one_object(segmentation={"size": [1 << 31] * 2, "counts": []})),
        _split,
        "is not [height, width] of the",
    ),
    Row(
        "a polygon of Infinity",
        _coco(_one_object(segmentation=[[1, 1, float("inf"), 1, 9, 9]])),
        _split,
        "Infinity is no coordinate",
    ),
    Row(
        "a name longer than any file's",
        _coco(_listed("a" * 5000)),
        _split,
        "error[D007]: /images/0/file_name: there is no",
    ),
    Row("a name that leads out", _coco(_listed("../../../etc/passwd")), _split, "is no file name inside the folder"),
    Row("XML that grows", _dataset({"a.xml": LAUGHS}, OF_CVAT), _split, "a document type is not read"),
    Row("a mask of 2^28 pixels for a small picture", _coco(_claimed(1 << 14)), _split, "error[D008]: "),
    Row("masks of a small claim", _coco(_claimed(1 << 11)), _split, "read: 1"),
    Row("a mask of 2^28 pixels in 100 bytes", _mask(1 << 14, 1 << 14), _split, "cannot hold 16384 by 16384 pixels"),
    Row("a mask that is damaged", _mask(40, 100), _split, "is damaged"),
    # names
    Row(
        "an escape and a line in a file's name",
        _picture_of_a_name("a\x1b[31m\nerror: all is lost.png"),
        _command,
        r"a\x1b[31m error: all is lost.png: error[D002]",
    ),
    Row(
        "an escape and a line in a file's name, for GitHub",
        _picture_of_a_name("a\x1b[31m\nb.png", "validate", "--data", "--format", "github"),
        _command,
        r"images/a\x1b[31m%0Ab.png,",
    ),
    Row(
        "a file's name that is no UTF-8, in SARIF",
        _picture_of_a_name("caf\udce9.png", "validate", "--data", "--format", "sarif"),
        _command,
        "images/caf%E9.png",
    ),
    Row(
        "a file's name that is no UTF-8, of data that are looked at",
        _picture_of_a_name("caf\udce9.png", "data", "check"),
        _command,
        r"caf\udce9.png: error[D002]",
    ),
    Row("a video's name that is no UTF-8", _video_of_a_name("caf\udce9.mp4"), _video, "read: 3"),
    Row("a file's name that is no UTF-8", _picture_of_a_name("caf\udce9.png"), _command, r"caf\udce9.png: error[D002]"),
    Row(
        "a table of results without seconds", _table("epoch\n1\n"), _command, "error[F002]: not a table that segc wrote"
    ),
    Row(
        "a table of results of words", _table("epoch,seconds\n1,many\n"), _command, "error[F002]: not a table that segc"
    ),
    Row(
        "a folder longer than any, in a data file",
        _data_file("a" * 5000),
        _command,
        "error[X212]: ",
    ),
    Row(
        "a rate of a word", _arguments("warmup_bias_lr: fast"), _command, "warmup_bias_lr: left out, `fast` is no value"
    ),
    # metadata of a model
    *(
        Row(f"metadata: {key} {json.dumps(value):.40}", _changed_metadata(**{key: value}), _metadata, says)
        for key, value, says in METADATA
    ),
    Row("metadata that are a number", _same(1.5), _metadata, "its metadata does not say what it detects"),
    Row("metadata that are a list", _same([{}]), _metadata, "its metadata does not say what it detects"),
    # servers
    Row(
        "a server that says no length and too much",
        served(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, 0),
        lambda address: read_address(address, 25),  # sooner by far, but a busy machine takes its time
        "larger than 64 MB",
    ),
    Row("a server that colours its lines", served(GONE), read_address, r"answered 404 \x1b[31mGone"),
    Row("a server that leads to a file", served(TO_A_FILE), read_address, "is not allowed"),
    Row("a server that ends in a chunk", served(CUT_CHUNK), read_address, "the download broke off"),
)
"""What is tried in the process itself."""
