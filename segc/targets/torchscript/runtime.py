"""TorchScript archives in PyTorch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import DeviceError, Model, asked_device, first_line, last_line

METADATA_ENTRY = f"{METADATA_KEY}.json"
"""Name of an archive's extra file with the metadata."""

INPUT_SHAPES = "segc_input_shapes"
"""Attribute of a module: the lengths of its inputs' axes, a list an input. Archives of older releases have none."""


DEVICES = ("cpu", "cuda", "mps", "auto")
"""Where it can run; ``auto`` is a GPU of NVIDIA's where there is one, else the CPU."""


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Without PyTorch's advice to use something else than TorchScript."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):  # which it is since PyTorch 2.14
            warnings.filterwarnings("ignore", r"`torch\.jit|Lite Interpreter", kind)
        yield


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load an archive into PyTorch. It is a program: run only what comes from people you trust.

    Args:
        path: the file.
        threads: of the whole process; 0 leaves PyTorch the choice.
        device: one of ``DEVICES``; ``cpu`` if None.

    Raises:
        DeviceError: where that is not here.
        ModelError: where the model is not there, not a model, or not one of segc.
    """
    asked = asked_device(device, DEVICES, "PyTorch")
    import torch

    place = torch_device(asked, torch)
    if not path.is_file():
        raise ModelError("no such model")
    if threads:
        torch.set_num_threads(threads)
    extra = {METADATA_ENTRY: b""}
    try:
        with without_deprecations():
            module = torch.jit.load(str(path), place, extra)  # type: ignore[no-untyped-call]
        graph = module.graph
        made = next(graph.outputs()).node()
        names = [str(name.toIValue()) for name in list(made.inputs())[::2]] if made.kind() == _DICTIONARY else []
        shapes: list[list[int] | None] = [None] * (len(list(graph.inputs())) - 1)
        stated = [[int(length) for length in shape] for shape in getattr(module, INPUT_SHAPES, ())]
        shapes[: len(stated)] = stated
    except Exception as error:  # noqa: BLE001 - of damaged archives PyTorch raises whatever comes, of texts and indices too
        raise ModelError(f"PyTorch cannot load it: {first_line(error)}") from None
    metadata = parse_metadata(extra[METADATA_ENTRY])
    check_form(metadata, shapes, names)

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            # Kernels made for CUDA in the first two runs take 0.8 s, and as long for other sizes, to save a thirtieth.
            optimised = torch.jit.optimized_execution(not place.startswith("cuda"))  # type: ignore[attr-defined]
            with torch.inference_mode(), optimised:
                outputs = module(torch.from_numpy(images).to(place))
                return {name: value.cpu().numpy() for name, value in outputs.items()}
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"PyTorch cannot run it: {last_line(error)}") from None

    named = "the CPU" if place == "cpu" else place
    return Model(metadata, f"PyTorch {torch.__version__} on {named}, TorchScript", raw)


def torch_device(asked: str, torch: Any) -> str:
    """The name of the device in PyTorch.

    Raises:
        DeviceError: where it is not here.
    """
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        reason = "finds no GPU of NVIDIA's, or no driver for it"
        if torch.version.cuda is None:
            reason = (
                "is built without CUDA: pip install another build of torch, as https://pytorch.org/get-started has it"
            )
        raise DeviceError(f"PyTorch {torch.__version__} {reason}")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(f"PyTorch {torch.__version__} finds no GPU of Apple's")
    return asked


_DICTIONARY = "prim::DictConstruct"
"""Kind of the node that makes what a method of segc returns."""
