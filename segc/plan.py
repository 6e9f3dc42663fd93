"""The training plan: what the hyperparameters come to for a given number of images, in plain numbers.

`segc build` writes it down and `segc train` carries it out; there is no second place where these are worked out.
"""

from dataclasses import asdict, dataclass
from math import ceil, cos, exp, inf, pi
from shlex import quote
from typing import Any, Literal

from segc.schema import SpecModel
from segc.spec.hyperparameters import Hyperparameters

AUTO_LIMIT = 10_000
"""Steps from which ``optimizer: auto`` takes SGD instead of AdamW."""

_RATE, _MOMENTUM = 0.01, 0.937
"""Of an optimizer that somebody chose, where not given."""

_AUTO_RATE, _AUTO_MOMENTUM = 0.01, 0.9
"""Of SGD that ``optimizer: auto`` chose; AdamW's momentum is the same."""

_WARMUP_EPOCHS = 3.0
_SHORTEST_WARMUP = 100
"""Epochs and steps of a warm-up that is not given."""
_LONGEST_LENGTHENING = 1 / 3
"""Of all steps, how far a short warm-up is lengthened towards the shortest: a short training must get to train."""

_WARMUP_BIAS_LR = {"SGD": 0.1, "AdamW": 0.0}
"""AdamW divides by the gradient's own size, so that a high rate on biases would throw them about."""


_LONGEST_AVERAGE = 0.5
"""Share of all updates that the moving average may take in at the end; what it takes in beyond that holds it back."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A training in numbers.

    Attributes:
        images: training images in an epoch; where a project has tiles, the crops that the images are cut into.
        cut_from: how many images these are cut from; None where they are not cut.
        epochs: passes over them; None of a training by time until its first one is done, as are totals over them.
        batch: images a forward pass, of all processes together.
        steps_per_epoch: forward passes an epoch; the last one may be smaller.
        accumulate: forward passes whose gradients make one update, once warm-up is over.
        optimizer: the optimizer's name; never ``auto``.
        learning_rate: at the start of the schedule.
        momentum: of SGD, or the first beta of AdamW.
        weight_decay: on convolution weights, scaled by batch · accumulate / nominal batch.
        warmup_steps: forward passes until learning rate and momentum are what the schedule says.
        warmed: forward passes done, and share of the warm-up gone, when a training by time got its number of epochs.
        warmup_momentum: momentum at the first of them.
        warmup_bias_lr: learning rate of biases at the first of them; that of weights starts at 0.
        final_factor: the learning rate's factor that the schedule ends near.
        schedule: how it gets there.
        ema_decay: decay of the moving average of the weights in the end.
        ema_tau: updates over which it builds up.
    """

    images: int
    epochs: int | None
    batch: int
    steps_per_epoch: int
    accumulate: int
    optimizer: Literal["SGD", "AdamW"]
    learning_rate: float
    momentum: float
    weight_decay: float
    warmup_steps: int
    warmup_momentum: float
    warmup_bias_lr: float
    final_factor: float
    schedule: Literal["linear", "cosine"]
    ema_decay: float
    ema_tau: float
    cut_from: int | None = None
    warmed: tuple[int, float] = (0, 0.0)

    @property
    def steps(self) -> int | None:
        """Forward passes of the whole training."""
        return None if self.epochs is None else self.epochs * self.steps_per_epoch

    @property
    def updates(self) -> int | None:
        """Updates of the weights in the whole training, but for the more frequent ones of a warm-up."""
        return None if self.epochs is None else self.epochs * ceil(self.steps_per_epoch / self.accumulate)

    @property
    def averaged(self) -> float | None:
        """Updates that the moving average takes in at the end, about."""
        if self.updates is None:
            return None
        return 1 / (1 - averaging_decay(self.ema_decay, self.ema_tau, self.updates))

    def lagging(self) -> str | None:
        """Why the moving average, which is what is validated and kept, cannot follow the training; None if it can."""
        if self.averaged is None or self.updates is None or self.averaged <= self.updates * _LONGEST_AVERAGE:
            return None
        return (
            f"the moving average of the weights, which is what is kept, takes in about {self.averaged:.0f} of "
            f"{self.updates} updates in all and lags behind: lower hyperparameters.ema_decay, or train longer"
        )

    def warmup_share(self, step: int) -> float:
        """Share of the warm-up that is gone with a forward pass of it, counted from 0.

        It grows evenly; where the number of epochs was fitted in between, on from where it was.
        """
        done, share = self.warmed
        if step < done:
            return (step + 1) / done * share
        # The first step already moves the weights.
        return share + (1 - share) * (step + 1 - done) / (self.warmup_steps - done)

    def learning_rate_factor(self, epoch: int) -> float:
        """Factor of the learning rate in an epoch, counted from 0: 1 at first, ``final_factor`` after the last."""
        progress = epoch / self.epochs if self.epochs else 0.0
        remaining = (1 + cos(pi * progress)) / 2 if self.schedule == "cosine" else 1 - progress
        return remaining * (1 - self.final_factor) + self.final_factor

    def to_json(self) -> dict[str, Any]:
        """Every number, with the totals and the learning rate epoch by epoch."""
        epochs = range(self.epochs or 0)
        rates = [round(self.learning_rate * self.learning_rate_factor(epoch), 10) for epoch in epochs]
        averaged = None if self.averaged is None else round(self.averaged, 1)
        totals = {"steps": self.steps, "updates": self.updates, "averaged": averaged, "learning_rates": rates}
        return {**{key: value for key, value in asdict(self).items() if key != "warmed"}, **totals}


@dataclass(frozen=True, slots=True)
class Launch:
    """The commands that train a project on several GPUs, to be given in the folder of its ``project.yaml``.

    Attributes:
        one_machine: on all GPUs of the machine.
        several_machines: likewise on each of ``$MACHINES`` machines that see the same files, of which one answers at
            the address ``$HOST``; the same line on every one.
    """

    one_machine: str
    several_machines: str


RESTARTS = 3
"""How often the printed commands start the processes again after one of them has died."""


def launch_commands(project_file: str, name: str) -> Launch:
    """How ``torchrun`` starts a training.

    Args:
        project_file: name of the ``project.yaml``.
        name: the project's name, by which the machines of a training find each other.
    """
    train = f"--nproc-per-node=gpu --max-restarts={RESTARTS} -m segc train {quote(project_file)}"
    together = f"--nnodes=$MACHINES --rdzv-backend=c10d --rdzv-endpoint=$HOST:29400 --rdzv-id={name}"
    return Launch(f"torchrun --standalone {train}", f"torchrun {together} {train}")


def make_plan(
    hyperparameters: Hyperparameters, nc: int, images: int, cut_from: int | None = None, fitted: int | None = None
) -> Plan:
    """Work out a training.

    Args:
        hyperparameters: as in the spec.
        nc: number of classes, which the learning rate of ``optimizer: auto`` depends on.
        images: training images, at least 1; crops, where they are cut.
        cut_from: how many images they are cut from; None where they are not cut.
        fitted: of a training by time the number of epochs, which its first one shows; None before.
    """
    h = hyperparameters
    steps_per_epoch = ceil(images / h.batch_size)
    accumulate = max(round(h.nominal_batch / h.batch_size), 1)
    epochs = fitted if h.time else h.epochs
    steps = None if epochs is None else steps_per_epoch * epochs
    optimizer, rate, momentum = _optimizer(h, nc, None if h.time else steps)
    warmup = _warmup_steps(h.warmup_epochs, steps_per_epoch, steps)
    begun = _warmup_steps(h.warmup_epochs, steps_per_epoch, None) if h.time else warmup
    return Plan(
        images=images,
        epochs=epochs,
        batch=h.batch_size,
        steps_per_epoch=steps_per_epoch,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=rate,
        momentum=momentum,
        weight_decay=h.weight_decay * h.batch_size * accumulate / h.nominal_batch,
        warmup_steps=warmup,
        warmup_momentum=h.warmup_momentum,
        warmup_bias_lr=_WARMUP_BIAS_LR[optimizer] if h.warmup_bias_lr is None else h.warmup_bias_lr,
        final_factor=h.lrf,
        schedule="cosine" if h.cos_lr else "linear",
        ema_decay=h.ema_decay,
        ema_tau=h.ema_tau,
        cut_from=cut_from,
        warmed=(0, 0.0) if begun in {warmup, 0} else (steps_per_epoch, steps_per_epoch / begun),
    )


def averaging_decay(decay: float, tau: float, updates: int) -> float:
    """Decay of the moving average after so many updates: it builds up so that the start is soon forgotten."""
    return decay * (1 - exp(-updates / tau))


def _warmup_steps(given: float | None, steps_per_epoch: int, steps: int | None) -> int:
    """Steps of warm-up, not more than there are, if that is known: the epochs given, else not too few to be of use."""
    most = inf if steps is None else steps
    if given is not None:
        return int(min(round(given * steps_per_epoch), most))
    shortest = min(_SHORTEST_WARMUP, most * _LONGEST_LENGTHENING)
    return int(min(max(round(_WARMUP_EPOCHS * steps_per_epoch), shortest), most))


def _optimizer(h: Hyperparameters, nc: int, steps: int | None) -> tuple[Literal["SGD", "AdamW"], float, float]:
    """Optimizer, learning rate and momentum: those given, else those that suit so many steps, or any number."""
    if h.optimizer != "auto":
        optimizer, rate, momentum = h.optimizer, _RATE, _MOMENTUM
    elif steps is not None and steps >= AUTO_LIMIT:
        optimizer, rate, momentum = "SGD", _AUTO_RATE, _AUTO_MOMENTUM
    else:
        optimizer, rate, momentum = "AdamW", round(0.002 * 5 / (4 + nc), 6), _AUTO_MOMENTUM
    return optimizer, rate if h.lr0 is None else h.lr0, momentum if h.momentum is None else h.momentum


@dataclass(frozen=True, slots=True)
class Setting:
    """A hyperparameter as it is used.

    Attributes:
        key: its name, with a dot for those of ``augment``.
        value: what is used.
        origin: where that comes from.
    """

    key: str
    value: Any
    origin: str


def settings(hyperparameters: Hyperparameters, nc: int, plan: Plan | None) -> list[Setting]:
    """Every hyperparameter with the value that is used and where it comes from: given, default, or chosen and why."""
    h = hyperparameters
    chosen: dict[str, tuple[Any, str]] = {
        "mask": (h.box, "the box loss's"),
        "precision": ("auto", "chosen where it trains: bf16 where there are instructions for it"),
        "device": ("auto", "chosen where it trains: the best there is"),
        "epochs": ("auto", "as many as fit into the time"),
        "batch": (h.batch_size, "auto: what fits into a GPU's memory, this number elsewhere"),
        "workers": (h.worker_count, "auto: with a GPU by its processors and memory, this number elsewhere"),
    }
    if plan is not None:
        by_auto = h.optimizer == "auto"
        steps = plan.steps or 0
        few = f"{steps:,} steps, {'fewer than' if steps < AUTO_LIMIT else 'not fewer than'} {AUTO_LIMIT:,}"
        suits = f"suits {plan.optimizer}" if by_auto else f"default of {plan.optimizer}"
        formula = f", 0.002 · 5 / (4 + {nc} classes)" if by_auto and plan.optimizer == "AdamW" else ""
        chosen |= {
            "optimizer": (plan.optimizer, "auto: of a training by time" if h.time else f"auto: {few}"),
            "lr0": (plan.learning_rate, suits + formula),
            "momentum": (plan.momentum, suits),
            "warmup_bias_lr": (plan.warmup_bias_lr, f"default of {plan.optimizer}"),
            "warmup_epochs": (
                round(plan.warmup_steps / plan.steps_per_epoch, 3),
                "default, fitted to the steps there are" + (" once the first epoch is done" if h.time else ""),
            ),
        }
    found = []
    for model, prefix in ((h, ""), (h.augment, "augment.")):
        for key, value in model:
            if key == "augment":
                continue
            open_value = value is None or value == "auto" or (key == "epochs" and h.time is not None)
            if open_value and key in chosen:
                found.append(Setting(prefix + key, *chosen[key]))
            else:
                plain = value.model_dump() if isinstance(value, SpecModel) else value
                found.append(Setting(prefix + key, plain, "given" if key in model.model_fields_set else "default"))
    return found
