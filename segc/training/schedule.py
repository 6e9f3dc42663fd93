"""Learning rate, momentum and accumulation of every step: functions of the plan alone, with no state to resume."""

from dataclasses import dataclass

from segc.plan import Plan


@dataclass(frozen=True, slots=True)
class Rates:
    """What a step is made with.

    Attributes:
        learning_rate: of weights.
        bias_learning_rate: of biases; another one during warm-up.
        momentum: of SGD, or the first beta of AdamW.
        accumulate: forward passes whose gradients make one update.
    """

    learning_rate: float
    bias_learning_rate: float
    momentum: float
    accumulate: int


def rates(plan: Plan, step: int) -> Rates:
    """The rates of a forward pass, counted from 0 over the whole training.

    The learning rate is the epoch's. During warm-up everything moves linearly towards it: the learning rate from 0,
    that of biases and the momentum from values of their own, the accumulation from a single pass.
    """
    rate = plan.learning_rate * plan.learning_rate_factor(step // plan.steps_per_epoch)
    if step >= plan.warmup_steps:
        return Rates(rate, rate, plan.momentum, plan.accumulate)
    share = plan.warmup_share(step)
    return Rates(
        learning_rate=share * rate,
        bias_learning_rate=_between(plan.warmup_bias_lr, rate, share),
        momentum=_between(plan.warmup_momentum, plan.momentum, share),
        accumulate=max(round(_between(1, plan.accumulate, share)), 1),
    )


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
