"""Paddle programs in Paddle Inference, on the CPU."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import SIDECAR, Metadata, ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device, last_line
from segc.targets.sidecar import FILES, check_files, read_sidecar

PROGRAM, PARAMETERS = "inference.json", "inference.pdiparams"
"""Files of a model, named as Paddle's own tools name them."""

OUTPUTS = "outputs"
"""Key beside segc's own metadata: names of the outputs in order; the program calls them fetch_name_0 and on."""


def import_paddle() -> Any:
    """The package, kept quiet: without its log, its warning about compilers, and its signal handlers."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle
        import paddle.inference
    paddle.disable_signal_handler()
    return paddle


DEVICES = ("cpu",)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a model's folder into Paddle Inference.

    Args:
        path: the folder.
        threads: of an operator; 0 leaves Paddle the choice.
        device: ``cpu``.

    Raises:
        ModelError: where it is not there, damaged, or not one of segc.
    """
    asked_device(device, DEVICES, "Paddle Inference")
    metadata, names = describe_paddle(path)
    inference = import_paddle().inference
    config = inference.Config(str(path / PROGRAM), str(path / PARAMETERS))
    config.disable_gpu()
    config.disable_glog_info()
    if threads:
        config.set_cpu_math_library_num_threads(threads)
    try:
        predictor = inference.create_predictor(config)
        sources, results = predictor.get_input_names(), predictor.get_output_names()
        shapes = [predictor.get_input_handle(source).shape() for source in sources]
    except Exception as error:  # noqa: BLE001 - Paddle's errors have no common base but this
        raise ModelError(f"Paddle cannot load it: {last_line(error)}") from None
    check_form(metadata, shapes, names)
    if len(results) != len(names):
        raise ModelError(f"its program has {len(results)} outputs, its metadata speak of {len(names)}")
    (source,) = sources

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            predictor.get_input_handle(source).copy_from_cpu(np.ascontiguousarray(images))
            predictor.run()
            values = [predictor.get_output_handle(result).copy_to_cpu() for result in results]
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"Paddle cannot run it: {last_line(error)}") from None
        return dict(zip(names, values, strict=True))

    return Model(metadata, "Paddle Inference on the CPU", raw)


def describe_paddle(path: Path) -> tuple[Metadata, list[str]]:
    """What a model says about itself, and the names of its outputs in order; its files are those that it speaks of.

    Raises:
        ModelError: where a file is missing, or another than was written.
    """
    given = read_sidecar(path)
    names, digests = given.pop(OUTPUTS, None), given.pop(FILES, {})
    metadata = parse_metadata(given)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"damaged: {SIDECAR} names no outputs")
    check_files(path, (PROGRAM, PARAMETERS), digests)
    return metadata, names
