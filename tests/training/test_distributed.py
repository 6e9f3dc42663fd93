"""Several processes on one machine train as one process does, and survive the death of one."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from segc.diagnostics import SegcError
from segc.network.device import choose_device
from segc.training.checkpoint import load_checkpoint
from segc.training.distributed import World, launch_name, launched_world, restarts
from segc.training.norm import SynchronisedBatchNorm


def torchrun(*arguments: str) -> list[str]:
    """The command line of two processes, found by each other on a port of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `torchrun --standalone` is, with a port that no other test chose.
    where = ["--nnodes=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id=test{port}"]
    return [sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node=2", *arguments]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def state(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(folder / "checkpoint.safetensors")
    return {**checkpoint.network, **{f"optimizer/{key}": value for key, value in checkpoint.optimizer.items()}}


def settings(**values: object) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"hyperparameters.{key}={value}")]


COMMON = {
    "optimizer": "SGD",
    "batch": 6,
    "nominal_batch": 6,
    "epochs": 4,
    "lr0": 1e-3,
    "warmup_bias_lr": 1e-3,
    "precision": "fp32",
}
"""In bf16, which `auto` takes where a processor has it, sums over other parts of a batch round visibly otherwise."""

UNEVEN = {**COMMON, "batch": 5, "nominal_batch": 10, "epochs": 3, "lr0": 1e-7, "warmup_bias_lr": 1e-7}
UNEVEN |= {"gradient_checkpointing": "true"}
"""The six images in batches of five: the second has one image, and one of two processes none of it. Batch norm over the
few values of a single small image magnifies every rounding, so the weights stay where they are; the gradients, which
the momentum keeps, are what is compared."""


@pytest.mark.parametrize(
    "hyper", [pytest.param(COMMON, id="even", marks=pytest.mark.slow), pytest.param(UNEVEN, id="uneven")]
)
def test_two_processes_train_as_one_with_the_same_batch(project: Path, hyper: dict[str, object]) -> None:
    train = ["-m", "segc", "train", str(project), *settings(**hyper)]
    folders = []
    for name, command in (("one", [sys.executable, *train]), ("two", torchrun(*train))):
        folder = project.parent / name
        done = subprocess.run([*command, "--build-dir", str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("epoch    1 ") == 1, "one process reports"
        folders.append(folder / "runs" / "train")
    one, two = (rows(folder) for folder in folders)
    for alone, together in zip(one, two, strict=True):
        for key in (key for key in alone if key.startswith("train_")):
            assert float(together[key]) == pytest.approx(float(alone[key]), rel=1e-3, abs=1e-5), key
        assert (together["box_map"], together["mask_map"]) == (alone["box_map"], alone["mask_map"])
    alone, together = (state(folder) for folder in folders)
    assert alone.keys() == together.keys()
    for part in (lambda name: name.startswith("optimizer/"), lambda name: not name.startswith("optimizer/")):
        a, b = (
            torch.cat([value.flatten().double() for name, value in values.items() if part(name)])
            for values in (alone, together)
        )
        assert (a - b).norm() < 2e-3 * a.norm()


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_goes_on_from_the_last_checkpoint(project: Path) -> None:
    train = ["-m", "segc", "train", str(project), *settings(**COMMON | {"epochs": 8, "val_interval": 8})]
    folder = project.parent / "killed"
    command = torchrun("--max-restarts=1", "--monitor-interval=0.2", *train, "--build-dir", str(folder))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    results = folder / "runs" / "train" / "results.csv"
    deadline = time.monotonic() + 300
    while not (results.exists() and len(rows(results.parent)) >= 2) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(max(children(process.pid)), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "going on with run train" in errors
    assert [path.name for path in results.parent.parent.iterdir() if path.is_dir()] == ["train"]
    whole = subprocess.run([*torchrun(*train), "--build-dir", str(project.parent / "whole")], check=False)
    assert whole.returncode == 0
    uninterrupted, restarted = state(project.parent / "whole" / "runs" / "train"), state(results.parent)
    assert all(torch.equal(value, restarted[name]) for name, value in uninterrupted.items())


def children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_batch_that_is_too_small_to_share_is_refused(project: Path) -> None:
    command = torchrun("--max-restarts=2", "-m", "segc", "train", str(project), *settings(batch=1))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    # The launch ends: what is refused once would be refused again. Both processes may have said it before that.
    assert 1 <= done.stderr.count("a batch of 1 images cannot be shared out among 2 processes") <= 2


def test_synchronised_batch_norm_of_one_process_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    ours, theirs = SynchronisedBatchNorm(5, eps=1e-3, momentum=0.03), nn.BatchNorm2d(5, eps=1e-3, momentum=0.03)
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.arange(1.0, 6.0))
            norm.bias.copy_(torch.arange(5.0))
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        x = (torch.randn(3, 5, 4, 6) * 3 + 20).to(memory_format=torch.channels_last)
        inputs = [x.clone().requires_grad_(requires_grad=True) for _ in range(2)]
        outputs = [norm(value) for norm, value in zip((ours, theirs), inputs, strict=True)]
        gradient = torch.randn_like(x)
        for output in outputs:
            output.backward(gradient)
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-3, atol=1e-3)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=1e-4)


LAUNCHED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "mine"}


def test_a_launch_is_read_from_the_environment() -> None:
    assert launched_world({}) == World(0, 1, 0)
    assert launched_world(LAUNCHED) == World(3, 4, 1, 2)
    assert not launched_world(LAUNCHED).leads
    assert restarts(LAUNCHED) == 0
    assert restarts({**LAUNCHED, "TORCHELASTIC_RESTART_COUNT": "2"}) == 2
    assert launch_name({}) == ""
    assert launch_name(LAUNCHED) == "mine"
    assert launch_name({"TORCHELASTIC_RUN_ID": "none"}).endswith(f":{os.getppid()}")


def test_several_processes_do_not_share_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 2, 1) == torch.device("cuda", 1)
    assert choose_device("cuda", 2, 0) == torch.device("cuda", 0)
    assert choose_device("auto") == torch.device("cuda")
    for wanted, world, code in (("cuda:0", World(0, 2, 0), "R011"), ("auto", World(2, 3, 2), "R007")):
        with pytest.raises(SegcError) as error:
            choose_device(wanted, world.size, world.local_rank)
        assert error.value.diagnostics[0].code == code
