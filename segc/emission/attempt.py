"""One try at an artifact: what was emitted, how it ran, what it measured; and what is said where there were several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segc.emission import accuracy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segc.emission.requests import EmitReply
    from segc.emission.verify import Parity


@dataclass(frozen=True, slots=True)
class Ran:
    """How the model was run.

    Attributes:
        runtime: what ran it.
        parity: how far it is from PyTorch.
        shipped: whether the predict script that ships did.
    """

    runtime: str
    parity: Parity
    shipped: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """A model that was emitted, run and measured.

    Attributes:
        lowered: what the emitter made.
        photographs: what it was compared on.
        ran: how it was run.
        beside: likewise, the further models that were written.
        accuracy: see ``segc.emission.accuracy``; None where it was not measured.
        notes: what is to be said of it.
        files: the folder where it lies.
        milliseconds: that an image took, where mAP was measured.
        kept: scopes that were kept in float, rows of a ranking.
    """

    lowered: EmitReply
    photographs: Sequence[Path]
    ran: Ran
    beside: Mapping[str, Ran]
    accuracy: dict[str, Any] | None
    notes: tuple[str, ...]
    files: Path
    milliseconds: float = 0.0
    kept: tuple[Mapping[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the model."""
        path = self.files / self.lowered.model
        parts = path.rglob("*") if path.is_dir() else [path]
        return sum(part.stat().st_size for part in parts if part.is_file())


def parity_entry(ran: Ran) -> dict[str, Any]:
    """How a model was run, as ``artifact.json`` has it."""
    return {"runtime": ran.runtime, "summary": ran.parity.summary(), **ran.parity.to_json()}


def tried(made: Attempt) -> dict[str, Any]:
    """An attempt, as ``artifact.json`` has it: no times, so that equal emissions are equal."""
    figures = {side: made.accuracy[side] for side in ("artifact",)} if made.accuracy else {}
    drops = {f"{part}_map50_95": figures["artifact"][part]["map50_95"] if figures else None for part in accuracy.PARTS}
    return {"scopes": [one["scope"] for one in made.kept], "bytes": made.size, **drops}


def told_kept(first: Attempt, best: Attempt, number: int) -> str:
    """What was kept in float, and what that costs in size and arithmetic."""
    if not best.kept:
        times = f"{number} times" if number > 1 else "once" if number else "not once, for each is too large"
        return f"keeping the worst scopes in float was tried {times}, and nothing was gained"
    scopes = ", ".join(one["scope"] for one in best.kept)
    share = sum(one["arithmetic"] for one in best.kept)
    gained = " and ".join(
        f"{part} mAP {accuracy.figure(first.accuracy['artifact'][part]['map50_95'])} became "
        f"{accuracy.figure(best.accuracy['artifact'][part]['map50_95'])}"
        for part in accuracy.PARTS
        if first.accuracy and best.accuracy
    )
    return (
        f"kept in float, where eight bits bring the largest errors: {scopes}; {gained}; it is {best.size / 1e6:.2f} MB "
        f"in place of {first.size / 1e6:.2f}, and {share:.1%} of the arithmetic is float"
    )


def slower(first: Attempt, made: Attempt) -> tuple[str, ...]:
    """What scopes in float cost in time; it is said, and not kept on record: it is another every time."""
    if not made.kept or not made.milliseconds:
        return ()
    times = f"{made.milliseconds:.1f} ms an image in place of {first.milliseconds:.1f}"
    return (f"that takes {times}, on one thread and beside whatever else ran: segc bench measures it properly",)
