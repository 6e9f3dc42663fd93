"""Gradient checkpointing: what a training comes to without it, in less memory; and memory that runs out."""

import numpy as np
import pytest
import torch

from segc.diagnostics import SegcError
from segc.network.recompute import Stage, in_stages
from segc.spec.load import load_project
from segc.training.distributed import World
from segc.training.engine import Engine
from segc.training.loop import train
from segc.training.memory import resolve_hyperparameters, trial_batch
from segc.training.optimizer import optimizer_tensors
from segc.training.report import Report
from segc.weights.store import load_weights

CPU = torch.device("cpu")


def engine(compiled, **settings):
    loaded, build = compiled(**settings)
    hyper = resolve_hyperparameters(loaded, build.graph, CPU, World(), None)
    torch.manual_seed(0)
    made = Engine(build.graph, hyper, build.plan, CPU, hyper.precision, World())
    made.train_mode()
    return made, hyper


@pytest.mark.parametrize("settings", [{"precision": "fp32"}, {"precision": "bf16"}, {"freeze": 3}])
def test_gradient_checkpointing_changes_memory_and_nothing_else(compiled, settings):
    """Losses, weights, statistics and what the optimizer remembers are the same, bit for bit."""
    found = []
    for wanted in ("false", "true"):
        one, hyper = engine(compiled, gradient_checkpointing=wanted, **settings)
        losses = []
        for images, update in ((3, False), (2, True), (4, True)):
            losses.append(one.descend(trial_batch(images, hyper, 2), update=update))
            if update:
                one.update()
        found.append((losses, one.network.state_dict(), optimizer_tensors(one.optimizer)))
    (losses, network, optimizer), (others, other_network, other_optimizer) = found
    assert all(map(torch.equal, losses, others))
    for mine, theirs in ((network, other_network), (optimizer, other_optimizer)):
        assert mine.keys() == theirs.keys()
        assert [name for name, value in mine.items() if not torch.equal(value, theirs[name])] == []
    counted = {int(value) for name, value in other_network.items() if name.endswith("num_batches_tracked")}
    assert counted == ({0, 3} if "freeze" in settings else {3})


def test_of_each_layer_only_what_goes_in_is_kept(compiled):
    network = engine(compiled)[0].network
    stages = in_stages(network.training_graph)
    assert sum(isinstance(part, Stage) for part in stages.children()) == 20
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    assert {parameter.data_ptr() for parameter in stages.parameters()} == parameters
    images = torch.rand(2, 3, 128, 128).to(memory_format=torch.channels_last)

    def kept(graph):
        held = {}

        def hold(value):
            if value.data_ptr() not in parameters:
                held[value.untyped_storage().data_ptr()] = value  # held, so that no other one gets its place
            return value

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda value: value):
            outputs = graph(images)
        assert outputs["box_logits"].requires_grad
        return sum(value.untyped_storage().nbytes() for value in held.values())

    assert kept(stages) < kept(network.training_graph) / 4


class StopAfter(Report):
    def __init__(self, steps):
        self.left, self.said = steps, []

    def say(self, text):
        self.said.append(text)

    def step(self, values):  # noqa: ARG002
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_run_goes_on_with_gradient_checkpointing_where_it_had_none(compiled):
    settings = {"epochs": 2, "val_interval": 9, "nominal_batch": 8}
    undisturbed = train(*compiled("one", **settings))
    with pytest.raises(KeyboardInterrupt):
        train(*compiled("two", **settings), report=StopAfter(2))
    loaded, build = compiled("two", **settings, gradient_checkpointing="true")
    report = StopAfter(0)
    went_on = train(loaded, build, resume=True, report=report)
    weights, others = (load_weights(outcome.last).tensors for outcome in (undisturbed, went_on))
    assert [name for name, value in weights.items() if not np.array_equal(value, others[name])] == []
    assert any(", gradient checkpointing, batch" in line for line in report.said)


def test_gradient_checkpointing_with_compile_is_a_warning_at_its_place(project):
    text = project.read_text().replace(
        "  epochs: 4\n", "  epochs: 4\n  compile: true\n  gradient_checkpointing: true\n"
    )
    project.write_text(text)
    (warning,) = load_project(project).warnings
    assert (warning.code, warning.severity) == ("X224", "warning")
    assert text.splitlines()[warning.line - 1] == "  gradient_checkpointing: true"


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total of"), "2.50 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000 bytes."), "40000 bytes"),
    ],
)
def test_memory_that_runs_out_is_one_diagnostic(compiled, monkeypatch, error, more):
    loaded, build = compiled(epochs=2)

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(Engine, "backward", fails)
    with pytest.raises(SegcError) as told:
        train(loaded, build)
    (problem,) = told.value.diagnostics
    assert problem.code == "R014"
    assert f"batches of 4 images at 64 x 64 pixels: it takes {more} more" in problem.message
    assert "--resume and gradient_checkpointing: true" in problem.help
