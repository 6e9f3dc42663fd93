"""Which parameters a training leaves as they are."""

from collections.abc import Iterable

from segc.schema import Problem


def frozen_names(freeze: int | tuple[str, ...], names: Iterable[str]) -> frozenset[str]:
    """Of the parameter names of a network those that are frozen.

    Args:
        freeze: a number of layers from ``model.0`` on, or scopes; a scope has everything below it.
        names: the parameter names.
    """
    scopes = tuple(f"model.{layer}" for layer in range(freeze)) if isinstance(freeze, int) else freeze
    return frozenset(name for name in names if any(_below(name, scope) for scope in scopes))


def _below(name: str, scope: str) -> bool:
    return name == scope or name.startswith(f"{scope}.")


def freeze_problems(freeze: int | tuple[str, ...], trained: Iterable[str]) -> list[Problem]:
    """What is wrong with a ``freeze``: scopes that hold nothing that is trained, or nothing left to train.

    Args:
        freeze: as in :func:`frozen_names`.
        trained: names of the parameters that training changes.
    """
    trained = tuple(trained)
    found: list[Problem] = []
    for index, scope in enumerate(() if isinstance(freeze, int) else freeze):
        if not frozen_names((scope,), trained):
            text = f"nothing that is trained lies in the scope `{scope}`"
            found.append(Problem("X216", (index,), text, "segc build lists the scopes of the network"))
    if not found and len(frozen_names(freeze, trained)) == len(trained):
        found.append(Problem("X216", (), "every parameter of the network is frozen", "leave something to train"))
    return found
