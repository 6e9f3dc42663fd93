"""ncnn models in ncnn, on the CPU: in fp32, and convolutions in int8 where they are quantised."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import SIDECAR, Metadata, ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device
from segc.targets.sidecar import FILES, check_files, read_sidecar

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
"""Files of a model, named as programs that run this network family with ncnn expect them."""

LONGEST_PARAM = 1 << 22
"""Most bytes of a ``.param`` that are read: twenty thousand layers."""

BLOBS = "blobs"
"""Key beside segc's own metadata: names of the blobs that go in and come out."""

FP16_SWITCHES = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")
"""What a program must set to false for the accuracy that was verified: ncnn computes in fp16 where the processor can,
unless it is told not to, which costs half a pixel in boxes of large images."""


@dataclass(frozen=True, slots=True)
class NcnnDescription:
    """What a model's folder says about it.

    Attributes:
        metadata: the model's.
        source: name of the blob that takes the image.
        outputs: names of the blobs with the outputs.
        digests: of the files, by their names; None in folders that were written before there were any.
    """

    metadata: Metadata
    source: str
    outputs: tuple[str, ...]
    digests: object


def describe_ncnn(path: Path) -> NcnnDescription:
    """Read the sidecar of a model's folder.

    Raises:
        ModelError: where it is not one of segc.
    """
    given = read_sidecar(path)
    blobs, digests = given.pop(BLOBS, None), given.pop(FILES, None)
    metadata = parse_metadata(given)
    try:
        (source,), outputs = blobs["inputs"], tuple(blobs["outputs"])
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"damaged: {SIDECAR} names no blobs") from None
    if not all(isinstance(name, str) for name in (source, *outputs)):
        raise ModelError(f"damaged: {SIDECAR} names no blobs")
    return NcnnDescription(metadata, source, outputs, digests)


def ncnn_inputs(param: Path) -> list[list[int]]:
    """Shapes of a model's inputs, which ncnn does not tell: it takes images of any size.

    Raises:
        ModelError: where the file is too long.
    """
    if param.stat().st_size > LONGEST_PARAM:
        raise ModelError(f"{PARAM} is larger than any that segc writes")
    stated = re.findall(r"^Input .* 0=(\d+) 1=(\d+) 2=(\d+)$", param.read_text("utf-8", "replace"), re.MULTILINE)
    return [[1, int(channels), int(height), int(width)] for width, height, channels in stated]


DEVICES = ("cpu",)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a model's folder into ncnn.

    Args:
        path: the folder.
        threads: of a run; 0 leaves ncnn the choice.
        device: ``cpu``.

    Raises:
        ModelError: where it is not there, damaged, or not one of segc.
    """
    asked_device(device, DEVICES, "ncnn")
    import ncnn

    described = describe_ncnn(path)
    check_files(path, (PARAM, BIN), described.digests)
    check_form(described.metadata, ncnn_inputs(path / PARAM), described.outputs)
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for switch in FP16_SWITCHES:
        setattr(net.opt, switch, False)
    if threads:
        net.opt.num_threads = threads
    # ncnn raises nothing: it gives back a number, and prints what it has to say.
    if net.load_param(str(path / PARAM)) or net.load_model(str(path / BIN)):
        raise ModelError("ncnn cannot load it")
    if missing := set(described.outputs) - set(net.output_names()):
        raise ModelError(f"damaged: it makes no blob {min(missing)!r:.60}")

    def one(image: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        with net.create_extractor() as extractor:
            # A copy: ncnn may write into what it is given.
            failed = extractor.input(described.source, ncnn.Mat(image).clone())
            found = [extractor.extract(name) for name in described.outputs]
            if failed or any(status for status, _ in found):
                raise ModelError("ncnn cannot run it")
            return [np.array(value) for _, value in found]

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        runs = [one(np.ascontiguousarray(image)) for image in images]
        return {name: np.stack(values) for name, values in zip(described.outputs, zip(*runs, strict=True), strict=True)}

    kinds = "fp32, convolutions in int8" if described.metadata.precision == "int8" else "fp32"
    return Model(described.metadata, f"ncnn on the CPU, computing in {kinds}", raw)
