"""Precision, the batch that memory allows, and devices that are not there."""

import shutil
from functools import partial

import pytest
import torch

from segc.diagnostics import SegcError
from segc.network.device import peak_memory
from segc.spec.hyperparameters import Hyperparameters
from segc.training.distributed import World
from segc.training.engine import Engine
from segc.training.loop import train
from segc.training.memory import choose_batch, choose_workers, resolve_hyperparameters, trial_batch, trial_step
from segc.training.precision import choose_precision

CPU = torch.device("cpu")
GIB = 2**30


class Memory:
    """A device on which a step takes a fixed part and a part for each image; more than there is does not fit."""

    def __init__(self, fixed: int, image: int, there: int) -> None:
        self.fixed, self.image, self.there = fixed, image, there
        self.tried: list[int] = []

    def __call__(self, images: int) -> int | None:
        self.tried.append(images)
        taken = self.fixed + self.image * images
        return taken if taken <= self.there else None


@pytest.mark.parametrize(
    ("memory", "budget", "batch"),
    [
        (Memory(GIB, GIB // 4, 16 * GIB), 12 * GIB, 40),
        (Memory(GIB, GIB, 16 * GIB), 12 * GIB, 8),
        (Memory(GIB, 3 * GIB, 16 * GIB), 12 * GIB, 3),
        (Memory(GIB, 20 * GIB // 3, 16 * GIB), 12 * GIB, 1),
        (Memory(0, GIB // 1024, 80 * GIB), 64 * GIB, 4096),
        (Memory(GIB, GIB // 4, 6 * GIB), 12 * GIB, 16),
    ],
)
def test_the_batch_is_the_largest_that_stays_in_the_budget(memory, budget, batch):
    found = choose_batch(memory, budget)
    assert found == batch
    taken = memory(found)
    assert taken is not None
    assert taken <= budget
    assert len(memory.tried) < 20


def test_memory_that_grows_faster_than_linearly_lowers_the_batch():
    assert choose_batch(lambda images: images**2, 10_000) == 96


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(SegcError) as error:
        choose_batch(Memory(GIB, GIB, GIB), GIB)
    assert error.value.diagnostics[0].code == "R010"
    assert "1.0 GiB" in error.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("processors", "memory", "processes", "workers"),
    [
        (16, 128 * GIB, 1, 15),
        (64, 512 * GIB, 1, 16),
        (64, 512 * GIB, 8, 7),
        (16, 16 * GIB, 1, 4),
        (16, 16 * GIB, 2, 2),
        (2, 16 * GIB, 1, 1),
        (1, GIB, 4, 1),
    ],
)
def test_a_gpu_has_as_many_workers_as_processors_and_memory_allow(monkeypatch, processors, memory, processes, workers):
    monkeypatch.setattr("segc.training.memory.processors", lambda: processors)
    monkeypatch.setattr("segc.training.memory.memory_limit", lambda: memory)
    assert choose_workers(GIB // 2, processes) == workers


@pytest.mark.parametrize(
    ("wanted", "device", "workers"), [("auto", "cpu", 2), ("auto", "cuda", 5), ("3", "cuda", 3), ("0", "cuda", 0)]
)
def test_workers_are_chosen_for_the_device_where_nobody_says_how_many(compiled, monkeypatch, wanted, device, workers):
    monkeypatch.setattr("segc.training.memory.processors", lambda: 6)
    loaded, build = compiled(workers=wanted, batch=4, precision="fp32")
    hyper = resolve_hyperparameters(loaded, build.graph, torch.device(device), World(), None)
    assert (hyper.worker_count, hyper.batch) == (workers, 4)


def test_the_step_that_is_measured_is_a_whole_one(compiled, monkeypatch):
    loaded, build = compiled()
    hyper = resolve_hyperparameters(loaded, build.graph, CPU, World(), None)
    updates = []
    update = Engine.update
    monkeypatch.setattr(Engine, "update", lambda self: updates.append(update(self)))
    trial_step(hyper, build.graph, 2, CPU, 3)
    assert len(updates) == 2
    for overlap in (True, False):
        batch = trial_batch(3, hyper.model_copy(update={"overlap_mask": overlap}), 2)
        assert batch.images.shape == (3, 3, 64, 64)
        assert len(batch.boxes) == len(batch.classes) == 72
        assert batch.masks.shape == ((3, 16, 16) if overlap else (72, 16, 16))


def test_where_there_is_no_gpu_an_automatic_batch_is_sixteen_and_stays_with_the_run(compiled):
    loaded, build = compiled(batch="auto")
    assert resolve_hyperparameters(loaded, build.graph, CPU, World(), None).batch == 16
    assert resolve_hyperparameters(loaded, build.graph, CPU, World(0, 40, 0), None).batch == 40
    assert build.plan.batch == 16
    assert "of auto, on a GPU as its memory allows, elsewhere 16" in build.files["summary.txt"]

    class Saved:
        identity = {"hyperparameters.batch": 24}  # noqa: RUF012

    assert resolve_hyperparameters(loaded, build.graph, CPU, World(), Saved()).batch == 24


@pytest.mark.parametrize(
    ("device", "has", "precision"),
    [
        ("cuda", True, "bf16"),
        ("cuda", False, "fp16"),
        ("cpu", True, "bf16"),
        ("cpu", False, "fp32"),
        ("mps", 0, "fp32"),
    ],
)
def test_auto_takes_bf16_where_there_are_instructions_for_it(monkeypatch, device, has, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_precision("auto", torch.device(device)) == precision
    assert choose_precision("fp32", torch.device(device)) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_is_in_single_precision_whatever_the_network_runs_in(compiled, precision):
    loaded, build = compiled(precision=precision)
    hyper = resolve_hyperparameters(loaded, build.graph, CPU, World(), None)
    engine = Engine(build.graph, hyper, build.plan, CPU, precision, World())
    engine.train_mode()
    outputs = engine.forward(trial_batch(2, hyper, 2).images)
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert all(value.dtype == wanted for value in outputs.values())
    batch = trial_batch(2, hyper, 2)
    assert engine.descend(batch, update=True).dtype == torch.float32
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in engine.parameters)
    assert engine.scaler.is_enabled() == (precision == "fp16")


def test_the_memory_of_the_process_is_in_bytes():
    assert 2**26 < peak_memory(CPU) < 2**36


def test_hyperparameters_give_a_number_of_images_before_a_gpu_is_asked():
    assert Hyperparameters(batch="auto").batch_size == 16
    assert Hyperparameters(batch=7).batch_size == 7


@pytest.mark.slow
def test_a_compiled_network_trains_like_the_one_it_was_compiled_from(compiled, monkeypatch):
    # The backend that runs what was captured as it is: the one that generates C++ takes minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    states = []
    for compile_ in (False, True):
        loaded, build = compiled(compile=str(compile_).lower(), batch=3)
        hyper = resolve_hyperparameters(loaded, build.graph, CPU, World(), None)
        torch.manual_seed(0)
        engine = Engine(build.graph, hyper, build.plan, CPU, "fp32", World())
        engine.train_mode()
        for images in (3, 2):
            engine.descend(trial_batch(images, hyper, 2), update=True)
            engine.update()
        states.append(engine.average.network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_only_full_batches_are_compiled(compiled, monkeypatch, rank, world):
    seen = []

    def compile_(network):
        return lambda images: (seen.append(len(images)), network(images))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr("segc.training.engine.DistributedDataParallel", lambda network, **_: network)
    loaded, build = compiled(compile="true", batch=5)
    hyper = resolve_hyperparameters(loaded, build.graph, CPU, World(), None)
    engine = Engine(build.graph, hyper, build.plan, CPU, "fp32", World(rank, world))
    engine.train_mode()
    for images in range(1, 6):
        engine.forward(trial_batch(images, hyper, 2).images)
    assert seen == [{1: 5, 2: 3}[world]]


def test_without_a_compiler_nothing_is_compiled(compiled, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    loaded, build = compiled(compile="true")
    with pytest.raises(SegcError) as error:
        train(loaded, build)
    assert error.value.diagnostics[0].code == "R009"
