"""Optimizers over three groups of parameters: convolution weights (with weight decay), norm weights, and biases."""

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from segc.plan import Plan
from segc.training.schedule import Rates

_SECOND_BETA = 0.999
_FUSED_DEVICES = frozenset({"cpu", "cuda"})


def parameter_groups(network: nn.Module) -> dict[str, list[str]]:
    """Names of the trainable parameters: ``weights`` of convolutions, ``norms``, and ``biases`` of either."""
    groups: dict[str, list[str]] = {"weights": [], "norms": [], "biases": []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kind = "biases" if name.endswith(".bias") else "weights" if parameter.ndim > 1 else "norms"
            groups[kind].append(name)
    return groups


def make_optimizer(network: nn.Module, plan: Plan) -> Optimizer:
    """The plan's optimizer. Each of its groups has its ``name`` and, in ``names``, those of its parameters."""
    parameters = dict(network.named_parameters())
    groups: list[dict[str, Any]] = [
        {
            "params": [parameters[name] for name in names],
            "names": names,
            "name": kind,
            "weight_decay": plan.weight_decay if kind == "weights" else 0.0,
        }
        for kind, names in parameter_groups(network).items()
    ]
    fused = next(iter(parameters.values())).device.type in _FUSED_DEVICES
    if plan.optimizer == "AdamW":
        return AdamW(groups, lr=plan.learning_rate, betas=(plan.momentum, _SECOND_BETA), fused=fused)
    return SGD(groups, lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.momentum > 0, fused=fused)


def set_rates(optimizer: Optimizer, rates: Rates) -> None:
    """Give an optimizer of :func:`make_optimizer` the rates of a step."""
    for group in optimizer.param_groups:
        group["lr"] = rates.bias_learning_rate if group["name"] == "biases" else rates.learning_rate
        if "betas" in group:
            group["betas"] = (rates.momentum, group["betas"][1])
        else:
            group["momentum"] = rates.momentum


def optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """What an optimizer remembers, by ``<what>/<parameter>``; nothing before the first update."""
    return {
        f"{what}/{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for what, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


_MEMORIES = {SGD: frozenset({"momentum_buffer"}), AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"})}
"""What each optimizer remembers of a parameter."""


def fitting_state(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of what :func:`optimizer_tensors` gave in another training, what this optimizer can go on from."""
    known = _MEMORIES[type(optimizer)]
    names = {name for group in optimizer.param_groups for name in group["names"]}
    keys = {key: key.partition("/") for key in tensors}
    return {key: tensors[key] for key, (what, _, name) in keys.items() if what in known and name in names}


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Give a new optimizer what :func:`optimizer_tensors` gave.

    Raises:
        KeyError: for a parameter that it does not have.
    """
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    for key, value in tensors.items():
        what, _, name = key.partition("/")
        parameter = parameters[name]
        # Fused updates walk through memory: what they remember must lie there as the parameter does.
        place = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
        place = place.to(parameter.device).detach()
        optimizer.state[parameter][what] = place.copy_(value)
