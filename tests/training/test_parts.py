"""Schedule, optimizer groups, moving average, checkpoints, devices, run folders, and what a person sees."""

import io
import math

import pytest
import torch
from rich.console import Console

from segc.diagnostics import SegcError
from segc.network.device import choose_device
from segc.network.lower import lower
from segc.plan import make_plan
from segc.runs import read_results, run_to_resume
from segc.spec.hyperparameters import Hyperparameters
from segc.training.checkpoint import Checkpoint, Epoch, Progress, load_checkpoint, save_checkpoint, saved_launch
from segc.training.ema import MovingAverage
from segc.training.identity import identity_changes, new_run
from segc.training.loggers import report_on
from segc.training.optimizer import (
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
    set_rates,
)
from segc.training.schedule import Rates, rates
from segc.training.table import write_results


def plan(images=64, **changes):
    return make_plan(Hyperparameters(**{"epochs": 20, "batch": 4, "optimizer": "SGD", **changes}), 3, images)


@pytest.fixture
def network(compiled):
    return lower(compiled()[1].graph)


def test_warm_up_moves_from_its_own_start_to_the_schedule():
    p = plan(warmup_epochs=10.0, warmup_bias_lr=0.1, lr0=0.01)
    assert p.warmup_steps == 160
    first, middle, after = rates(p, 0), rates(p, 79), rates(p, 160)
    assert first.learning_rate == pytest.approx(0.01 / 160)
    assert first.bias_learning_rate == pytest.approx(0.1, rel=0.01)
    assert first.momentum == pytest.approx(0.8, abs=0.002)
    assert first.accumulate == 1
    assert middle.learning_rate == pytest.approx(0.5 * 0.01 * p.learning_rate_factor(4))
    assert middle.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert middle.accumulate in {8, 9}
    assert after == Rates(0.01 * p.learning_rate_factor(10), 0.01 * p.learning_rate_factor(10), 0.937, accumulate=16)


@pytest.mark.parametrize(("cos_lr", "half"), [(False, 0.505), (True, 0.505)])
def test_the_learning_rate_falls_to_its_end(cos_lr, half):
    p = plan(cos_lr=cos_lr, warmup_epochs=0.0)
    found = [rates(p, epoch * p.steps_per_epoch).learning_rate / 0.01 for epoch in range(20)]
    assert found[0] == 1
    assert found[10] == pytest.approx(half)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.07


def test_only_convolution_weights_decay(network):
    groups = parameter_groups(network)
    parameters = dict(network.named_parameters())
    assert sorted(n for names in groups.values() for n in names) == sorted(parameters)
    assert all(parameters[n].ndim == 4 for n in groups["weights"])
    assert all(n.endswith("bn.weight") for n in groups["norms"])
    assert all(n.endswith(".bias") for n in groups["biases"])
    optimizer = make_optimizer(network, plan())
    assert [g["weight_decay"] > 0 for g in optimizer.param_groups] == [True, False, False]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_rates_reach_the_optimizer(network, name):
    optimizer = make_optimizer(network, plan(optimizer=name))
    set_rates(optimizer, Rates(0.1, 0.2, 0.7, 1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.2]
    assert all((g["betas"][0] if name == "AdamW" else g["momentum"]) == 0.7 for g in optimizer.param_groups)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_restored_optimizer_goes_on_bit_for_bit(network, name):
    network = network.to(memory_format=torch.channels_last)
    parameters = list(network.parameters())
    start = [p.detach().clone() for p in parameters]

    def steps(optimizer, first, last):
        for number in range(first, last):
            generator = torch.Generator().manual_seed(number)
            for p in parameters:
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            optimizer.step()
        return [p.detach().clone() for p in parameters]

    whole = steps(make_optimizer(network, plan(optimizer=name)), 0, 4)
    for p, value in zip(parameters, start, strict=True):
        p.data.copy_(value)
    optimizer = make_optimizer(network, plan(optimizer=name))
    steps(optimizer, 0, 2)
    kept = {key: value.detach().contiguous().clone() for key, value in optimizer_tensors(optimizer).items()}
    again = make_optimizer(network, plan(optimizer=name))
    restore_optimizer(again, kept)
    assert all(torch.equal(a, b) for a, b in zip(steps(again, 2, 4), whole, strict=True))


def test_the_moving_average_follows_its_formula(compiled):
    graph = compiled()[1].graph
    network, average = lower(graph), lower(graph)
    ema = MovingAverage(network, average, decay=0.9, tau=5.0)
    name, counter = "model.0.conv.weight", "model.0.bn.num_batches_tracked"
    expected = network.state_dict()[name].clone().double()
    for update in range(1, 8):
        with torch.no_grad():
            network.state_dict()[name].add_(update)
            network.state_dict()[counter].add_(1)
        ema.update()
        decay = 0.9 * (1 - math.exp(-update / 5))
        expected = decay * expected + (1 - decay) * network.state_dict()[name].double()
    assert torch.allclose(average.state_dict()[name].double(), expected, rtol=1e-5)
    assert average.state_dict()[counter] == network.state_dict()[counter]
    assert ema.updates == 7
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    tensors = {"a.b": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "n": torch.tensor(7)}
    at = Epoch(step=5, images=20, sums=[0.1, 0.2, 0.3, 1e-17], skipped=1, seconds=2.5, images_seen=24)
    best = {"epoch": 2, "box_map": 0.25}
    progress = Progress(3, at, 9, 0, 41, 1, best, (1,), seconds=12.25, scaler={"scale": 0.1}, launch="here:7")
    save_checkpoint(tmp_path / "c", Checkpoint(progress, {"k": [1, "x"]}, tensors, {}, {"exp_avg/a.b": torch.ones(2)}))
    found = load_checkpoint(tmp_path / "c")
    assert found.progress == progress
    assert found.identity == {"k": [1, "x"]}
    assert all(torch.equal(found.network[key], value) for key, value in tensors.items())
    assert list(found.optimizer) == ["exp_avg/a.b"]
    assert saved_launch(tmp_path / "c") == "here:7"


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu").type == "cpu"
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(SegcError) as error:
        choose_device(missing)
    assert error.value.diagnostics[0].code == "R007"


def test_auto_takes_a_device_that_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected


def test_half_made_run_folders_are_not_resumed(tmp_path):
    made = tmp_path / "runs" / ".train.abc.partial"
    made.mkdir(parents=True)
    (made / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(SegcError):
        run_to_resume(tmp_path / "project.yaml", tmp_path, None)
    lock = new_run(tmp_path, None)
    assert lock.path.name == ".train.lock"
    lock.release()


def test_all_changes_are_named():
    assert identity_changes({"a": 1, "b": [2]}, {"b": [2], "a": 1}) == []
    changes = identity_changes({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5})
    assert changes == ["b: 2 → 4", "c: 3 → absent", "d: absent → 5"]


def test_results_are_cut_to_the_epoch_that_is_resumed(tmp_path):
    path = tmp_path / "results.csv"
    write_results(path, [{"epoch": n, "seconds": n, "x": n / 2} for n in range(1, 6)])
    assert [row["epoch"] for row in read_results(path, 3)] == ["1", "2", "3"]
    path.write_text("nonsense")
    assert read_results(path, 3) == []
    assert read_results(tmp_path / "none.csv", 3) == []


ROW = {
    **{f"train_{term}": 0.5 for term in ("box", "cls", "dfl", "mask")},
    "epoch": 3,
    "images_per_second": 20.0,
    "box_map": 0.25,
    "mask_map": 0.125,
}


@pytest.mark.parametrize("terminal", [False, True])
def test_an_epoch_leaves_a_line(terminal):
    text = io.StringIO()
    with report_on(Console(file=text, force_terminal=terminal, width=160)) as report:
        report.steps(3, 5, 2)
        report.step({"box": 1.0, "lr": 0.01})
        report.validated(1, 4)
        report.epoch(ROW)
        report.epoch({**ROW, "epoch": 4, "box_map": "", "mask_map": ""})
        report.say("[not markup]")
    shown = text.getvalue()
    assert "mAP50-95 box 0.250 mask 0.125" in shown
    assert "[not markup]" in shown
    assert ("\x1b" in shown) == terminal
