"""A short run of ``benchmarks/fuzz.py``: every class, the same inputs every time, in this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from benchmarks.fuzz import Tally, one, try_all
from benchmarks.fuzz_kinds import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEEDED = [kind for kind in KINDS if not kind.rows]

INPUTS = {
    "specs": 200,
    "--set": 100,
    "checkpoints": 150,
    "safetensors": 150,
    "images": 300,
    "videos": 40,
    "streams": 300,
    "labels": 120,
    "coco": 120,
    "cvat": 60,
    "labelme": 60,
    "masks": 60,
    "voc": 60,
    "metadata": 200,
    "init": 100,
    "runs": 30,
    "addresses": 60,
    "servers": 6,
}


def test_every_class_has_its_share() -> None:
    assert list(INPUTS) == [kind.name for kind in SEEDED]


@pytest.mark.parametrize("kind", SEEDED, ids=lambda kind: kind.name)
def test_no_input_does_more_than_be_read_or_refused(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    tally = Tally()
    for number, outcome, seconds in try_all(kind, 0, range(INPUTS[kind.name]), tmp_path):
        if outcome:
            tally.take(number, outcome, seconds)
    assert tally.failures == []
    assert tally.tried == INPUTS[kind.name]
    # Changes that break everything, or nothing, would show little.
    assert tally.refused
    assert tally.accepted or kind.name in {"--set", "addresses", "servers"}


def raises(*_: object) -> str:
    raise KeyError("a bug")


def prints(*_: object) -> str:
    os.write(2, b"libfoo: warning\n")
    return "accepted"


@pytest.mark.parametrize(("run", "says"), [(raises, "KeyError: 'a bug'"), (prints, "wrote to the terminal: b'libfoo")])
def test_what_is_not_survived_is_told(run: Callable[..., str], says: str, tmp_path: Path) -> None:
    kind = Kind("any", 1, lambda *_: None, run)
    (found,) = (outcome for _, outcome, _ in try_all(kind, 0, range(1), tmp_path) if outcome)
    assert says in found


def test_the_same_seed_gives_the_same_input(tmp_path: Path) -> None:
    made: list[object] = []
    kind = Kind("any", 1, lambda numbers, _: numbers.random(), lambda value, _: made.append(value) or "accepted")
    assert [one(kind, seed, 3, tmp_path) for seed in (0, 0, 1)] == ["accepted"] * 3
    assert made[0] == made[1] != made[2]
