"""TorchScript archives in PyTorch, on the CPU."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import Model, first_line, last_line

METADATA_ENTRY = f"{METADATA_KEY}.json"
"""Name of an archive's extra file with the metadata."""

INPUT_SHAPES = "segc_input_shapes"
"""Attribute of a module: the lengths of its inputs' axes, a list an input. Archives of older releases have none."""


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Without PyTorch's advice to use something else than TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit|Lite Interpreter", DeprecationWarning)
        yield


def open_model(path: Path, threads: int) -> Model:
    """Load an archive into PyTorch. It is a program: run only what comes from people you trust.

    Args:
        path: the file.
        threads: of the whole process; 0 leaves PyTorch the choice.

    Raises:
        ModelError: where it is not there, not a model, or not one of segc.
    """
    import torch

    if not path.is_file():
        raise ModelError("no such model")
    if threads:
        torch.set_num_threads(threads)
    extra = {METADATA_ENTRY: b""}
    try:
        with without_deprecations():
            module = torch.jit.load(str(path), "cpu", extra)  # type: ignore[no-untyped-call]
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
            with torch.inference_mode():
                return {name: value.numpy() for name, value in module(torch.from_numpy(images)).items()}
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"PyTorch cannot run it: {last_line(error)}") from None

    return Model(metadata, f"PyTorch {torch.__version__} on the CPU, TorchScript", raw)


_DICTIONARY = "prim::DictConstruct"
"""Kind of the node that makes what a method of segc returns."""
