"""The table of what is fuzzed: how an input is made from a seed, what reads it, and what may come of it.

A new kind is a row of `KINDS`; those of artifacts are in `fuzz_artifacts`.
"""

import io
import json
import random
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.crafted import ROWS, Row, try_row
from benchmarks.fuzz_mutations import (
    WORDS,
    changed_archive,
    changed_bytes,
    changed_json,
    changed_text,
    json_bytes,
    with_right_sums,
)

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Kind:
    """One class of inputs.

    Attributes:
        name: of the class.
        inputs: how many the long run tries.
        make: an input from seeded numbers; the folder is the process's own, and there for its files.
        run: what reads it; "accepted" or "refused". Anything raised but a `SegcError` or an error for sources is a
            failure, and so is a word on the terminal, the end of the process, or a limit passed.
        seconds: of processor time that an input may take.
        megabytes: by which the largest memory of the process may grow with one input.
        needs: a folder of artifacts, as `segc emit` leaves them: the name of the target.
        refusals: names of the errors in which an input may be refused.
        rows: inputs made by hand, in place of those that `make` gives.
        alone: what reads an input that ended the process once more, as `run`, but so that this is not the end.
    """

    name: str
    inputs: int
    make: Callable[[random.Random, Path], Any]
    run: Callable[[Any, Path], str]
    seconds: float = 10.0
    megabytes: int = 600
    needs: str | None = None
    refusals: tuple[str, ...] = ("SegcError", "ImageError", "SourceError", "ModelError")
    rows: tuple[Row, ...] = ()
    alone: Callable[[Any, Path], str] | None = None

    def input(self, seed: int, number: int, folder: Path) -> Any:
        """The input of this number; of a number below 0 any one."""
        if self.rows:
            return self.rows[max(number, 0)]
        return self.make(random.Random(f"{seed}/{self.name}/{number}"), folder)


def shown(diagnostics: Any) -> None:
    """Diagnostics as the command line shows them: on lines of their own, without anything that moves a cursor."""
    from segc.diagnostics import render_text, to_dict

    text = render_text(diagnostics)
    if not text.replace("\n", "").isprintable():
        raise AssertionError(f"control characters between ours: {text[:500]!r}")
    for diagnostic in diagnostics:
        json.dumps(to_dict(diagnostic))


# -- specs and overrides

SPEC = """\
version: 1
name: shapes
architecture:
  family: yolov8-seg
  scale: {depth: 0.33, width: 0.25, max_channels: 1024}
dataset:
  path: data
  train: [images/train, images/more]
  val: images/val
  names: {0: circle, 1: "größe \\u263a", 2: 'a square'}
hyperparameters: &h
  imgsz: [480, 640]
  batch: 8
  epochs: 3
  lr0: 1.0e-2
  iou: 0.6
targets:
- format: onnx
- {format: tflite}
- format: torchscript
  half: true
# a comment
"""


def _check(text: str, overrides: tuple[str, ...] = ()) -> str:
    from segc.spec.load import check_text

    loaded, diagnostics = check_text(text, Path("/nowhere/project.yaml"), overrides)
    shown(diagnostics)
    if loaded is None and not any(one.severity == "error" for one in diagnostics):
        raise AssertionError("refused without an error")
    return "refused" if loaded is None else "accepted"


def _spec(numbers: random.Random, _: Path) -> str:
    if numbers.random() < 0.2:
        return changed_bytes(numbers, SPEC.encode()).decode("utf-8", "replace")
    return changed_text(numbers, SPEC)


KEYS = (
    "hyperparameters",
    "imgsz",
    "epochs",
    "dataset",
    "names",
    "0",
    "1",
    "-1",
    "targets",
    "architecture",
    "scale",
    "",
)


@cache
def _settings() -> tuple[tuple[str, str], ...]:
    """Keys that there are, each with a value that it may have: its default."""
    from segc.spec.dataset import Dataset
    from segc.spec.hyperparameters import Hyperparameters

    described = (("hyperparameters", Hyperparameters), ("dataset", Dataset))
    return (
        *(
            (f"{part}.{name}", json.dumps(field.get_default(call_default_factory=True), default=str))
            for part, model in described
            for name, field in model.model_fields.items()
            if not field.is_required()
        ),
        ("architecture.scale", "n"),
        ("targets.0.opset", "17"),
        ("targets.0", "{format: openvino, half: true}"),
        ("targets.2.half", "false"),
        ("dataset.names.1", "box"),
        ("name", "other"),
    )


def _override(numbers: random.Random, _: Path) -> str:
    if numbers.random() < 0.6:
        path, value = numbers.choice(_settings())
        kind = numbers.randrange(4)
        if kind == 0:
            value = numbers.choice((changed_text(numbers, value), numbers.choice(WORDS)))
        elif kind == 1:
            value = numbers.choice(("0", "1", "7", "0.5", "true", "[480, 640]", "~", value))
        return f"{path}={value}"
    depth = numbers.choice((1, 2, 2, 3, 3, 4, 40, 400))
    path = ".".join(numbers.choice((*KEYS, numbers.choice(WORDS))) for _ in range(depth))
    value = changed_text(numbers, numbers.choice(WORDS)) if numbers.random() < 0.7 else SPEC
    return path + numbers.choice(("=", "=", "=", "", ":", "==")) + value


# -- weights

CANARY = "canary"


@cache
def checkpoints() -> tuple[bytes, ...]:
    """Checkpoints as PyTorch writes them."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names = {0: "circle", 1: "square"}
            self.layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU())

    # Pickles name classes by their module, which is not imported to read them.
    Net.__qualname__, Net.__module__ = "Net", __name__
    globals()["Net"] = Net
    net = Net()
    made = []
    for value in (
        net.state_dict(),
        {"model": net, "epoch": 3, "names": ["a"]},
        {"state_dict": net.half().state_dict()},
    ):
        stream = io.BytesIO()
        torch.save(value, stream)
        made.append(stream.getvalue())
    return tuple(made)


def _hostile_pickle(numbers: random.Random, name: str, content: bytes) -> bytes:
    if not name.endswith(".pkl") or numbers.random() < 0.6:
        return changed_bytes(numbers, content)
    module, function = numbers.choice(
        (("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"))
    )
    call = f"c{module}\n{function}\nX".encode() + struct.pack("<I", 14) + b"touch canary  " + b"\x85R"
    at = numbers.choice((2, numbers.randrange(2, len(content))))
    return content[:at] + call + numbers.choice((b"0", b"", b".")) + content[at:]


def _checkpoint(numbers: random.Random, folder: Path) -> Path:
    data = numbers.choice(checkpoints())
    data = changed_bytes(numbers, data) if numbers.random() < 0.3 else changed_archive(numbers, data, _hostile_pickle)
    path = folder / f"weights{numbers.choice(('.pt', '.pth'))}"
    path.write_bytes(data)
    return path


def _read_weights(path: Path, folder: Path) -> str:
    from segc.weights.importing import describe

    try:
        describe(path)
    finally:
        if (folder / CANARY).exists():
            raise AssertionError("something of the file was run")
    return "accepted"


def _safetensors(numbers: random.Random, folder: Path) -> Path:
    header: Any = {
        "__metadata__": {"names": '["a"]', "task": "segment"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [0, 4], "data_offsets": [24, 24]},
        "c": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
    }
    kind = numbers.randrange(4)
    if kind == 0:
        entry = header[numbers.choice("abc")]
        entry["shape"] = [
            numbers.choice((0, 1, 2, 3, 2**31, 2**63, 2**64 - 1)) for _ in range(numbers.choice((1, 2, 64, 65, 200)))
        ]
    elif kind < 3:
        header = changed_json(numbers, header)
    text = json_bytes(header)
    data = struct.pack("<Q", len(text)) + text + bytes(32)
    path = folder / "weights.safetensors"
    path.write_bytes(changed_bytes(numbers, data) if numbers.random() < 0.4 else data)
    return path


def _read_safetensors(path: Path, folder: Path) -> str:
    from segc.weights.store import load_weights

    _read_weights(path, folder)
    load_weights(path)
    return "accepted"


# -- images

SUFFIXES = (
    ".png",
    ".jpg",
    ".webp",
    ".tif",
    ".jp2",
    ".gif",
    ".bmp",
    ".avif",
    ".ppm",
    ".pgm",
    ".pam",
    ".hdr",
    ".pfm",
    ".ras",
)


@cache
def images() -> tuple[bytes, ...]:
    """A picture in every format that is read and can be written."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(noise, (9, 9), 3)
    made = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()]
    for suffix in SUFFIXES:
        picture = image.astype(np.float32) / 255 if suffix in {".hdr", ".pfm"} else image
        picture = image[..., 0] if suffix == ".pgm" else picture
        try:
            made.append(cv2.imencode(suffix, picture)[1].tobytes())
        except cv2.error:
            continue  # a build of OpenCV without that format
    return tuple(made)


def _image(numbers: random.Random, _: Path) -> bytes:
    data = changed_bytes(numbers, numbers.choice(images()))
    return with_right_sums(data) if data.startswith(b"\x89PNG") and numbers.random() < 0.5 else data


def _decode(data: bytes, _: Path) -> str:
    from segc.inference.sources import decode_image

    decode_image(data, "image")
    return "accepted"


# -- videos and streams


@cache
def _videos() -> tuple[bytes, ...]:
    import cv2
    import numpy as np

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, code in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".ts", "mp4v")):
            path = Path(folder, f"a{suffix}")
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 10, (64, 48))
            for level in range(8):
                writer.write(np.full((48, 64, 3), 25 * level, np.uint8))
            writer.release()
            found.append(path.read_bytes())
    return tuple(found)


def _video(numbers: random.Random, folder: Path) -> Path:
    path = folder / "a.mp4"
    path.write_bytes(changed_bytes(numbers, numbers.choice(_videos())))
    return path


def _read_video(path: Path, _: Path) -> str:
    from segc.inference.frames import Reading, Unread, read_frames
    from segc.inference.pipeline import Line
    from segc.inference.sources import find_sources

    with Line() as line:
        found = list(read_frames(find_sources([str(path)]), line, Reading(), print))
    return "refused" if isinstance(found[0], Unread) else "accepted"


PART = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: 5\r\n\r\nhello\r\n--b\r\n\r\nhello\r\n"


def _parts(numbers: random.Random, _: Path) -> bytes:
    data = PART * numbers.randrange(1, 5) + b"--b--\r\n"
    return changed_bytes(numbers, data) if numbers.random() < 0.9 else data


def _read_parts(data: bytes, _: Path) -> str:
    from segc.inference.frames import Multipart

    file = io.BytesIO(data)
    list(Multipart(lambda size: file.read(min(size, 7)), b"b").bodies())
    return "accepted"


# -- datasets

LABELS = "0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.5 0.5 0.2 0.2\n2 0.9 0.9 0.95 0.9 0.95 0.95 0.9 0.95\n"
COCO: Any = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "categories": [{"id": 3, "name": "circle"}, {"id": 5, "name": "square"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "area": 9, "bbox": [1, 1, 3, 3],
         "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {"id": 2, "image_id": 1, "category_id": 5, "iscrowd": 1, "bbox": [1, 1, 3, 3],
         "segmentation": {"size": [48, 64], "counts": [5, 10, 3057]}},
        {"id": 3, "image_id": 1, "category_id": 5, "segmentation": [[1, 1, 9, 1, 9, 9], [20, 20, 30, 20, 30, 30]]},
    ],
}  # fmt: skip


ANNOTATIONS = {"coco": "coco.json", "cvat": "cvat.xml"}
"""Files of annotations, by the formats that have one for all images."""


def _dataset(folder: Path, kind: str, names: str) -> Path:
    import cv2
    import numpy as np

    image = folder / "images" / "a.png"
    if not image.exists():
        for name in ("images", "labels"):
            (folder / name).mkdir(exist_ok=True)
        cv2.imwrite(str(image), np.zeros((48, 64, 3), np.uint8))
    path = folder / f"{kind}.yaml"
    path.write_text(
        "version: 1\nname: x\narchitecture: {family: yolov8-seg, scale: n}\n"
        f"dataset: {{path: ., train: images, val: images, names: {names}, format: {kind}"
        + (
            f", annotations: {{train: {ANNOTATIONS[kind]}, val: {ANNOTATIONS[kind]}}}}}\n"
            if kind in ANNOTATIONS
            else "}\n"
        )
    )
    return path


def _labels(numbers: random.Random, folder: Path) -> Path:
    path = _dataset(folder, "yolo", "[circle, square, star]")
    text = changed_text(numbers, LABELS).encode("utf-8", "surrogatepass")
    (folder / "labels" / "a.txt").write_bytes(changed_bytes(numbers, text) if numbers.random() < 0.3 else text)
    return path


def _coco(numbers: random.Random, folder: Path) -> Path:
    path = _dataset(folder, "coco", "[circle, square]")
    value = COCO
    for _ in range(numbers.choice((1, 1, 2, 4))):
        value = changed_json(numbers, value)
    text = json_bytes(value)
    (folder / "coco.json").write_bytes(changed_bytes(numbers, text) if numbers.random() < 0.2 else text)
    return path


CVAT = """\
<?xml version="1.0"?>
<annotations><version>1.1</version><meta><task><labels><label><name>circle</name></label></labels></task></meta>
<image id="0" name="a.png" width="64" height="48">
<polygon label="circle" points="1,1;9,1;9,9" occluded="0" z_order="0"></polygon>
<box label="square" xtl="1" ytl="1" xbr="9" ybr="9" rotation="30"></box>
<ellipse label="circle" cx="20" cy="20" rx="5" ry="3"></ellipse>
<mask label="square" rle="3, 4, 5" left="1" top="1" width="4" height="3"></mask>
</image></annotations>
"""
LABELME: Any = {
    "version": "5.0.1",
    "imagePath": "a.png",
    "imageData": None,
    "imageWidth": 64,
    "imageHeight": 48,
    "shapes": [
        {"label": "circle", "points": [[1, 1], [9, 1], [9, 8]], "shape_type": "polygon", "group_id": 1, "flags": {}},
        {"label": "square", "points": [[1, 1], [9, 8]], "shape_type": "rectangle", "group_id": None, "flags": {}},
        {"label": "circle", "points": [[20, 20], [25, 20]], "shape_type": "circle", "group_id": None, "flags": {}},
    ],
}


def _cvat(numbers: random.Random, folder: Path) -> Path:
    path = _dataset(folder, "cvat", "[circle, square]")
    if numbers.random() < 0.5:
        data = changed_text(numbers, CVAT).encode("utf-8", "surrogatepass")
    else:
        data = changed_bytes(numbers, CVAT.encode())
    (folder / "cvat.xml").write_bytes(data)
    return path


def _labelme(numbers: random.Random, folder: Path) -> Path:
    path = _dataset(folder, "labelme", "[circle, square]")
    text = json_bytes(changed_json(numbers, changed_json(numbers, LABELME)))
    (folder / "images" / "a.json").write_bytes(changed_bytes(numbers, text) if numbers.random() < 0.2 else text)
    return path


def _masks(numbers: random.Random, folder: Path) -> Path:
    import cv2
    import numpy as np

    from segc.data.formats.png import indexed_png

    path = _dataset(folder, "masks", "[background, circle, square]")
    (folder / "masks").mkdir(exist_ok=True)
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 5:20], mask[25:40, 30:60] = 1, 2
    data = changed_bytes(numbers, numbers.choice((indexed_png(mask), cv2.imencode(".png", mask)[1].tobytes())))
    (folder / "masks" / "a.png").write_bytes(with_right_sums(data) if numbers.random() < 0.5 else data)
    return path


VOC_RECORD = """\
<annotation><filename>a.png</filename><size><width>64</width><height>48</height><depth>3</depth></size>
<segmented>1</segmented>
<object><name>circle</name><bndbox><xmin>6</xmin><ymin>6</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>
<object><name>square</name><pose>Unspecified</pose><difficult>0</difficult></object></annotation>
"""
VOC_LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncircle:128,0,0::\nsquare:0,128,0::\n"


def _voc(numbers: random.Random, folder: Path) -> Path:
    import numpy as np

    from segc.data.formats.png import indexed_png

    path = _dataset(folder, "voc", "[circle, square]")
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 5:20], mask[25:40, 30:60], mask[20, 5:20] = 1, 2, 255
    files = {
        "SegmentationObject/a.png": indexed_png(mask),
        "SegmentationClass/a.png": indexed_png(mask),
        "Annotations/a.xml": VOC_RECORD.encode(),
        "labelmap.txt": VOC_LABELMAP.encode(),
    }
    # The classes stand in the record, or in the pixels: of VOC's numbers, or of a labelmap's colours.
    for left_out in numbers.choice(
        (("labelmap.txt",), ("labelmap.txt", "Annotations/a.xml"), ("Annotations/a.xml",), ())
    ):
        del files[left_out]
    changed = numbers.choice(sorted(files))
    if not changed.endswith(".png") and numbers.random() < 0.7:
        files[changed] = changed_text(numbers, files[changed].decode()).encode("utf-8", "surrogatepass")
    else:
        files[changed] = changed_bytes(numbers, files[changed])
        if numbers.random() < 0.5:
            files[changed] = with_right_sums(files[changed])
    for name in ("SegmentationObject/a.png", "SegmentationClass/a.png", "Annotations/a.xml", "labelmap.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        if name in files:
            (folder / name).write_bytes(files[name])
    return path


def _read_split(path: Path, _: Path) -> str:
    from segc.data.dataset import read_split
    from segc.spec.load import load_project

    read_split(load_project(path), "train")
    return "accepted"


# -- addresses and servers

HOSTS = (
    "127.0.0.1:1",
    "[::1",
    "[::1]:1",
    "a..b",
    "a" * 64,
    "127.0.0.1:99999",
    "127.0.0.1:x",
    "",
    "0",
    "u:p@127.0.0.1:1",
    "%00",
)


def _address(numbers: random.Random, _: Path) -> str:
    scheme = numbers.choice(("http", "https", "HTTP", "ftp", "file", "data", "http:", ""))
    tail = numbers.choice(("", "/", "/a.jpg", "/a b.jpg", "/\x1b[31m", "/%", "?q", "#f", "/\ud83d", "/" + "a" * 5000))
    text = f"{scheme}://{numbers.choice(HOSTS)}{tail}"
    # A name that is looked up in earnest would leave the machine.
    if numbers.random() < 0.5:
        at = numbers.randrange(len(text))
        text = text[:at] + numbers.choice((*":/?#[]@%\\\n\r\t\0 ", "\ud83d", "\u2028")) + text[at:]
    return text


def _fetch_address(address: str, _: Path) -> str:
    from segc.inference.sources import find_sources

    for source in find_sources([address]):
        _ = source.stem, source.suffix
        source.read()
    return "accepted"


RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /b.jpg\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx",
    b"HTTP/1.1 404 \x1b[31mGone\r\n\r\n",
)


def _response(numbers: random.Random, _: Path) -> tuple[bytes, bytes, float]:
    """What a server sends at once, what it then sends again and again, and the seconds between."""
    data = numbers.choice(RESPONSES)
    if numbers.random() < 0.7:
        data = changed_bytes(numbers, data)
    cut = numbers.randrange(len(data) + 1)
    return (
        data[:cut],
        numbers.choice((b"", data[cut : cut + 1], b"x", b"HTTP/1.1 100 Continue\r\n\r\n")),
        numbers.choice((0.0, 0.05)),
    )


def _fetch_from_server(response: tuple[bytes, bytes, float], _: Path) -> str:
    from segc.inference.sources import fetch

    first, again, pause = response

    def serve(listener: socket.socket) -> None:
        listener.settimeout(5)
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(first)
                    for _ in range(400 if again else 0):
                        connection.sendall(again)
                        time.sleep(pause)
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        started = time.monotonic()
        try:
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg", seconds=0.5, limit=1 << 20)
        finally:
            if time.monotonic() - started > 5:
                raise AssertionError("longer than its limit")
    return "accepted"


# -- what `segc init --from` takes over

TAKEN = (
    """\
path: .
train: images/train
val: images/val
names: {0: circle, 1: 'a square'}
nc: 2
download: x
""",
    """\
task: segment
mode: train
model: yolov8m-seg.pt
data: data.yaml
epochs: 7
batch: -1
imgsz: [640, 640]
device: 0
lr0: 0.02
warmup_bias_lr: 0.1
multi_scale: true
freeze: [0, 1]
cache: 'ram'
amp: true
nbs: 64
mosaic: 0.5
optimizer: auto
keras: false
""",
    """\
nc: 3
scale: m
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C2f, [128, true]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[15, 18, 21], 1, Segment, [nc, 32, 256]]
""",
)
"""A data file, the arguments of a run, a model."""


def _taken(numbers: random.Random, folder: Path) -> Path:
    path = folder / numbers.choice(("data.yaml", "args.yaml", "yolov8x-seg.yaml"))
    path.write_bytes(changed_text(numbers, numbers.choice(TAKEN)).encode("utf-8", "surrogatepass"))
    return path


def _take_over(path: Path, folder: Path) -> str:
    from segc.spec.init import project_text
    from segc.spec.load import check_text

    text, _ = project_text(folder / "project.yaml", path)
    loaded, found = check_text(text, folder / "project.yaml")
    # What a data file names is told when the project is read.
    if loaded is None and not all(one.file == path for one in found if one.severity == "error"):
        raise AssertionError(f"wrote a project that is none: {[one.message for one in found]}")
    return "accepted"


# -- records of runs

RECORD: Any = {
    "format": 1,
    "name": "a",
    "project": "shapes",
    "epochs": 3,
    "hyperparameters": {"imgsz": [64, 64], "epochs": 3, "augment": {"mosaic": 1.0}},
    "dataset": {"train images": "3", "train": "sha256:0"},
    "dataset_digest": "sha256:0",
    "weights": "",
    "segments": [
        {
            "started": "2026-01-01T00:00:00+00:00", "epoch": 0, "steps": 0, "overrides": ["hyperparameters.epochs=3"],
            "spec_digest": "sha256:0", "changes": ["a: 1 → 2"], "versions": {"segc": "1"}, "machine": {"cpu": "x"},
            "ended": "2026-01-01T00:01:00+00:00", "end": "finished",
        }
    ],
    "best": {"epoch": "2", "box_map": "0.5", "mask_map": "0.25"},
    "ties": [1],
    "seconds": 60.0,
    "validation_seconds": 1.5,
}  # fmt: skip
RESULTS = "epoch,seconds,box_map,mask_map,train/box\n1,9,0.1,0.2,3.5\n2,19.5,0.5,0.25,2.5\n3,30,-,-,2.0\n"


def _run(numbers: random.Random, folder: Path) -> Path:
    for name in ("a", "b"):
        run = folder / "build" / "runs" / name
        (run / "weights").mkdir(parents=True, exist_ok=True)
        (run / "weights" / "best.safetensors").touch()
        (run / "run.json").write_bytes(json_bytes({**RECORD, "name": name}))
        (run / "results.csv").write_text(RESULTS)
    if numbers.random() < 0.7:
        (run / "run.json").write_bytes(json_bytes(changed_json(numbers, changed_json(numbers, RECORD))))
    else:
        text = changed_text(numbers, RESULTS).encode("utf-8", "surrogatepass")
        (run / "results.csv").write_bytes(changed_bytes(numbers, text) if numbers.random() < 0.3 else text)
    return folder / "build"


def _read_runs(build: Path, _: Path) -> str:
    from segc.cli import run

    said, status = io.StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        for command in (["list"], ["show", "b"], ["compare", "a", "b"]):
            status = max(status, run(["runs", *command, "--build-dir", str(build)]))
    if "Traceback" in said.getvalue() or not said.getvalue().replace("\n", "").isprintable():
        raise AssertionError(f"said {said.getvalue()[-300:]!r}")
    return "refused" if status else "accepted"


# -- metadata of a model, wherever it keeps them


@cache
def metadata_values() -> tuple[dict[str, Any], ...]:
    """Metadata of models, as JSON values."""
    from segc.inference.metadata import Metadata

    names = ("circle", "größe", "a square")
    suppressing = Metadata(names, (64, 96), layout="masks", conf=0.25, iou=0.5, max_det=100, agnostic=False)
    return (Metadata(names, (480, 640)).to_json(), suppressing.to_json())


def _metadata(numbers: random.Random, _: Path) -> bytes:
    value = changed_json(numbers, numbers.choice(metadata_values()))
    if numbers.random() < 0.3:
        value = changed_json(numbers, value)
    text = json_bytes(value)
    return changed_bytes(numbers, text) if numbers.random() < 0.2 else text


def _read_metadata(text: bytes, _: Path) -> str:
    from segc.inference.metadata import metadata_text, parse_metadata

    read = parse_metadata(text)
    if parse_metadata(metadata_text(read)) != read or not metadata_text(read).isprintable():
        raise AssertionError(f"read as {read}")
    return "accepted"


def rows_kind(name: str, rows: tuple[Row, ...], **limits: Any) -> Kind:
    """A class of inputs made by hand."""
    return Kind(name, len(rows), lambda *_: None, try_row, rows=rows, **limits)


KINDS: tuple[Kind, ...] = (
    Kind("specs", 22_000, _spec, lambda text, _: _check(text)),
    Kind("--set", 6_000, _override, lambda text, _: _check(SPEC, (text,))),
    Kind("checkpoints", 7_000, _checkpoint, _read_weights),
    Kind("safetensors", 3_000, _safetensors, _read_safetensors),
    Kind("images", 6_000, _image, _decode, megabytes=1000),
    Kind("videos", 2_000, _video, _read_video),
    Kind("streams", 10_000, _parts, _read_parts, refusals=("ImageError", "ConnectionError")),
    Kind("labels", 3_000, _labels, _read_split),
    Kind("coco", 3_000, _coco, _read_split),
    Kind("cvat", 1_000, _cvat, _read_split),
    Kind("labelme", 1_000, _labelme, _read_split),
    Kind("masks", 1_000, _masks, _read_split),
    Kind("voc", 1_000, _voc, _read_split),
    Kind("metadata", 2_000, _metadata, _read_metadata),
    Kind("init", 2_000, _taken, _take_over),
    Kind("runs", 1_000, _run, _read_runs),
    Kind("addresses", 1_000, _address, _fetch_address),
    Kind("servers", 100, _response, _fetch_from_server),
    rows_kind("crafted", ROWS),
)
