"""Building an engine from an ONNX model, in segc and in the program beside a model, which carries this text."""

import argparse
import json
import os
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segc.targets.tensorrt.engine import Engine, EngineError, Gpu, load_tensorrt

MAX_BATCH, MAX_SIDES = 8, 2
"""What an engine of free sizes takes unless more is asked for: so many images a run, with sides up to so many times the
longer one of the usual size."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes [N, 3, H, W] of images that an engine with free sizes takes.

    Attributes:
        smallest: the smallest.
        usual: what it is made fast for.
        largest: the largest.
    """

    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


def profile_for(size: Sequence[int], step: int, batch: int | None = None, side: int | None = None) -> Profile:
    """The profile for images of any size.

    Args:
        size: the usual (height, width).
        step: sides are multiples of it.
        batch: most images a run.
        side: longest side of an image, in pixels.
    """
    longest = [max(side or MAX_SIDES * max(size), length) for length in size]
    return Profile((1, 3, step, step), (1, 3, *size), (batch or MAX_BATCH, 3, *longest))


def build(
    trt: Any, model: bytes, *, profile: Profile | None, workspace: float | None, tf32: bool, capability: str | None
) -> bytes:
    """Build an engine.

    Args:
        trt: TensorRT's module.
        model: an ONNX model with one input, in the precision that the engine is to have.
        profile: where sizes are free.
        workspace: most GiB of GPU memory for a layer's scratch space; None for all there is.
        tf32: let convolutions in fp32 round their inputs to 10 bits of mantissa, as TensorRT does by itself.
        capability: the GPUs to build for, such as ``SM89``; TensorRT-RTX only. None for the one that is here.

    Raises:
        EngineError: where TensorRT cannot.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    if builder is None:
        raise EngineError("TensorRT cannot start: is there a GPU, and does its driver fit?")
    # TensorRT 11 knows only strongly typed networks; there the flag means nothing, and may go.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise EngineError(f"TensorRT cannot read the ONNX model: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace * 2**30))
    if profile is not None:
        shapes = builder.create_optimization_profile()
        shapes.set_shape(network.get_input(0).name, profile.smallest, profile.usual, profile.largest)
        config.add_optimization_profile(shapes)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError("TensorRT built no engine; what it printed says why")
    return bytes(engine)


def with_header(engine: bytes, metadata: str) -> bytes:
    """The contents of an engine file: the length of the metadata (4 bytes, little-endian), metadata, engine."""
    text = metadata.encode()
    return struct.pack("<I", len(text)) + text + engine


def build_arguments(
    arguments: Sequence[str] | None, model: Path, workspace: float | None, size: Sequence[int] | None
) -> argparse.Namespace:
    """The command line; wrong usage ends the program with status 2. ``size`` is the usual one, where it is free."""
    parser = argparse.ArgumentParser(
        description="Build a TensorRT engine.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    engine = model.with_suffix(".engine")
    add("--onnx", type=Path, default=model, metavar="PATH", help="the model to build from")
    add("-o", "--output", type=Path, default=engine, metavar="PATH", help="the engine to write")
    add("--workspace", type=float, default=workspace, metavar="GIB", help="most GPU memory for scratch space")
    if size is not None:
        longest = MAX_SIDES * max(size)
        add("--max-batch", type=int, default=MAX_BATCH, metavar="N", help="most images a run")
        add("--max-side", type=int, default=longest, metavar="PIXELS", help="longest side of an image")
    add("--tf32", action="store_true", help="let convolutions in fp32 round what they read to TF32: faster")
    add("--capability", metavar="SM", help="build for these GPUs, such as SM89, without one here; TensorRT-RTX only")
    return parser.parse_args(arguments)


def write_engine(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def build_command(arguments: Sequence[str] | None, model: Path, metadata: str, workspace: float | None) -> int:
    """Run the program.

    Args:
        arguments: of the command line; None for the process's own.
        model: the ONNX model to build from unless another is named.
        metadata: what it says about itself, as JSON; it goes in front of the engine.
        workspace: most GiB of GPU memory for scratch space, unless more is asked for.

    Returns:
        The exit status: 0 done, 1 no engine could be built, 2 wrong usage.
    """
    given = json.loads(metadata)
    size, free = given["imgsz"], given["dynamic"]
    options = build_arguments(arguments, model, workspace, size if free else None)
    profile = profile_for(size, given["strides"][-1], options.max_batch, options.max_side) if free else None
    try:
        trt = load_tensorrt()
        gpu = Gpu() if options.capability is None else None
        place = gpu.name if gpu else options.capability
        print(f"{trt.__name__} {trt.__version__} for {place}: this may take minutes", flush=True)
        started = time.perf_counter()
        engine = build(
            trt,
            options.onnx.read_bytes(),
            profile=profile,
            workspace=options.workspace,
            tf32=options.tf32,
            capability=options.capability,
        )
        print(f"built in {time.perf_counter() - started:.1f} seconds")
        write_engine(options.output, with_header(engine, metadata))
        print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
        if gpu:
            milliseconds = Engine(trt, gpu, engine).milliseconds(np.zeros((1, 3, *size), np.float32))
            print(f"{milliseconds:.2f} ms an image of {size[0]} x {size[1]} pixels")
    except (EngineError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
